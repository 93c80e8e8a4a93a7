"""`ukis-csmask` here and by its own code: `python tests/benchmarks/ukis.py`, on the scenes of CLOUDJOB_SHARED.

The command line masks all scenes with `--checkpoint ukis-csmask-l2a`. Then, per scene: the share of pixels on which the
package's own code says the same, the IoU of both with the label where there is one, and the CPU-seconds of both for the
same image, one thread each. Needs `pip install 'cloudjob[onnx]' ukis-csmask`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bench
import numpy as np
import rasterio
import zarr

from cloudjob.model import checkpoint, predict

NAME = "ukis-csmask-l2a"
BANDS = ("blue", "green", "red", "nir")
PEERS = np.array([0, 1, 3], np.uint8)
"""Its classes as ours: background, cloud, shadow."""


def main() -> None:
    """Print a row per scene, and keep all in results/ukis.json."""
    catalog = Path(os.environ["CLOUDJOB_SHARED"]) / "data" / "stac" / "items.json"
    begin, rows = time.process_time(), []
    model = predict.prepare(checkpoint.load(NAME), "cpu")
    loading = time.process_time() - begin
    with bench.fresh("ukis") as out:
        where = ["--bbox", "-180", "-90", "180", "90", "--dates", "2000/..", "--catalog", str(catalog)]
        command = [Path(sys.executable).with_name("cloudjob"), "run", "--checkpoint", NAME, "--out", out, *where]
        subprocess.run(command, check=True)
        for item in json.loads(catalog.read_text(encoding="utf-8"))["features"]:
            rows.append(row(item, catalog.parent, out, model))
            print(json.dumps(rows[-1]), flush=True)
    labelled = [row for row in rows if "IoU" in row]
    figures = {
        "scenes": len(rows),
        "agreement, least": min(row["agreement"] for row in rows),
        "agreement, all pixels": sum(row["same"] for row in rows) / sum(row["pixels"] for row in rows),
        "IoU, largest difference": max(abs(row["IoU"] - row["IoU of its own"]) for row in labelled),
        "CPU over its own": sum(row["CPU"] for row in rows) / sum(row["CPU of its own"] for row in rows),
        "CPU-seconds to load it, which its own code does for every scene": loading,
    }
    bench.report("ukis", {**figures, "each": rows})


def row(item: dict[str, Any], folder: Path, out: Path, model: predict.Model) -> dict[str, Any]:
    """One scene's figures."""
    image, inside = reflectance(item, folder)
    begin = time.process_time()
    theirs = by_its_own_code(image)
    between = time.process_time()
    predict.mask(model, np.where(inside, image, np.nan).astype(np.float32))
    ended = time.process_time()
    ours = mask_of(out, item["id"])
    told: dict[str, Any] = {
        "scene": item["id"],
        "pixels": int(inside.sum()),
        "same": int((ours == theirs)[inside].sum()),
        "agreement": round(float((ours == theirs)[inside].mean()), 5),
        "shadow": round(float((ours[inside] == 3).mean()), 4),
        "CPU": round(ended - between, 2),
        "CPU of its own": round(between - begin, 2),
    }
    if "label" in item["assets"]:
        label = read(item, "label", folder)
        known = inside & (label < 2)
        told |= {"IoU": iou(ours[known], label[known]), "IoU of its own": iou(theirs[known], label[known])}
    return told


def read(item: dict[str, Any], name: str, folder: Path) -> np.ndarray:
    """An asset's first band."""
    with rasterio.open(folder / item["assets"][name]["href"]) as file:
        return np.asarray(file.read(1))


def reflectance(item: dict[str, Any], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(band, y, x) float32 as items say, 0 where there are no data; and where (y, x) there are."""
    numbers = np.array([read(item, name, folder) for name in BANDS])
    scaling = [(item["assets"][name].get("raster:bands") or [{}])[0] for name in BANDS]
    bands = [n * s.get("scale", 1e-4) + s.get("offset", 0) for n, s in zip(numbers, scaling, strict=True)]
    return np.array(bands, np.float32), (numbers != 0).all(axis=0)


def by_its_own_code(image: np.ndarray) -> np.ndarray:
    """The mask (y, x) in our values."""
    from ukis_csmask.mask import CSmask

    found = CSmask(np.moveaxis(image, 0, -1), list(BANDS), "l2a", intra_op_num_threads=1, inter_op_num_threads=1)
    return np.asarray(PEERS[found.csm[..., 0]])


def mask_of(out: Path, scene: str) -> np.ndarray:
    """The mask (y, x) in an OUT."""
    (path,) = (out / "items").glob(f"*/{scene}.json")
    told = json.loads(path.read_text(encoding="utf-8"))["properties"]
    array = zarr.open_array(out / "masks.zarr" / told["cloudjob:group"] / "cloud", mode="r")
    return np.asarray(array[told["cloudjob:slot"]])


def iou(mask: np.ndarray, label: np.ndarray) -> float:
    """Intersection of the clouds over their union."""
    either = ((mask == 1) | (label == 1)).sum()
    return round(float(((mask == 1) & (label == 1)).sum() / either), 4) if either else 1.0


if __name__ == "__main__":
    main()
