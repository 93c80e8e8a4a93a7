"""The network: its contract, its weights, and from reflectance to mask."""

__all__ = ["checkpoint", "contract", "mlm", "predict", "share"]
