"""All the SQL: one function a statement, bound to one tenant."""
