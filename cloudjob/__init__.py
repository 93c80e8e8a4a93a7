"""From a bounding box and a date range to cloud masks in Zarr, on a laptop or on a GPU cluster."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudjob.embed import mask, run
    from cloudjob.errors import CloudjobError, ContractError, SceneError, UnreachableError, UsageError
    from cloudjob.loading import load
    from cloudjob.store.masks import open_masks as open  # noqa: A004  # cloudjob.open reads well

__version__ = version("cloudjob")
__all__ = [
    "CloudjobError",
    "ContractError",
    "SceneError",
    "UnreachableError",
    "UsageError",
    "__version__",
    "load",
    "mask",
    "open",
    "run",
]

_LAZY = {"load": "loading.load", "mask": "embed.mask", "run": "embed.run", "open": "store.masks.open_masks"}
_LAZY |= {name: f"errors.{name}" for name in __all__ if name.endswith("Error")}


def __getattr__(name: str) -> Any:
    """Load what is asked for: `import cloudjob` alone costs neither torch nor Dask."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].rpartition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
