"""`python -m training SETTINGS --data FOLDER --out FOLDER`: one experiment, from patches to checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from cloudjob.model import checkpoint
from training import data, evaluate, loop, pictures, prepare, settings, teach
from training.errors import told
from training.sample import Samples


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
    said = "no scenes validate" if iou is None else f"IoU {iou:.3f} on the validation scenes"
    click.echo(f"{path}: {said}, {len(rows)} epochs", err=True)


def run(
    chosen: settings.Settings, folders: Sequence[Path], out: Path, *, start: Path | None = None, workers: int = 1
) -> Path:
    """Train an experiment and leave checkpoint, curves, `loss.png`, `metrics.json` and sheets in `out`.

    Stages before the last leave theirs in `out/stage-1` and so on; with a `start` they are passed over.

    Returns:
        The checkpoint.
    """
    for number, stage in enumerate(() if start else chosen.before):
        start = run(stage, folders, out / f"stage-{number + 1}", start=start, workers=workers)
    found = data.gather(folders)
    click.echo(f"{len(found.patches)} patches, {found.dropped} empty ones dropped", err=True)
    learn, check = prepare.divide(chosen, found.patches)
    chosen = prepare.described(chosen, learn)
    soft = teach.targets([*learn, *check], chosen.data, out / "teacher.npz")
    samples = prepare.samples(chosen, learn, soft, out, workers=workers)
    click.echo(f"{len(samples.labelled)} labelled patches of {len(samples.scenes)} scenes train, "
               f"{len(check)} validate; {len(samples)} samples an epoch", err=True)  # fmt: skip
    pairs = [loop.pair(patch, soft.get(patch.name), chosen) for patch in check]
    if not learn:  # all is simulated
        pairs = simulated_pairs(samples)
    path = loop.train(chosen, samples, pairs, out, start=start, workers=workers)
    pictures.loss(json.loads((out / "last" / "rows.json").read_text()), out / "loss.png", chosen.name)
    if check:
        evaluate.evaluate(checkpoint.load(path), check, out, with_peer=False)
    elif pairs:
        evaluate.evaluate_pairs(checkpoint.load(path), pairs, out)
    return path


def simulated_pairs(samples: Samples) -> list[loop.Pair]:
    """A validation set for experiments on simulated data only: other skies and grounds than those trained on."""
    other = Samples((), samples.mix, 32, samples.contract, crop=samples.crop, seed=samples.seed + 1, skies=32)
    return [other[index][:2] for index in range(len(other))]


if __name__ == "__main__":
    main()
