"""Which recipe is better, each image judged by a network that did not see its source.

`python -m training.crossvalidate SETTINGS… --data FOLDER --out FOLDER` trains a small network per recipe and fold, and
prints per kind of image how much cloud is found and how much of what is clear is called cloud, with `swir16` and
without. All folds of a recipe begin with one network that saw nothing but simulated images, so that their few steps go
further. Folds are of sources: images of one place or maker are all in one. Truth is people's labels where there are
some, else what the recipe's teacher or data set says; it is for comparing recipes, not for quoting.
"""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import click
import numpy as np
import torch

from cloudjob.model import checkpoint, predict
from training import __main__ as training
from training import data, loop, settings, teach
from training.errors import told
from training.methods import likelihood
from training.patch import CLEAR, CLOUD, UNKNOWN, Label, Patch, Reflectance
from training.sample import Float, Mix
from training.score import Counts
from training.sensor import SWIR, frost

FOLDS = (
    ("ocn-a*", "snow-xrspatial-*", "california-*", "beach-*"),
    ("algorithm-T29UNU-*", "snow-geoutils-*", "hls-*", "farmland-dsen2-*", "*ukis-csmask-landsat5", "bolzano"),
    (
        "alberta-*",
        "snow-layton-*",
        "*33UUU*",
        "*ukis-csmask-landsat7",
        "*ukis-csmask-sentinel2",
        "S2B_30TYP_*",
        "*coast-18N",
        "desert-*",
        "farmland-ftw-*",
    ),
)
"""Patterns of scenes; what is in none is never judged."""

CLOUDY = {
    "cumulus": ("ocn-akny", "ocn-adwp", "ocn-adwu", "alberta-*", "*ukis-csmask-*", "S2B_30TYP_*"),
    "overcast": ("ocn-adwz", "ocn-adxp", "algorithm-T29UNU-*"),
    "thin": ("*33UUU*",),
}
GROUND = {
    "snow": ("snow-geoutils-*", "snow-layton-*"),
    "ice": ("snow-xrspatial-*",),
    "bright ground": ("beach-*", "desert-*", "california-*"),
    "water and glint": ("hls-*", "*coast-18N"),
    "towns and fields": ("bolzano", "farmland-*"),
}
"""Kind → patterns of scenes. `swir16` of snow and ice is made up (`sensor.frost`)."""

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(13))
WIDTHS = (16, 32, 64, 80)
FIRST, STEPS, BATCH, CROP, RATE = 700, 250, 16, 128, 3e-3
"""`FIRST` steps on simulated images alone, then `STEPS` of each fold."""


def begin(chosen: settings.Settings, out: Path) -> Path:
    """The recipe's network after its simulated images alone, which is what every fold begins with."""
    if not (out / "checkpoint.safetensors").exists():
        small = dataclasses.replace(recipe(chosen, (), FIRST), mix=Mix(labelled=0, simulated=1))
        loop.train(small, training.make_samples(small, [], {}), [], out)
    return out / "checkpoint.safetensors"


def recipe(chosen: settings.Settings, fold: Sequence[str], steps: int) -> settings.Settings:
    """The same recipe for a small network and few steps, without the scenes of a fold, which validate."""
    return dataclasses.replace(
        chosen,
        network=dataclasses.replace(chosen.network, widths=WIDTHS),
        data=dataclasses.replace(
            chosen.data,
            validation=tuple(fold),
            validation_patches=10_000,
            simulated=min(chosen.data.simulated, 90),
            blends=min(chosen.data.blends, 40),
        ),
        training=dataclasses.replace(
            chosen.training,
            epochs=1,
            samples=steps * BATCH,
            batch=BATCH,
            crop=CROP,
            rate=RATE,
            average=0.98,
            keep="last",
        ),
    )


def train(
    chosen: settings.Settings, patches: Sequence[Patch], out: Path, teacher: Path, start: Path
) -> dict[str, Float]:
    """Train one fold's network, if `out` has none yet; the teacher's targets of the patches it did not see."""
    learn, check = training.divide(chosen, patches)
    soft = teach.targets([*learn, *check], chosen.data, teacher)
    if not (out / "checkpoint.safetensors").exists():
        samples = training.make_samples(chosen, learn, soft)
        loop.train(chosen, samples, [], out, start=start)
    return {patch.name: soft[patch.name] for patch in check if patch.name in soft}


def judge(model: predict.Model, patches: Sequence[Patch], soft: dict[str, Float]) -> dict[str, dict[str, list[Counts]]]:
    """Counts per threshold of each scene: "with" or "without" `swir16` → scene → one per `THRESHOLDS`."""
    found: dict[str, dict[str, list[Counts]]] = {"with": {}, "without": {}}
    for patch in patches:
        reflectance, label = patch.read(SWIR + 1)
        label = truth(label, soft.get(patch.name))
        if not (label != UNKNOWN).any():
            continue
        for name, image in views(patch, reflectance, label):
            counts = found[name].setdefault(patch.scene, [Counts() for _ in THRESHOLDS])
            score = likelihood(model, image)
            for count, cut in zip(counts, THRESHOLDS, strict=True):
                count.add(score >= cut, label)
    return found


def truth(label: Label, soft: Float | None) -> Label:
    """The label, or what the teacher said where it has to stand for one."""
    if soft is None:
        return label
    said = np.where(np.nan_to_num(soft) > 0.5, CLOUD, CLEAR)
    return np.where(np.isnan(soft), UNKNOWN, said).astype(np.uint8)


def views(patch: Patch, reflectance: Reflectance, label: Label) -> list[tuple[str, Reflectance]]:
    """The image without `swir16`, and with it where there is one, or where one can be made up."""
    bare = reflectance.copy()
    bare[SWIR] = np.nan
    if patch.scene.startswith("snow-"):
        known = np.where(label == CLOUD, 1, 0).astype(np.float32)
        reflectance = frost(np.random.default_rng(0), reflectance, known)
    there = np.isfinite(reflectance[SWIR]).any()
    return [("without", bare), *([("with", reflectance)] if there else [])]


def kinds(scenes: dict[str, list[Counts]]) -> dict[str, dict[str, list[Counts]]]:
    """Kind → scene → counts."""
    groups: dict[str, dict[str, list[Counts]]] = defaultdict(dict)
    for kind, patterns in (CLOUDY | GROUND).items():
        for scene, counts in scenes.items():
            if any(fnmatch(scene, pattern) for pattern in patterns):
                groups[kind][scene] = counts
    return groups


def cost(groups: dict[str, dict[str, list[Counts]]], place: int) -> float:
    """Share of pixels that are wrong at a threshold, the mean over kinds: a missed one costs as much as a false one."""
    shares = []
    for scenes in groups.values():
        all_of_it = sum((counts[place] for counts in scenes.values()), Counts())
        wrong = all_of_it.missed + all_of_it.false
        shares.append(wrong / max(wrong + all_of_it.hit + all_of_it.clear, 1))
    return statistics.mean(shares)


def rows(name: str, scenes: dict[str, dict[str, list[Counts]]], place: int) -> list[str]:
    """The table's lines of one recipe: each kind with its number, pooled, and its spread over scenes."""
    lines = []
    for given in ("with", "without"):
        for kind, members in kinds(scenes[given]).items():
            pooled = sum((counts[place] for counts in members.values()), Counts()).scores()
            keys = ("iou", "recall") if kind in CLOUDY else ("false_positives",)
            numbers = []
            for key in keys:
                each = [100 * (value or 0) for c in members.values() if (value := c[place].scores()[key]) is not None]
                spread = f" ± {statistics.pstdev(each):.1f}" if len(each) > 1 else ""
                numbers.append(f"{key} {100 * (pooled[key] or 0):.1f}{spread}")
            lines.append(f"{name:24} {given:8} {kind:18} {len(members):>3} scenes  {', '.join(numbers)}")
    return lines


@click.command(help=__doc__)
@click.argument("names", metavar="SETTINGS...", nargs=-1, required=True)
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path), help="A data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder; folds that are there are kept.")
@click.option("--steps", default=STEPS, show_default=True, help="Of each fold's network.")
@click.option("--threshold", type=float, help="Of the table, instead of the one that costs least.")
@click.option("--threads", default=1, show_default=True, help="Of torch.")
@click.option("--seen", type=click.Path(path_type=Path), help="Train nothing: this checkpoint, which saw the images.")
def main(
    names: tuple[str, ...],
    *,
    folders: tuple[Path, ...],
    out: Path,
    steps: int,
    threshold: float | None,
    threads: int,
    seen: Path | None,
) -> None:
    """Command line."""
    torch.set_num_threads(threads)
    with told():
        patches = data.gather(folders).patches
        for name in names:
            if seen:
                judge_seen(settings.read(name), patches, out, checkpoint.load(seen), threshold)
            else:
                run(settings.read(name), patches, out, steps, threshold)


def judge_seen(
    chosen: settings.Settings,
    patches: Sequence[Patch],
    out: Path,
    ckpt: checkpoint.Checkpoint,
    threshold: float | None,
) -> None:
    """The same table of a checkpoint on the images of its own recipe, at the one of `THRESHOLDS` nearest to its own."""
    learn, check = training.divide(chosen, patches)
    soft = teach.targets([*learn, *check], chosen.data, out / "teacher.npz")
    found = judge(predict.prepare(ckpt), [*learn, *check], soft)
    table(f"{ckpt.contract.name} {ckpt.contract.version}", found, threshold or ckpt.contract.threshold)


def run(chosen: settings.Settings, patches: Sequence[Patch], out: Path, steps: int, threshold: float | None) -> None:
    """All folds of a recipe; its part of the table."""
    scenes: dict[str, dict[str, list[Counts]]] = {"with": {}, "without": {}}
    start = begin(chosen, out / chosen.name / "simulated")
    for number, fold in enumerate(FOLDS):
        small = recipe(chosen, fold, steps)
        folder = out / chosen.name / f"fold-{number}"
        soft = train(small, patches, folder, out / "teacher.npz", start)
        model = predict.prepare(checkpoint.load(folder / "checkpoint.safetensors"))
        _, check = training.divide(small, patches)
        for given, counts in judge(model, check, soft).items():
            scenes[given] |= counts
    table(chosen.name, scenes, threshold)


def table(name: str, scenes: dict[str, dict[str, list[Counts]]], threshold: float | None = None) -> None:
    """Print the rows at a threshold, or at the one that costs least, and what each threshold costs."""
    halves = [kinds(scenes[given]) for given in ("with", "without")]
    costs = [statistics.mean(cost(half, place) for half in halves) for place in range(len(THRESHOLDS))]
    place = int(np.argmin(costs if threshold is None else np.abs(np.array(THRESHOLDS) - threshold)))
    for line in rows(name, scenes, place):
        click.echo(line)
    each = ", ".join(f"{100 * wrong:.2f} ({cut})" for cut, wrong in zip(THRESHOLDS, costs, strict=True))
    click.echo(f"{name:24} at threshold {THRESHOLDS[place]}; wrong pixels in % by threshold (mean over kinds): {each}")


if __name__ == "__main__":
    main()
