"""What executes runs: claims, heartbeats, and the graph of each."""
