"""How much a mask changes when nothing that matters does: `python -m training.stability CHECKPOINT --data FOLDER`.

An image is moved by some pixels, its bands' gains and offsets are changed; told is the share of cloud pixels that
change. Labels are not needed. Beside it `ukis-csmask`, where it is installed.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from cloudjob.model import checkpoint, predict
from training import data, peer
from training.errors import told
from training.methods import likelihood
from training.patch import ALL_BANDS, Float, Patch, empty

Method = Callable[[Float], npt.NDArray[np.bool_]]

SHIFTS = (1, 2, 3, 4, 5)
GAIN, OFFSET, DRAWS = 0.05, 0.01, 3
MARGIN = 32
"""Pixels at the edges that are not compared, for a moved image has others there."""


def shifted(image: Float, find: Method) -> Iterator[tuple[str, int, int]]:
    """(change, pixels that differ, cloud pixels) for each shift along the diagonal."""
    most = max(SHIFTS)
    side = tuple(full - most for full in image.shape[1:])
    still = find(image[:, : side[0], : side[1]])
    for by in SHIFTS:
        moved = find(image[:, by : by + side[0], by : by + side[1]])
        before = still[MARGIN + by : -MARGIN, MARGIN + by : -MARGIN]
        after = moved[MARGIN : -MARGIN - by, MARGIN : -MARGIN - by]
        yield f"shift by {by} px", int((before != after).sum()), int(before.sum())


def scaled(image: Float, find: Method) -> Iterator[tuple[str, int, int]]:
    """The same for bands' gains and offsets, each band's its own."""
    rng = np.random.default_rng(0)
    still, nothing = find(image), empty(image)
    for name, gain, offset in ((f"gains ± {GAIN:.0%}", GAIN, 0.0), (f"offsets ± {OFFSET}", 0.0, OFFSET)):
        for _ in range(DRAWS):
            change = rng.uniform(-1, 1, (len(image), 1, 1)).astype(np.float32)
            other = np.maximum(image * (1 + np.float32(gain) * change) + np.float32(offset) * change, 0.0001)
            other[:, nothing] = 0
            yield name, int((find(other) != still).sum()), int(still.sum())


def measure(methods: dict[str, Method], patches: Sequence[Patch]) -> dict[str, dict[str, float]]:
    """Change → method → share of cloud pixels that change, over patches in which the method finds cloud."""
    sums: dict[str, dict[str, npt.NDArray[np.int64]]] = defaultdict(lambda: defaultdict(lambda: np.zeros(2, np.int64)))
    for patch in patches:
        image, _ = patch.read(len(ALL_BANDS))
        for method, find in methods.items():
            for compare in (shifted, scaled):
                for change, differ, cloud in compare(image, find):
                    sums[change][method] += (differ, cloud)
    return {change: {name: differ / max(cloud, 1) for name, (differ, cloud) in each.items()}
            for change, each in sums.items()}  # fmt: skip


@click.command(help=__doc__)
@click.argument("paths", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", "folders", multiple=True, required=True, type=click.Path(path_type=Path), help="A data set.")
@click.option("--only", multiple=True, default=("*",), help="Pattern of scenes.")
@click.option("--peer/--no-peer", "with_peer", default=peer.available(), help="Beside ukis-csmask.")
def main(paths: tuple[Path, ...], *, folders: tuple[Path, ...], only: tuple[str, ...], with_peer: bool) -> None:
    """Command line."""
    with told():
        methods: dict[str, Method] = {}
        for path in paths:
            ckpt = checkpoint.load(path)
            methods[f"{ckpt.contract.name} {ckpt.contract.version}"] = _ours(predict.prepare(ckpt))
        if with_peer:
            methods["ukis-csmask"] = lambda image: peer.probability(image) >= 0.5
        _, chosen = data.split(data.gather(folders).patches, only)
        table = measure(methods, chosen)
    click.echo(f"{'change':18} " + " ".join(f"{name:>20}" for name in methods))
    for change, each in table.items():
        click.echo(f"{change:18} " + " ".join(f"{100 * each[name]:>18.2f} %" for name in methods))


def _ours(model: predict.Model) -> Method:
    return lambda image: likelihood(model, image) >= model.contract.threshold


if __name__ == "__main__":
    main()
