"""Pixels that change at seams: `python tests/benchmarks/seams.py [DATA…]`; a job's tiles against one tile for all.

Scenes of 2048 × 2048 pixels: simulated ones, with `swir16` and without, and real chips mirrored until they fill one.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cloudjob.demo import simulate
from cloudjob.grid import Window
from cloudjob.model import checkpoint, predict
from training import data
from training.methods import likelihood
from training.patch import SWIR, empty
from training.sensor import coarse

SIDE = 2048


def main() -> None:
    """Print flips per 10,000 pixels by scene, and over all."""
    shipped = checkpoint.load()
    tiled = predict.prepare(shipped, "cpu")
    bands = len(shipped.contract.bands)
    edge = shipped.contract.padding()
    flips = pixels = 0
    for name, image in scenes():
        window = predict.cut(
            np.where(empty(image), np.nan, image)[:bands], Window(-edge, SIDE + edge, -edge, SIDE + edge)
        )
        whole, _ = predict.probability(tiled, window)
        found = likelihood(tiled, image), whole[edge:-edge, edge:-edge]
        cut = [(likely >= shipped.contract.threshold) & ~empty(image) for likely in found]
        changed = int((cut[0] != cut[1]).sum())
        share = 1e4 * changed / SIDE**2
        print(f"{name:44} cloud {cut[1].mean():6.3f}   {share:8.3f} flips in 10,000", flush=True)
        flips, pixels = flips + changed, pixels + SIDE**2
    print(f"{'all':44} {'':12}   {1e4 * flips / pixels:8.3f} flips in 10,000")


def scenes() -> Iterator[tuple[str, np.ndarray]]:
    """(name, reflectance (5, SIDE, SIDE)), NaN where `swir16` is absent."""
    for number in range(4):
        rng = np.random.default_rng(number)
        ground, _ = simulate.ground(rng, (SIDE, SIDE))
        image = simulate.overlay(ground, simulate.sky(rng, (SIDE, SIDE)))[0]
        image[SWIR] = coarse(image[SWIR])
        yield f"simulated {number}, with swir16", image
        image[SWIR] = np.nan
        yield f"simulated {number}, without", image
    for folder in sys.argv[1:]:
        for patch in data.find(Path(folder)).patches:
            image, _ = patch.read(SWIR + 1)
            grow = [(0, 0)] + [(SIDE // 3, SIDE - SIDE // 3 - side) for side in image.shape[1:]]
            yield patch.name, np.pad(image, grow, mode="symmetric")


if __name__ == "__main__":
    main()
