"""The output: who may write it, its form, what is done and what failed, and how it is read."""

__all__ = [
    "again",
    "check",
    "cog",
    "conventions",
    "export",
    "failures",
    "group",
    "item",
    "ledger",
    "listing",
    "lock",
    "masks",
    "out",
    "receipt",
    "repair",
    "runs",
    "settings",
    "slots",
    "stac",
    "writer",
]
