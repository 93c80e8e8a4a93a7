"""A checkpoint: a network's weights, and what they may be used on, checked against each other.

Nothing is ever unpickled.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cloudjob.errors import ContractError
from cloudjob.model import source
from cloudjob.model.contract import Contract
from cloudjob.model.draft import to_record
from cloudjob.model.mlm import HINT, not_whole, shipped, to_mlm
from cloudjob.model.onnx import OnnxNetwork
from cloudjob.model.unet import SimpleUNet


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, its contract and the SHA-256 of both (hexadecimal)."""

    contract: Contract
    network: SimpleUNet | OnnxNetwork
    sha256: str

    @property
    def unet(self) -> SimpleUNet:
        """The network, of those that are ours.

        Raises:
            ContractError: it is one in ONNX, which can be run but not trained.
        """
        if isinstance(self.network, OnnxNetwork):
            raise ContractError(f"{self.contract.name} is in ONNX, which cannot be trained", hint=HINT)
        return self.network

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        if isinstance(self.network, OnnxNetwork):
            return self.network.parameters
        return sum(weights.numel() for weights in self.network.parameters())


def untrained(contract: Contract) -> SimpleUNet:
    """The network of a contract, with random weights."""
    return SimpleUNet(len(contract.bands), contract.widths, contract.stem, contract.dilation, contract.smooth)


def record(contract: Contract) -> dict[str, Any]:
    """The contract as a STAC item with the MLM extension."""
    if contract.graph:
        return to_record(contract, "")
    parameters = sum(weights.numel() for weights in untrained(contract).parameters())
    return to_mlm(contract, parameters=parameters, framework=torch.__version__.split("+")[0])


def save(network: SimpleUNet, contract: Contract, path: str | Path) -> None:
    """Write a checkpoint; the same weights and contract give the same bytes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    header = {"mlm": json.dumps(record(contract), sort_keys=True)}
    Path(path).write_bytes(safetensors.torch.save(state, metadata=header))


def load(path: str | Path | None = None) -> Checkpoint:
    """Read a checkpoint and check it against its contract.

    Args:
        path: what `source.read` takes: a file, a name, or None for the one in the package.

    Raises:
        ContractError: there is no such file, it is neither safetensors (but a pickle, say) nor ONNX, it is truncated,
            has no MLM record, or its weights do not fit what that says.
    """
    return parse(source.read(path), str(path or shipped()))


def parse(data: bytes, path: str) -> Checkpoint:
    """Like `load`, from the bytes that `source.read` gives of `path`."""
    contract = source.contract(data, path)
    if contract.graph:
        return Checkpoint(contract, OnnxNetwork(data, contract, path), hashlib.sha256(data).hexdigest())
    try:
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise not_whole(data, path, error) from None
    try:
        with torch.device("meta"):  # Shapes alone: a small file that tells of a large network allocates nothing
            shell = untrained(contract)
        shell.load_state_dict(state, assign=True)
        network = untrained(contract)
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ContractError(
            f"checkpoint {path}: its weights are not those of SimpleUNet({len(contract.bands)}, "
            f"widths={contract.widths}, stem={contract.stem}): {first}",
            hint=HINT,
        ) from None
    final = network.state_dict()
    if not all(torch.isfinite(tensor).all() for tensor in final.values()):
        raise ContractError(f"checkpoint {path} has weights that are not finite numbers", hint=HINT)
    if any(bool((tensor < 0).any()) for name, tensor in final.items() if name.endswith("running_var")):
        raise ContractError(f"checkpoint {path} has variances below 0: its masks would all be clear", hint=HINT)
    return Checkpoint(contract, network.eval(), hashlib.sha256(data).hexdigest())
