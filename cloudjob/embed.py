"""For people who embed cloudjob: the job as a function, and clouds of an xarray cube of one's own."""

import contextlib
import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from datetime import date
from functools import lru_cache
from operator import index
from pathlib import Path
from typing import Any, Never

import numpy as np
import numpy.typing as npt
import xarray as xr
from distributed import Client
from pyproj import CRS
from pyproj.exceptions import CRSError

from cloudjob import classes, job, spoken
from cloudjob.catalog.bands import stands_for
from cloudjob.cluster.scheduler import connect as connect_to
from cloudjob.errors import ContractError, SceneError, UsageError
from cloudjob.grid import DEGREE, Grid, same_size
from cloudjob.model import predict
from cloudjob.model.checkpoint import load
from cloudjob.model.contract import Contract
from cloudjob.plan.request import request
from cloudjob.scene.opened import LEAST
from cloudjob.scene.reflectance import BLACK, IMPOSSIBLE
from cloudjob.store import cog as cogs
from cloudjob.store.lock import Lock
from cloudjob.store.receipt import SceneResult

OTHER_NAMES = {"variable": "band", "bands": "band", "y": "y", "lat": "y", "latitude": "y"}
OTHER_NAMES |= {"x": "x", "lon": "x", "longitude": "x"}
"""What dimensions are called elsewhere, in small letters."""

RECIPE = (
    "(cube.where(cube > 0) - offset) / 10_000; offset is 1000 from baseline 04.00 on, and 0 before, or where items say "
    "earthsearch:boa_offset_applied"
)


def run(
    *,
    dates: str | date | tuple[str | date | None, str | date | None],
    out: str | Path,
    bbox: tuple[float, float, float, float] | None = None,
    geometry: str | Path | Mapping[str, Any] | Any = None,
    catalog: str | Path | Iterable[Any] | Any = "earth-search",
    collection: str | None = None,
    assets: Mapping[str, str] | None = None,
    offset: float | None = None,
    max_cloud_cover: float | None = None,
    limit: int | None = None,
    checkpoint: str | Path | None = None,
    threshold: float | None = None,
    buffer: float | None = None,
    resolution: float | None = None,
    probability: bool = False,
    redo: bool = False,
    retry: str | Iterable[str] = (),
    cog: bool = False,
    client: Client | None = None,
    workers: int | None = None,
    **unknown: Never,
) -> list[SceneResult]:
    """Find scenes, mask their clouds and write the masks to Zarr: what `cloudjob run` does.

    In a script it has to stand below `if __name__ == "__main__":` unless `client` is given, because worker processes
    import the script.

    Args:
        dates: "2024-06", "2024-06-01/2024-06-30", "10d" and what else `--dates` takes; a date; or a pair of dates, of
            which one may be None for an open end.
        out: a folder, or an s3://, gs:// or az:// prefix.
        bbox: west, south, east, north in degrees.
        geometry: instead of `bbox`, and masks are clipped to it: a GeoJSON file or dict, a shapely geometry, or
            anything else with a `__geo_interface__`; longitude and latitude.
        catalog: a preset ("earth-search", "planetary-computer"), the address of a STAC API, a file with items, a
            `pystac_client.Client`, or the items themselves (pystac's or dicts).
        collection: of the catalog, instead of the preset's.
        assets: common band name → asset key, where it differs from the preset's.
        offset: reflectance to add to number × scale of every scene, instead of what its item says.
        max_cloud_cover: the highest `eo:cloud_cover` wanted, percent.
        limit: at most so many scenes, the newest.
        checkpoint: a network's file instead of the one that ships.
        threshold: probability from which a pixel is cloud, above 0 and below 1; the checkpoint's unless given.
        buffer: metres by which clouds are widened; the checkpoint's unless given.
        resolution: of the masks in metres, a multiple of the checkpoint's; the checkpoint's unless given.
        probability: whether to keep `cloud_probability` beside the masks.
        redo: whether to replace an OUT that was made with other settings.
        retry: id of an abandoned scene to be tried all the same, or several, or "all".
        cog: whether to write each mask as a COG, too: an asset of its STAC item. One that is damaged is warned of.
        client: of a Dask cluster whose workers have cloudjob installed; a local cluster is started without.
        workers: processes of the local cluster; by default one per core.
        unknown: refused, with the name that was probably meant.

    Returns:
        What became of each scene that was not done already, oldest first.

    Raises:
        UsageError: an argument makes no sense, or the script has no main guard.
        ContractError: the checkpoint, the catalog's assets or the OUT do not fit.
        UnreachableError: catalog, store or cluster do not answer, or another run is at work.
    """
    spoken.refuse_unknown(unknown, run)
    workers, cog = spoken.number("workers", workers, index), spoken.flag("cog", cog)
    if workers is not None and workers < 1:
        raise UsageError(f"workers is {workers}; expected 1 or more", hint="leave it out for one per core")
    _check_client(client)
    with spoken.files(geometry, catalog) as (area, where):
        asked = request(
            dates=spoken.interval(dates),
            out=out,
            bbox=spoken.box(bbox),
            geometry=area,
            catalog=where,
            collection=spoken.text("collection", collection),
            assets=spoken.keys(assets),
            offset=spoken.number("offset", offset),
            max_cloud_cover=spoken.number("max_cloud_cover", max_cloud_cover),
            limit=spoken.number("limit", limit, index),
            checkpoint=spoken.text("checkpoint", checkpoint, str | Path),
            threshold=spoken.number("threshold", threshold),
            buffer=spoken.number("buffer", buffer),
            resolution=spoken.number("resolution", resolution),
            probability=spoken.flag("probability", probability),
            redo=spoken.flag("redo", redo),
            retry=spoken.ids(retry),
        )

        def connect() -> contextlib.AbstractContextManager[Client]:
            return contextlib.nullcontext(client) if client else connect_to("local", workers)

        # Ctrl-C may strike here: who keeps its traceback, as notebooks do, must not keep the lock and the cluster, too
        with contextlib.closing(job.run(asked, connect)) as events:
            results = [event for event in events if isinstance(event, SceneResult)]
    if cog:
        try:
            with Lock(asked.out) as lock:
                for _ in cogs.attach(lock):
                    pass
        except SceneError as error:  # Of a mask that was there before: it costs nobody these results
            warnings.warn(f"{error}; {error.hint}", stacklevel=2)
    return results


def _check_client(client: object) -> None:
    """Refuse what no job can be run on, before anything starts."""
    if client is None:
        spoken.refuse_unguarded(sys._getframe())  # noqa: SLF001
        return
    if not isinstance(client, Client):
        raise UsageError(
            f"client is {client!r}, a {type(client).__name__}; expected a dask.distributed.Client",
            hint=f"client=Client({client!r})" if isinstance(client, str) else "see dask.distributed.Client",
        )
    if client.asynchronous:
        raise UsageError(
            "client is asynchronous, and cloudjob.run is not: it would wait for itself",
            hint="make it with Client(…, asynchronous=False), and call cloudjob.run in a thread (asyncio.to_thread)",
        )
    if client.status != "running":
        raise UsageError(f"client is {client.status}; expected a running one")


def mask(
    cube: xr.DataArray,
    *,
    checkpoint: str | Path | None = None,
    threshold: float | None = None,
    buffer: float | None = None,
) -> xr.DataArray:
    """Find the clouds of a cube, lazily if the cube is lazy: one Dask task per scene.

    Args:
        cube: (…, band, y, x) reflectance, floating-point, about 0 to 1; NaN, infinity or less than -0.5 for no data.
            Bands are chosen by the names in its `band` coordinate where there is one (red, green, blue, nir), else they
            must be the checkpoint's, in its order. Its north-western pixel is that of a scene if the values are to be
            those of a job.
        checkpoint: a file or a name (`source.read`) instead of the one that ships.
        threshold: probability from which a pixel is cloud, above 0 and below 1; the checkpoint's unless given.
        buffer: metres by which clouds are widened, with y and x in metres (on the ground, where a cube tells that they
            are Web Mercator's or feet: `spatial_ref` or `crs`); the checkpoint's unless given.

    Returns:
        (…, y, x) uint8: 0 clear, 1 cloud, by some networks 2 thin cloud and 3 cloud shadow, 254 no data.

    Raises:
        UsageError: threshold or buffer are out of range, or `cube` is no such cube.
        ContractError: the cube lacks a band, or has pixels of a size at which the network was not measured; or, on
            computing where it is lazy, its values cannot be reflectance, or the checkpoint's file has changed.
    """
    network = load(spoken.text("checkpoint", checkpoint, str | Path))
    contract = network.contract
    threshold, buffer = spoken.number("threshold", threshold), spoken.number("buffer", buffer)
    if threshold is not None and not 0 < threshold < 1:
        raise UsageError(f"threshold is {threshold:g}; expected a probability above 0 and below 1")
    if buffer is not None and not 0 <= buffer < 10_000:
        raise UsageError(f"buffer is {buffer:g}; expected metres, 0 or more and below 10,000")
    _check_cube(cube)
    pixel = _pixel(cube, contract, contract.buffer if buffer is None else buffer)
    # As scenes lie: to the network a cloud whose shadow falls to the south is another one
    turned = {axis: slice(None, None, -1) for axis, wrong in (("y", 1), ("x", -1)) if wrong * _step(cube, axis) > 0}
    cube = _bands(cube, contract).isel(turned)
    found: xr.DataArray = xr.apply_ufunc(
        _mask,
        cube.chunk({"band": -1, "y": -1, "x": -1}) if cube.chunks else cube,
        input_core_dims=[["band", "y", "x"]],
        output_core_dims=[["y", "x"]],
        vectorize=True,
        dask="parallelized",
        output_dtypes=[np.uint8],
        kwargs={"path": checkpoint, "sha256": network.sha256, "threshold": threshold, "buffer": buffer, "pixel": pixel},
    )
    values = classes.of(contract.labels)
    meanings = " ".join(name for _, name, _ in values)
    return (
        found.isel(turned)
        .rename("cloud")
        .assign_attrs(flag_values=[value for value, _, _ in values], flag_meanings=meanings)
    )


def _check_cube(cube: Any) -> None:
    """Make sure that this is a cube of reflectance, as far as that shows without its pixels."""
    if isinstance(cube, xr.Dataset):
        raise UsageError("expected a DataArray, not a Dataset", hint='make it one: cube.to_array("band")')
    if not isinstance(cube, xr.DataArray):
        hint = 'xarray.DataArray(values, dims=("band", "y", "x"))'
        raise UsageError(f"expected an xarray.DataArray, not {type(cube).__name__}", hint=hint)
    if lacking := [dim for dim in ("band", "y", "x") if dim not in cube.dims]:
        ours = {dim: OTHER_NAMES.get(str(dim).lower(), dim) for dim in cube.dims}
        renamed = ", ".join(f'{dim}="{our}"' for dim, our in ours.items() if dim != our)
        raise UsageError(
            f"the cube has no dimension {', '.join(lacking)}; it has {', '.join(map(str, cube.dims))}",
            hint=f"cube.rename({renamed})" if renamed else 'cube.rename(…="band", …="y", …="x")',
        )
    if cube.dtype.kind != "f":
        raise UsageError(f"the cube holds numbers ({cube.dtype}), not reflectance", hint=RECIPE)


def _bands(cube: xr.DataArray, contract: Contract) -> xr.DataArray:
    """The cube with all bands in the network's order: NaN for optional ones that are absent."""
    names = [str(name) for name in cube["band"].values] if "band" in cube.coords else []
    if twice := {name for name in contract.bands if names.count(name) > 1}:
        raise ContractError(f"the cube has the band {min(twice)} more than once", hint="choose one of them")
    if not names:
        own = {len(bands): list(bands) for bands in (contract.bands, contract.required_bands)}
        if cube.sizes["band"] not in own:
            raise ContractError(f"the cube has {cube.sizes['band']} bands; expected {', '.join(contract.bands)}")
        names = own[cube.sizes["band"]]
    if missing := set(contract.required_bands) - set(names):
        raise ContractError(
            f"the cube has the bands {', '.join(names)} but not {', '.join(sorted(missing))}",
            hint=_naming(cube, names, contract.required_bands),
        )
    if names == list(contract.bands):
        return cube
    present = [band for band in contract.bands if band in names]
    cube = cube.isel(band=[names.index(band) for band in present]).assign_coords(band=present)
    return cube.reindex(band=list(contract.bands), copy=False)


def _naming(cube: xr.DataArray, names: list[str], required: Iterable[str]) -> str:
    """What to do about bands that go by other names, or are not there. To be pasted: so never in another order."""
    if "common_name" in cube.coords:
        return "rename them, for example cube.assign_coords(band=cube.common_name.values)"
    ours = [stands_for(name) or name for name in names]
    if set(required) <= set(ours):
        return f"rename them, for example cube.assign_coords(band={json.dumps(ours)})"
    if set(ours) & set(required):
        return "load those, too; or rename what is called otherwise, with cube.assign_coords(band=[…])"
    return (
        f"say of each of {', '.join(names)}, in its place, whether it is {', '.join(required)} or another: "
        "cube.assign_coords(band=[…])"
    )


def _pixel(cube: xr.DataArray, contract: Contract, buffer: float) -> tuple[float, float]:
    """Height and width of a pixel in metres; the network's where the cube has no coordinates.

    Raises:
        UsageError: they are in degrees and clouds are to be widened by metres.
        ContractError: nobody knows what the network finds in pixels of that size.
    """
    height, width = abs(_step(cube, "y")), abs(_step(cube, "x"))
    height, width = height or width or contract.resolution, width or height or contract.resolution
    if max(height, width) < 0.01:  # No sensor has pixels of a centimetre
        if buffer:
            raise UsageError(
                f"the cube's y and x are in degrees, and clouds are to be widened by {buffer:g} metres",
                hint="load it in metres, for example in the scenes' own UTM zone, or leave `buffer` at 0",
            )
        height, width = height * DEGREE, width * DEGREE * np.cos(np.radians(float(cube["y"].mean())))
    elif _step(cube, "y") and (epsg := _epsg(cube)):
        x0, y0 = float(cube["x"].min()), float(cube["y"].max())
        height, width = Grid(epsg, x0, y0, width, height, cube.sizes["y"], cube.sizes["x"]).metres
    own = float((height * width) ** 0.5)
    if not same_size(own, contract.measured):
        told = ", ".join(f"{good:g}" for good in contract.measured)
        raise ContractError(
            f"the cube has pixels of {own:.3g} m; the network's masks were measured with pixels of {told} m only",
            hint=f"load it at {contract.resolution:g} m and make the mask coarser, not the image",
        )
    return height, width


def _epsg(cube: xr.DataArray) -> int | None:
    """Code of a cube's projection, as stackstac, odc-stac and rioxarray write it; None where nothing fitting tells."""
    # An attribute stays as it was when rioxarray puts a cube on another grid
    told = (*(each.attrs.get("crs_wkt") for each in cube.coords.values() if not each.dims), cube.attrs.get("crs"))
    with contextlib.suppress(CRSError):
        crs = CRS.from_user_input(next((each for each in told if isinstance(each, str | int) and each), ""))
        return None if crs.is_geographic else crs.to_epsg()
    return None


def _step(cube: xr.DataArray, axis: str) -> float:
    """From a pixel to the next; 0 where there is no telling."""
    if axis not in cube.coords or cube.sizes[axis] < 2:
        return 0.0
    return float(cube[axis][-1] - cube[axis][0]) / (cube.sizes[axis] - 1)


def _mask(
    reflectance: npt.NDArray[Any], *, path: str | Path | None, sha256: str, **options: Any
) -> npt.NDArray[np.uint8]:
    model = _model(path, sha256)
    contract = model.contract
    values = reflectance.astype(np.float32)
    values[(values < LEAST) | np.isinf(values)] = np.nan  # -9999 and its like, as in a job
    required = [contract.bands.index(band) for band in contract.required_bands]
    values[:, np.isnan(values[required]).any(axis=0)] = np.nan
    _check_reflectance(values[required][:, ~np.isnan(values[required[0]])])
    return predict.mask(model, values, **options)


def _check_reflectance(values: npt.NDArray[np.float32]) -> None:
    """Refuse values (band, pixel) that cannot be reflectance: raw numbers, percent, or scaled twice."""
    if not values.size:
        return
    middle, most = float(np.median(values)), float(values.max())
    if middle > IMPOSSIBLE or most < BLACK:
        raise ContractError(
            f"the cube's values cannot be reflectance (half of a scene lies above {middle:.4g}, the largest is "
            f"{most:.4g}); expected about 0 to 1",
            hint=f"from raw numbers, {RECIPE}",
        )


@lru_cache(maxsize=4)
def _model(path: str | Path | None, sha256: str) -> predict.Model:
    """Loaded once per process, as long as its file stays the same.

    Raises:
        ContractError: it is another one by now.
    """
    network = load(path)
    if network.sha256 != sha256:
        raise ContractError(f"the checkpoint {path} is another one than when the mask was asked for", hint="ask anew")
    return predict.prepare(network)
