"""One scene: what its STAC item says of it, and its pixels."""

__all__ = [
    "cube",
    "describe",
    "files",
    "identity",
    "mgrs",
    "opened",
    "outside",
    "product",
    "read",
    "reflectance",
    "scene",
]
