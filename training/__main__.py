"""`python -m training SETTINGS --data FOLDER --out FOLDER`: one experiment, from patches to checkpoint."""

import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import click
import numpy as np
import torch

from cloudjob import checkpoint
from cloudjob.errors import CloudjobError, UsageError
from training import data, evaluate, loop, peer, pictures, settings, teach
from training.data import Patch
from training.sample import Float, Samples

EXPERIMENTS = Path(__file__).parent / "experiments"


@click.command(help=__doc__)
@click.argument("name", metavar="SETTINGS")
@click.option("--data", "folders", multiple=True, type=click.Path(path_type=Path), help="A data set; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for everything this leaves.")
@click.option("--start", type=click.Path(path_type=Path), help="A checkpoint whose weights training begins with.")
@click.option("--workers", default=1, show_default=True, help="Processes that prepare samples.")
@click.option("--threads", default=0, help="Of torch on a CPU; 0 leaves its own choice.")
def main(name: str, *, folders: tuple[Path, ...], out: Path, start: Path | None, workers: int, threads: int) -> None:
    """Command line; SETTINGS is a file or the name of one in training/experiments."""
    if threads:
        torch.set_num_threads(threads)
    path = Path(name) if name.endswith(".toml") else EXPERIMENTS / f"{name}.toml"
    try:
        run(settings.read(path), folders, out, start=start, workers=workers)
    except CloudjobError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.exit_code)


def run(
    chosen: settings.Settings, folders: Sequence[Path], out: Path, *, start: Path | None = None, workers: int = 1
) -> Path:
    """Train an experiment and leave checkpoint, curves, `loss.png`, `metrics.json` and sheets in `out`.

    Returns:
        The checkpoint.
    """
    found = [data.find(folder) for folder in folders]
    patches = [patch for part in found for patch in part.patches]
    click.echo(f"{len(patches)} patches, {sum(part.dropped for part in found)} empty ones dropped", err=True)
    learn, check = divide(chosen, patches)
    soft = teach.targets([*learn, *check], chosen.data, out / "teacher.npz")
    samples = make_samples(chosen, learn, soft)
    click.echo(f"{len(samples.labelled)} labelled patches of {len(samples.scenes)} scenes train, "
               f"{len(check)} validate; {len(samples)} samples an epoch", err=True)  # fmt: skip
    pairs = [loop.pair(patch, soft.get(patch.name), chosen) for patch in check]
    path = loop.train(chosen, samples, pairs or simulated_pairs(samples), out, start=start, workers=workers)
    pictures.loss(json.loads((out / "last" / "rows.json").read_text()), out / "loss.png")
    evaluate.evaluate(checkpoint.load(path), check, out, with_peer=False)
    return path


def divide(chosen: settings.Settings, patches: Sequence[Patch]) -> tuple[list[Patch], list[Patch]]:
    """(patches to learn from, patches to validate on), by scene; held-out and ignored ones are in neither.

    Raises:
        UsageError: nothing is left to learn from, and nothing is to be simulated.
    """
    rest, _ = data.split(tuple(patches), chosen.data.held_out)
    rest = tuple(p for p in rest if not any(fnmatch(p.name, pattern) for pattern in chosen.data.ignored))
    learn, check = (list(part) for part in data.split(rest, chosen.data.validation))
    rng = np.random.default_rng(chosen.training.seed)
    scenes = sorted({patch.scene for patch in learn if patch.label})
    drawn = set(rng.permutation(scenes)[: round(chosen.data.validation_share * len(scenes))])
    check += [patch for patch in learn if patch.scene in drawn]
    learn = [patch for patch in learn if patch.scene not in drawn]
    labelled = [patch for patch in learn if patch.label]
    if chosen.data.patches and len(labelled) > chosen.data.patches:
        kept = set(rng.permutation(len(labelled))[: chosen.data.patches].tolist())
        names = {labelled[number].name for number in kept}
        learn = [patch for patch in learn if patch.label is None or patch.name in names]
    if not learn and chosen.mix.simulated == 0:
        raise UsageError("there is nothing to learn from", hint="give --data, or settings whose mix is simulated")
    return learn, check


def make_samples(chosen: settings.Settings, learn: Sequence[Patch], soft: dict[str, Float]) -> Samples:
    """What the settings say is shown of these patches."""
    training = chosen.training
    anew = frozenset(p.name for p in learn if any(fnmatch(p.scene, pattern) for pattern in chosen.data.anew))
    if anew and training.crop != peer.SIDE:
        raise UsageError(f"training.crop is {training.crop}; the teacher sees {peer.SIDE} px (data.anew)")
    samples = Samples(
        learn,
        chosen.mix,
        training.samples,
        crop=training.crop,
        bands=chosen.network.bands,
        seed=training.seed,
        augment=training.augment,
        skies=chosen.data.simulated,
        soft=soft,
        anew=anew,
        ask=peer.probability_of_tile if anew else None,
        whole=training.samples == 0,
        widened=chosen.data.widened,
    )
    if training.samples == 0:
        samples.length = chosen.data.patches or len(samples.labelled)
    samples.warm()
    return samples


def simulated_pairs(samples: Samples) -> list[loop.Pair]:
    """A validation set for experiments on simulated data only: other skies and grounds than those trained on."""
    other = Samples((), samples.mix, 32, crop=samples.crop, bands=samples.bands, seed=samples.seed + 1, skies=32)
    return [other[index] for index in range(len(other))]


if __name__ == "__main__":
    main()
