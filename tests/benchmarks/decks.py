"""Decks of cloud without `swir16`, over dark ground: `python tests/benchmarks/decks.py [CHECKPOINT…]`.

Of a deck that covers half of a view, with a straight edge, or all of it: the share that is called cloud, in per cent,
by its reflectance and by how rough it is (standard deviation of what it reflects, as a share; hills of some 6 px).
Nothing but brightness, form and edge tells such a deck from snow.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]  # scipy's own lists hide it

from cloudjob.model import checkpoint, predict

SIDE = 256
BRIGHT = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROUGH = (0.0, 0.01, 0.05, 0.15)


def scene(bright: float, rough: float, edge: int) -> npt.NDArray[np.float32]:
    """Reflectance (5, side, side), `swir16` absent: a deck from column `edge` on."""
    rng = np.random.default_rng(0)
    ground = rng.uniform(0.03, 0.07, (SIDE, SIDE))
    image = np.stack([ground, ground, 0.9 * ground, ground + 0.2, np.full_like(ground, np.nan)])
    hills = gaussian_filter(rng.standard_normal((SIDE, SIDE)), 6)
    image[:4, :, edge:] = (bright * (1 + rough * hills / hills.std()))[:, edge:]
    return image.astype(np.float32)


def main() -> None:
    """Print a table for each checkpoint."""
    torch.set_num_threads(1)
    for path in sys.argv[1:] or [None]:
        found = checkpoint.load(Path(path)) if path else checkpoint.load()
        model = predict.prepare(found, "cpu")
        print(f"{found.contract.name} {found.contract.version} at {found.contract.threshold}")
        print(f"{'covers':8}{'rough':>6}" + "".join(f"{bright:6.1f}" for bright in BRIGHT))
        for covers, edge in (("half", SIDE // 2), ("all", 0)):
            for rough in ROUGH:
                likely = [predict.probability(model, scene(bright, rough, edge))[0] for bright in BRIGHT]
                shares = [(said[:, SIDE // 2 :] >= found.contract.threshold).mean() for said in likely]
                print(f"{covers:8}{rough:6.0%}" + "".join(f"{100 * share:6.0f}" for share in shares))


if __name__ == "__main__":
    main()
