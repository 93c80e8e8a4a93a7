"""From what was asked for to what is to be done: request, survey, plan."""

__all__ = ["plan", "request", "sources", "survey"]
