"""What scenes there are, and where: presets, search, dates, areas, and addresses that need a signature."""

__all__ = ["answers", "area", "bands", "dates", "item", "presets", "search", "signing", "values"]
