"""Coarser masks: `python tests/benchmarks/resolution.py`; the network fed coarse pixels against coarse masks of it.

For each labelled scene of 10 m in CLOUDJOB_SHARED (`data/stac` and `data/chips`) and pixels of 20, 30 and 60 m: IoU
with the label made coarser by the same rule, of the mask found at 10 m and then made coarser, and of what the network
finds in averaged pixels.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import bench
import numpy as np
import rasterio

from cloudjob.model import checkpoint, predict
from cloudjob.model.coarse import coarsen

BANDS = ("red", "green", "blue", "nir")
FACTORS = (1, 2, 3, 6)


def main() -> None:
    """Print a row per scene and resolution, and keep the sums in results/resolution.json."""
    folder = Path(os.environ["CLOUDJOB_SHARED"]) / "data"
    model = predict.prepare(checkpoint.load(), "cpu")
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2, int))
    rows = []
    for name, image, label in [*scenes(folder), *chips(folder)]:
        for factor in FACTORS:
            truth = coarsen(np.where(label == 255, np.uint8(254), label), factor)
            made = coarsen(predict.mask(model, image), factor)
            fed = predict.mask(model, averaged(image, factor), pixel=(10 * factor, 10 * factor))
            known = truth < 254
            row = {"scene": name, "metres": 10 * factor, "cloud": round(100 * (truth[known] == 1).mean(), 1)}
            for how, found in (("joined", made), ("fed", fed)):
                both, either = ((found == 1) & (truth == 1))[known].sum(), ((found == 1) | (truth == 1))[known].sum()
                row |= {how: round(both / either, 3) if either else None}
                row |= {f"{how}_cloud": round(100 * (found[known] == 1).mean(), 1)}
                sums[f"{how} {10 * factor} m"] += np.array([both, either])
            rows.append(row)
            print(json.dumps(row), flush=True)
    total = {f"IoU {name}": round(float(both / either), 3) for name, (both, either) in sums.items()}
    bench.report("resolution", {**total, "scenes": rows})


def scenes(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, reflectance (4, y, x), label (y, x)) of the labelled scenes with pixels of 10 m."""
    found = []
    for item in json.loads((folder / "stac" / "items.json").read_text())["features"]:
        assets = item["assets"]
        if "label" not in assets or assets["red"]["proj:transform"][0] != 10:
            continue
        bands = []
        for band in BANDS:
            told = assets[band]["raster:bands"][0]
            numbers = read(folder / "stac" / assets[band]["href"])
            bands.append(np.where(numbers == 0, np.nan, numbers * told["scale"] + told["offset"]))
        image = np.stack(bands).astype(np.float32)
        image[:, np.isnan(image).any(axis=0)] = np.nan
        found.append((item["id"], image, read(folder / "stac" / assets["label"]["href"]).astype(np.uint8)))
    return found


def chips(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The same of the chips with pixels of 10 m that people have labelled."""
    found = []
    for path in sorted((folder / "chips").glob("cloudsen12-*_label.tif")):
        with rasterio.open(str(path).replace("_label", "")) as file:
            numbers = file.read()[:4]
        image = (numbers * 0.0016).astype(np.float32)
        image[:, (numbers == 0).any(axis=0)] = np.nan
        found.append((path.stem.removesuffix("_label"), image, read(path).astype(np.uint8)))
    return found


def read(path: Path) -> np.ndarray:
    """A file's first band."""
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Reflectance of larger pixels: means of what holds data."""
    bands, height, width = image.shape
    grown = np.full((bands, -(-height // factor) * factor, -(-width // factor) * factor), np.nan, np.float32)
    grown[:, :height, :width] = image
    cells = grown.reshape(bands, grown.shape[1] // factor, factor, -1, factor)
    held = ~np.isnan(cells)
    with np.errstate(invalid="ignore"):
        mean = np.where(held, cells, 0).sum(axis=(2, 4)) / held.sum(axis=(2, 4))
    return np.asarray(mean, np.float32)


if __name__ == "__main__":
    main()
