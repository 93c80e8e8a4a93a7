"""Pixels that change where data end: `python tests/benchmarks/edges.py DATA…`; a part of each scene taken away.

What is left is compared with the mask of the whole scene, so what changes is owed to what the network sees in place of
the data (`cloudjob.model.predict.mirror`). Then the same in a job's tiles: what changes is owed to where they are cut.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import seams

from cloudjob.model import checkpoint, predict
from training.sensor import empty

SIDE = 1024
SMALL = 256
"""Tiles of this side, so that a scene has several."""

Y, X = np.mgrid[:SIDE, :SIDE]
HOLES = {
    "steep line": X + Y / 5 > 700,
    "level line": Y + X / 10 > 700,
    "straight line": Y > 700,
    "diagonal": X + Y > 1100,
    "islands": (X // 97 + Y // 61) % 7 == 0,
}
"""Where (y, x) there are no data: a swath's side, an acquisition's end, Landsat's corner."""


def main() -> None:
    """Print, for each form of the end, how many of 10,000 pixels change, and how many at seams."""
    whole = predict.prepare(checkpoint.load(), "cpu")
    cut = replace(whole, contract=replace(whole.contract, tile=SMALL))
    changed, missed, seam, pixels = (defaultdict[str, int](int) for _ in range(4))
    for _, image in seams.scenes():
        reflectance = np.where(empty(image), np.nan, image)[:5, :SIDE, :SIDE].astype(np.float32)
        truth = predict.mask(whole, reflectance)
        for name, hole in HOLES.items():
            left = np.where(hole, np.float32(np.nan), reflectance)
            found, tiled = predict.mask(whole, left), predict.mask(cut, left)
            there = found <= 1
            changed[name] += int(((found != truth) & there).sum())
            missed[name] += int(((found < truth) & there).sum())
            seam[name] += int((found != tiled).sum())
            pixels[name] += int(there.sum())
    for name, count in pixels.items():
        told = [1e4 * of[name] / count for of in (changed, missed, seam)]
        print(
            "{:16} {:8.2f} of 10,000 change, {:.2f} of them cloud that is missed; {:.3f} at seams".format(name, *told)
        )


if __name__ == "__main__":
    main()
