import os

# gRPC has a line for each process that is started while a channel is open.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
