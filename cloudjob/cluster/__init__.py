"""Where the work is done: lanes, a scheduler, a stream of tasks, and the task itself."""

__all__ = ["address", "lanes", "network", "scheduler", "stream", "task", "worker"]
