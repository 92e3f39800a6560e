"""One file builds one process."""
