"""Pictures of a training: loss curves, sheets of predictions, the reliability curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.patch import CLEAR, CLOUD, UNKNOWN, Label, Reflectance

HIT, FALSE, MISSED, REST = (1.0, 1.0, 1.0), (0.84, 0.15, 0.16), (0.12, 0.47, 0.71), (0.12, 0.12, 0.12)
STEP = 640  # pixels; larger images are thinned for the sheet


def natural(reflectance: Reflectance) -> npt.NDArray[np.float32]:
    """(height, width, 3) colours 0 to 1 of reflectance (bands, height, width), clouds and ground both visible."""
    colours: npt.NDArray[np.float32] = (np.clip(reflectance[:3] / 0.8, 0, 1) ** 0.6).transpose(1, 2, 0)
    return colours


def errors(label: Label, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(height, width, 3): white hits, red false alarms, blue misses, dark clear, grey unknown."""
    colours = np.empty((*label.shape, 3), np.float32)
    colours[:] = REST
    colours[mask & (label == CLOUD)] = HIT
    colours[mask & (label == CLEAR)] = FALSE
    colours[~mask & (label == CLOUD)] = MISSED
    colours[label == UNKNOWN] = 0.5
    return colours


def sheet(
    reflectance: Reflectance,
    label: Label,
    probability: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    path: Path,
) -> None:
    """One row: image (bands, height, width); truth, probability, mask and errors (height, width)."""
    every = max(1, -(-max(label.shape) // STEP))
    thin = (slice(None, None, every), slice(None, None, every))
    figure = Figure(figsize=(15, 3.3), layout="constrained")
    axes = figure.subplots(1, 5)
    image, truth = natural(reflectance)[thin], np.ma.masked_equal(label[thin], UNKNOWN)
    wrong = errors(label, mask)[thin]
    panels: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("image", image, {}),
        ("truth", truth, {"cmap": "gray", "vmin": 0, "vmax": 1}),
        ("probability", probability[thin], {"cmap": "viridis", "vmin": 0, "vmax": 1}),
        ("mask", mask[thin], {"cmap": "gray", "vmin": 0, "vmax": 1}),
        ("red: false alarm, blue: missed", wrong, {}),
    )
    for axis, (title, picture, look) in zip(axes, panels, strict=True):
        axis.set_facecolor("0.5")
        axis.imshow(picture, interpolation="nearest", **look)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=80)


def loss(rows: Sequence[dict[str, float]], path: Path, title: str) -> None:
    """Training and validation loss, and the validation IoU, by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] + 1 for row in rows]
    left.plot(epochs, [row["loss"] for row in rows], marker=".", label="training")
    left.plot(epochs, [row["validation_loss"] for row in rows], marker=".", label="validation")
    _axes(left, "epoch", "binary cross-entropy")
    left.set_ylim(bottom=0)
    left.legend(frameon=False)
    right.plot(epochs, [row["validation_iou"] for row in rows], marker=".", color="tab:green")
    _axes(right, "epoch", "validation IoU")
    right.set_ylim(0, 1)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=100)


def reliability(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Share of cloud among the labels against the probability said."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    axis.plot([row["probability"] for row in rows], [row["cloud"] for row in rows], marker="o", clip_on=False)
    _axes(axis, "probability", "share of cloud in the labels")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    figure.savefig(path, dpi=100)


def _axes(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="0.9")
