"""Dispatch by Temporal: the only room that imports temporalio."""
