"""The network: its contract, its weights, and from reflectance to mask."""

__all__ = ["checkpoint", "coarse", "contract", "draft", "mlm", "predict", "share", "source"]
