"""`python -m training SETTINGS --data FOLDER --out FOLDER`: one experiment, from patches to checkpoint."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import click
import torch

from cloudjob.errors import UnreachableError, UsageError
from cloudjob.model import checkpoint
from training import check, data, evaluate, loop, pictures, prepare, settings, teach
from training.errors import told
from training.patch import Patch
from training.sample import Samples
from training.state import State


@click.command(help=__doc__)
@click.argument("name", metavar="SETTINGS")
@click.option("--data", "folders", multiple=True, type=click.Path(path_type=Path), help="A data set; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for everything this leaves.")
@click.option("--start", type=click.Path(path_type=Path), help="A checkpoint whose weights training begins with.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that prepare samples.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Of torch on a CPU; 0 leaves its own choice.")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the settings' training.epochs.")
@click.option("--patches", type=click.IntRange(0), help="Instead of the settings' data.patches; 0 is all.")
@click.option("--crop", type=click.IntRange(16), help="Instead of the settings' training.crop, in pixels.")
def main(
    name: str,
    *,
    folders: tuple[Path, ...],
    out: Path,
    start: Path | None,
    workers: int,
    threads: int,
    epochs: int | None,
    patches: int | None,
    crop: int | None,
) -> None:
    """Command line; SETTINGS is a file or the name of one in training/experiments."""
    if threads:
        torch.set_num_threads(threads)
    with told():
        chosen = settings.changed(settings.read(name), epochs=epochs, patches=patches, crop=crop)
        path = run(chosen, folders, out, start=start, workers=workers)
        rows = json.loads((out / "last" / "rows.json").read_text())
    iou = checkpoint.load(path).contract.metrics.get("validation_iou")
    said = "nothing with clouds validates" if iou is None else f"IoU {iou:.3f} on the validation scenes"
    click.echo(f"{path}: {said}, {len(rows)} epochs", err=True)


def run(
    chosen: settings.Settings, folders: Sequence[Path], out: Path, *, start: Path | None = None, workers: int = 1
) -> Path:
    """Train an experiment and leave checkpoint, curves, `loss.png`, `metrics.json` and sheets in `out`.

    Stages before the last leave theirs in `out/stage-1` and so on; with a `start` they are passed over.

    Returns:
        The checkpoint.
    """
    found = data.gather(folders)
    click.echo(f"{len(found.patches)} patches, {found.dropped} empty ones dropped", err=True)
    stages = [(stage, out / f"stage-{n}") for n, stage in enumerate(() if start else chosen.before, 1)] + [
        (chosen, out)
    ]
    # What is wrong with the last stage or the last patch is told now, not when the stages before it have been trained
    parts = [prepare.divide(stage, found.patches) for stage, _ in stages]
    if start:
        State(chosen, torch.device("cpu"), "").start(checkpoint.load(start).unet)
    with alone(out):
        patches = {patch.name: patch for part in parts for patch in chain(*part)}
        taught = tuple(name for stage, _ in stages for name in stage.data.taught)
        cloudy = check.look(tuple(patches.values()), folders, taught)
        for (stage, _), (_, validating) in zip(stages, parts, strict=True):
            if validating and stage.training.keep == "best" and not any(p.name in cloudy for p in validating):
                raise UsageError(
                    f"none of the {len(validating)} patches that validate holds cloud, such as {validating[0].name}",
                    hint="name scenes with clouds in data.validation, or draw others with another training.seed",
                )
        for (stage, folder), (learn, validating) in zip(stages, parts, strict=True):
            start = one_stage(stage, learn, validating, folder, start=start, workers=workers)
    assert start
    return start


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold a folder as the only training in it, as long as this process lives.

    Raises:
        UnreachableError: another one is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / "lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnreachableError(f"another training is at work in {out}", hint="choose another --out") from None
        yield


def one_stage(
    chosen: settings.Settings,
    learn: Sequence[Patch],
    validating: Sequence[Patch],
    out: Path,
    *,
    start: Path | None,
    workers: int,
) -> Path:
    """Train a stage on some patches and measure it on others; its checkpoint."""
    chosen = prepare.described(chosen, learn)
    soft = teach.targets([*learn, *validating], chosen.data, out / "teacher.npz")
    samples = prepare.samples(chosen, learn, soft, out, workers=workers)
    click.echo(f"{len(samples.labelled)} labelled patches of {len(samples.scenes)} scenes train, "
               f"{len(validating)} validate; {len(samples)} samples an epoch; pixels of "
               f"{chosen.network.resolution:g} m", err=True)  # fmt: skip
    pairs = [loop.pair(patch, soft.get(patch.name), chosen) for patch in validating]
    if not learn:  # all is simulated
        pairs = simulated_pairs(samples)
    path = loop.train(chosen, samples, pairs, out, start=start, workers=workers)
    pictures.loss(json.loads((out / "last" / "rows.json").read_text()), out / "loss.png", chosen.name)
    if validating:
        evaluate.evaluate(checkpoint.load(path), validating, out, with_peer=False)
    elif pairs:
        evaluate.evaluate_pairs(checkpoint.load(path), pairs, out)
    return path


def simulated_pairs(samples: Samples) -> list[loop.Pair]:
    """A validation set for experiments on simulated data only: other skies and grounds than those trained on."""
    other = Samples((), samples.mix, 32, samples.contract, crop=samples.crop, seed=samples.seed + 1, skies=32)
    return [other[index][:2] for index in range(len(other))]


if __name__ == "__main__":
    main()
