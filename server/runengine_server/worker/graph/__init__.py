"""LangGraph's graphs as they are executed here: compiled, recorded, checkpointed."""
