"""`python -m training.mean BEFORE AFTER OUT`: the mean of two checkpoints' weights, before and after more training.

What the network could do before stays, and most of what it has learnt comes in: Wortsman et al. 2022 (robust
fine-tuning, arXiv:2109.01903), at their share of one half.
"""

from dataclasses import replace
from pathlib import Path

import click

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint
from training.errors import told


def mean(before: Path, after: Path, out: Path) -> None:
    """Write a checkpoint of the mean weights, with the record of `after`, without its metrics.

    Threshold and buffer are those of `before`: a training leaves 0.5, which nobody has chosen.

    Raises:
        ContractError: one is no network of ours, or they are not of one form.
    """
    old, new = checkpoint.load(before), checkpoint.load(after)
    first, second = old.unet.state_dict(), new.unet.state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1] or old.contract.bands != new.contract.bands:
        raise ContractError(
            f"{before} and {after} are not of one form: bands {old.contract.bands} and {new.contract.bands}, "
            f"widths {old.contract.widths} and {new.contract.widths}",
            hint="expected a checkpoint, and what more training made of it",
        )
    for name, tensor in second.items():
        if tensor.is_floating_point():  # BatchNorm counts its batches in whole numbers
            tensor.copy_((first[name].double() + tensor.double()) / 2)
    record = replace(new.contract, metrics={}, threshold=old.contract.threshold, buffer=old.contract.buffer)
    checkpoint.save(new.unet, record, out)


@click.command(help=__doc__)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(before: Path, after: Path, out: Path) -> None:
    """Command line."""
    with told():
        mean(before, after, out)


if __name__ == "__main__":
    main()
