"""For people who embed cloudjob: the job as a function, and clouds of an xarray cube of one's own."""

import contextlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from distributed import Client

from cloudjob import classes, job
from cloudjob.cluster.scheduler import connect as connect_to
from cloudjob.errors import ContractError
from cloudjob.model import predict
from cloudjob.model.checkpoint import load
from cloudjob.plan.request import request
from cloudjob.store.receipt import SceneResult


def run(*, client: Client | None = None, workers: int | None = None, **options: Any) -> list[SceneResult]:
    """Do what `cloudjob run` does.

    Args:
        client: of a Dask cluster whose workers have cloudjob installed; a local cluster is started without.
        workers: processes of the local cluster; by default one per core.
        options: `bbox` or `geometry`, `dates`, `out`, and the others of `request.request`.

    Returns:
        What became of each scene that was not done already.

    Raises:
        CloudjobError: see `request.request` and `job.run`.
    """
    asked = request(**options)

    def connect() -> contextlib.AbstractContextManager[Client]:
        return contextlib.nullcontext(client) if client else connect_to("local", workers)

    return [event for event in job.run(asked, connect) if isinstance(event, SceneResult)]


def mask(
    cube: xr.DataArray,
    *,
    checkpoint: str | Path | None = None,
    threshold: float | None = None,
    buffer: float | None = None,
) -> xr.DataArray:
    """Find the clouds of a cube, lazily if the cube is lazy: one Dask task per scene.

    Args:
        cube: (…, band, y, x) reflectance, about 0 to 1; NaN for no data. Bands are chosen by the names in its `band`
            coordinate where there is one (red, green, blue, nir), else they must be the checkpoint's, in its order.
            Its first pixel is that of a scene if the values are to be those of a job.
        checkpoint: a file or a name (`source.read`) instead of the one that ships.
        threshold: probability from which a pixel is cloud; the checkpoint's unless given.
        buffer: metres by which clouds are widened, with y and x in metres; the checkpoint's unless given.

    Returns:
        (…, y, x) uint8: 0 clear, 1 cloud, by some networks 2 thin cloud and 3 cloud shadow, 254 no data.

    Raises:
        ContractError: the cube lacks a band.
    """
    contract = load(checkpoint).contract
    names = [str(name) for name in cube["band"].values] if "band" in cube.coords else []
    if names:
        if missing := set(contract.bands) - set(names):
            raise ContractError(
                f"the cube has the bands {', '.join(names)} but not {', '.join(sorted(missing))}",
                hint='rename them, for example cube.assign_coords(band=["red", "green", "blue", "nir"])',
            )
        cube = cube.sel(band=list(contract.bands))
    elif cube.sizes["band"] != len(contract.bands):
        raise ContractError(f"the cube has {cube.sizes['band']} bands; expected {', '.join(contract.bands)}")
    found: xr.DataArray = xr.apply_ufunc(
        _mask,
        cube.chunk({"band": -1, "y": -1, "x": -1}) if cube.chunks else cube,
        input_core_dims=[["band", "y", "x"]],
        output_core_dims=[["y", "x"]],
        vectorize=True,
        dask="parallelized",
        output_dtypes=[np.uint8],
        kwargs={
            "path": checkpoint,
            "threshold": threshold,
            "buffer": buffer,
            "pixel": (_spacing(cube, "y", contract.resolution), _spacing(cube, "x", contract.resolution)),
        },
    )
    values = classes.of(contract.labels)
    meanings = " ".join(name for _, name, _ in values)
    return found.rename("cloud").assign_attrs(flag_values=[value for value, _, _ in values], flag_meanings=meanings)


def _mask(reflectance: npt.NDArray[Any], *, path: str | Path | None, **options: Any) -> npt.NDArray[np.uint8]:
    values = reflectance.astype(np.float32)
    values[:, np.isnan(values).any(axis=0)] = np.nan
    return predict.mask(_model(path), values, **options)


@cache
def _model(path: str | Path | None) -> predict.Model:
    """Loaded once per process."""
    return predict.prepare(load(path))


def _spacing(cube: xr.DataArray, axis: str, otherwise: float) -> float:
    if axis not in cube.coords or cube.sizes[axis] < 2:
        return otherwise
    return abs(float(cube[axis][1] - cube[axis][0]))
