"""A multi-tenant engine that runs LangGraph workflows, and the monitor that shows how they go."""
