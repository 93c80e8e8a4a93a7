"""What a training holds between two steps: network, its running average, optimiser and curves."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint
from cloudjob.model.checkpoint import untrained
from cloudjob.model.unet import SimpleUNet
from training.settings import Settings, contract

WARM_UP = 0.03  # share of the steps


def masked_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy over the pixels whose target is not NaN; both (batch, 1, height, width)."""
    known = ~torch.isnan(target)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(target), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def half(device: torch.device) -> torch.dtype | None:
    """What the device multiplies in twice as fast as in float32, or None.

    bfloat16 on GPUs that know it (Ampere and later), float16 on others; bfloat16 on CPUs that have instructions for it,
    for without them it is far slower than float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
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
            self.network.parameters(),
            lr=settings.training.rate,
            weight_decay=settings.training.decay,
            fused=device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half == torch.float16)
        self.mean = torch.tensor(self.contract.mean, device=device)[:, None, None]
        self.std = torch.tensor(self.contract.std, device=device)[:, None, None]
        self.step = 0
        self.steps = 1
        self.rows: list[dict[str, float]] = []

    def start(self, network: SimpleUNet) -> None:
        """Begin with these weights.

        Raises:
            ContractError: they are of another network.
        """
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

    def learn(self, image: Tensor, target: Tensor) -> Tensor:
        """One step, of reflectance (batch, bands, h, w) and target (batch, 1, h, w); the loss before it, a scalar."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            logits = self.parallel((image - self.mean) / self.std)
        loss = masked_loss(logits.float(), target)
        self.optimiser.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self._follow()
        return loss.detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the running average; it starts fast, so that it forgets the first weights."""
        decay = min(self.settings.training.average, self.step / (self.step + 10))
        slow, new = (list(network.state_dict().values()) for network in (self.average, self.network))
        floats = [number for number, tensor in enumerate(new) if tensor.is_floating_point()]
        get_ema_multi_avg_fn(decay)([slow[n] for n in floats], [new[n] for n in floats], None)
        for number in set(range(len(new))) - set(floats):
            slow[number].copy_(new[number])

    def keep(self, path: Path, metrics: dict[str, float]) -> None:
        """The running average as a checkpoint."""
        partial = path.with_name(f"partial-{path.name}")  # killed, or on a full disk, the one before it stays whole
        checkpoint.save(self.average, replace(self.contract, metrics=metrics), partial)
        partial.replace(path)

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
        """Read what `save` wrote, if it is there; the next epoch's number.

        Raises:
            ContractError: it is of other settings, patches or another start.
        """
        path = folder / "state.safetensors"
        if not path.exists():
            return 0
        try:
            with safetensors.safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ContractError(
                f"{path} cannot be read: {error}", hint=f"delete {folder}: the training begins anew"
            ) from None
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
