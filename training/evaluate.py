"""How good a checkpoint is: `python -m training.evaluate CHECKPOINT --data FOLDER --out FOLDER`.

Our masks are those a job writes (same tiles, halo and fill). Beside them, on the same pixels: a threshold on
brightness, other checkpoints if asked for, and `ukis-csmask` where it is installed; each with the same buffers.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from torch import Tensor

from cloudjob.errors import UsageError
from cloudjob.model import checkpoint, predict
from training import check, data, peer, pictures
from training.choice import fix_choice
from training.errors import told
from training.methods import cases, likelihood
from training.patch import UNKNOWN, Patch, any_of
from training.score import (
    BRIGHT,
    BUFFERS,
    SCL,
    SHOWN,
    Case,
    Reliability,
    Table,
    brightness,
    said,
    show,
    summary,
)


def evaluate(
    ckpt: checkpoint.Checkpoint,
    patches: Sequence[Patch],
    out: Path,
    *,
    cut_of_brightness: float = BRIGHT,
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
    cuts = {"cloudjob": ckpt.contract.threshold, "brightness": cut_of_brightness, SCL: 0.5}
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
            label = np.where(np.isnan(truth), UNKNOWN, truth > 0.5).astype(np.uint8)
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
            pictures.sheet(
                case.reflectance,
                case.label,
                case.scores["cloudjob"],
                mask,
                out / f"{case.patch.name.replace('/', '_')}.png",
            )
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


@click.command(help=__doc__)
@click.argument("path", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path), help="A data set.")
@click.option(
    "--out",
    default=Path("evaluation"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for the results.",
)
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
            dataclasses.replace(patch, clear=patch.clear or any_of(patch.scene, clear))
            for patch in data.gather(folders).patches
            if not any_of(patch.name, ignore)
        )
        rest, chosen = data.split(patches, choose_on)
        _, measured = data.split(rest, only)
        if not measured:
            raise UsageError(f"no scene is left to measure on of {', '.join(only)}", hint="see --only and --choose-on")
        if not any(patch.known for patch in measured):
            raise UsageError(
                f"none of the {len(measured)} scenes to measure on has labels, as {measured[0].scene}",
                hint="give scenes with labels; of those that are known to be clear --clear says so",
            )
        check.look((*measured, *(chosen if choose_on else ())), folders, learnt=False)
        out.mkdir(parents=True, exist_ok=True)
        bright, paths = BRIGHT, [path, *beside]
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


if __name__ == "__main__":
    main()
