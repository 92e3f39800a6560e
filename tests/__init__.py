"""The tests of runengine."""

import os

# Before gRPC is loaded. With it, what a test starts as another user, by a fork, crashed before its exec in 91
# of 300 starts beside calls of grpcio 1.85.1, and in none without. Processes of the product have it as ever.
NO_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"
os.environ[NO_FORK_SUPPORT] = "0"
