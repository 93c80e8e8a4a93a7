"""From a bounding box and a date range to cloud masks in Zarr, on a laptop or on a GPU cluster."""

from importlib.metadata import version

__version__ = version("cloudjob")
