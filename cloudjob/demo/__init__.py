"""The demo: simulated ground, sky and sensor, a small catalog of them, and how well masks fit its truth."""

__all__ = ["collection", "fit"]
