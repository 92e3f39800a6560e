"""Clerk JWT → Caller."""
