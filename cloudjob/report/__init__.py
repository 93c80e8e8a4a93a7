"""The report: one page that says what an OUT holds and where somebody should look."""

__all__ = ["page"]
