"""Where a network lies: a checkpoint's file, a record with its weights, or the name of one in an installed package.

Whatever it is, it becomes one piece of bytes, record and weights, which has one sum and is what workers are sent.
"""

import hashlib
import json
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
        return mlm.read_file(mlm.shipped())
    if str(checkpoint) in NAMES:
        return _by_name(str(checkpoint))
    path = Path(checkpoint)
    if path.suffix == ".json":
        return _by_record(path)
    data = file(path)
    return _with_record(data, path) if path.suffix == ".onnx" or graph.is_onnx(data) else data


def contract(data: bytes, path: str) -> Contract:
    """The contract in the bytes of a network; weights are looked at by `checkpoint.parse`.

    Raises:
        ContractError: there is none that this version can read.
    """
    if not graph.is_onnx(data):
        return mlm.read_contract(data, path)
    try:
        return record.from_record(document(data, path))
    except ContractError as error:
        raise ContractError(f"checkpoint {path}: {error}", hint="see docs/networks.md") from None


def document(data: bytes, path: str) -> dict[str, Any]:
    """The record in the metadata of an ONNX file.

    Raises:
        ContractError: there is none.
    """
    text = graph.inspect(data, path).record
    if text is None:
        raise ContractError(f"checkpoint {path} has no record in its metadata (key {graph.KEY!r})")
    return _parsed(text.encode(), f"checkpoint {path}: the record in its metadata")


def _with_record(data: bytes, path: Path) -> bytes:
    own = graph.inspect(data, str(path)).record
    beside = path.with_suffix(".json")
    if not beside.is_file():
        if own is None:
            raise ContractError(
                f"checkpoint {path} has no record in its metadata (key {graph.KEY!r}), and there is no {beside.name} "
                "beside it",
                hint=f"draft one: cloudjob model {path} --like ukis-csmask-l2a > {beside}",
            )
        return data
    told = _parsed(file(beside, LONGEST), f"checkpoint {beside}")
    if own is None:
        return graph.with_record(data, told)
    if json.loads(own) != told:
        raise ContractError(
            f"checkpoint {path} has a record in its metadata, and another in {beside.name} beside it",
            hint=f"move {beside.name} away, or name it: --checkpoint {beside}",
        )
    return data


def _by_record(path: Path) -> bytes:
    told = _parsed(file(path, LONGEST), f"checkpoint {path}")
    href, checksum = _weights(told, path)
    weights = path.parent / href
    data = file(weights)
    _check_sum(data, checksum, weights)
    return _joined(data, told, weights)


def _by_name(name: str) -> bytes:
    told = json.loads((RECORDS / f"{name}.json").read_text("utf-8"))
    href, checksum = _weights(told, Path(name))
    package, inside = PurePosixPath(href).parts
    found = util.find_spec(package)  # Only found: nothing of it is run
    if found is None or not found.submodule_search_locations:
        raise ContractError(
            f"checkpoint {name} comes with the package {package}, which is not installed",
            hint=f"pip install {package.replace('_', '-')}",
        )
    weights = Path(next(iter(found.submodule_search_locations))) / inside
    data = file(weights)
    _check_sum(data, checksum, weights)
    return _joined(data, told, weights)


def _joined(data: bytes, told: dict[str, Any], path: Path) -> bytes:
    """Weights with a record that was given for them: it stands in for the one that they have, if it is no other."""
    if not graph.is_onnx(data):
        raise ContractError(f"checkpoint {path} is no .onnx file, which its record promises")
    own = graph.inspect(data, str(path)).record
    if own is not None and json.loads(own) != told:
        raise ContractError(f"checkpoint {path} has a record in its metadata that differs from the one given")
    return data if own is not None else graph.with_record(data, told)


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
        size = path.stat().st_size
        if size > largest:
            raise ContractError(f"checkpoint {path} has {size:,} bytes; expected {largest:,} at most")
        return path.read_bytes()
    except OSError as error:
        raise ContractError(f"checkpoint {path}: {error.strerror}", hint=mlm.HINT) from None


def _parsed(data: bytes, what: str) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{what} is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise ContractError(f"{what} is no JSON object")
    return told
