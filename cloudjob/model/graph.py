"""A network's ONNX file, looked at without running it: what it takes and gives, and whether it is only arithmetic."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from cloudjob.errors import ContractError
from cloudjob.model.bounds import MANY
from cloudjob.model.contract import Contract

KEY = "mlm"
"""Of the record in a file's metadata, as in a checkpoint's safetensors header."""

CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
PROBABLE = ("Sigmoid", "HardSigmoid", "Softmax")
"""Operators that give probabilities."""

SHAPING = (
    *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Clip", "Dropout"),
    *("Slice", "Gather", "Split", "Resize", "Upsample"),
)
"""Operators after which a probability is still one."""

INSTALL = "pip install 'cloudjob[onnx]'"
FORM = 'change it where it is exported: see "A graph of another form" in docs/networks.md'

MOST = 13
"""Bands of Sentinel-2: a side of so few pixels is none."""

Side = int | str | None
"""Of a tensor: a number, the name of one that is free, or unknown."""


@dataclass(frozen=True)
class Tensor:
    """What goes into a graph, or comes out: its name, its type ("float32") and its shape."""

    name: str
    type: str
    shape: tuple[Side, ...]


@dataclass(frozen=True)
class Inspected:
    """What a file holds.

    Attributes:
        taken: its one input.
        given: its one output.
        ends: the operator that makes what it gives, but for what only changes its shape or type.
        record: the text of the record in its metadata, or None; bytes if it is no UTF-8.
        parameters: how many numbers its weights are.
    """

    taken: Tensor
    given: Tensor
    ends: str
    record: str | bytes | None
    parameters: int


def is_onnx(data: bytes) -> bool:
    """Whether a file begins as ONNX does (with the field of its version), and not as safetensors (length, JSON)."""
    return data[:1] == b"\x08" and data[8:9] != b"{"


def with_record(data: bytes, record: dict[str, Any]) -> bytes:
    """A file with a record in its metadata: protocol buffers that follow each other are one."""
    onnx: Any = library("onnx")
    text = json.dumps(record, sort_keys=True)
    addition = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=KEY, value=text)])
    return data + bytes(addition.SerializeToString())


def inspect(data: bytes, path: str) -> Inspected:
    """Look at the bytes of a file, which errors call by its path.

    Raises:
        ContractError: it is no whole ONNX file; it is more than arithmetic on tensors that it holds itself (other
            files, custom operators, functions, control flow, random numbers); it has weights that are sparse or not
            finite, or not one input and one output of four sides, of which bands and classes are the second.
    """
    onnx: Any = library("onnx")
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # noqa: BLE001  # A class of protobuf's own, which depends on its build
        raise _refused(path, f"is not a whole .onnx file: {error}") from None
    if not model.graph.node:
        raise _refused(path, "is not a whole .onnx file: it has no graph")
    _check_nodes(model, path)
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    constants = [attribute.t for attribute in attributes if attribute.HasField("t")]
    constants += [tensor for attribute in attributes for tensor in attribute.tensors]
    weights = [*model.graph.initializer, *constants]
    _check_weights(onnx, weights, path)
    held = {tensor.name for tensor in model.graph.initializer}
    taken = [_tensor(onnx, value) for value in model.graph.input if value.name not in held]
    given = [_tensor(onnx, value) for value in model.graph.output]
    for what, tensors in (("input", taken), ("output", given)):
        if len(tensors) != 1:
            names = ", ".join(tensor.name for tensor in tensors) or "none"
            raise _refused(path, f"has {len(tensors)} {what}s ({names}); expected one", FORM)
        _check_sides(tensors[0], what, path)
    records = {entry.value for entry in model.metadata_props if entry.key == KEY}
    if len(records) > 1:
        raise _refused(path, f"has {len(records)} records that differ in its metadata")
    parameters = sum(int(np.prod(tensor.dims)) for tensor in weights)
    return Inspected(taken[0], given[0], _ends(model), next(iter(records), None), parameters)


def check(found: Inspected, contract: Contract, path: str) -> None:
    """Compare a graph with its record, before any pixel.

    Raises:
        ContractError: they do not fit; it names both numbers.
    """
    graph = contract.graph
    assert graph is not None
    sides = (graph.window or None,) * 2
    for what, tensor, shape in (
        ("input", found.taken, (None, len(contract.bands), *sides)),
        ("output", found.given, (None, len(graph.classes), *sides)),
    ):
        if tensor.type != "float32":
            raise _refused(path, f"has the {what} {tensor.name} of type {tensor.type}; expected float32", FORM)
        _check_shape(tensor, shape, what, path)
    if found.ends == "ArgMax":
        raise _refused(path, "ends in ArgMax: it gives the number of a class; expected a score for each", FORM)
    if found.ends in PROBABLE and graph.activation != "none":
        raise _refused(
            path,
            f"ends in {found.ends}, so it gives probabilities, of which its record's {graph.activation} would make "
            "others",
            'its record should say "none"',
        )


def library(name: str) -> Any:
    """The module `onnx` or `onnxruntime`, which only those need who bring such a network.

    Raises:
        ContractError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise ContractError("networks in ONNX need the packages onnx and onnxruntime", hint=INSTALL) from None


def _check_shape(tensor: Tensor, wanted: Sequence[int | None], what: str, path: str) -> None:
    units = ("windows at once", "bands" if what == "input" else "classes", "rows", "columns")
    for unit, side, expected in zip(units, tensor.shape, wanted, strict=True):
        if not isinstance(side, int):  # Free or not told: the trial run shows it
            continue
        if expected is None and side > 1 and unit == "windows at once":
            raise _refused(path, f"takes {side} {unit}; expected any number, or 1")
        if expected is None and unit in ("rows", "columns"):
            raise _refused(path, f"has an {what} of {side} {unit}, but its record says any number (-1)")
        if expected is not None and side != expected:
            raise _refused(path, f"has an {what} of {side} {unit}, but its record says {expected}")


def _check_sides(tensor: Tensor, what: str, path: str) -> None:
    shape, unit = tensor.shape, "bands" if what == "input" else "classes"
    if len(shape) != 4:
        raise _refused(path, f"has the {what} {tensor.name} of shape {shape}; expected four sides", FORM)
    second, last = (side if isinstance(side, int) else MOST + 1 for side in shape[1::2])
    if last <= MOST < second:
        raise _refused(path, f"has the {what} {tensor.name} of shape {shape}; expected its {unit} second", FORM)
    if second > MANY:
        raise _refused(path, f"has the {what} {tensor.name} of {second} {unit}; expected {MANY} at most")


def _ends(model: Any) -> str:
    name = model.graph.output[0].name
    for node in reversed(model.graph.node):  # Each stands after those whose results it takes
        if name in node.output:
            if node.op_type not in SHAPING or not node.input:
                return str(node.op_type)
            name = node.input[0]
    return ""


def _check_nodes(model: Any, path: str) -> None:
    if model.functions:
        raise _refused(
            path,
            f"has functions of its own ({model.functions[0].name})",
            hint="inline them: onnx.inliner.inline_local_functions",
        )
    sparse = len(model.graph.sparse_initializer) > 0
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx", "ai.onnx.ml"):  # The last has trees and their like: arithmetic, too
            raise _refused(path, f"has a custom operator, {node.domain}.{node.op_type}; expected ONNX's own only")
        if node.op_type in CONTROL_FLOW or any(part.HasField("g") or part.graphs for part in node.attribute):
            raise _refused(path, f"has the operator {node.op_type}, which runs a graph of its own; expected none")
        if node.op_type in RANDOM:
            raise _refused(path, f"has the operator {node.op_type}: its masks would differ from run to run")
        sparse |= any(part.HasField("sparse_tensor") or part.sparse_tensors for part in node.attribute)
    if sparse:  # ONNX Runtime would read them from whatever file they name
        raise _refused(path, "has sparse weights; expected dense ones")


def _check_weights(onnx: Any, tensors: Sequence[Any], path: str) -> None:
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    for tensor in tensors:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise _refused(
                path,
                f"keeps its weights {tensor.name} in another file; expected all in one",
                hint="onnx.save(onnx.load(PATH), PATH, save_as_external_data=False) puts them into it",
            )
        if tensor.data_type not in floats:
            continue
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise _refused(path, f"has weights {tensor.name} that cannot be read: {error}") from None
        if not np.isfinite(values.astype(np.float32)).all():
            raise _refused(path, f"has weights {tensor.name} that are not finite numbers")


def _tensor(onnx: Any, value: Any) -> Tensor:
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
    # Of a free side some exporters write the number -1
    shape = tuple(side.dim_value if side.dim_value > 0 else (side.dim_param or None) for side in kind.shape.dim)
    return Tensor(value.name, {"float": "float32", "double": "float64"}.get(name, name), shape)


def _refused(path: str, why: str, hint: str | None = None) -> ContractError:
    return ContractError(f"checkpoint {path} {why}", hint=hint)
