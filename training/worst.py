"""The worst image of each kind: `python -m training.worst SETTINGS CHECKPOINT --data FOLDER --out FOLDER`.

Of every kind of `crossvalidate` the image with the largest share of wrong pixels, as a sheet; truth is people's labels
where there are some, else what the recipe's teacher or data set says. With `--only`, a sheet of each scene named.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import click
import numpy as np

from cloudjob.model import checkpoint, predict
from training import data, pictures, prepare, settings, teach
from training.crossvalidate import kinds, truth, views
from training.errors import told
from training.methods import likelihood
from training.patch import SWIR, Float, Label, Patch, Reflectance, empty
from training.score import Bool, Counts

LEAST = 3000  # pixels that must be known


def judged(
    model: predict.Model, patches: Sequence[Patch], soft: dict[str, Float]
) -> Iterator[tuple[Patch, Reflectance, Label, Float, Bool, Counts]]:
    """Each patch with its truth and what the network says of it, with `swir16` where there is one."""
    for patch in patches:
        reflectance, label = patch.read(SWIR + 1)
        label = truth(label, soft.get(patch.name))
        _, image = views(patch, reflectance, label)[-1]
        score = likelihood(model, image)
        mask = (score >= model.contract.threshold) & ~empty(image)
        yield patch, image, label, score, mask, Counts().add(mask, label)


@click.command(help=__doc__)
@click.argument("name", metavar="SETTINGS")
@click.argument("path", metavar="CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path), help="A data set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the sheets.")
@click.option("--only", multiple=True, help="Pattern of scenes, instead of the kinds.")
def main(name: str, path: Path, *, folders: tuple[Path, ...], out: Path, only: tuple[str, ...]) -> None:
    """Command line."""
    out.mkdir(parents=True, exist_ok=True)
    with told():
        chosen = settings.read(name)
        patches = data.gather(folders).patches
        some = data.split(patches, only)[1] if only else tuple(chain(*prepare.divide(chosen, patches)))
        soft = teach.targets(some, chosen.data, out / "teacher.npz")
        model = predict.prepare(checkpoint.load(path))
        worst: dict[str, float] = {}
        for patch, image, label, score, mask, counts in judged(model, some, soft):
            known = counts.hit + counts.false + counts.missed + counts.clear
            wrong = (counts.missed + counts.false) / max(known, 1)
            of = [patch.scene] if only else list(kinds({patch.scene: [counts]}))
            for kind in of:
                if known < LEAST or wrong < worst.get(kind, 0):
                    continue
                worst[kind] = wrong
                pictures.sheet(image, label, score, mask, out / f"{re.sub('[ /]', '-', kind)}.png")
                click.echo(f"{kind:20} {patch.name:50} wrong {100 * wrong:.2f} %, cloud {100 * np.mean(mask):.2f} %")


if __name__ == "__main__":
    main()
