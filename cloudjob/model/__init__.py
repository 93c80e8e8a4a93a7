"""The network: its contract, its weights, and from reflectance to mask."""

__all__ = ["checkpoint", "coarse", "contract", "mlm", "predict", "share"]
