"""Requests that one scene costs its source: `python tests/benchmarks/requests_per_scene.py`.

A quarter of a Sentinel-2 tile (3300 × 3300 pixels in five COGs of 1024-pixel blocks) behind a file server that counts,
and the shipped network's tiling; the task runs in this process with a network that finds nothing.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import bench
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from file_server import file_server

from cloudjob import job
from cloudjob.cluster import network, task
from cloudjob.grid import Grid
from cloudjob.model import checkpoint, predict

GRID = Grid(32633, 600_000, 5_200_020, 10, 10, 3300, 3300)


def main() -> None:
    """Run the job once, and count."""
    shipped = checkpoint.load()
    model = predict.prepare(shipped, "cpu")

    def here(_: object, __: object, work: Iterable[tuple[str, Any]]) -> Iterator[tuple[Any, Any]]:
        for _, part in work:
            yield part, task.mask_tiles(part, model)

    def nothing(_: object, windows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        yield from (np.zeros(window.shape[1:], np.float32) for window in windows)

    with tempfile.TemporaryDirectory() as name, file_server(Path(name) / "files") as files:
        folder = Path(name)
        items = folder / "items.json"
        items.write_text(json.dumps({"type": "FeatureCollection", "features": [scene(folder / "files", files.url)]}))
        with (
            mock.patch.object(network, "load"),
            mock.patch.object(job, "lane_count", return_value=1),
            mock.patch.object(job, "stream", here),
            mock.patch.object(predict, "probability", nothing),
        ):
            bench.run(None, items, folder / "out")  # type: ignore[arg-type]
        asked = files.asked()
    methods = Counter(request.method for request in asked)
    blocks = Counter((request.path, request.range) for request in asked if request.method == "GET")
    bench.report(
        "requests_per_scene",
        {
            "requests": len(asked),
            "of these HEAD": methods["HEAD"],
            "of these GET": methods["GET"],
            "ranges that were asked for more than once": sum(count > 1 for count in blocks.values()),
            **{
                f"requests of {key}.tif": sum(f"/{key}.tif" in request.path for request in asked)
                for key in (*bench.BANDS, "scl")
            },
        },
    )


def scene(folder: Path, url: str) -> dict[str, Any]:
    """Its files, of noise that packs badly, and the item."""
    rng = np.random.default_rng(0)
    for key in (*bench.BANDS, "scl"):
        grid = GRID.coarsen(2) if key == "scl" else GRID
        values = rng.integers(1, 11, grid.shape) if key == "scl" else 1000 + rng.integers(0, 64, grid.shape) * 32
        bench.write_cog(folder / f"{key}.tif", values.astype(np.uint8 if key == "scl" else np.uint16), grid)
    told = bench.item("S", GRID, folder, "2024-06-01T10:15:59.024000Z")
    for key, asset in told["assets"].items():
        asset["href"] = f"{url}/{key}.tif"
    return told


if __name__ == "__main__":
    main()
