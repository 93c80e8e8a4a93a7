"""What each ingredient is worth: `python -m training.ablations --data FOLDER --out FOLDER [VARIANT …]`.

Variants of the shipped experiment, each trained from nothing with the same small budget and the same seed. Each gets
the threshold that suits it best on three training-side chips labelled by people, and is then measured on the scenes
that the experiment holds out, on snow that it was shown, and on snow that none of them saw.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import click
import torch

from cloudjob.model import checkpoint, predict
from training import __main__ as training
from training import data, evaluate, settings
from training.errors import told
from training.sample import Mix

STEPS, RATE = 800, 1.5e-3
CHOOSE_ON = ("ukis-csmask-*",)
CLEAR = ("bolzano", "coast-18N")
SNOW_SHOWN = ("snow-layton-*", "snow-xrspatial-*")
SNOW_NEW = ("snow-geoutils-everest-*",)
"""Held out here, for a network knows the snow that it was shown."""
HEAD = ("IoU 0 px", "IoU 4 px", "clear", "snow shown", "new snow")

_SHIPPED = settings.read("cloudjob-s2")
BASE = dataclasses.replace(
    _SHIPPED, data=dataclasses.replace(_SHIPPED.data, held_out=(*_SHIPPED.data.held_out, *SNOW_NEW))
)


def _variant(**changes: object) -> settings.Settings:
    parts = {
        name: dataclasses.replace(getattr(BASE, name), **change) if isinstance(change, dict) else change
        for name, change in changes.items()
    }
    return dataclasses.replace(BASE, **parts)  # type: ignore[arg-type]


VARIANTS = {
    "everything": BASE,
    "without blends": _variant(data={"blended": ()}),
    "without the teacher": _variant(data={"teacher": (), "agreeing": (), "confirmed": (), "blended": ()}),
    "without swir16": _variant(network={"bands": 4}),
    "without decks and clear chips of swir": _variant(
        data={"held_out": (*BASE.data.held_out, "algorithm-T29UNU-*", "hls-*", "california-*")}
    ),
    "real clouds only": _variant(mix={"clouded": 0.0, "simulated": 0.0}),
    "simulated clouds only": _variant(mix=Mix(labelled=0, clear=0.25, clouded=0.45, simulated=0.3)),
    "simulation only": _variant(mix=Mix(labelled=0, simulated=1)),
    "44 px of context": _variant(network={"widths": (14, 28, 56), "stem": 1, "dilation": 1, "halo": 24}),
    "three bands": _variant(network={"bands": 3}),
    "SimpleUNet": _variant(network={"widths": (64, 128, 256), "stem": 1, "dilation": 1, "halo": 24}),
}


@click.command(help=__doc__)
@click.argument("names", nargs=-1, metavar="[VARIANT]...", type=click.Choice(list(VARIANTS)))
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(names: tuple[str, ...], folders: tuple[Path, ...], out: Path, steps: int, threads: int) -> None:
    """Command line."""
    torch.set_num_threads(threads)
    with told():
        run(names or tuple(VARIANTS), folders, out, steps)


def run(names: Sequence[str], folders: Sequence[Path], out: Path, steps: int) -> None:
    """Train and measure variants; a line of the table each."""
    patches = list(data.gather(folders).patches)
    click.echo(f"{'variant':22} " + " ".join(f"{name:>15}" for name in HEAD) + "  (false positives in %)")
    for name in names:
        budget = dataclasses.replace(BASE.training, epochs=2, samples=steps * BASE.training.batch // 2, rate=RATE)
        chosen = dataclasses.replace(VARIANTS[name], name=name.replace(" ", "-"), training=budget)
        path = training.run(chosen, folders, out / chosen.name)
        columns = measure(checkpoint.load(path), patches, BASE.data)
        click.echo(f"{name:22} " + " ".join(f"{column:>15}" for column in columns))


def measure(ckpt: checkpoint.Checkpoint, patches: list[data.Patch], chosen: settings.Data) -> list[str]:
    """IoU of the held-out chips with clouds (mean ± standard deviation), and pooled false positives in per cent."""
    model = predict.prepare(ckpt)

    def found(patterns: tuple[str, ...]) -> list[evaluate.Case]:
        _, these = data.split(tuple(patches), patterns)
        these = tuple(dataclasses.replace(p, clear=True) if p.scene in CLEAR else p for p in these)
        these = tuple(p for p in these if p.known and not any(fnmatch(p.name, pattern) for pattern in chosen.ignored))
        return list(evaluate.cases(model, these, with_peer=False))

    teaching = [evaluate.generous(case, chosen.widened) for case in found(CHOOSE_ON)]
    cut, _ = evaluate.choose(teaching, {"cloudjob": [(cut, 0) for cut in evaluate.THRESHOLDS]})["cloudjob"]
    held = found(_SHIPPED.data.held_out)
    cloudy = [case for case in held if (case.label == data.CLOUD).any()]
    columns = []
    for buffer in evaluate.BUFFERS:
        scores = [_counts([case], cut, buffer).scores()["iou"] or 0.0 for case in cloudy]
        columns.append(f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}")
    clear = [case for case in held if not (case.label == data.CLOUD).any()]
    for group in (clear, found(SNOW_SHOWN), found(SNOW_NEW)):
        share = _counts(group, cut, 0).scores()["false_positives"] or 0
        columns += [f"{100 * share:.2f}"]
    return columns


def _counts(found: list[evaluate.Case], cut: float, buffer: int) -> evaluate.Counts:
    counts = evaluate.Counts()
    for case in found:
        counts.add(evaluate.said(case.scores["cloudjob"], cut, buffer), case.label)
    return counts


if __name__ == "__main__":
    main()
