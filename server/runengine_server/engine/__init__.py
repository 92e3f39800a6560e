"""All that decides: trigger, cancel, retry, and the worker that executes."""
