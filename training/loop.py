"""The training loop: short, resumable to the bit on a CPU, best epoch by validation."""

import csv
import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cloudjob.errors import ContractError, UsageError
from cloudjob.model import checkpoint
from cloudjob.model.checkpoint import untrained
from cloudjob.model.contract import Contract
from cloudjob.model.unet import SimpleUNet
from training.patch import ALL_BANDS, BANDS, UNKNOWN, Patch
from training.sample import Float, Samples, see
from training.sensor import BRIGHTEST
from training.settings import Settings

Pair = tuple[Tensor, Tensor]

WARM_UP = 0.03  # share of the steps
LARGEST = 1024  # pixels; of larger patches one corner validates, for a network in float32 takes 1.5 GB and more of it
ABSENT = -0.25
"""Reflectance that stands for an absent band: no band has it."""
COLUMNS = ("epoch", "loss", "validation_loss", "validation_iou", "rate")


def contract(settings: Settings, **extra: Any) -> Contract:
    """What the checkpoint will promise."""
    network = settings.network
    return Contract(
        name=settings.name,
        version=settings.version,
        bands=ALL_BANDS[: network.bands],
        optional_bands=ALL_BANDS[len(BANDS) : network.bands],
        absent_fill=ABSENT if network.bands > len(BANDS) else 0.0,
        outside_fill="mirror" if network.outside == "mirror" else 0.0,
        mean=network.mean[: network.bands],
        std=network.std[: network.bands],
        widths=network.widths,
        stem=network.stem,
        dilation=network.dilation,
        smooth=network.smooth,
        resolution=network.resolution or 10,
        resolutions=network.resolutions,
        tile=network.tile,
        halo=network.halo,
        training_data=settings.training_data,
        **extra,
    )


def masked_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy over the pixels whose target is not NaN; both (batch, 1, height, width)."""
    known = ~torch.isnan(target)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(target), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


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
        UsageError: an epoch has fewer samples than a batch.
    """
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (slow to import)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.training.seed)
    if len(samples) < settings.training.batch:
        raise UsageError(
            f"an epoch has {len(samples)} samples, fewer than a batch of {settings.training.batch}",
            hint="set training.samples or data.patches higher, or training.batch lower",
        )
    out.mkdir(parents=True, exist_ok=True)
    begun = checkpoint.load(start) if start else None
    state = State(settings, device, _fingerprint(settings, samples, begun))
    if begun:
        state.start(begun.unet)
    first = state.resume(out / "last")
    writer = SummaryWriter(str(out / "tensorboard"), purge_step=first)
    for epoch in range(first, settings.training.until or settings.training.epochs):
        samples.epoch = epoch
        loss = _one_epoch(state, samples, epoch, workers)
        scores = validate(state.average, state.contract, validation, device)
        rate = state.rate()
        row = dict(zip(COLUMNS, (epoch, loss, *scores, rate), strict=True))
        state.rows.append(row)
        for name in COLUMNS[1:]:
            writer.add_scalar(name, row[name], epoch)
        if settings.training.keep == "last" or scores[1] >= max(r["validation_iou"] for r in state.rows):
            state.keep(out / "checkpoint.safetensors", {"validation_iou": round(scores[1], 4)})
        state.save(out / "last")
        _write_curves(out / "curves.csv", state.rows)
    writer.close()
    return out / "checkpoint.safetensors"


def pair(patch: Patch, soft: Float | None, settings: Settings) -> Pair:
    """A patch to validate on: reflectance (bands, h, w) and target (1, h, w), cut to the network's stride."""
    terms = contract(settings)
    reflectance, label = patch.read(len(terms.bands))
    target = np.where(label == UNKNOWN, np.nan, label).astype(np.float32) if soft is None else soft
    height, width = (min(side, LARGEST) // terms.stride * terms.stride for side in target.shape)
    image = np.minimum(reflectance[:, :height, :width], BRIGHTEST)
    see(terms, image)
    return torch.from_numpy(image), torch.from_numpy(target[None, :height, :width].copy())


def half(device: torch.device) -> torch.dtype | None:
    """What the device multiplies in twice as fast as in float32, or None.

    float16 on GPUs; bfloat16 on CPUs that have instructions for it, for without them it is far slower than float32.
    """
    if device.type == "cuda":
        return torch.float16
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else None


class State:
    """Everything that changes while training: network, its running average, optimiser, curves."""

    def __init__(self, settings: Settings, device: torch.device, fingerprint: str) -> None:
        self.settings = settings
        self.fingerprint = fingerprint
        self.device = device
        self.half = half(device)
        self.contract = contract(settings)
        fast: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.network = untrained(self.contract).to(**fast)
        self.average = untrained(self.contract).to(**fast)
        self.average.load_state_dict(self.network.state_dict())
        self.parallel: nn.Module = self.network
        if torch.cuda.device_count() > 1:
            self.parallel = nn.DataParallel(self.network)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.training.rate, weight_decay=settings.training.decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self.mean = torch.tensor(self.contract.mean, device=device)[:, None, None]
        self.std = torch.tensor(self.contract.std, device=device)[:, None, None]
        self.step = 0
        self.steps = 1
        self.rows: list[dict[str, float]] = []

    def start(self, network: SimpleUNet) -> None:
        """Begin with these weights."""
        weights = network.state_dict()
        first = next(iter(weights))
        more = self.network.state_dict()[first].shape[1] - weights[first].shape[1]
        if more > 0:  # of a network with fewer bands: what it knows, and nothing yet of the new ones, which come last
            weights[first] = nn.functional.pad(weights[first], (0, 0, 0, 0, 0, more))
        try:
            self.network.load_state_dict(weights)
        except RuntimeError:
            raise ContractError("--start is another network than the settings'") from None
        self.average.load_state_dict(weights)

    def rate(self) -> float:
        """Learning rate at this step: linear warm-up, then half a cosine down to a hundredth."""
        done = self.step / self.steps
        warm = min(1.0, done / WARM_UP + 0.01)
        return self.settings.training.rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)

    def learn(self, image: Tensor, target: Tensor) -> float:
        """One step; the loss before it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        image = image.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            logits = self.parallel((image - self.mean) / self.std)
        loss = masked_loss(logits.float(), target.to(self.device))
        if not torch.isfinite(loss):
            raise ContractError(
                f"the loss is {loss.item()} at step {self.step}", hint="is a number in the data broken?"
            )
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self._follow()
        return loss.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the running average; it starts fast, so that it forgets the first weights."""
        decay = min(self.settings.training.average, self.step / (self.step + 10))
        for slow, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if slow.is_floating_point():
                slow.lerp_(new, 1 - decay)
            else:
                slow.copy_(new)

    def keep(self, path: Path, metrics: dict[str, float]) -> None:
        """The running average as a checkpoint."""
        checkpoint.save(self.average, replace(self.contract, metrics=metrics), path)

    def save(self, folder: Path) -> None:
        """Everything, in safetensors and JSON, so that nothing is ever unpickled; each file replaced in one rename."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{k}": v for k, v in moments.items()}
        header = {
            "step": self.step,
            "scaler": self.scaler.state_dict(),
            "rows": self.rows,
            "fingerprint": self.fingerprint,
        }
        data = safetensors.torch.save(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"state": json.dumps(header)}
        )
        folder.mkdir(exist_ok=True)
        # The rows first: killed in between, the epoch that follows from the older state writes the same rows again.
        for name, content in (("rows.json", json.dumps(self.rows).encode()), ("state.safetensors", data)):
            partial = folder / "partial"
            partial.write_bytes(content)
            partial.replace(folder / name)

    def resume(self, folder: Path) -> int:
        """Read what `save` wrote, if it is there; the next epoch's number."""
        path = folder / "state.safetensors"
        if not path.exists():
            return 0
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
        if header["fingerprint"] != self.fingerprint:
            raise ContractError(
                f"{folder.parent} holds a training with other settings, patches or another start",
                hint="choose another --out, or delete it",
            )
        for name, network in (("network", self.network), ("average", self.average)):
            network.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(name)})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        if header["scaler"]:  # one begun on a CPU has none
            self.scaler.load_state_dict(header["scaler"])
        self.step, self.rows = header["step"], header["rows"]
        return len(self.rows)


def _one_epoch(state: State, samples: Samples, epoch: int, workers: int) -> float:
    """All samples once; the mean loss."""
    training = state.settings.training
    loader = DataLoader(samples, training.batch, num_workers=workers, drop_last=True)
    state.steps = len(loader) * training.epochs
    state.step = len(loader) * epoch
    state.network.train()
    losses = [
        state.learn(image, target) for image, target in tqdm(loader, f"epoch {epoch}", unit="step", mininterval=5)
    ]
    return float(np.mean(losses))


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


def _fingerprint(settings: Settings, samples: Samples, start: checkpoint.Checkpoint | None) -> str:
    """Of everything that a training depends on, but for the pixels."""
    names = sorted((patch.name, patch.source) for patch in samples.patches)
    all_of_it = {"settings": asdict(settings), "patches": names, "start": start and start.sha256}
    return hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()


def _write_curves(path: Path, rows: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
