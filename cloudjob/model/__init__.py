"""The network: its contract, its weights, and from reflectance to mask."""

__all__ = ["checkpoint", "coarse", "contract", "draft", "labels", "mlm", "predict", "share", "source"]
