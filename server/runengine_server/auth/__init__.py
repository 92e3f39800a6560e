"""Who calls, and for which tenant, by a token."""
