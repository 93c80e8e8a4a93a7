"""A checkpoint's record: its contract as a STAC item with the Machine Learning Model extension.

It stands in the header of the safetensors file, under the key `mlm`, and is read without the weights and without torch.
(https://github.com/stac-extensions/mlm, v1.4.0)
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from cloudjob.errors import ContractError
from cloudjob.model.contract import Contract
from cloudjob.model.record import DIMENSIONS

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
HEADER = 100_000_000
"""Bytes of a header, at most; safetensors' own bound."""

HINT = (
    "make one with `python -m training`, export another network as ONNX (docs/networks.md), or leave --checkpoint out "
    "to use the one that ships"
)

TASKS = ["semantic-segmentation"]

ARGUMENTS = ("widths", "stem", "dilation", "smooth")
"""Of a `SimpleUNet`."""


def shipped() -> Path:
    """The checkpoint in the package."""
    return Path(str(resources.files("cloudjob.model") / "cloudjob-s2.safetensors"))


def read_contract(data: bytes, path: str) -> Contract:
    """The contract in the bytes of a checkpoint's file, which errors call by its path.

    Raises:
        ContractError: it is no safetensors file (a pickle, say), its header is cut off, or it has no MLM record that
            this version can read.
    """
    try:
        header = _header(data)
    except ValueError as error:
        raise not_whole(data, path, error) from None
    if "mlm" not in header:
        raise ContractError(f"checkpoint {path} has no MLM record in its header", hint=HINT)
    try:
        return from_mlm(json.loads(header["mlm"]))
    except ContractError as error:
        raise ContractError(f"checkpoint {path}: {error}", hint=HINT) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ContractError(
            f"checkpoint {path}: its MLM record cannot be read: {type(error).__name__}: {str(error)[:200]}", hint=HINT
        ) from None


def not_whole(data: bytes, path: str, error: Exception) -> ContractError:
    """The error for a file that is no, or no whole, safetensors file."""
    if data[:2] == b"PK" or data[:1] == b"\x80":
        told = f"is not a whole .safetensors file (it looks like a pickle, which is never opened): {error}"
    elif data[8:9] not in (b"{", b""):  # Every header of safetensors begins so
        told = "is no checkpoint: neither a .safetensors nor an .onnx file"
    else:
        told = f"is not a whole .safetensors file: {error}"
    return ContractError(f"checkpoint {path} {told}", hint=HINT)


def _header(data: bytes) -> dict[str, str]:
    """The `__metadata__` of a safetensors file: https://huggingface.co/docs/safetensors (format)."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ValueError("its header is cut off")
    if size > HEADER:
        raise ValueError(f"its header has {size:,} bytes")
    try:
        metadata: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
        return metadata if isinstance(metadata["mlm"], str) else {}
    except (RecursionError, AttributeError, TypeError) as error:
        raise ValueError(f"its header is no safetensors header: {type(error).__name__}") from None
    except KeyError:
        return {}


def to_mlm(contract: Contract, *, parameters: int, framework: str) -> dict[str, Any]:
    """The contract as a STAC item with the MLM extension; `framework` is the version of PyTorch."""
    told = asdict(contract)
    bands = [
        {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(contract.mean, contract.std, strict=True)
    ]
    elsewhere = ("name", "version", "bands", "mean", "std", "graph", *ARGUMENTS)
    return item(
        contract,
        {
            "mlm:architecture": "SimpleUNet",
            "mlm:tasks": TASKS,
            "mlm:framework": "pytorch",
            "mlm:framework_version": framework,
            "mlm:pretrained": True,
            "mlm:total_parameters": parameters,
        },
        taken=("surface or top-of-atmosphere reflectance", bands),
        given=("cloud logit", 1, ("clear", "cloud")),
        side=contract.tile + 2 * contract.padding(),
        own={
            "mlm:hyperparameters": {"in_channels": len(bands), **{name: told[name] for name in ARGUMENTS}},
            "cloudjob:contract": {name: value for name, value in told.items() if name not in elsewhere},
        },
    )


def item(
    contract: Contract,
    about: dict[str, Any],
    *,
    taken: tuple[str, list[dict[str, Any]] | None],
    given: tuple[str, int, Sequence[str]],
    side: int,
    own: dict[str, Any],
    extensions: Sequence[str] = (),
    assets: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A STAC item with the MLM extension, of any kind of network.

    Args:
        contract: of the network.
        about: properties that tell its architecture and framework.
        taken: what goes in: its name, and how its bands are scaled.
        given: what comes out: its name, how many channels it has, and the classes that they tell apart.
        side: of both in pixels; -1 for any.
        own: more properties.
        extensions: more of STAC's.
        assets: of the item.
    """

    def tensor(channels: int) -> dict[str, Any]:
        return {"shape": [-1, channels, side, side], "dim_order": DIMENSIONS, "data_type": "float32"}

    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, CLASSIFICATION, *extensions],
        "id": f"{contract.name}-{contract.version}",
        "geometry": {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]},
        "bbox": [-180, -90, 180, 90],
        "properties": {
            "datetime": None,
            "start_datetime": "2015-06-23T00:00:00Z",  # Launch of Sentinel-2A
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": contract.name,
            "version": contract.version,
            **about,
            "mlm:input": [
                {
                    "name": taken[0],
                    "bands": [{"name": band} for band in contract.bands],
                    "input": tensor(len(contract.bands)),
                    "value_scaling": taken[1],
                    "resize_type": None,
                    "pre_processing_function": None,
                }
            ],
            "mlm:output": [
                {
                    "name": given[0],
                    "tasks": TASKS,
                    "result": tensor(given[1]),
                    "classification:classes": [{"value": value, "name": name} for value, name in enumerate(given[2])],
                    "post_processing_function": None,
                }
            ],
            **own,
        },
        "links": [],
        "assets": assets or {},
    }


def from_mlm(document: dict[str, Any]) -> Contract:
    """The contract of a STAC item made by `to_mlm`.

    Raises:
        ContractError: another architecture or value scaling than this version knows.
        KeyError, TypeError, ValueError: the record is incomplete.
    """
    properties = document["properties"]
    if properties["mlm:architecture"] != "SimpleUNet":
        raise ContractError(f"its architecture is {properties['mlm:architecture']!r}; expected 'SimpleUNet'")
    (inputs,) = properties["mlm:input"]
    arguments = properties["mlm:hyperparameters"]
    for scaling in inputs["value_scaling"]:
        if scaling["type"] != "z-score":
            raise ContractError(f"its value scaling is {scaling['type']!r}; expected 'z-score'")
    rest = dict(properties["cloudjob:contract"])
    for key in ("training_data", "optional_bands", "resolutions"):
        rest[key] = tuple(rest.get(key, ()))
    rest.pop("graph", None)  # Only networks in ONNX have one
    contract = Contract(
        name=properties["mlm:name"],
        version=properties["version"],
        bands=tuple(band["name"] for band in inputs["bands"]),
        mean=tuple(scaling["mean"] for scaling in inputs["value_scaling"]),
        std=tuple(scaling["stddev"] for scaling in inputs["value_scaling"]),
        widths=tuple(arguments["widths"]),
        stem=arguments["stem"],
        dilation=arguments["dilation"],
        smooth=arguments.get("smooth", False),
        **rest,
    )
    if arguments["in_channels"] != len(contract.bands):
        raise ContractError(
            f"its network takes {arguments['in_channels']} bands but it names {len(contract.bands)}: {contract.bands}"
        )
    return contract
