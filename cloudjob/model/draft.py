"""The making of records of networks in ONNX: from a contract, or from a graph and a record that is like it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudjob.classes import NAMES
from cloudjob.errors import ContractError
from cloudjob.model import graph as graphs
from cloudjob.model import source
from cloudjob.model.contract import Contract, Graph
from cloudjob.model.mlm import CLASSIFICATION, MLM
from cloudjob.model.record import DIMENSIONS, UNLIMITED

FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"


def to_record(contract: Contract, href: str, checksum: str = "") -> dict[str, Any]:
    """The record of a network in ONNX.

    Args:
        contract: of the network; with its `graph`.
        href: of the weights, relative to the record; "" for a record that lies in the weights' own metadata.
        checksum: SHA-256 of the weights, hexadecimal, or "".
    """
    graph = contract.graph
    assert graph is not None
    side = graph.window or -1
    names = {value: name for name, value in NAMES.items()}
    listed = [names[value] for value in graph.classes]
    own = {
        "resolution": contract.resolution,
        **({"resolutions": list(contract.resolutions)} if contract.resolutions else {}),
        "tile": contract.tile,
        "halo": contract.halo,
        **({} if graph.window else {"stride": graph.stride}),
        "outside_fill": contract.outside_fill,
        **({} if contract.brightest == UNLIMITED else {"brightest": contract.brightest}),
        "activation": graph.activation,
        "reduction": "threshold" if len(listed) == 1 else "argmax",
        **({"threshold": contract.threshold} if len(listed) == 1 else {}),
        "classes": listed,
        "buffer": contract.buffer,
        "training_data": list(contract.training_data),
        "metrics": dict(contract.metrics),
    }
    apart = ["clear", "cloud"] if len(listed) == 1 else listed
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, CLASSIFICATION, *([FILE] if checksum else [])],
        "id": f"{contract.name}-{contract.version}",
        "geometry": {"type": "Polygon", "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]},
        "bbox": [-180, -90, 180, 90],
        "properties": {
            "datetime": None,
            "start_datetime": "2015-06-23T00:00:00Z",  # Launch of Sentinel-2A
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": contract.name,
            "version": contract.version,
            "mlm:architecture": "ONNX graph",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "ONNX",
            "mlm:input": [
                {
                    "name": "reflectance",
                    "bands": [{"name": band} for band in contract.bands],
                    "input": {
                        "shape": [-1, len(contract.bands), side, side],
                        "dim_order": DIMENSIONS,
                        "data_type": "float32",
                    },
                    "value_scaling": _value_scaling(contract),
                    "resize_type": None,
                    "pre_processing_function": None,
                }
            ],
            "mlm:output": [
                {
                    "name": "scores",
                    "tasks": ["semantic-segmentation"],
                    "result": {
                        "shape": [-1, len(listed), side, side],
                        "dim_order": DIMENSIONS,
                        "data_type": "float32",
                    },
                    "classification:classes": [{"value": value, "name": name} for value, name in enumerate(apart)],
                    "post_processing_function": None,
                }
            ],
            "cloudjob:contract": own,
        },
        "links": [],
        "assets": {
            "model": {
                "href": href,
                "type": "application/octet-stream; framework=onnx",
                "roles": ["mlm:model", "mlm:weights"],
                **({"file:checksum": f"1220{checksum}"} if checksum else {}),
            }
        }
        if href
        else {},
    }


def _value_scaling(contract: Contract) -> list[dict[str, Any]] | None:
    graph = contract.graph
    assert graph is not None
    if graph.per_tile:
        return [{"type": "processing", "format": "cloudjob", "expression": "z-score-per-tile"}]
    if graph.clip:
        return [{"type": "clip", "minimum": low, "maximum": high} for low, high in graph.clip]
    pairs = zip(contract.mean, contract.std, strict=True)
    return [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in pairs]


def draft(path: Path, like: str) -> dict[str, Any]:
    """A record for somebody's ONNX file, to be gone over: its own shapes, and all else as in another network's.

    Args:
        path: of the .onnx file, beside which the record is to lie.
        like: a network that has a record (`source.read`).

    Raises:
        ContractError: either cannot be used, or the graph takes or gives another number of channels than the other, or
            windows that are too small.
    """
    data = source.file(path)
    found = graphs.inspect(data, str(path))
    known = source.contract(source.read(like), like)
    given = known.graph or Graph(stride=known.stride)
    bands, window = (side if isinstance(side, int) else 0 for side in found.taken.shape[1:3])
    classes = found.given.shape[1]
    for what, number, expected in (("bands", bands, len(known.bands)), ("classes", classes, len(given.classes))):
        if isinstance(number, int) and number and number != expected:
            raise ContractError(
                f"{path} has {number} {what}, {like} has {expected}: {', '.join(known.bands)}",
                hint="draft it like a network that has as many, and change what differs",
            )
    if 0 < window < 4:
        raise ContractError(f"{path} takes windows of {window} pixels, too small to overlap; expected 4 at least")
    halo = known.halo if not window else max(1, min(known.halo, window // 4))
    graph = replace(given, window=window, stride=1 if window else max(given.stride, 1))
    side = window - halo - 1 if window else graph.stride
    made = replace(
        known,
        name=path.stem,
        version="0",
        graph=graph,
        halo=halo,
        tile=max(1, round(1024 / side)) * side,
        training_data=(),
        metrics={},
    )
    graphs.check(found, made, str(path))
    return to_record(made, path.name, hashlib.sha256(data).hexdigest())
