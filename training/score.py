"""Masks counted against labels: by scene, by kind of ground and pooled, at stated buffers."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cloudjob.model import labels
from training.patch import CLEAR, CLOUD, UNKNOWN, Float, Label, Patch, Reflectance, any_of

Bool = npt.NDArray[np.bool_]

BUFFERS = (0, 4)  # pixels, stated with every comparison: label sets differ in how generously they are drawn
BRIGHT = 0.3  # mean visible reflectance from which clear ground is bright; the cut of brightness where none is chosen
SNOW = ("snow-*",)
SCL = "SCL"
"""The provider's scene classification: few scenes have it, so it is told for these and never pooled."""
POOLS = ("pooled", "clear scenes", "snow", "bright ground")
BINS = 10  # of the reliability curve
MANY = 20  # sources, above which a record tells of all together: images of one's own may be called anything
SHOWN = 24  # groups of a table, and sheets: all scenes of a large data set are in metrics.json only


@dataclass(frozen=True)
class Case:
    """A patch with its truth and each method's score (height, width), 0 to 1: cloud from its cut on (`Table.cuts`)."""

    patch: Patch
    reflectance: Reflectance
    label: Label
    scores: dict[str, Float]


@dataclass
class Counts:
    """Pixels where label and mask are known: said cloud and is, said but is not, is but not said, and clear."""

    hit: int = 0
    false: int = 0
    missed: int = 0
    clear: int = 0

    def add(self, said: Bool, label: Label) -> "Counts":
        """Count another mask (height, width) against its label (0, 1, 255)."""
        self.hit += int((said & (label == 1)).sum())
        self.false += int((said & (label == 0)).sum())
        self.missed += int((~said & (label == 1)).sum())
        self.clear += int((~said & (label == 0)).sum())
        return self

    def __add__(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def cloud(self) -> int:
        """Pixels that are cloud."""
        return self.hit + self.missed

    @property
    def iou(self) -> float | None:
        """Intersection over union of cloud; None where there is none and none is said."""
        return _ratio(self.hit, self.hit + self.false + self.missed)

    def scores(self) -> dict[str, float | None]:
        """IoU, precision, recall, F1 of cloud, and the share of clear pixels called cloud; None for 0 / 0."""
        hit, false, missed = self.hit, self.false, self.missed
        return {
            "iou": self.iou,
            "precision": _ratio(hit, hit + false),
            "recall": _ratio(hit, hit + missed),
            "f1": _ratio(2 * hit, 2 * hit + false + missed),
            "false_positives": _ratio(false, false + self.clear),
        }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def brightness(reflectance: Reflectance) -> Float:
    """The simplest method's score (height, width): mean of red, green and blue, 0 to 1."""
    score: Float = np.clip(reflectance[:3].mean(axis=0), 0, 1)
    return score


def said(score: Float, cut: float, buffer: int) -> Bool:
    """Cloud (height, width): score from `cut`, widened by `buffer` pixels."""
    return labels.widen(score >= cut, (buffer, buffer))


class Table:
    """Counts by (group, method, buffer), case by case: each scene, each source, all pooled, snow and bright ground."""

    def __init__(self, cuts: dict[str, float], buffers: Sequence[int]) -> None:
        self.cuts = cuts
        self.buffers = buffers
        self.scenes: dict[str, dict[tuple[str, int], Counts]] = {}
        self.pools: dict[str, dict[tuple[str, int], Counts]] = {}

    def add(self, case: Case) -> None:
        """Count a case; one without labels counts nowhere."""
        if not (case.label != UNKNOWN).any():
            return
        ground = np.where(case.label == CLEAR, CLEAR, UNKNOWN).astype(np.uint8)
        bright = np.where(brightness(case.reflectance) >= BRIGHT, ground, UNKNOWN).astype(np.uint8)
        pools = {f"all {case.patch.source}": case.label, "pooled": case.label, "bright ground": bright}
        if any_of(case.patch.scene, SNOW):
            pools["snow"] = ground
        groups = [(self.pools.setdefault(name, defaultdict(Counts)), label) for name, label in pools.items()]
        groups.append((self.scenes.setdefault(case.patch.scene, defaultdict(Counts)), case.label))
        for method, score in case.scores.items():
            for buffer in self.buffers:
                mask = said(score, self.cuts[method], buffer)
                for group, label in groups[-1:] if method == SCL else groups:
                    group[method, buffer].add(mask, label)

    def rows(self) -> list[dict[str, Any]]:
        """One row per group, method and buffer; the scenes in which no pixel is cloud are a group too."""
        clear: dict[tuple[str, int], Counts] = defaultdict(Counts)
        for scene in self.scenes.values():
            for key, counts in scene.items():
                if not counts.cloud and key[0] != SCL:
                    clear[key] += counts
        groups = {**self.scenes, **dict(sorted(self.pools.items())), "clear scenes": clear}
        return [
            {"group": name, "method": method, "buffer_px": buffer, **counts.scores()}
            for name, group in groups.items()
            for (method, buffer), counts in group.items()
        ]


class Reliability:
    """How often a pixel is cloud whose probability is in this bin or that, case by case."""

    def __init__(self) -> None:
        self.total = np.zeros((3, BINS))

    def add(self, case: Case) -> None:
        """Count a case's pixels that have a label."""
        known = case.label != UNKNOWN
        scores, cloud = case.scores["cloudjob"][known], case.label[known] == CLOUD
        index = np.minimum((scores * BINS).astype(np.uint8), BINS - 1)
        self.total += [np.bincount(index, weights, BINS) for weights in (scores, cloud, np.ones_like(scores))]

    def rows(self) -> list[dict[str, float]]:
        """Per bin that is not empty: its mean probability, the share of cloud among the labels, and the pixels."""
        return [
            {"probability": probability / pixels, "cloud": cloud / pixels, "pixels": int(pixels)}
            for probability, cloud, pixels in self.total.T
            if pixels
        ]


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a text table; those of single scenes only where they are few."""
    pools = [row for row in rows if row["group"] in POOLS or row["group"].startswith("all ")]
    if len({row["group"] for row in rows}) > SHOWN:
        rows = pools
    names = tuple(Counts().scores())
    lines = [f"{'group':34} {'method':12} {'px':>2} " + " ".join(f"{name[:9]:>9}" for name in names)]
    for row in rows:
        numbers = " ".join(f"{'-' if row[name] is None else format(row[name], '.4f'):>9}" for name in names)
        lines.append(f"{row['group'][:34]:34} {row['method']:12} {row['buffer_px']:>2} {numbers}")
    return "\n".join(lines)


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What a contract tells of a measurement: IoU by source, and the share of clear scenes called cloud."""
    ours = [row for row in rows if row["method"] == "cloudjob"]
    few = len({row["group"] for row in ours if row["group"].startswith("all ")}) <= MANY
    told = {f"iou_{row['group'].removeprefix('all ')}_{row['buffer_px']}px": row["iou"] for row in ours
            if (row["group"].startswith("all ") if few else row["group"] == "pooled")
            and row["recall"] is not None}  # fmt: skip
    told |= {f"cloud_share_of_clear_scenes_{row['buffer_px']}px": row["false_positives"]
             for row in ours if row["group"] == "clear scenes"}  # fmt: skip
    return {name.replace("-", "_"): round(value, 4) for name, value in sorted(told.items()) if value is not None}
