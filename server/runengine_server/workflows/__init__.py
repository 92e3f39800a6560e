"""How a user's StateGraph becomes runs and steps, and the sample workflow."""
