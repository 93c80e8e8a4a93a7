"""Small networks in ONNX with their records, made here: for tests from inside and from outside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from scenes import BANDS

from cloudjob.classes import CLEAR, CLOUD, SHADOW, THIN_CLOUD
from cloudjob.model.contract import Contract, Graph
from cloudjob.model.draft import to_record
from cloudjob.model.record import UNLIMITED

FOUR = (SHADOW, CLEAR, THIN_CLOUD, CLOUD)
LIMITS = (0.10005, 0.40005, 0.75005)
"""Of red, between the four classes of `four_classes`; no number of a scene falls on one."""


def contract(**changes: Any) -> Contract:
    """Of a network that takes any size, four bands, and tells cloud by a sigmoid."""
    made = {
        "name": "tiny",
        "version": "1",
        "bands": BANDS,
        "mean": (0.0,) * 4,
        "std": (1.0,) * 4,
        "tile": 64,
        "halo": 8,
        "brightest": UNLIMITED,
        "graph": Graph(stride=4),
        **changes,
    }
    return Contract(**made)


def graph(weights: np.ndarray, bias: np.ndarray, side: int | None = None, **parts: Any) -> onnx.ModelProto:
    """One convolution: weights (class, band, y, x), bias (class,); `side` if it takes only one size.

    Args:
        weights: of the convolution.
        bias: of the convolution.
        side: rows and columns of its input; any number unless given.
        parts: of the graph and the model, instead of these.
    """
    classes, bands, reach, _ = weights.shape
    sides = [side or "height", side or "width"]
    nodes = parts.pop("nodes", None) or [
        helper.make_node("Conv", ["image", "w", "b"], ["scores"], pads=[reach // 2] * 4, name="conv")
    ]
    kind = parts.pop("kind", TensorProto.FLOAT)
    taken = helper.make_tensor_value_info("image", kind, parts.pop("taken", ["batch", bands, *sides]))
    given = helper.make_tensor_value_info("scores", kind, parts.pop("given", ["batch", classes, *sides]))
    held = [
        numpy_helper.from_array(weights.astype(np.float32), "w"),
        numpy_helper.from_array(bias.astype(np.float32), "b"),
    ]
    inside = helper.make_graph(nodes, "tiny", [taken, *parts.pop("more", [])], [given], parts.pop("held", held))
    opsets = [helper.make_opsetid(domain, number) for domain, number in parts.pop("opsets", {"": 17}).items()]
    return helper.make_model(inside, opset_imports=opsets, ir_version=8, **parts)


def bright(side: int | None = None, **parts: Any) -> onnx.ModelProto:
    """One output: 20 × (red − 0.5), as `jobs.brightness_checkpoint`."""
    weights = np.zeros((1, 4, 1, 1))
    weights[0, 0] = 20
    return graph(weights, np.array([-10.0]), side, **parts)


def four_classes() -> onnx.ModelProto:
    """Shadow, clear, thin cloud and cloud by red alone, between `LIMITS`."""
    weights, bias = np.zeros((4, 4, 1, 1)), np.zeros(4)
    for index, limit in enumerate(LIMITS, start=1):
        weights[index, 0] = 20 * index
        bias[index] = bias[index - 1] - 20 * limit
    return graph(weights, bias)


def blurred(side: int | None = None, classes: int = 3, seed: int = 1) -> onnx.ModelProto:
    """Random weights over 9 × 9 pixels, so that what lies around a pixel counts."""
    rng = np.random.default_rng(seed)
    return graph(rng.normal(0, 1, (classes, 4, 9, 9)), rng.normal(0, 0.1, classes), side)


def save(path: Path, model: onnx.ModelProto, terms: Contract, *, change: Any = None) -> Path:
    """Write NAME.onnx and NAME.json beside it; `change` edits the record."""
    path.write_bytes(model.SerializeToString())
    record = to_record(terms, path.name)
    if change:
        change(record)
    path.with_suffix(".json").write_text(json.dumps(record), encoding="utf-8")
    return path


def fixed(path: Path, side: int = 32, halo: int = 6) -> Path:
    """Three classes, windows of one size."""
    terms = contract(
        halo=halo,
        tile=3 * (side - halo - 1),
        mean=(0.5,) * 4,
        graph=Graph((CLEAR, CLOUD, SHADOW), "softmax", window=side),
    )
    return save(path, blurred(side), terms)
