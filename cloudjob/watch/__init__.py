"""What is seen while a job runs: the terminal, and series for Prometheus."""

__all__ = ["metrics", "terminal"]
