"""The real `ukis-csmask` on the real scenes: by its name here, and by its own code."""

import json
from pathlib import Path

import jobs
import numpy as np
import pytest
import rasterio
from conftest import REAL, needs_real_scenes

pytestmark = [pytest.mark.deploy, needs_real_scenes, pytest.mark.timeout(1800)]  # Fourteen scenes, twice

AGREEMENT = 0.97
"""Of a scene's pixels with data. The two differ where there are no data, which we mirror and it takes for black."""

DIFFERENCE = 0.005
"""Of the IoU on scenes that people labelled."""

PEERS = np.array([0, 1, 3], np.uint8)
"""Its classes as ours: background, cloud, shadow."""


def read(item: dict, name: str) -> np.ndarray:
    with rasterio.open(REAL.parent / item["assets"][name]["href"]) as file:
        return file.read(1)


def by_its_own_code(item: dict) -> tuple[np.ndarray, np.ndarray]:
    """(mask, whether there are data), both (y, x)."""
    from ukis_csmask.mask import CSmask

    names = ["blue", "green", "red", "nir"]
    numbers = np.array([read(item, name) for name in names])
    scaling = [(item["assets"][name].get("raster:bands") or [{}])[0] for name in names]
    bands = [n * s.get("scale", 1e-4) + s.get("offset", 0) for n, s in zip(numbers, scaling, strict=True)]
    image = np.moveaxis(np.array(bands, np.float32), 0, -1)
    found = CSmask(image, names, "l2a", intra_op_num_threads=1, inter_op_num_threads=1)
    return PEERS[found.csm[..., 0]], (numbers != 0).all(axis=0)


def iou(mask: np.ndarray, label: np.ndarray) -> float:
    return ((mask == 1) & (label == 1)).sum() / ((mask == 1) | (label == 1)).sum()


def test_the_masks_of_ukis_csmask_are_those_of_its_own_code(tmp_path: Path) -> None:
    assert {each.state for each in jobs.run_here(REAL, "ukis-csmask-l2a", tmp_path / "out")} == {"done"}
    for item in json.loads(REAL.read_text())["features"]:
        theirs, inside = by_its_own_code(item)
        ours = jobs.mask_of(tmp_path / "out", item["id"])
        assert (ours[inside] == theirs[inside]).mean() >= AGREEMENT, item["id"]
        if "label" in item["assets"]:
            label = read(item, "label")
            known = inside & (label < 2)
            scores = [iou(mask[known], label[known]) for mask in (ours, theirs)]
            assert abs(scores[0] - scores[1]) <= DIFFERENCE, item["id"]
