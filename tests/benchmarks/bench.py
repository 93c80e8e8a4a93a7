"""What the benchmarks share: one full simulated scene, a job on a cluster that is up already, and where figures go."""

import contextlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from affine import Affine
from distributed import Client
from rasterio.warp import transform_geom

from cloudjob import job
from cloudjob.demo import simulate
from cloudjob.grid import Grid
from cloudjob.plan.request import request
from cloudjob.store.receipt import Receipt

HERE = Path(__file__).parent
SCRATCH = Path(tempfile.gettempdir()) / "cloudjob-benchmarks"
"""Holds the simulated scenes (1 GB), made once."""

BANDS = ("red", "green", "blue", "nir")
FULL = Grid(32633, 300_000, 5_300_040, 10, 10, 10980, 10980)
"""A whole Sentinel-2 tile."""

MILLION = 1e6

WORLD = (-180.0, -90.0, 180.0, 90.0)


def full_scene() -> Path:
    """An item collection of one scene of 10980 × 10980 pixels."""
    return scene(FULL, SCRATCH / "full" / "items.json")


def scenes(side: int, number: int) -> Path:
    """An item collection of scenes of some pixels a side that share their files; they are of as many days."""
    grid = Grid(FULL.epsg, FULL.x0, FULL.y0, FULL.dx, FULL.dy, side, side)
    one = scene(grid, SCRATCH / f"side-{side}" / "items.json")
    days = [datetime(2024, 6, 1, 10, 15, 59, tzinfo=UTC) + timedelta(days=day) for day in range(number)]
    told = [item(f"S2A_33TUN_{day:%Y%m%d}_0_L2A", grid, one.parent, f"{day:%Y-%m-%dT%H:%M:%S}Z") for day in days]
    path = one.with_name(f"{number}.json")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": told}), encoding="utf-8")
    return path


def scene(grid: Grid, path: Path) -> Path:
    """An item collection of one scene: four bands, `swir16` and a classification, as COGs.

    A sixteenth of it is simulated, and mirrored until it fills the tile. The swath ends in one corner.
    """
    if path.exists():
        return path
    print(f"simulating a scene in {path.parent}", file=sys.stderr)
    rng = np.random.default_rng(0)
    side = -(-grid.height // 4)
    land, _ = simulate.ground(rng, (side, side))
    clouds = simulate.sky(rng, (side, side), cover=0.3, kinds=("cumulus", "cirrus"))
    seen, cloudy = simulate.overlay(land, clouds)
    corner = np.add.outer(np.arange(grid.height), np.arange(grid.width)) < 900
    for band, values in zip((*BANDS, "swir16"), seen, strict=True):
        numbers = np.pad(np.clip(values * 1e4 + 1000, 1, 65535).astype(np.uint16), (0, 3 * side), mode="symmetric")
        numbers = numbers[: grid.height, : grid.width]
        numbers[corner] = 0
        every = 1 if band in BANDS else 2
        write_cog(path.with_name(f"{band}.tif"), numbers[::every, ::every], grid.coarsen(every))
    classes = np.pad(np.where(cloudy, 9, 4).astype(np.uint8), (0, 3 * side), mode="symmetric")
    classes = classes[: grid.height, : grid.width]
    write_cog(path.with_name("scl.tif"), classes[::2, ::2], grid.coarsen(2))
    told = item("S2A_33TUN_20240601_0_L2A", grid, path.parent, "2024-06-01T10:15:59.024000Z")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [told]}), encoding="utf-8")
    return path


def write_cog(path: Path, values: np.ndarray, grid: Grid, blocksize: int = 1024) -> None:
    """A COG as Earth Search has them: deflate, predictor 2, 1024-pixel blocks, overviews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="COG",
        height=values.shape[0],
        width=values.shape[1],
        count=1,
        dtype=values.dtype,
        crs=f"EPSG:{grid.epsg}",
        transform=Affine(*grid.transform),
        nodata=0,
        compress="DEFLATE",
        predictor="YES",
        blocksize=blocksize,
        num_threads="ALL_CPUS",
    ) as file:
        file.write(values, 1)


def item(name: str, grid: Grid, folder: Path, when: str) -> dict[str, Any]:
    """A scene as Earth Search describes it, whose files lie in `folder`."""
    left, bottom, right, top = grid.bounds
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    geometry = transform_geom(f"EPSG:{grid.epsg}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    xs, ys = zip(*geometry["coordinates"][0], strict=True)
    assets = {}
    for key in (*BANDS, "swir16", "scl"):
        if not (folder / f"{key}.tif").exists():  # swir16 of scenes made before
            continue
        pixels = grid if key in BANDS else grid.coarsen(2)
        assets[key] = {
            "href": str(folder / f"{key}.tif"),
            "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -0.1}],
            "proj:shape": pixels.shape,
            "proj:transform": pixels.transform,
        }
    told = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": geometry,
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "properties": {
            "datetime": when,
            "platform": "sentinel-2a",
            "grid:code": "MGRS-33TUN",
            "proj:epsg": grid.epsg,
            "s2:processing_baseline": "05.10",
            "s2:product_uri": f"{name}.SAFE",
            "s2:generation_time": when,
            "earthsearch:boa_offset_applied": False,
            "eo:cloud_cover": 30.0,
        },
        "links": [],
        "assets": assets,
    }
    found: dict[str, Any] = json.loads(json.dumps(told))  # Lists where rasterio has tuples
    return found


def run(client: Client, items: Path, out: Path, **more: Any) -> list[Receipt]:
    """Do a whole job on the cluster of `client`, from search to ledger; every scene must be done."""
    asked = request(**{"bbox": WORLD, "dates": "2000/..", "catalog": items, "out": out, **more})
    receipts = []
    for event in job.run(asked, lambda: contextlib.nullcontext(client)):
        if isinstance(event, job.SceneResult):
            if event.receipt is None:
                raise SystemExit(f"a scene failed: {event}")
            receipts.append(event.receipt)
    return receipts


@contextlib.contextmanager
def fresh(name: str) -> Iterator[Path]:
    """A folder for an OUT, gone afterwards."""
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=name, dir=SCRATCH) as folder:
        yield Path(folder) / "out"


def report(name: str, figures: dict[str, Any]) -> None:
    """Print figures, and keep them in results/NAME.json with what they were made by."""
    tell(figures)
    keep(name, figures)


def tell(figures: dict[str, Any]) -> None:
    """Print figures."""
    for label, value in figures.items():
        if isinstance(value, list):
            continue  # Rows, which were printed as they came
        print(f"{label:58} {value:.3f}" if isinstance(value, float) else f"{label:58} {value}", flush=True)


def keep(name: str, figures: dict[str, Any]) -> None:
    """Write figures to results/NAME.json with what they were made by."""
    made = {
        "command": f"python tests/benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip(),
        "at": f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
        "machine": f"{_processor()}, {torch.get_num_threads()} thread(s) for torch, {platform.system()}",
        "versions": {
            name: version(name) for name in ("torch", "numpy", "rasterio", "stackstac", "zarr", "dask", "distributed")
        },
        "commit": _git("rev-parse", "--short", "HEAD"),
    }
    text = json.dumps({**made, "figures": figures}, indent=1, ensure_ascii=False)
    (HERE / "results" / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


def _git(*arguments: str) -> str:
    if not shutil.which("git"):  # A copy on a machine that was lent
        return ""
    return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()
