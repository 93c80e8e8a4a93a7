"""One scene: what its STAC item says of it, and its pixels."""

__all__ = ["describe", "files", "identity", "outside", "read", "reflectance", "scene"]
