"""How good a checkpoint is: `python -m training.evaluate CHECKPOINT --data FOLDER --out FOLDER`.

Our masks are those a job writes (same tiles, halo and fill). Beside them, on the same pixels: a threshold on
brightness, other checkpoints if asked for, and `ukis-csmask` where it is installed; each with the same buffers.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from torch import Tensor

from cloudjob.errors import UsageError
from cloudjob.model import checkpoint, labels, predict
from training import data, peer, pictures
from training.data import Label, Patch, Reflectance
from training.errors import told
from training.sensor import empty

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Option = tuple[float, int]  # threshold, and buffer in pixels

BUFFERS = (0, 4)  # pixels, stated with every comparison: label sets differ in how generously they are drawn
BRIGHT = 0.3  # mean visible reflectance from which clear ground is bright
SNOW = ("snow-*",)
THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(15))
OPTIONS = tuple((threshold, buffer) for threshold in THRESHOLDS for buffer in range(5))
POOLS = ("pooled", "clear scenes", "snow", "bright ground")
SHOWN = 24  # groups of a table, and sheets: all scenes of a large data set are in metrics.json only


@dataclass(frozen=True)
class Case:
    """A patch with its truth and what each method thinks: probability-like scores, cloud from `cut[method]`."""

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


def likelihood(model: predict.Model, reflectance: Reflectance) -> Float:
    """Probability (height, width) for reflectance (bands, height, width), 0 for no data, tiled as a job does."""
    image = np.where(empty(reflectance), np.nan, reflectance)[: len(model.contract.bands)]
    contract = model.contract
    height, width = image.shape[1:]
    tiling = contract.tiling(height, width)
    result = np.zeros((height, width), np.float32)
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        (found,) = predict.probability(model, [predict.cut(image.astype(np.float32), padded)])
        top, left = core.top - padded.top, core.left - padded.left
        result[core.slices] = found[top : top + core.shape[0], left : left + core.shape[1]]
    return result


def brightness(reflectance: Reflectance) -> Float:
    """The simplest method's score: mean of red, green and blue, 0 to 1."""
    score: Float = np.clip(reflectance[:3].mean(axis=0), 0, 1)
    return score


def cases(
    model: predict.Model, patches: Iterable[Patch], *, with_peer: bool, beside: Sequence[predict.Model] = ()
) -> Iterator[Case]:
    """All methods on each patch in turn: a data set is larger than memory."""
    for patch in patches:
        reflectance, label = patch.read(len(data.ALL_BANDS))
        scores = {"cloudjob": likelihood(model, reflectance), "brightness": brightness(reflectance)}
        scores |= {other.contract.name: likelihood(other, reflectance) for other in beside}
        if with_peer:
            scores["ukis-csmask"] = peer.probability(reflectance, patch.level)
        yield Case(patch, reflectance, label, scores)


def said(score: Float, cut: float, buffer: int) -> Bool:
    """Cloud (height, width): score from `cut`, widened by `buffer` pixels."""
    return labels.widen(score >= cut, (buffer, buffer))


def choose(found: Iterable[Case], options: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
    """Of each method's (threshold, buffer in pixels) that with the best mean IoU over scenes that have clouds.

    Raises:
        UsageError: there are no clouds.
    """
    counts: dict[str, dict[tuple[str, Option], Counts]] = {}
    for case in found:
        scene = counts.setdefault(case.patch.scene, defaultdict(Counts))
        for method, them in options.items():
            for cut, buffer in them:
                scene[method, (cut, buffer)].add(said(case.scores[method], cut, buffer), case.label)
    cloudy = [scene for scene in counts.values() if any(each.cloud for each in scene.values())]
    if not cloudy:
        raise UsageError("--choose-on matches no scene with clouds", hint="there is nothing to choose a threshold by")

    def best(method: str) -> Option:
        return max(options[method], key=lambda each: sum(scene[method, each].iou or 0.0 for scene in cloudy))

    return {method: best(method) for method in options}


class Table:
    """Counts by (group, method, buffer), case by case: each scene, each source, all pooled, snow and bright ground."""

    def __init__(self, cuts: dict[str, float], buffers: Sequence[int]) -> None:
        self.cuts = cuts
        self.buffers = buffers
        self.scenes: dict[str, dict[tuple[str, int], Counts]] = {}
        self.pools: dict[str, dict[tuple[str, int], Counts]] = {}

    def add(self, case: Case) -> None:
        """Count a case; one without labels counts nowhere."""
        if not (case.label != data.UNKNOWN).any():
            return
        ground = np.where(case.label == data.CLEAR, data.CLEAR, data.UNKNOWN).astype(np.uint8)
        bright = np.where(brightness(case.reflectance) >= BRIGHT, ground, data.UNKNOWN).astype(np.uint8)
        pools = {f"all {case.patch.source}": case.label, "pooled": case.label, "bright ground": bright}
        if _any(case.patch.scene, SNOW):
            pools["snow"] = ground
        groups = [(self.pools.setdefault(name, defaultdict(Counts)), label) for name, label in pools.items()]
        groups.append((self.scenes.setdefault(case.patch.scene, defaultdict(Counts)), case.label))
        for method, cut in self.cuts.items():
            for buffer in self.buffers:
                mask = said(case.scores[method], cut, buffer)
                for group, label in groups:
                    group[method, buffer].add(mask, label)

    def rows(self) -> list[dict[str, Any]]:
        """One row per group, method and buffer; the scenes in which no pixel is cloud are a group too."""
        clear: dict[tuple[str, int], Counts] = defaultdict(Counts)
        for scene in self.scenes.values():
            for key, counts in scene.items():
                if not counts.cloud:
                    clear[key] += counts
        groups = {**self.scenes, **dict(sorted(self.pools.items())), "clear scenes": clear}
        return [
            {"group": name, "method": method, "buffer_px": buffer, **counts.scores()}
            for name, group in groups.items()
            for (method, buffer), counts in group.items()
        ]


class Reliability:
    """How often a pixel is cloud whose probability is in this bin or that, case by case."""

    def __init__(self, bins: int = 10) -> None:
        self.total = np.zeros((3, bins))

    def add(self, case: Case) -> None:
        """Count a case's pixels that have a label."""
        known, bins = case.label != data.UNKNOWN, self.total.shape[1]
        scores, cloud = case.scores["cloudjob"][known], case.label[known] == data.CLOUD
        index = np.minimum((scores * bins).astype(np.uint8), bins - 1)
        self.total += [np.bincount(index, weights, bins) for weights in (scores, cloud, np.ones_like(scores))]

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
    head = ("group", "method", "buffer_px", "iou", "precision", "recall", "f1", "false_positives")
    lines = [f"{'group':34} {'method':12} {'px':>2} " + " ".join(f"{name[:9]:>9}" for name in head[3:])]
    for row in rows:
        numbers = " ".join(f"{'-' if row[name] is None else format(row[name], '.4f'):>9}" for name in head[3:])
        lines.append(f"{row['group'][:34]:34} {row['method']:12} {row['buffer_px']:>2} {numbers}")
    return "\n".join(lines)


def evaluate(
    ckpt: checkpoint.Checkpoint,
    patches: Sequence[Patch],
    out: Path,
    *,
    cut_of_brightness: float = 0.3,
    with_peer: bool = True,
    beside: Sequence[checkpoint.Checkpoint] = (),
) -> dict[str, Any]:
    """Measure a checkpoint on patches; leaves `metrics.json`, `reliability.png` and sheets in `out`.

    Args:
        ckpt: the checkpoint, "cloudjob" in the rows.
        patches: to measure on.
        out: folder.
        cut_of_brightness: mean visible reflectance from which the simplest method says cloud.
        with_peer: whether `ukis-csmask` is measured too.
        beside: other checkpoints, each under its own name, with its own threshold.

    Returns:
        What is in `metrics.json`.
    """
    others = [predict.prepare(other) for other in beside]
    found = cases(predict.prepare(ckpt), patches, with_peer=with_peer, beside=others)
    cuts = {"cloudjob": ckpt.contract.threshold, "brightness": cut_of_brightness}
    cuts |= {other.contract.name: other.contract.threshold for other in others}
    if with_peer:
        cuts["ukis-csmask"] = 0.5
    return report(ckpt, found, cuts, out)


def evaluate_pairs(ckpt: checkpoint.Checkpoint, pairs: Iterable[tuple[Tensor, Tensor]], out: Path) -> dict[str, Any]:
    """The same for simulated reflectance (bands, height, width) and target (1, height, width), NaN where unknown."""
    model = predict.prepare(ckpt)

    def found() -> Iterator[Case]:
        for number, (image, target) in enumerate(pairs):
            reflectance, truth = image.numpy(), target.numpy()[0]
            label = np.where(np.isnan(truth), data.UNKNOWN, truth > 0.5).astype(np.uint8)
            scores = {"cloudjob": likelihood(model, reflectance), "brightness": brightness(reflectance)}
            yield Case(Patch(f"simulated-{number}", "simulated", "simulated", ()), reflectance, label, scores)

    return report(ckpt, found(), {"cloudjob": ckpt.contract.threshold, "brightness": BRIGHT}, out)


def report(ckpt: checkpoint.Checkpoint, found: Iterable[Case], cuts: dict[str, float], out: Path) -> dict[str, Any]:
    """Leave `metrics.json`, `reliability.png` and sheets of cases in `out`; see `evaluate`."""
    out.mkdir(parents=True, exist_ok=True)
    contract = ckpt.contract
    default = round(contract.buffer / contract.resolution)
    table, curve = Table(cuts, sorted({*BUFFERS, default})), Reliability()
    for number, case in enumerate(found):
        table.add(case)
        curve.add(case)
        if number < SHOWN:
            mask = said(case.scores["cloudjob"], contract.threshold, default)
            pictures.sheet(case.reflectance, case.label, case.scores["cloudjob"], mask, out / f"{case.patch.name}.png")
    metrics = {
        "checkpoint": ckpt.sha256,
        "threshold": contract.threshold,
        "default_buffer_px": default,
        "cuts": cuts,
        "rows": table.rows(),
        "reliability": curve.rows(),
    }
    _write(metrics, out)
    pictures.reliability(curve.rows(), out / "reliability.png")
    return metrics


def _write(metrics: dict[str, Any], out: Path) -> None:
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


def summary(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """What a contract tells of a measurement: IoU by source, and the share of clear scenes called cloud."""
    ours = [row for row in rows if row["method"] == "cloudjob"]
    told = {f"iou_{row['group'][4:]}_{row['buffer_px']}px": row["iou"]
            for row in ours if row["group"].startswith("all ") and row["recall"] is not None}  # fmt: skip
    told |= {f"cloud_share_of_clear_scenes_{row['buffer_px']}px": row["false_positives"]
             for row in ours if row["group"] == "clear scenes"}  # fmt: skip
    return {name.replace("-", "_"): round(value, 4) for name, value in sorted(told.items()) if value is not None}


def fix_choice(path: Path, patches: Sequence[Patch], out: Path, widened: int = 0) -> tuple[float, int, float]:
    """Choose threshold and buffer on training-side patches and write them into the checkpoint `path` → `out`.

    Args:
        path: the checkpoint.
        patches: to choose on; those without a label get the teacher's.
        out: the file to write.
        widened: pixels by which the labels' clouds are widened, as in training (`settings.Data.widened`).

    Returns:
        Threshold, buffer in pixels, and the best cut for brightness on the same patches.

    Raises:
        UsageError: there is no cloud in the patches.
    """
    ckpt = checkpoint.load(path)
    found = (generous(case, widened) for case in cases(predict.prepare(ckpt), patches, with_peer=False))
    options = {"cloudjob": OPTIONS, "brightness": tuple((cut, 0) for cut in THRESHOLDS)}
    chosen = choose(found, options)
    (threshold, buffer), (bright, _) = chosen["cloudjob"], chosen["brightness"]
    contract = dataclasses.replace(ckpt.contract, threshold=threshold, buffer=buffer * ckpt.contract.resolution)
    checkpoint.save(ckpt.unet, contract, out)
    return threshold, buffer, bright


def generous(case: Case, by: int) -> Case:
    """The case with its label's clouds widened by so many pixels; where there is no label it is the teacher's."""
    label = case.label
    if not case.patch.known:
        taught = (peer.probability(case.reflectance, case.patch.level) >= 0.5).astype(np.uint8)
        label = np.where(empty(case.reflectance), data.UNKNOWN, taught).astype(np.uint8)
    near = labels.widen(label == data.CLOUD, (by, by))
    return dataclasses.replace(case, label=np.where(near & (label != data.UNKNOWN), data.CLOUD, label).astype(np.uint8))


@click.command(help=__doc__)
@click.argument("path", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path), help="A data set.")
@click.option("--out", default=Path("evaluation"), type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--only", multiple=True, default=("*",), help="Pattern of scenes to measure on.")
@click.option("--ignore", multiple=True, help="Pattern of patches to leave out.")
@click.option("--clear", multiple=True, help="Pattern of scenes without labels that are known to be clear.")
@click.option("--choose-on", multiple=True, help="Pattern of scenes that choose threshold and buffer: not measured on.")
@click.option("--widened", default=0, help="Pixels by which clouds are widened in the labels that choose.")
@click.option("--beside", multiple=True, type=click.Path(path_type=Path), help="Another checkpoint to measure.")
@click.option("--peer/--no-peer", "with_peer", default=peer.available(), help="Beside ukis-csmask.")
def main(
    path: Path,
    *,
    folders: tuple[Path, ...],
    out: Path,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    clear: tuple[str, ...],
    choose_on: tuple[str, ...],
    widened: int,
    beside: tuple[Path, ...],
    with_peer: bool,
) -> None:
    """Command line."""
    with told():
        patches = tuple(
            dataclasses.replace(patch, clear=patch.clear or _any(patch.scene, clear))
            for patch in data.gather(folders).patches
            if not _any(patch.name, ignore)
        )
        rest, chosen = data.split(patches, choose_on)
        _, measured = data.split(rest, only)
        if not measured:
            raise UsageError(f"no scene is left to measure on of {', '.join(only)}", hint="see --only and --choose-on")
        out.mkdir(parents=True, exist_ok=True)
        bright, paths = 0.3, [path, *beside]
        if choose_on:
            copies = [
                out / ("checkpoint.safetensors" if n == 0 else f"beside-{n}.safetensors") for n in range(len(paths))
            ]
            for name, copy in zip(paths, copies, strict=True):
                threshold, buffer, bright = fix_choice(name, chosen, copy, widened)
                choice = f"threshold {threshold}, buffer {buffer} px"
                click.echo(f"{name}: chosen on {len(chosen)} patches, not measured on: {choice}", err=True)
            paths = copies
        ckpt, *others = map(checkpoint.load, paths)
        names = [other.contract.name for other in others]
        if len(set(names)) < len(names):
            raise UsageError(f"--beside names {', '.join(names)}; expected checkpoints with names of their own")
        metrics = evaluate(ckpt, measured, out, cut_of_brightness=bright, with_peer=with_peer, beside=others)
        if choose_on:
            contract = dataclasses.replace(ckpt.contract, metrics=summary(metrics["rows"]))
            checkpoint.save(ckpt.unet, contract, paths[0])
            _write(metrics | {"checkpoint": checkpoint.load(paths[0]).sha256}, out)
    click.echo(show(metrics["rows"]))


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


if __name__ == "__main__":
    main()
