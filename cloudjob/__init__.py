"""From a bounding box and a date range to cloud masks in Zarr, on a laptop or on a GPU cluster."""

from importlib.metadata import version

from cloudjob.embed import mask, run
from cloudjob.store import open_masks as open  # noqa: A004  # cloudjob.open reads well

__version__ = version("cloudjob")
__all__ = ["__version__", "mask", "open", "run"]
