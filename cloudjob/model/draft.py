"""The making of records of networks in ONNX: from a contract, or from a graph and a record that is like it."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloudjob.classes import CLOUD, NAMES
from cloudjob.errors import ContractError
from cloudjob.model import graph as graphs
from cloudjob.model import source
from cloudjob.model.contract import Contract, Graph
from cloudjob.model.mlm import TASKS, item
from cloudjob.model.record import UNLIMITED, usual_tile

UNNAMED = (-1,)
"""Of classes of which nobody has said yet what they mean."""

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
    names = {value: name for name, value in NAMES.items()}
    listed = [names.get(value, f"class {number}") for number, value in enumerate(graph.classes, 1)]
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
    asset = {"href": href, "type": "application/octet-stream; framework=onnx", "roles": ["mlm:model", "mlm:weights"]}
    return item(
        contract,
        {"mlm:architecture": "ONNX graph", "mlm:tasks": TASKS, "mlm:framework": "ONNX"},
        taken=("reflectance", _value_scaling(contract)),
        given=("scores", len(listed), ("clear", "cloud") if len(listed) == 1 else listed),
        side=graph.window or -1,
        own={"cloudjob:contract": own},
        extensions=[FILE] if checksum else [],
        assets={"model": asset | ({"file:checksum": f"1220{checksum}"} if checksum else {})} if href else None,
    )


def _value_scaling(contract: Contract) -> list[dict[str, Any]] | None:
    graph = contract.graph
    assert graph is not None
    if graph.per_tile:
        return [{"type": "processing", "format": "cloudjob", "expression": "z-score-per-tile"}]
    pairs = zip(contract.mean, contract.std, strict=True)
    steps: list[dict[str, Any]] = [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in pairs]
    for number, (low, high) in enumerate(graph.clip):
        limits = {"minimum": low, "maximum": high}
        finite = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
        if finite:  # Others of its bands may have z-scores
            steps[number] = {"type": "clip" if len(finite) == 2 else f"clip-{min(finite)[:3]}", **finite}
    return steps


def draft(path: Path, like: str) -> dict[str, Any]:
    """A record for somebody's ONNX file, to be gone over: its own shapes, and all else as in another network's.

    Bands and classes of another number than that network's are numbered: such a record is refused until they are named.

    Args:
        path: of the .onnx file, beside which the record is to lie.
        like: a network that has a record (`source.read`); of one that goes by its name the weights are not needed.

    Raises:
        ContractError: either cannot be used, or the graph takes windows that are too small.
    """
    data = source.file(path)
    found = graphs.inspect(data, str(path))
    known = source.known(like)
    graph = known.graph or Graph(stride=known.stride)
    bands, window = (side if isinstance(side, int) else 0 for side in found.taken.shape[1:3])
    if 0 < window < 4:
        raise ContractError(f"{path} takes windows of {window} pixels, too small to overlap; expected 4 at least")
    classes = found.given.shape[1]
    if isinstance(classes, int) and classes != len(graph.classes):
        named, activation = ((CLOUD,), "sigmoid") if classes == 1 else (UNNAMED * classes, "softmax")
        graph = replace(graph, classes=named, activation=activation)
    if bands and bands != len(known.bands):
        names = tuple(f"band {number}" for number in range(1, bands + 1))
        known = replace(known, bands=names, mean=(0.0,) * bands, std=(1.0,) * bands, optional_bands=())
        graph = replace(graph, clip=())
    if found.ends in graphs.PROBABLE:
        graph = replace(graph, activation="none")
    halo = known.halo if not window else max(1, min(known.halo, window // 4))
    graph = replace(graph, window=window, stride=1 if window else graph.stride)
    made = replace(
        known,
        name=path.stem,
        version="0",
        graph=graph,
        halo=halo,
        tile=usual_tile(window - halo - 1 if window else graph.stride),
        training_data=(),
        metrics={},
    )
    graphs.check(found, made, str(path))
    return to_record(made, path.name, hashlib.sha256(data).hexdigest())
