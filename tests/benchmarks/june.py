"""README's picture without clouds: `python tests/benchmarks/june.py demo/masks`, after `make demo`; docs/june.png."""

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
STEP = 5  # Every fifth pixel is shown
NEVER = (0.85, 0.45, 0.75)
"""Red, green and blue of pixels without any clear look: neither cloud nor snow."""


def recipe(out: str) -> dict[str, Any]:
    """What the README's lines leave behind when they are run on an OUT."""
    (code,) = re.findall(r"```python\n(import cloudjob\n\nmonth = .+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("demo/masks", out), names)
    return names


def main() -> None:
    """Draw the median, the looks and the frequency side by side."""
    warnings.simplefilter("ignore")
    made = recipe(sys.argv[1])
    red_green_blue = made["picture"].isel(y=slice(None, None, STEP), x=slice(None, None, STEP)).compute()
    image = np.stack([red_green_blue[band].values for band in ("red", "green", "blue")], axis=-1)
    shown = np.clip(image / 0.6, 0, 1) ** (1 / 1.6)
    shown = np.where(np.isnan(shown), NEVER, shown)
    thin = {"y": slice(None, None, STEP), "x": slice(None, None, STEP)}
    looks, frequency = made["looks"].isel(thin).compute(), made["frequency"].isel(thin).compute()
    figure, axes = plt.subplots(1, 3, figsize=(15, 2.8), layout="constrained")
    axes[0].imshow(shown)
    axes[0].set_title("median of what was seen clear (pink: never)")
    drawn = axes[1].imshow(looks, cmap=mpl.colormaps["viridis"].resampled(int(looks.max()) + 1), vmin=-0.5)
    drawn.set_clim(-0.5, float(looks.max()) + 0.5)
    figure.colorbar(drawn, ax=axes[1], ticks=range(int(looks.max()) + 1), shrink=0.8)
    axes[1].set_title("clear looks")
    figure.colorbar(axes[2].imshow(frequency, cmap="cividis", vmin=0, vmax=1), ax=axes[2], shrink=0.8)
    axes[2].set_title("share of looks that were cloud (white: no look)")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(ROOT / "docs" / "june.png", dpi=80)


if __name__ == "__main__":
    main()
