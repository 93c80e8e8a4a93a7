"""What each ingredient is worth: `python -m training.ablations --data FOLDER --out FOLDER [VARIANT …]`.

Variants of the shipped experiment, each trained from nothing with the same small budget and the same seed, then
measured on the scenes that the experiment holds out, and on snow that none of them saw.
"""

import dataclasses
import statistics
from pathlib import Path

import click
import torch

from cloudjob import checkpoint, predict
from training import __main__ as training
from training import data, evaluate, settings
from training.sample import Mix

STEPS, RATE = 400, 1.5e-3
SNOW = ("snow-geoutils-everest-*",)
"""Held out here, for a network knows the snow that it was shown."""

_SHIPPED = settings.read(training.EXPERIMENTS / "cloudjob-s2.toml")
BASE = dataclasses.replace(_SHIPPED, data=dataclasses.replace(_SHIPPED.data, held_out=(*_SHIPPED.data.held_out, *SNOW)))


def _variant(**changes: object) -> settings.Settings:
    parts = {
        name: dataclasses.replace(getattr(BASE, name), **change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return dataclasses.replace(BASE, **parts)  # type: ignore[arg-type]


VARIANTS = {
    "everything": BASE,
    "teacher asked once": _variant(data={"anew": ()}),
    "without the teacher": _variant(data={"teacher": (), "confirmed": (), "anew": ()}),
    "real clouds only": _variant(mix={"clouded": 0.0, "simulated": 0.0}),
    "simulated clouds only": _variant(mix=Mix(labelled=0, clear=0.25, clouded=0.45, simulated=0.3)),
    "simulation only": _variant(mix=Mix(labelled=0, simulated=1)),
    "44 px of context": _variant(network={"widths": (14, 28, 56), "stem": 1, "dilation": 1, "halo": 24}),
    "three bands": _variant(network={"bands": 3}),
    "SimpleUNet": _variant(network={"widths": (64, 128, 256), "stem": 1, "dilation": 1, "halo": 24}),
}


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[VARIANT]...")
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(names: tuple[str, ...], folders: tuple[Path, ...], out: Path, steps: int, threads: int) -> None:
    """Command line."""
    torch.set_num_threads(threads)
    patches = [patch for folder in folders for patch in data.find(folder).patches]
    click.echo(f"{'variant':22} {'IoU 0 px':>16} {'IoU 4 px':>16} {'false on clear':>15} {'false on snow':>15}")
    for name in names or tuple(VARIANTS):
        budget = dataclasses.replace(BASE.training, epochs=2, samples=steps * BASE.training.batch // 2, rate=RATE)
        chosen = dataclasses.replace(VARIANTS[name], name=name.replace(" ", "-"), training=budget)
        path = training.run(chosen, folders, out / chosen.name)
        click.echo(f"{name:22} {measure(checkpoint.load(path), patches)}")


def measure(ckpt: checkpoint.Checkpoint, patches: list[data.Patch]) -> str:
    """Mean and standard deviation over the held-out chips with clouds, and pooled false positives."""
    _, held = data.split(tuple(patches), _SHIPPED.data.held_out)
    _, snow = data.split(tuple(patches), SNOW)
    model = predict.prepare(ckpt)
    found = evaluate.cases(model, [patch for patch in held if patch.known], with_peer=False)
    cloudy = [case for case in found if (case.label == data.CLOUD).any()]
    columns = []
    for buffer in evaluate.BUFFERS:
        scores = [_counts([case], ckpt, buffer).scores()["iou"] or 0.0 for case in cloudy]
        columns.append(f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}")
    groups = (
        [case for case in found if not (case.label == data.CLOUD).any()],
        evaluate.cases(model, snow, with_peer=False),
    )
    columns += [f"{_counts(group, ckpt, 0).scores()['false_positives'] or 0:.4f}" for group in groups]
    return f"{columns[0]:>16} {columns[1]:>16} {columns[2]:>15} {columns[3]:>15}"


def _counts(found: list[evaluate.Case], ckpt: checkpoint.Checkpoint, buffer: int) -> evaluate.Counts:
    counts = evaluate.Counts()
    for case in found:
        counts.add(evaluate.said(case.scores["cloudjob"], ckpt.contract.threshold, buffer), case.label)
    return counts


if __name__ == "__main__":
    main()
