"""What a run is and may become. No I/O, no async."""
