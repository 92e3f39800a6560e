"""Workflows as a user would write them."""
