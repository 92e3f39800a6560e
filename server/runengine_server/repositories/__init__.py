"""One class a resource; each method calls one function of the database."""
