"""Networks in ONNX: their records, what is refused, and what they make of pixels."""

import json
import math
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pystac
import pytest
import torch
from click.testing import CliRunner
from conftest import make_checkpoint
from faulty import call
from jobs import make_scene, write_catalog
from networks import FOUR, LIMITS, blurred, bright, contract, fixed, four_classes, graph, save
from onnx import TensorProto, helper, numpy_helper

from cloudjob import cli, embed
from cloudjob.classes import CLEAR, CLOUD, SHADOW, THIN_CLOUD
from cloudjob.errors import CONTRACT, ContractError, SceneError, UsageError
from cloudjob.model import checkpoint, predict, source
from cloudjob.model.contract import Graph
from cloudjob.model.draft import draft, to_record
from cloudjob.model.onnx import _providers
from cloudjob.model.share import SHARE
from training.export import export

ONE = {"weights": np.zeros((1, 4, 1, 1)), "bias": np.zeros(1)}


def own(record: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = record["properties"]["cloudjob:contract"]
    return told


def taken(record: dict[str, Any]) -> dict[str, Any]:
    (told,) = record["properties"]["mlm:input"]
    return told  # type: ignore[no-any-return]


def given(record: dict[str, Any]) -> dict[str, Any]:
    (told,) = record["properties"]["mlm:output"]
    return told  # type: ignore[no-any-return]


WRONG_RECORDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "framework": (lambda r: r["properties"].update({"mlm:framework": "pytorch"}), "mlm:framework is 'pytorch'; known"),
    "no name": (lambda r: r["properties"].pop("mlm:name"), "mlm:name is None"),
    "ESA's names": (
        lambda r: taken(r).update(bands=["B04", "b3", "B2", "B8A"]),
        "Sentinel-2's are red, green, blue, nir08",
    ),
    "Title case": (
        lambda r: taken(r).update(bands=["Red", "Green", "Blue", "NIR"]),
        "Sentinel-2's are red, green, blue",
    ),
    "no contract": (lambda r: r["properties"].pop("cloudjob:contract"), "has no cloudjob:contract"),
    "two inputs": (lambda r: r["properties"].update({"mlm:input": [taken(r)] * 2}), "has 2 mlm:input"),
    "unknown word": (lambda r: own(r).update(padding=3), "word is 'padding'; known are resolution, halo"),
    "missing word": (lambda r: own(r).pop("classes"), "does not say classes"),
    "no stride": (lambda r: own(r).pop("stride"), "any size but does not say stride"),
    "activation": (lambda r: own(r).update(activation="relu"), "activation is 'relu'; known are sigmoid, softmax"),
    "reduction": (lambda r: own(r).update(reduction="argmax"), "reduction is 'argmax' for 1 classes"),
    "reduction's word": (lambda r: own(r).update(reduction="median"), "reduction is 'median'; known"),
    "class": (lambda r: own(r).update(classes=["snow"]), "class is 'snow'; known are clear, cloud, thin_cloud"),
    "one class": (lambda r: own(r).update(classes=["cloud_shadow"]), "one class is 'cloud_shadow'; expected cloud"),
    "band": (
        lambda r: taken(r).update(bands=["red", "green", "blue", "thermal"]),
        "band is 'thermal'; known are coast",
    ),
    "band twice": (lambda r: taken(r).update(bands=["red", "red", "blue", "nir"]), "names a band twice"),
    "band's code": (
        lambda r: taken(r)["bands"][0].update(format="python", expression="os:system"),
        "computed by an expression, and no code",
    ),
    "bands": (lambda r: taken(r).update(bands=["red", "green", "blue"]), "mlm:input has 4 channels but 3 bands"),
    "batch": (lambda r: taken(r)["input"]["shape"].__setitem__(0, 7), "batches of 7; expected -1 for any, or 1"),
    "order": (lambda r: taken(r)["input"].update(dim_order=["height", "width"]), "dim_order"),
    "type": (lambda r: taken(r)["input"].update(data_type="uint16"), "data_type is 'uint16'; known are float32"),
    "oblong": (lambda r: taken(r)["input"].update(shape=[-1, 4, 64, 32]), "as many rows as columns"),
    "scaling": (
        lambda r: taken(r).update(value_scaling=[{"type": "log"}]),
        "value_scaling is 'log'; known are z-score",
    ),
    "scalings": (
        lambda r: taken(r).update(value_scaling=[{"type": "scale", "value": 1}] * 3),
        "list of 1 or 4 objects",
    ),
    "division by 0": (
        lambda r: taken(r).update(value_scaling=[{"type": "scale", "value": 0}]),
        "value_scaling scale's value is 0; expected a number above 0",
    ),
    "a scale that is to divide": (
        lambda r: taken(r).update(value_scaling=[{"type": "scale", "value": 10_000}]),
        "divides by 10000; expected numbers of reflectance",
    ),
    "numbers' means": (
        lambda r: taken(r).update(value_scaling=[{"type": "z-score", "mean": 812.5, "stddev": 90.0}]),
        "takes off 812.5 and divides by 90; expected numbers of reflectance",
    ),
    "numbers' range": (
        lambda r: taken(r).update(value_scaling=[{"type": "min-max", "minimum": 0, "maximum": 3000}]),
        "divides by 3000; expected numbers of reflectance",
    ),
    "numbers' limits": (
        lambda r: taken(r).update(value_scaling=[{"type": "clip", "minimum": 0, "maximum": 10_000}]),
        "clips at 10000; expected limits of reflectance",
    ),
    "scaling's code": (
        lambda r: taken(r).update(value_scaling=[{"type": "processing", "format": "python", "expression": "a:b"}]),
        "no code of a record is ever run",
    ),
    "code before": (lambda r: taken(r).update(pre_processing_function={"format": "python"}), "has a pre_processing"),
    "code after": (
        lambda r: given(r).update(post_processing_function={"format": "docker"}),
        "post_processing_function",
    ),
    "resized": (lambda r: taken(r).update(resize_type="crop"), "has a resize_type: 'crop'"),
    "told": (lambda r: given(r).update({"classification:classes": [{}] * 3}), "has 3 classification"),
    "resolution": (lambda r: own(r).update(resolution=-10), "resolution is -10; expected a number above 0"),
    "not a number": (lambda r: own(r).update(outside_fill=math.nan), "outside_fill is nan"),
    "no number of a machine": (
        lambda r: own(r).update(halo=8, resolution=10**400),
        "resolution is 1000.*0…; expected a",
    ),
    "a long word": (lambda r: own(r).update(activation="a" * 10_000), "activation is 'a{79}…; known are"),
    "classes without end": (lambda r: own(r).update(classes=["clear"] * 65), "for each of 1 to 64 outputs"),
    "tile": (lambda r: own(r).update(tile=65), "tile 65 and halo 8 do not fit the network's stride 4"),
    "size": (lambda r: own(r).update(tile=10**9), "tile is 1000000000; expected a whole number from 1 to 4096"),
    "threshold": (lambda r: own(r).update(threshold=1.5), "threshold is 1.5"),
}


def with_node(*nodes: onnx.NodeProto, **parts: Any) -> onnx.ModelProto:
    return graph(**ONE, nodes=[helper.make_node("Conv", ["image", "w", "b"], ["x"]), *nodes], **parts)


def external() -> onnx.ModelProto:
    model = bright()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    return model


def broken_weights() -> onnx.ModelProto:
    return graph(np.full((1, 4, 1, 1), np.nan), np.zeros(1))


SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.zeros(1, np.float32), "b"), numpy_helper.from_array(np.array([0]), "i"), [1]
)


def sparse(*, constant: bool) -> onnx.ModelProto:
    """Its bias lies in another file, which ONNX Runtime reads although it is handed bytes, not a path."""
    model = bright()
    del model.graph.initializer[1]
    bias = onnx.SparseTensorProto.FromString(SPARSE.SerializeToString())
    if constant:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["b"], sparse_value=bias))
        return model
    bias.values.ClearField("raw_data")
    bias.values.data_location = TensorProto.EXTERNAL
    bias.values.external_data.add(key="location", value="passwords")
    model.graph.sparse_initializer.append(bias)
    return model


def of_one_size() -> onnx.ModelProto:
    """It gives 512 × 512 pixels whatever it takes, as PyTorch exports an interpolation to a size that was a number."""
    size = numpy_helper.from_array(np.array([1, 1, 512, 512]), "size")
    node = helper.make_node("Resize", ["x", "", "", "size"], ["scores"])
    return with_node(node, held=[*bright().graph.initializer, size])


def with_branch() -> onnx.ModelProto:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "inner",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    true = numpy_helper.from_array(np.array([True])[0], "true")
    node = helper.make_node("If", ["true"], ["scores"], then_branch=inner, else_branch=inner)
    return with_node(node, held=[*bright().graph.initializer, true])


def with_function() -> onnx.ModelProto:
    model = bright()
    identity = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [identity], [helper.make_opsetid("", 17)]))
    return model


def with_output(name: str) -> onnx.ModelProto:
    model = with_node(helper.make_node("Identity", ["x"], ["scores"]))
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
    return model


MORE = helper.make_tensor_value_info("date", TensorProto.FLOAT, [1])
WRONG_GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external data": (external, "keeps its weights w in another file"),
    "weights that are no numbers": (broken_weights, "weights w that are not finite numbers"),
    "sparse weights": (lambda: sparse(constant=False), "has sparse weights"),
    "sparse attributes": (
        lambda: with_node(helper.make_node("Identity", ["x"], ["scores"], more=[SPARSE])),
        "has sparse weights",
    ),
    "sparse constants": (lambda: sparse(constant=True), "has sparse weights"),
    "custom operator": (
        lambda: with_node(helper.make_node("Run", ["x"], ["scores"], domain="evil"), opsets={"": 17, "evil": 1}),
        "custom operator, evil.Run",
    ),
    "branch": (with_branch, "operator If, which runs a graph of its own"),
    "function": (with_function, "has functions of its own"),
    "random": (
        lambda: with_node(helper.make_node("RandomNormalLike", ["x"], ["scores"])),
        "operator RandomNormalLike: its masks would differ",
    ),
    "two inputs": (lambda: bright(more=[MORE]), r"has 2 inputs \(image, date\); expected one"),
    "three bands": (lambda: graph(np.zeros((1, 3, 1, 1)), np.zeros(1)), "input of 3 bands, but its record says 4"),
    "two classes": (lambda: graph(np.zeros((2, 4, 1, 1)), np.zeros(2)), "output of 2 classes, but its record says 1"),
    "one size": (lambda: bright(64), r"input of 64 rows, but its record says any number \(-1\)"),
    "batches": (lambda: bright(taken=[8, 4, "height", "width"]), "takes 8 windows at once"),
    "whole numbers": (lambda: bright(kind=TensorProto.DOUBLE), "input image of type float64; expected float32"),
    "bands last": (lambda: bright(taken=["n", "h", "w", 4]), r"shape \('n', 'h', 'w', 4\); expected its bands second"),
    "bands last, of one size": (lambda: bright(taken=[1, 256, 256, 4]), "expected its bands second"),
    "classes last": (lambda: bright(given=["n", "h", "w", 1]), "scores of shape .*; expected its classes second"),
    "two outputs": (lambda: with_output("more"), r"has 2 outputs \(scores, more\); expected one"),
    "numbers of classes": (
        lambda: with_node(
            helper.make_node("ArgMax", ["x"], ["number"], axis=1),
            helper.make_node("Cast", ["number"], ["scores"], to=TensorProto.FLOAT),
        ),
        "ends in ArgMax: it gives the number of a class; expected a score for each",
    ),
    "probabilities": (
        lambda: with_node(helper.make_node("Sigmoid", ["x"], ["p"]), helper.make_node("Identity", ["p"], ["scores"])),
        "ends in Sigmoid, so it gives probabilities, of which its record's sigmoid would make others",
    ),
    "hard probabilities": (
        lambda: with_node(helper.make_node("HardSigmoid", ["x"], ["scores"])),
        "ends in HardSigmoid",
    ),
    "probabilities made larger": (
        lambda: with_node(
            helper.make_node("Sigmoid", ["x"], ["p"]),
            helper.make_node("Resize", ["p", "", "same"], ["scores"], mode="linear"),
            held=[*bright().graph.initializer, numpy_helper.from_array(np.ones(4, np.float32), "same")],
        ),
        "ends in Sigmoid",
    ),
    "probabilities averaged": (
        lambda: with_node(
            helper.make_node("Sigmoid", ["x"], ["p"]),
            helper.make_node("Mean", ["p", "p"], ["scores"]),
            held=bright().graph.initializer,
        ),
        "gives probabilities, of which its record's sigmoid would make others",
    ),
    "one probability of two": (
        lambda: with_node(
            helper.make_node("Concat", ["x", "x"], ["both"], axis=1),
            helper.make_node("Softmax", ["both"], ["p"], axis=1),
            helper.make_node("Gather", ["p", "second"], ["scores"], axis=1),
            held=[*bright().graph.initializer, numpy_helper.from_array(np.array([1]), "second")],
        ),
        "ends in Softmax",
    ),
    "bands without end": (
        lambda: bright(taken=["n", 2**33, "h", "w"]),
        "input image of 8589934592 bands; expected 64 at most",
    ),
    "flat": (lambda: bright(taken=[4, "height", "width"]), "shape .*; expected four sides"),
    "an operator that is none": (
        lambda: with_node(helper.make_node("Convolve", ["x"], ["scores"])),
        "ONNX Runtime cannot load it",
    ),
    "other shape": (
        lambda: with_node(helper.make_node("GlobalAveragePool", ["x"], ["scores"]), given=["batch", 1, "a", "b"]),
        r"gives the shape \(1, 1, 1, 1\); its record says \(1, 1, 512, 516\)",
    ),
    "one size for all": (of_one_size, r"gives the shape \(1, 1, 512, 512\)"),
    "rows for columns": (
        lambda: with_node(helper.make_node("Transpose", ["x"], ["scores"], perm=[0, 1, 3, 2])),
        r"gives the shape \(1, 1, 516, 512\)",
    ),
    "no number": (
        lambda: with_node(
            helper.make_node("Sub", ["x", "x"], ["z"]),
            helper.make_node("Log", ["z"], ["l"]),
            helper.make_node("Mul", ["l", "z"], ["scores"]),
        ),
        "gives values that are not finite numbers",
    ),
    "shapes that do not fit": (
        lambda: with_node(helper.make_node("Concat", ["x", "image"], ["scores"], axis=2)),
        "ONNX Runtime cannot load it",
    ),
}


@pytest.mark.parametrize("skip", [True, False], ids=["a U-Net", "half the resolution"])
def test_a_stride_that_is_too_small_is_told(skip: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As where a draft took it from a network of another kind: there was no hint, or one to export the graph anew."""
    pooled = helper.make_node("AveragePool", ["image"], ["less"], kernel_shape=[4, 4], strides=[4, 4], ceil_mode=1)
    nodes = [
        pooled,
        helper.make_node("Resize", ["less", "", "by"], ["more"], mode="nearest"),
        helper.make_node("Concat", ["image", "more"], ["both"], axis=1),
        helper.make_node("Conv", ["both" if skip else "more", "w", "b"], ["scores"]),
    ]
    weights = np.zeros((1, 8 if skip else 4, 1, 1))
    weights[0, 0] = 20
    by = numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "by")
    held = [by, *graph(weights, np.array([-10.0])).graph.initializer]
    sides: dict[str, Any] = {"taken": ["n", 4, "h", "w"], "given": ["n", 1, "y", "x"]}
    model = graph(weights, np.array([-10.0]), nodes=[*nodes[:2], *nodes[2 if skip else 3 :]], held=held, **sides)
    net = save(tmp_path / "net.onnx", model, contract(graph=Graph(stride=1)))
    told = call(capfd, "model", net)
    assert told.code == CONTRACT
    assert told.stderr.endswith('hint: its record should say "stride": 4\n')
    save(net, model, contract(graph=Graph(stride=4)))
    assert call(capfd, "model", net).code == 0


def test_trees_of_pixels(tmp_path: Path) -> None:
    """As skl2onnx and onnxmltools export them, once bands are turned to columns: cloud where red is above a half."""
    tree = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_ids": [0, 0],
        "target_nodeids": [1, 2],
        "target_treeids": [0, 0],
        "target_weights": [0.1, 0.9],
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "table"], ["rows"]),
        helper.make_node("TreeEnsembleRegressor", ["rows"], ["p"], domain="ai.onnx.ml", n_targets=1, **tree),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "sides"], ["to"]),
        helper.make_node("Reshape", ["p", "to"], ["scores"]),
    ]
    held = [
        numpy_helper.from_array(np.array([-1, 4]), "table"),
        numpy_helper.from_array(np.array([0, 0, 2, 3]), "sides"),
    ]
    nodes[4:5] = [
        helper.make_node("Gather", ["shape", "sides"], ["four"]),
        helper.make_node("ScatterElements", ["four", "second", "one"], ["to"]),
    ]
    held += [numpy_helper.from_array(np.array([1]), name) for name in ("second", "one")]
    model = graph(np.zeros((1, 4, 1, 1)), np.zeros(1), nodes=nodes, held=held, opsets={"": 17, "ai.onnx.ml": 3})
    net = save(tmp_path / "net.onnx", model, contract(graph=Graph(stride=1, activation="none"), halo=0))
    window = np.random.default_rng(0).random((4, 32, 32), np.float32)
    likely, _ = predict.probability(predict.prepare(checkpoint.load(net)), window)
    np.testing.assert_array_equal(likely, np.where(window[0] > 0.5, np.float32(0.9), np.float32(0.1)))


OF_ANOTHER_FORM = ("bands last", "classes last", "two outputs", "numbers of classes", "flat", "one size for all")
"""Graphs that are good networks, and only have to be exported otherwise."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    return write_catalog(folder / "items.json", [make_scene(folder, "S1")])


def refused(network: Path | str, catalog: Path, out: Path, says: str) -> None:
    """A run ends with exit code 3, and nothing is written."""
    with pytest.raises(ContractError, match=says) as caught:
        embed.run(bbox=(-180, -90, 180, 90), dates="2000/..", catalog=catalog, checkpoint=network, out=out)
    assert caught.value.exit_code == CONTRACT
    assert not out.exists()


@pytest.mark.parametrize("fault", WRONG_RECORDS)
def test_a_record_that_says_something_else(fault: str, catalog: Path, tmp_path: Path) -> None:
    change, says = WRONG_RECORDS[fault]
    refused(save(tmp_path / "net.onnx", bright(), contract(), change=change), catalog, tmp_path / "out", says)


@pytest.mark.parametrize("fault", WRONG_GRAPHS)
def test_a_graph_that_is_not_what_its_record_says(fault: str, catalog: Path, tmp_path: Path) -> None:
    make, says = WRONG_GRAPHS[fault]
    refused(save(tmp_path / "net.onnx", make(), contract()), catalog, tmp_path / "out", says)


@pytest.mark.parametrize("form", OF_ANOTHER_FORM)
def test_a_graph_of_another_form_is_told_where_to_read_what_to_do(form: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        checkpoint.load(save(tmp_path / "net.onnx", WRONG_GRAPHS[form][0](), contract()))
    section, page = re.findall(r'see "(.*)" in (.*)', caught.value.hint or "")[0]
    assert f"\n## {section}\n" in (Path(__file__).parents[2] / page).read_text()


def test_who_has_the_file_alone_changes_it_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of float16, bands last, with two outputs."""
    page = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import onnx\n.+?)```", page, re.DOTALL)
    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w", "b"], ["x"]),
        helper.make_node("Transpose", ["x"], ["scores"], perm=[0, 2, 3, 1]),
        helper.make_node("Identity", ["x"], ["more"]),
    ]
    held = [numpy_helper.from_array(numpy_helper.to_array(one).astype(np.float16), one.name)
            for one in bright().graph.initializer]  # fmt: skip
    theirs = bright(
        nodes=nodes, held=held, kind=TensorProto.FLOAT16, taken=["n", "h", "w", 4], given=["n", "h", "w", 1]
    )
    theirs.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT16, ["n", 1, "h", "w"]))
    onnx.save(theirs, tmp_path / "theirs.onnx")
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # Our own page
    Path("mine.json").write_text(json.dumps(to_record(contract(), "mine.onnx")))
    red = np.linspace(0, 1, 60, dtype=np.float32)  # None is 0.5
    mask = predict.mask(predict.prepare(checkpoint.load("mine.onnx"), "cpu"), np.stack([np.tile(red, (8, 1))] * 4))
    np.testing.assert_array_equal(mask, np.tile(red > 0.5, (8, 1)))


def test_probabilities_that_are_told_to_be_some(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["x"]), helper.make_node("Sigmoid", ["x"], ["scores"])]
    net = save(tmp_path / "net.onnx", bright(nodes=nodes), contract(graph=Graph(activation="none", stride=4)))
    model = predict.prepare(checkpoint.load(net), "cpu")
    red = np.linspace(0, 1, 100, dtype=np.float32)
    likely, _ = predict.probability(model, np.stack([np.tile(red, (4, 1))] * 4))
    assert np.allclose(likely, 1 / (1 + np.exp(-20 * (red - 0.5))), atol=1e-5)


def test_scores_that_are_taken_for_probabilities(catalog: Path, tmp_path: Path) -> None:
    terms = contract(graph=Graph(activation="none", stride=4))
    refused(
        save(tmp_path / "net.onnx", bright(), terms), catalog, tmp_path / "out", "activation is none: expected 0 to 1"
    )


def spoil(name: str, folder: Path) -> Path:  # noqa: C901, PLR0912  # A list of faults
    """A file or a set of files that is no network."""
    path = save(folder / "net.onnx", bright(), contract())
    data, record = path.read_bytes(), path.with_suffix(".json")
    told = json.loads(record.read_text())
    asset = told["assets"]["model"]
    if name == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "no record":
        record.unlink()
    elif name == "no JSON":
        record.write_text("{")
    elif name == "a list":
        record.write_text("[]")
    elif name == "deep":
        record.write_text("[" * 100_000)
    elif name == "long":
        record.write_text(" " * (2**20 + 1))
    elif name == "another record":
        path.write_bytes(source.graph.with_record(data, {**told, "id": "another"}))
    elif name in ("no JSON within", "no UTF-8 within"):
        text = {"no JSON within": b"{", "no UTF-8 within": b"\xff"}[name]
        model = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key="mlm", value="?")])
        path.write_bytes(data + model.SerializeToString().replace(b"?", text))
    elif name == "a pipe":
        path.unlink()
        os.mkfifo(path)
    elif name == "a huge header":  # Of safetensors: 2 GB, it says
        path = folder / "net.safetensors"
        path.write_bytes((2**31).to_bytes(8, "little") + b"{}")
    elif name == "a pickle":
        path = folder / "net.pt"
        path.write_bytes(b"PK\x03\x04" + bytes(100))
    elif name == "two gigabytes":
        with path.open("r+b") as file:
            file.truncate(2**31)
    else:  # Only the record is given
        path.unlink() if name == "no weights" else None
        asset["href"] = {"elsewhere": "/etc/passwd", "above": "../net.onnx", "an address": "https://x.org/n.onnx"}.get(
            name, asset["href"]
        )
        asset["file:checksum"] = {"sum": "1220" + "0" * 64, "other sum": "d50110" + "0" * 32}.get(name, "")
        if name == "no asset":
            told["assets"] = {}
        if name == "no ONNX":
            path.write_bytes(b"PK\x03\x04" + bytes(100))
        record.write_text(json.dumps(told))
        return record
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("truncated", "not a whole .onnx file"),
        ("empty", "not a whole .onnx file"),
        ("no record", "there is no net.json beside it"),
        ("no JSON", "net.json is no JSON"),
        ("a list", "net.json is no JSON object"),
        ("deep", "net.json is no JSON"),
        ("long", "has 1,048,577 bytes; expected 1,048,576 at most"),
        ("another record", "has a record in its metadata, and another in .*net.json"),
        ("no JSON within", "net.onnx: the record in its metadata is no JSON"),
        ("no UTF-8 within", "net.onnx: the record in its metadata is no JSON"),
        ("a pipe", "net.onnx is no file"),
        ("a huge header", "not a whole .safetensors file"),
        ("a pickle", "looks like a pickle, which is never opened"),
        ("two gigabytes", "has 2,147,483,648 bytes; expected 2,147,483,647 at most"),
        ("no weights", "net.onnx: No such file"),
        ("elsewhere", "lie at '/etc/passwd'; expected a path relative"),
        ("above", "expected a path relative to it, without '..'"),
        ("an address", "lie at 'https://x.org/n.onnx'; expected a path"),
        ("sum", "its record says 0000000000000000…"),
        ("other sum", "expected 1220…, a SHA-256"),
        ("no asset", "has 0 assets with the role mlm:model; expected one"),
        ("no ONNX", "net.onnx is not a whole .onnx file"),
    ],
)
def test_files_that_are_no_network(name: str, says: str, catalog: Path, tmp_path: Path) -> None:
    refused(spoil(name, tmp_path), catalog, tmp_path / "out", says)


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ContractError, match="null byte") as caught:
        checkpoint.load("net\0.safetensors")
    assert "names are ukis-csmask-l1c" in (caught.value.hint or "")


@pytest.mark.parametrize("address", ["https://example.org/net.onnx", "s3://bucket/net.safetensors"])
def test_an_address_is_told_from_a_file_that_is_missing(address: str) -> None:
    with pytest.raises(ContractError, match=f"checkpoint {address} is an address; expected a file") as caught:
        checkpoint.load(address)
    assert caught.value.hint == "download it first"


def test_a_threshold_for_a_network_that_needs_none(catalog: Path, tmp_path: Path) -> None:
    net = save(tmp_path / "net.onnx", four_classes(), contract(graph=Graph(FOUR, "softmax", stride=4)))
    with pytest.raises(UsageError, match="tells 4 classes apart"):
        embed.run(
            bbox=(0, 0, 1, 1), dates="2000/..", catalog=catalog, checkpoint=net, out=tmp_path / "o", threshold=0.5
        )


def test_one_network_has_one_sum_however_it_is_given(tmp_path: Path) -> None:
    beside = save(tmp_path / "net.onnx", bright(), contract())
    told = json.loads((tmp_path / "net.json").read_text())
    within = tmp_path / "within.onnx"
    within.write_bytes(source.graph.with_record(beside.read_bytes(), told))
    sums = {checkpoint.load(path).sha256 for path in (beside, within, tmp_path / "net.json")}
    assert len(sums) == 1
    told["properties"]["cloudjob:contract"]["halo"] = 12
    (tmp_path / "net.json").write_text(json.dumps(told))
    assert checkpoint.load(beside).sha256 not in sums


def test_a_record_is_a_stac_item_and_read_as_it_was_written() -> None:
    terms = contract(
        graph=Graph(FOUR, "softmax", stride=4),
        mean=(0.1, 0.2, 0.3, 0.4),
        std=(1.0, 2.0, 3.0, 4.0),
        buffer=20.0,
        brightest=2.0,
        metrics={"iou": 0.9},
        training_data=("somewhere",),
    )
    made = to_record(terms, "net.onnx", "0" * 64)
    pystac.Item.from_dict(made)
    assert source.record.from_record(made) == terms
    kinds = [
        Graph((CLEAR, CLOUD), "none", window=64),
        Graph(stride=4, clip=((0.0, 1.0), (0.1, math.inf), (-math.inf, 0.9), (-math.inf, math.inf))),
        Graph(stride=4, per_tile=True),
    ]
    for kind in kinds:
        sides = {"tile": 55} if kind.window else {}
        assert source.record.from_record(to_record(contract(graph=kind, **sides), "n")).graph == kind
    # One band clipped, the others scaled; and in JSON, which has no infinity
    mixed = contract(mean=(0.0, 0.2, 0.3, 0.4), std=(1.0, 2.0, 3.0, 4.0))
    mixed = replace(mixed, graph=Graph(stride=4, clip=((0.1, math.inf), *((-math.inf, math.inf),) * 3)))
    told = json.dumps(to_record(mixed, "net.onnx"), allow_nan=False)
    assert source.record.from_record(json.loads(told)) == mixed


@pytest.mark.parametrize(
    ("scaling", "seen"),
    [
        (None, lambda x: x),
        ([{"type": None}], lambda x: x),
        ([{"type": "z-score", "mean": 0.3, "stddev": 0.5}], lambda x: (x - 0.3) / 0.5),
        ([{"type": "scale", "value": 1e-4}], lambda x: x / 1e-4),
        ([{"type": "offset", "value": 0.2}], lambda x: x - 0.2),
        ([{"type": "min-max", "minimum": 0.1, "maximum": 0.6}], lambda x: (x - 0.1) / 0.5),
        ([{"type": "clip", "minimum": 0.2, "maximum": 0.6}], lambda x: x.clip(0.2, 0.6)),
        ([{"type": "clip-min", "minimum": 0.2}], lambda x: x.clip(0.2)),
        ([{"type": "clip-max", "maximum": 0.6}], lambda x: x.clip(None, 0.6)),
        ([{"type": "clip", "minimum": 0.2, "maximum": 3.4028235e38}], lambda x: x.clip(0.2)),
        (
            [{"type": "processing", "format": "cloudjob", "expression": "z-score-per-tile"}],
            lambda x: (x - x.mean()) / x.std(),
        ),
    ],
)
def test_every_scaling(scaling: Any, seen: Callable[[np.ndarray], np.ndarray], tmp_path: Path) -> None:
    weights = np.zeros((1, 4, 1, 1))
    weights[0, 1] = 1e-3
    change = lambda record: taken(record).update(value_scaling=scaling)  # noqa: E731
    net = save(tmp_path / "net.onnx", graph(weights, np.zeros(1)), contract(), change=change)
    window = np.random.default_rng(0).random((4, 32, 32), np.float32)
    likely, _ = predict.probability(predict.prepare(checkpoint.load(net)), window)
    logits = np.log(likely.astype(float) / (1 - likely.astype(float)))
    np.testing.assert_allclose(logits * 1e3, seen(window[1].astype(float)), rtol=2e-3, atol=1e-3)


def test_z_scores_of_a_tile_are_of_its_valid_pixels(tmp_path: Path) -> None:
    net = save(tmp_path / "net.onnx", bright(), contract(graph=Graph(stride=4, per_tile=True)))
    model = predict.prepare(checkpoint.load(net))
    window = np.random.default_rng(0).random((4, 32, 32), np.float32)
    holes = window.copy()
    holes[:, 16:] = np.nan
    half, alone = (predict.probability(model, each)[0] for each in (holes, window[:, :16]))
    np.testing.assert_allclose(half[:16], alone, atol=1e-6)
    assert np.isfinite(predict.probability(model, np.full((4, 8, 8), 0.3, np.float32))[0]).all()


def test_four_classes_and_their_buffer(tmp_path: Path) -> None:
    terms = contract(graph=Graph(FOUR, "softmax", stride=4))
    model = predict.prepare(checkpoint.load(save(tmp_path / "net.onnx", four_classes(), terms)))
    reflectance = np.random.default_rng(0).random((4, 150, 139), np.float32)
    reflectance[:, :20, :30] = np.nan
    red = reflectance[0]
    wanted = np.select([np.isnan(red), *(red < limit for limit in LIMITS)], [254, *FOUR[:3]], CLOUD)
    np.testing.assert_array_equal(predict.mask(model, reflectance), wanted)
    reflectance[:] = 0.2
    reflectance[0, 80, 50:60] = 0.05  # Shadow
    reflectance[0, 80, 70], reflectance[0, 80, 76] = 0.9, 0.6
    wide = predict.mask(model, reflectance, buffer=40)
    assert (wide[80, 50:60] == SHADOW).all()
    assert list(wide[80, 65:82]) == [CLEAR] + [CLOUD] * 9 + [THIN_CLOUD] * 6 + [CLEAR]
    assert wide[80, 76] == THIN_CLOUD  # Of what is cloud already none becomes another


def test_windows_of_one_size_fade_into_each_other(tmp_path: Path) -> None:
    """Every pixel is the weighted mean of the windows that hold it, wherever the tile was cut."""
    net = checkpoint.load(fixed(tmp_path / "net.onnx"))
    model = predict.prepare(net)
    side, halo, step = 32, 6, 25
    reflectance = np.random.default_rng(2).random((4, 190, 140), np.float32)
    mask = predict.mask(model, reflectance)
    padded = np.zeros((4, 190 + 2 * side, 140 + 2 * side), np.float32)
    padded[:, side : side + 190, side : side + 140] = reflectance
    ramp = np.sin(np.pi / 2 * np.arange(halo + 1) / halo) ** 2
    line = np.concatenate([ramp, np.ones(side - 2 * halo - 2), ramp[::-1]])
    total, weight = np.zeros((3, *padded.shape[1:])), np.zeros(padded.shape[1:])
    for top in range(side - halo, padded.shape[1] - side + 1, step):
        for left in range(side - halo, padded.shape[2] - side + 1, step):
            part = np.s_[top : top + side, left : left + side]
            scores = net.network._run([padded[:, *part] - np.float32(0.5)])[0]
            total[:, *part] += scores * np.outer(line, line)
            weight[part] += np.outer(line, line)
    inner = np.s_[side : side + 190, side : side + 140]
    np.testing.assert_allclose(weight[inner], 1, atol=1e-6)
    wanted = np.array([CLEAR, CLOUD, SHADOW])[total[:, *inner].argmax(axis=0)]
    assert (mask != wanted).mean() < 1e-4
    assert all((mask == label).mean() > 0.05 for label in (CLEAR, CLOUD, SHADOW))


def test_a_network_that_takes_any_size_can_be_given_windows_of_one(tmp_path: Path) -> None:
    """As those want that see all they are given; some exporters write -1 for a side that is free."""
    terms = checkpoint.load(fixed(tmp_path / "fixed.onnx")).contract
    free = save(tmp_path / "free.onnx", blurred(), terms)
    model = blurred()
    for tensor in (model.graph.input[0], model.graph.output[0]):
        for side in (0, 2, 3):
            tensor.type.tensor_type.shape.dim[side].dim_value = -1
    numbered = save(tmp_path / "numbered.onnx", model, terms)
    reflectance = np.random.default_rng(2).random((4, 70, 60), np.float32)
    one, two, three = (
        predict.mask(predict.prepare(checkpoint.load(net)), reflectance)
        for net in (tmp_path / "fixed.onnx", free, numbered)
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("buffer", [0, 30, 400])
def test_windows_of_one_size_do_not_know_which_tiles_were_asked_for(buffer: float, tmp_path: Path) -> None:
    model = predict.prepare(checkpoint.load(fixed(tmp_path / "net.onnx")))
    terms = model.contract
    larger = replace(model, contract=replace(terms, tile=terms.stride * 6))
    reflectance = np.random.default_rng(3).random((4, 190, 140), np.float32)
    reflectance[:, 100:, :40] = np.nan
    few, many = predict.mask(model, reflectance, buffer=buffer), predict.mask(larger, reflectance, buffer=buffer)
    np.testing.assert_array_equal(few, many)


def test_a_network_that_gives_no_number_fails_the_scene(tmp_path: Path) -> None:
    """What is no number is above no threshold: it must not pass for clear."""
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"]),
        helper.make_node("Sqrt", ["x"], ["scores"]),  # Of red, where it is negative
    ]
    weights = np.zeros((1, 4, 1, 1))
    weights[0, 0] = 1
    terms = contract(graph=Graph(activation="none", stride=4))
    model = predict.prepare(checkpoint.load(save(tmp_path / "n.onnx", graph(weights, np.zeros(1), nodes=nodes), terms)))
    reflectance = np.full((4, 64, 64), 0.5, np.float32)
    assert predict.mask(model, reflectance).all()
    reflectance[0, 5, 6] = -0.1
    with pytest.raises(SceneError, match="network tiny gives values that are not finite numbers, 1 of"):
        predict.mask(model, reflectance)


def test_a_network_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in the installed package of its makers, known by its sum; none of its code is run."""
    package = tmp_path / "ukis_csmask"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('no code of the package is run')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ContractError, match=r"model_4b_l2a\.onnx: No such file"):
        source.read("ukis-csmask-l2a")
    (package / "model_4b_l2a.onnx").write_bytes(bright().SerializeToString())
    with pytest.raises(ContractError, match=r"its record says 3884d75ca497ec59…"):
        source.read("ukis-csmask-l2a")
    monkeypatch.setattr(source.util, "find_spec", lambda name: None)
    with pytest.raises(ContractError, match="package ukis_csmask, which is not installed") as caught:
        source.read("ukis-csmask-l1c-6b")
    assert caught.value.hint == "pip install ukis-csmask"


@pytest.mark.parametrize("name", source.NAMES)
def test_records_in_the_package_can_be_read(name: str) -> None:
    told = json.loads((source.RECORDS / f"{name}.json").read_text())
    terms = source.record.from_record(told)
    assert (terms.name, terms.classes, len(terms.bands)) == (name, (CLEAR, CLOUD, SHADOW), 6 if "6b" in name else 4)
    assert terms.padding() == 205
    assert terms.tiling(10980, 10980).tile == 2040


@pytest.mark.parametrize(("stem", "gradients"), [(1, True), (2, True), (2, False)])
def test_our_own_network_exported_gives_the_same_masks(stem: int, gradients: bool, tmp_path: Path) -> None:
    made = make_checkpoint(tile=128, stem=stem)
    checkpoint.save(made.network, made.contract, tmp_path / "net.safetensors")
    with torch.set_grad_enabled(gradients):
        export(tmp_path / "net.safetensors", tmp_path / "net.onnx")
    ours, theirs = (checkpoint.load(tmp_path / f"net.{kind}") for kind in ("safetensors", "onnx"))
    assert theirs.contract == replace(ours.contract, graph=theirs.contract.graph, widths=theirs.contract.widths, stem=1)
    reflectance = np.random.default_rng(0).random((4, 500, 420), np.float32)
    reflectance[:, :30, :200] = np.nan
    one, other = (predict.mask(predict.prepare(each, "cpu"), reflectance) for each in (ours, theirs))
    assert (one != other).sum() <= 1
    assert 0.05 < (one == CLOUD).mean() < 0.95


@pytest.mark.parametrize("like", ["known.onnx", "ukis-csmask-l2a"])
def test_a_draft_for_somebody_elses_graph(like: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(blurred(64).SerializeToString())
    if like not in source.NAMES:
        like = str(save(tmp_path / like, blurred(), contract(halo=0, graph=Graph((CLEAR, CLOUD, SHADOW), "softmax"))))
    path.with_suffix(".json").write_text(json.dumps(draft(path, like)))
    with pytest.raises(ContractError, match="No such file"):
        draft(tmp_path / "none.onnx", like)
    terms = checkpoint.load(path).contract
    assert (terms.name, terms.graph.window, terms.classes) == ("theirs", 64, (CLEAR, CLOUD, SHADOW))


@pytest.mark.parametrize(("bands", "classes"), [(13, 4), (3, 1)])
def test_a_draft_is_refused_until_its_bands_and_classes_are_named(bands: int, classes: int, tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(graph(np.ones((classes, bands, 1, 1)), np.zeros(classes)).SerializeToString())
    told = draft(path, "ukis-csmask-l2a-6b")
    record = path.with_suffix(".json")
    record.write_text(json.dumps(told))
    with pytest.raises(ContractError, match="its band is 'band 1'; known are coastal, blue"):
        checkpoint.load(path)
    taken(told)["bands"] = list(source.record.BANDS[:bands])
    record.write_text(json.dumps(told))
    if classes > 1:
        with pytest.raises(ContractError, match="its class is 'class 1'; known are clear, cloud"):
            checkpoint.load(path)
        own(told)["classes"] = ["clear", "cloud", "thin_cloud", "cloud_shadow"]
        record.write_text(json.dumps(told))
    terms = checkpoint.load(path).contract
    assert (len(terms.bands), len(terms.classes), terms.mean[0], terms.std[0]) == (bands, classes, 0, 1)


@pytest.mark.parametrize(
    ("taken", "given", "says"),
    [
        (["n", 4, "h", "w"], ["n", 2**40, "h", "w"], "output scores of 1099511627776 classes; expected 64 at most"),
        (["n", 4], ["n", 1], "input image of shape .*; expected four sides"),
        (["n", 4, "h", "w"], ["n"], "output scores of shape .*; expected four sides"),
        ([1, 4, 1, 1], [1, 1, 1, 1], "windows of 1 pixels, too small to overlap; expected 4 at least"),
    ],
)
def test_shapes_of_which_no_draft_can_be_made(taken: list, given: list, says: str, tmp_path: Path) -> None:
    path, known = tmp_path / "theirs.onnx", save(tmp_path / "known.onnx", bright(), contract())
    path.write_bytes(bright(taken=taken, given=given).SerializeToString())
    done = CliRunner().invoke(cli.cli, ["model", str(path), "--like", str(known)])
    assert isinstance(done.exception, ContractError), done.exception
    assert re.search(says, str(done.exception))


def test_the_hint_where_there_is_no_record_is_a_command_that_drafts_one(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(blurred(64).SerializeToString())
    with pytest.raises(ContractError, match=r"there is no theirs\.json beside it") as caught:
        source.read(path)
    *words, arrow, beside = shlex.split((caught.value.hint or "").removeprefix("draft one: "))
    assert (words[0], words[-2], arrow) == ("cloudjob", "--like", ">")
    assert words[-1] in source.NAMES
    done = CliRunner().invoke(cli.cli, words[1:])
    assert done.exit_code == 0, done.output
    Path(beside).write_text(done.stdout)
    assert checkpoint.load(path).contract.name == "theirs"


def test_a_gpu_computes_in_float32_and_takes_its_part_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own default is TF32, as torch's is, and all memory."""
    runtime = mock.Mock()
    runtime.get_available_providers.return_value = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: mock.Mock(total_memory=16 << 30))
    monkeypatch.setenv(SHARE, "4")
    (name, how), beside = _providers(runtime)
    assert (name, beside) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (how["use_tf32"], how["gpu_mem_limit"]) == ("0", str(4 << 30))
