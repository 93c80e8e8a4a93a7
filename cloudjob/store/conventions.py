"""What readers need to know of a group and its arrays: by CF, and by the proj: and spatial: conventions of Zarr.

CF: https://cfconventions.org.
"""

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import CRS

from cloudjob import classes
from cloudjob.classes import BINARY, COLOURS
from cloudjob.grid import Grid

PLANNED, COMPLETE, FAILED = 0, 1, 2
"""Values of `status`, a hint for readers."""

# https://github.com/zarr-conventions: a convention is known by its UUID
CONVENTIONS = [
    {
        "uuid": uuid,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
        "name": name,
        "description": description,
    }
    for name, uuid, description in (
        (
            "proj",
            "f17cb550-5864-4468-aeb7-f3180cfb622f",
            "Coordinate reference system information for geospatial data",
        ),
        ("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
    )
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME = {
    "standard_name": "time",
    "axis": "T",
    "units": "microseconds since 1970-01-01",
    "calendar": "proleptic_gregorian",
}
STATUS = {
    "long_name": "whether the slot's mask is complete",
    "flag_values": [PLANNED, COMPLETE, FAILED],
    "flag_meanings": "planned complete failed",
}


def microseconds(moment: datetime) -> int:
    """A moment as `TIME` has it."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def grid_mapping(grid: Grid) -> dict[str, Any]:
    """CF's grid mapping, with the transform where GDAL and rioxarray look for it."""
    a, b, c, d, e, f = grid.transform
    with warnings.catch_warnings():  # What CF has no word for, as in Switzerland's projection, stands in its crs_wkt
        warnings.simplefilter("ignore", UserWarning)
        mapping: dict[str, Any] = CRS.from_epsg(grid.epsg).to_cf()
    return {**mapping, "GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"}


def coordinates(grid: Grid) -> dict[str, tuple[npt.NDArray[np.floating], dict[str, Any]]]:
    """Centres of the pixels along y and x, float64, with their CF attributes."""
    axes: dict[str, dict[str, Any]] = {axis["axis"]: axis for axis in CRS.from_epsg(grid.epsg).cs_to_cf()}
    y, x = grid.centres
    return {"y": (y, axes["Y"]), "x": (x, axes["X"])}


def _georeference(grid: Grid) -> dict[str, Any]:
    return {
        "zarr_conventions": CONVENTIONS,
        "proj:code": f"EPSG:{grid.epsg}",
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(grid.transform),
        "spatial:shape": list(grid.shape),
    }


def attributes(grid: Grid) -> dict[str, Any]:
    """A new group's, without its scenes."""
    # `coordinates` as xarray writes it: with it, a plain open_zarr hands `spatial_ref` on with every variable.
    return {
        "Conventions": "CF-1.11",
        "coordinates": "spatial_ref status",
        **_georeference(grid),
        "spatial:bbox": list(grid.bounds),
    }


def cloud(grid: Grid, labels: Sequence[int]) -> dict[str, Any]:
    """Of the masks, whose values are `labels` and those for no data."""
    values = classes.of(labels)
    # As ESA's climate change initiative tells colours beside CF's flags; a mask of cloud alone has none, as ever
    colours = " ".join("#{:02x}{:02x}{:02x}".format(*COLOURS[value]) for value, _, _ in values)
    # No _FillValue: readers would turn the mask into floats. `grid_mapping` has to be an attribute.
    return {
        "long_name": "cloud mask",
        "flag_values": [value for value, _, _ in values],
        "flag_meanings": " ".join(name for _, name, _ in values),
        **({} if tuple(labels) == BINARY else {"flag_colors": colours}),
        "grid_mapping": "spatial_ref",
        **_georeference(grid),
    }


def rounding(coarser: int) -> dict[str, str]:
    """How probabilities were rounded; `coarser` as in `scene.Scene`."""
    # The mean of several pixels does not tell how many of them are cloud
    return {"rounding": "down"} if coarser == 1 else {"cell_methods": "area: mean"}


def probability(grid: Grid, rounding: Mapping[str, str]) -> dict[str, Any]:
    """Of the probabilities in percent, rounded as `rounding` tells; that may be nothing."""
    values = classes.of(())
    return {
        "long_name": "probability of cloud",
        "units": "percent",
        **rounding,
        "flag_values": [value for value, _, _ in values],
        "flag_meanings": " ".join(name for _, name, _ in values),
        "grid_mapping": "spatial_ref",
        **_georeference(grid),
    }
