"""From what was asked for to what is to be done: request, survey, plan."""

__all__ = ["found", "plan", "request", "sources", "survey"]
