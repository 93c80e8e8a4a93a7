"""The output: who may write it, its form, what is done and what failed, and how it is read."""

__all__ = ["export", "failures", "group", "item", "ledger", "lock", "masks", "out", "receipt", "settings", "slots"]
