"""Which recipe is better, each image judged by a network that did not see its source.

`python -m training.crossvalidate SETTINGS… --data FOLDER --out FOLDER` trains the networks of a recipe side by side on
one stream of samples: one per fold, which sees none of its fold's sources, and one that sees all. It prints per kind of
image how much cloud is found and how much of what is clear is called cloud, with `swir16` and without. Folds are of
sources: images of one place or maker are all in one. Truth is people's labels where there are some, else what the
recipe's teacher or data set says; it is for comparing recipes, not for quoting.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import click
import numpy as np
import torch

from cloudjob.model import checkpoint, predict
from training import check, data, loop, prepare, settings, teach
from training.errors import told
from training.methods import likelihood
from training.patch import CLEAR, CLOUD, SWIR, UNKNOWN, Float, Label, Patch, Reflectance, any_of
from training.score import Counts
from training.sensor import frost
from training.state import State

FOLDS = (
    ("ocn-adw*", "ocn-adxp", "snow-xrspatial-*", "desert-*"),
    ("algorithm-T29UNU-*", "bolzano", "beach-*"),
    ("alberta-*", "snow-layton-*", "*coast-18N"),
    ("*ukis-csmask-*", "california-*", "farmland-dsen2-*"),
    ("*33UUU-*", "S2B_30TYP_*", "ocn-akny", "snow-geoutils-*", "hls-*", "farmland-ftw-*"),
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

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(17))


def train(
    chosen: settings.Settings, patches: Sequence[Patch], out: Path, workers: int, start: Path | None = None
) -> dict[str, Float]:
    """Train what `out` does not hold yet: `fold-0` and so on, and `whole`, which sees all.

    Killed, it goes on after the last whole epoch. With a `start`, the `out` of an earlier stage, each begins with the
    weights of its like; where that is a checkpoint, with those, and what that one saw, no fold can be asked of.

    Returns:
        The teacher's targets by patch name.
    """
    learn, _ = prepare.divide(chosen, patches)
    soft = teach.targets(learn, chosen.data, out / "teacher.npz")
    folders = {number: out / f"fold-{number}" for number in range(len(FOLDS))} | {len(FOLDS): out / "whole"}
    if all((path / "checkpoint.safetensors").exists() and not (path / "last").exists() for path in folders.values()):
        return soft  # they were trained elsewhere
    samples = prepare.samples(chosen, learn, soft, out, folds=FOLDS, workers=workers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(chosen.training.seed)
    states = {}
    for n, path in folders.items():
        folds = start and start.is_dir()
        begun = checkpoint.load(start / path.name / "checkpoint.safetensors" if folds else start) if start else None
        states[n] = State(chosen, device, f"{loop.fingerprint(chosen, samples, begun)} {n}")
        if begun:
            states[n].start(begun.unet)
    done = {n: states[n].resume(path / "last") for n, path in folders.items()}
    for epoch in range(min(done.values()), chosen.training.until or chosen.training.epochs):
        samples.epoch = epoch
        behind = {n: state for n, state in states.items() if done[n] <= epoch}
        for (n, state), loss in zip(behind.items(), loop.one_epoch(behind, samples, epoch, workers), strict=True):
            state.rows.append({"epoch": epoch, "loss": loss, "rate": state.rate()})
            folders[n].mkdir(parents=True, exist_ok=True)
            state.keep(folders[n] / "checkpoint.safetensors", {})
            state.save(folders[n] / "last")
            click.echo(f"epoch {epoch}, {folders[n].name}: loss {loss:.4f}", err=True)
    return soft


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
            if any_of(scene, patterns):
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
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="OUT/SETTINGS/stage-1, say, or a checkpoint for all: only the last stage is trained.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the settings' training.epochs.")
@click.option("--samples", type=click.IntRange(1), help="Instead of the settings' training.samples, of an epoch.")
@click.option("--crop", type=click.IntRange(16), help="Instead of the settings' training.crop, in pixels.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that prepare samples.")
@click.option("--threshold", type=float, help="Of the table, instead of the one that costs least.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of torch.")
@click.option("--seen", type=click.Path(path_type=Path), help="Train nothing: this checkpoint, which saw the images.")
def main(
    names: tuple[str, ...],
    *,
    folders: tuple[Path, ...],
    out: Path,
    start: Path | None,
    epochs: int | None,
    samples: int | None,
    crop: int | None,
    workers: int,
    threshold: float | None,
    threads: int,
    seen: Path | None,
) -> None:
    """Command line."""
    torch.set_num_threads(threads)
    with told():
        patches = data.gather(folders).patches
        for name in names:
            chosen = settings.changed(settings.read(name), epochs=epochs, samples=samples, crop=crop)
            check.look(list(chain(*prepare.divide(_alone(chosen), patches))), folders, chosen.data.taught)
            if seen:
                judge_seen(chosen, patches, out, checkpoint.load(seen), threshold)
            else:
                run(chosen, patches, out / chosen.name, workers, threshold, start)


def judge_seen(
    chosen: settings.Settings,
    patches: Sequence[Patch],
    out: Path,
    ckpt: checkpoint.Checkpoint,
    threshold: float | None,
) -> None:
    """The same table of a checkpoint on the images of its own recipe, at the one of `THRESHOLDS` nearest to its own."""
    learn, rest = prepare.divide(chosen, patches)
    soft = teach.targets([*learn, *rest], chosen.data, out / "teacher.npz")
    found = judge(predict.prepare(ckpt), [*learn, *rest], soft)
    table(f"{ckpt.contract.name} {ckpt.contract.version}", found, threshold or ckpt.contract.threshold)


def run(
    chosen: settings.Settings,
    patches: Sequence[Patch],
    out: Path,
    workers: int,
    threshold: float | None,
    start: Path | None,
) -> None:
    """All folds of a recipe, stage after stage as `python -m training` does it; its part of the table."""
    for number, stage in enumerate(() if start else chosen.before):
        folder = out / f"stage-{number + 1}"
        train(_alone(stage), patches, folder, workers, start)
        start = folder
    chosen = _alone(chosen)
    soft = train(chosen, patches, out, workers, start)
    learn, _ = prepare.divide(chosen, patches)
    scenes: dict[str, dict[str, list[Counts]]] = {"with": {}, "without": {}}
    for number, fold in enumerate(FOLDS):
        model = predict.prepare(checkpoint.load(out / f"fold-{number}" / "checkpoint.safetensors"))
        for given, counts in judge(model, data.split(learn, fold)[1], soft).items():
            scenes[given] |= counts
    table(chosen.name, scenes, threshold)


def _alone(stage: settings.Settings) -> settings.Settings:
    """A stage that keeps its last epoch, for all of its scenes train."""
    return replace(
        stage,
        data=replace(stage.data, validation=(), validation_share=0),
        training=replace(stage.training, keep="last"),
    )


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
