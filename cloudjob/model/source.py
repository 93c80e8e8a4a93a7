"""Where a network lies: a checkpoint's file, a record with its weights, or the name of one in an installed package.

Whatever it is, it becomes one piece of bytes, record and weights, which has one sum and is what workers are sent.
"""

import hashlib
import json
import os
import stat
from importlib import resources, util
from pathlib import Path, PurePosixPath
from typing import Any

from cloudjob.errors import ContractError
from cloudjob.model import graph, mlm, record
from cloudjob.model.contract import Contract

RECORDS = Path(str(resources.files("cloudjob.model") / "records"))
NAMES = tuple(sorted(path.stem for path in RECORDS.glob("*.json")))
"""Networks whose records come with the package, by name; their weights are in packages of their makers."""

LARGEST = 2**31 - 1
"""Bytes of a file, at most: what protocol buffers can hold."""

LONGEST = 2**20
"""Bytes of a record, at most."""


def read(checkpoint: str | Path | None) -> bytes:
    """The bytes of a network: a safetensors file, or an ONNX file that has its record in its metadata.

    Args:
        checkpoint: a name (`NAMES`), a .safetensors file, an .onnx file with the record in its metadata or in
            NAME.json beside it, or such a record; None for the network that ships.

    Raises:
        ContractError: it cannot be read, or record and weights do not belong together.
    """
    if checkpoint is None:
        return file(mlm.shipped())
    if str(checkpoint) in NAMES:
        return _by_name(str(checkpoint))
    if "://" in str(checkpoint):
        raise ContractError(f"checkpoint {checkpoint} is an address; expected a file", hint="download it first")
    path = Path(checkpoint)
    if path.suffix == ".json":
        return _given(_parsed(file(path, LONGEST), f"checkpoint {path}"), path, path.parent)
    data = file(path)
    return _with_record(data, path) if path.suffix == ".onnx" or graph.is_onnx(data) else data


def known(network: str) -> Contract:
    """The contract of a network; of one that goes by its name without its weights.

    Raises:
        ContractError: it has none that this version can read.
    """
    if network in NAMES:
        return record.from_record(json.loads((RECORDS / f"{network}.json").read_text("utf-8")))
    return contract(read(network), network)


def contract(data: bytes, path: str) -> Contract:
    """The contract in the bytes of a network; weights are looked at by `checkpoint.parse`.

    Raises:
        ContractError: there is none that this version can read.
    """
    if not graph.is_onnx(data):
        return mlm.read_contract(data, path)
    text = graph.inspect(data, path).record
    if text is None:
        raise ContractError(f"checkpoint {path} has no record in its metadata (key {graph.KEY!r})")
    told = _parsed(text, f"checkpoint {path}: the record in its metadata")
    try:
        return record.from_record(told)
    except ContractError as error:
        raise ContractError(f"checkpoint {path}: {error}", hint="see docs/networks.md") from None


def _with_record(data: bytes, path: Path) -> bytes:
    beside = path.with_suffix(".json")
    if beside.is_file():
        return _joined(data, path, _parsed(file(beside, LONGEST), f"checkpoint {beside}"), beside)
    if graph.inspect(data, str(path)).record is None:
        raise ContractError(
            f"checkpoint {path} has no record in its metadata (key {graph.KEY!r}), and there is no {beside.name} "
            "beside it",
            hint=f"draft one: cloudjob model {path} --like ukis-csmask-l2a > {beside}",
        )
    return data


def _by_name(name: str) -> bytes:
    path = RECORDS / f"{name}.json"
    told = json.loads(path.read_text("utf-8"))
    package = PurePosixPath(_weights(told, path)[0]).parts[0]
    found = util.find_spec(package)  # Only found: nothing of it is run
    if found is None or not found.submodule_search_locations:
        raise ContractError(
            f"checkpoint {name} comes with the package {package}, which is not installed",
            hint=f"pip install {package.replace('_', '-')}",
        )
    return _given(told, path, Path(next(iter(found.submodule_search_locations))).parent)


def _given(told: dict[str, Any], path: Path, folder: Path) -> bytes:
    """A record with its weights, which lie relative to a folder."""
    href, checksum = _weights(told, path)
    data = file(folder / href)
    _check_sum(data, checksum, folder / href)
    return _joined(data, folder / href, told, path)


def _joined(data: bytes, path: Path, told: dict[str, Any], given: Path) -> bytes:
    """Weights with a record that was given for them: it stands in for the one that they have, if it is no other."""
    own = graph.inspect(data, str(path)).record
    if own is None:
        return graph.with_record(data, told)
    if _parsed(own, f"checkpoint {path}: the record in its metadata") != told:
        raise ContractError(
            f"checkpoint {path} has a record in its metadata, and another in {given}",
            hint="which one is right? take the other away",
        )
    return data


def _weights(told: dict[str, Any], path: Path) -> tuple[str, str]:
    """Relative path and checksum (multihash, or "") of the asset that holds a record's weights."""
    assets = told.get("assets")
    found = [
        asset
        for asset in (assets.values() if isinstance(assets, dict) else ())
        if isinstance(asset, dict) and "mlm:model" in (asset.get("roles") or ())
    ]
    if len(found) != 1:
        raise ContractError(f"checkpoint {path} has {len(found)} assets with the role mlm:model; expected one")
    href = found[0].get("href")
    parts = PurePosixPath(href).parts if isinstance(href, str) and href else ()
    if not parts or "://" in str(href) or "\\" in str(href) or ".." in parts or PurePosixPath(str(href)).is_absolute():
        raise ContractError(
            f"checkpoint {path} says that its weights lie at {href!r}; expected a path relative to it, without '..'"
        )
    return str(href), str(found[0].get("file:checksum") or "")


def _check_sum(data: bytes, checksum: str, path: Path) -> None:
    """Compare with a `file:checksum`: 12 20 (SHA-256, 32 bytes) and the sum, hexadecimal."""
    if checksum and not checksum.startswith("1220"):
        raise ContractError(f"checkpoint {path} has the file:checksum {checksum[:6]}…; expected 1220…, a SHA-256")
    found = hashlib.sha256(data).hexdigest()
    if checksum and checksum != f"1220{found}":
        raise ContractError(
            f"checkpoint {path} has the SHA-256 {found[:16]}…; its record says {checksum[4:20]}…",
            hint="the record is of another version of these weights",
        )


def file(path: Path, largest: int = LARGEST) -> bytes:
    """A file's bytes, if it is not larger than it may be.

    Raises:
        ContractError: it is, or it cannot be read.
    """
    try:
        with open(path, "rb", opener=_at_once) as stream:
            state = os.fstat(stream.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ContractError(f"checkpoint {path} is no file")
            if state.st_size > largest:
                raise ContractError(f"checkpoint {path} has {state.st_size:,} bytes; expected {largest:,} at most")
            return stream.read()
    except (OSError, ValueError) as error:
        hint = f"names are {', '.join(NAMES)}; or leave --checkpoint out to use the network that ships"
        raise ContractError(f"checkpoint {path}: {getattr(error, 'strerror', error)}", hint=hint) from None


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # A pipe would be waited for


def _parsed(data: str | bytes, what: str) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{what} is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise ContractError(f"{what} is no JSON object")
    return told
