"""The documented REST paths in front of the gRPC services: it translates, and decides nothing."""
