"""The training loop: short, resumable to the bit on a CPU, best epoch by validation."""

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint
from cloudjob.model.contract import Contract
from cloudjob.model.unet import SimpleUNet
from training.patch import UNKNOWN, Float, Patch
from training.sample import Samples, see
from training.scenery import helper
from training.settings import Settings, contract
from training.state import State, masked_loss

Pair = tuple[Tensor, Tensor]

LOOKED_AT = 50  # steps between two looks at the loss, for which a GPU must wait
LARGEST = 1024  # pixels; of larger patches one corner validates, for a network in float32 takes 1.5 GB and more of it
COLUMNS = ("epoch", "loss", "validation_loss", "validation_iou", "rate")


def train(
    settings: Settings,
    samples: Samples,
    validation: Sequence[Pair],
    out: Path,
    *,
    start: Path | None = None,
    workers: int = 1,
) -> Path:
    """Train, or go on where an interrupted training stopped.

    Leaves `curves.csv`, `tensorboard/`, `last/` (to resume from) and `checkpoint.safetensors`, which is the best
    epoch by its IoU on `validation`, or the last one, as the settings say.

    Args:
        settings: the experiment.
        samples: what is shown.
        validation: pairs of normalisable reflectance (bands, h, w) and target (1, h, w), NaN where unknown.
        out: folder.
        start: a checkpoint of the same network whose weights training begins with.
        workers: processes that prepare samples.

    Raises:
        ContractError: `out` holds a training with other settings, patches or another start.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (slow to import)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.training.seed)
    out.mkdir(parents=True, exist_ok=True)
    begun = checkpoint.load(start) if start else None
    state = State(settings, device, fingerprint(settings, samples, begun))
    if begun:
        state.start(begun.unet)
    first = state.resume(out / "last")
    # Where nothing is cloud the IoU is 0 whatever is said: no figure for the record
    clouds = any(bool((target > 0.5).any()) for _, target in validation)
    writer = SummaryWriter(str(out / "tensorboard"), purge_step=first)
    for epoch in range(first, settings.training.until or settings.training.epochs):
        samples.epoch = epoch
        (loss,) = one_epoch({0: state}, samples, epoch, workers)
        scores = validate(state.average, state.contract, validation, device)
        rate = state.rate()
        row = dict(zip(COLUMNS, (epoch, loss, *scores, rate), strict=True))
        state.rows.append(row)
        for name in COLUMNS[1:]:
            writer.add_scalar(name, row[name], epoch)
        if settings.training.keep == "last" or scores[1] >= max(r["validation_iou"] for r in state.rows):
            state.keep(out / "checkpoint.safetensors", {"validation_iou": round(scores[1], 4)} if clouds else {})
        _write_curves(out / "curves.csv", state.rows)
        state.save(out / "last")  # Last: killed before it, the epoch is done again, and all of the above with it
    writer.close()
    return out / "checkpoint.safetensors"


def pair(patch: Patch, soft: Float | None, settings: Settings) -> Pair:
    """A patch to validate on: reflectance (bands, h, w) and target (1, h, w), cut to the network's stride."""
    terms = contract(settings)
    reflectance, label = patch.read(len(terms.bands))
    target = np.where(label == UNKNOWN, np.nan, label).astype(np.float32) if soft is None else soft
    height, width = (min(side, LARGEST) // terms.stride * terms.stride for side in target.shape)
    image = np.minimum(reflectance[:, :height, :width], terms.brightest)
    see(terms, image)
    return torch.from_numpy(image), torch.from_numpy(target[None, :height, :width].copy())


def one_epoch(states: Mapping[int, State], samples: Samples, epoch: int, workers: int) -> list[float]:
    """All samples once, to each network but those of its own fold; the mean loss of each.

    Args:
        states: networks by the number of the fold that they must not see.
        samples: what is shown.
        epoch: its number.
        workers: processes that prepare samples.

    Raises:
        ContractError: a loss is no number.
    """
    first, *_ = states.values()
    training = first.settings.training
    loader = DataLoader(
        samples,
        training.batch,
        num_workers=workers,
        drop_last=True,
        pin_memory=first.device.type == "cuda",
        worker_init_fn=helper,
    )
    for state in states.values():
        state.steps = len(loader) * training.epochs
        state.step = len(loader) * epoch
        state.network.train()
    losses: dict[int, list[Tensor]] = {number: [] for number in states}
    for step, (image, target, folds) in enumerate(tqdm(loader, f"epoch {epoch}", unit="step", mininterval=5), start=1):
        shown = image.to(first.device, non_blocking=True), target.to(first.device, non_blocking=True)
        for number, state in states.items():
            others = torch.nonzero((folds >> number) & 1 == 0)[:, 0].to(first.device)
            if len(others) > 1:  # of one crop BatchNorm tells nothing
                losses[number].append(state.learn(*(part[others] for part in shown)))
        if step % LOOKED_AT == 0 or step == len(loader):
            for number, state in states.items():
                if losses[number] and not torch.isfinite(torch.stack(losses[number])).all():
                    raise ContractError(
                        f"the loss is no number at step {state.step}", hint="is a number in the data broken?"
                    )
    return [float(torch.stack(of).mean()) if of else math.nan for of in losses.values()]


@torch.no_grad()
def validate(network: SimpleUNet, terms: Contract, pairs: Iterable[Pair], device: torch.device) -> tuple[float, float]:
    """(loss, pooled IoU at probability 0.5) over whole patches."""
    network.eval()
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (terms.mean, terms.std))
    losses, both, either = [], 0, 0
    for image, target in pairs:
        logits = network(((image.to(device) - mean) / std)[None])[0]
        truth = target.to(device)
        losses.append(float(masked_loss(logits, truth)))
        said, cloud = (logits > 0) & ~truth.isnan(), truth > 0.5
        both += int((said & cloud).sum())
        either += int((said | cloud).sum())
    return float(np.mean(losses or [0.0])), both / max(either, 1)


def fingerprint(settings: Settings, samples: Samples, start: checkpoint.Checkpoint | None) -> str:
    """Of everything that a training depends on, but for the pixels."""
    names = sorted((patch.name, patch.source) for patch in samples.patches)
    all_of_it = {"settings": asdict(settings), "patches": names, "start": start and start.sha256}
    return hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()


def _write_curves(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
