"""gRPC: servicers, messages, the one status table, the interceptor."""
