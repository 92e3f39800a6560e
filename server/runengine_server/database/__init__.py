"""The database: what it looks like, how it came to be so, and the functions that it keeps."""
