"""The mean of several checkpoints' weights: `python -m training.average SETTINGS CHECKPOINT… --data FOLDER --out FILE`.

Networks that were trained one from the other are often better together than each alone (Izmailov et al. 2018, averaging
weights leads to wider optima, arXiv:1803.05407; Wortsman et al. 2022, model soups, arXiv:2203.05482). BatchNorm's
statistics are no weights: they are measured anew on what the settings show.
"""

from collections.abc import Sequence
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint
from cloudjob.model.checkpoint import untrained
from training import __main__ as training
from training import data, loop, settings, teach
from training.errors import told
from training.sample import Samples

STEPS = 80  # batches that measure BatchNorm


def average(
    chosen: settings.Settings, paths: Sequence[Path], samples: Samples, out: Path, *, steps: int = STEPS
) -> None:
    """Write the mean of checkpoints, under the settings' contract.

    Args:
        chosen: the experiment whose network they all are.
        paths: the checkpoints.
        samples: what measures BatchNorm's statistics, of an epoch that no training showed.
        out: the file to write.
        steps: batches of samples.

    Raises:
        ContractError: a checkpoint is of another network than the settings'.
    """
    contract = loop.contract(chosen)
    network = untrained(contract)
    states = [checkpoint.load(path).unet.state_dict() for path in paths]
    try:
        for state in states:
            network.load_state_dict(state)
    except RuntimeError:
        raise ContractError(f"{', '.join(map(str, paths))}: not all are the settings' network") from None
    network.load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    samples.epoch, samples.length = chosen.training.epochs, steps * chosen.training.batch
    mean, std = (torch.tensor(values)[:, None, None] for values in (contract.mean, contract.std))
    loader = DataLoader(samples, chosen.training.batch, num_workers=1)
    update_bn(((image - mean) / std for image, _ in loader), network)
    checkpoint.save(network, contract, out)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.double() for value in values]).mean(dim=0).to(values[0].dtype)


@click.command(help=__doc__)
@click.argument("name", metavar="SETTINGS")
@click.argument("paths", metavar="CHECKPOINT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", "folders", multiple=True, type=click.Path(path_type=Path), help="A data set; may be repeated.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write.")
def main(name: str, paths: tuple[Path, ...], folders: tuple[Path, ...], out: Path) -> None:
    """Command line."""
    with told():
        chosen = settings.read(name)
        out.parent.mkdir(parents=True, exist_ok=True)
        learn, _ = training.divide(chosen, data.gather(folders).patches)
        soft = teach.targets(learn, chosen.data, out.parent / "teacher.npz")
        average(training.described(chosen, learn), paths, training.make_samples(chosen, learn, soft), out)
    click.echo(f"{out}: the mean of {len(paths)} checkpoints", err=True)


if __name__ == "__main__":
    main()
