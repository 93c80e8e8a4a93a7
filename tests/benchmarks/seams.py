"""Pixels that change at seams: `python tests/benchmarks/seams.py [DATA]`; a job's tiles against one tile for all.

Scenes of 2048 × 2048 pixels: simulated ones, and real chips mirrored until they fill one.
"""

import sys
from pathlib import Path

import numpy as np

from cloudjob.demo import simulate
from cloudjob.grid import Window
from cloudjob.model import checkpoint, predict
from training import data, evaluate

SIDE = 2048


def main() -> None:
    """Print flips per 10,000 pixels by scene, and over all."""
    shipped = checkpoint.load()
    tiled = predict.prepare(shipped, "cpu")
    edge = shipped.contract.padding()
    flips = pixels = 0
    for name, image in scenes():
        window = predict.cut(
            np.where((image == 0).all(axis=0), np.nan, image), Window(-edge, SIDE + edge, -edge, SIDE + edge)
        )
        (whole,) = predict.probability(tiled, [window])
        whole[edge:-edge, edge:-edge][(image == 0).all(axis=0)] = 0
        found = evaluate.likelihood(tiled, image), whole[edge:-edge, edge:-edge]
        cut = [likely >= shipped.contract.threshold for likely in found]
        changed = int((cut[0] != cut[1]).sum())
        print(f"{name:32} cloud {cut[1].mean():6.3f}   {1e4 * changed / SIDE**2:8.3f} flips in 10,000", flush=True)
        flips, pixels = flips + changed, pixels + SIDE**2
    print(f"{'all':32} {'':12}   {1e4 * flips / pixels:8.3f} flips in 10,000")


def scenes() -> object:
    """(name, reflectance (4, SIDE, SIDE))."""
    for number in range(6):
        rng = np.random.default_rng(number)
        ground, _ = simulate.ground(rng, (SIDE, SIDE))
        yield f"simulated {number}", simulate.overlay(ground, simulate.sky(rng, (SIDE, SIDE)))[0]
    for folder in sys.argv[1:]:
        for patch in data.find(Path(folder)).patches:
            image, _ = patch.read()
            grow = [(0, 0)] + [(SIDE // 3, SIDE - SIDE // 3 - side) for side in image.shape[1:]]
            yield patch.name, np.pad(image, grow, mode="symmetric")


if __name__ == "__main__":
    main()
