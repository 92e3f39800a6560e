"""The worker: claims runs, keeps their leases, and executes their graphs."""
