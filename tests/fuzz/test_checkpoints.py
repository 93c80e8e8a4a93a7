"""Checkpoints from anybody: loaded or refused, without a traceback, a hang, or more memory than the file's own."""

import json
import random
import resource
from pathlib import Path

import mutate
import pytest
from conftest import make_checkpoint
from networks import FOUR, contract, four_classes

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint, source
from cloudjob.model.contract import Graph
from cloudjob.model.draft import to_record

QUICK = 60


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "net.safetensors"
    made = make_checkpoint(training_data=("simulated",), metrics={"iou": 0.5})
    checkpoint.save(made.network, made.contract, path)
    return path.read_bytes()


def damaged(rng: random.Random, good: bytes) -> bytes:
    """A checkpoint with another record, another header, or other bytes."""
    if rng.random() < 0.2:
        return mutate.data(rng, good)
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    if rng.random() < 0.85:
        record = json.loads(header["__metadata__"]["mlm"])
        text = json.dumps(mutate.document(rng, record))
        header["__metadata__"]["mlm"] = text if rng.random() < 0.95 else "[" * 100_000
    else:
        header = mutate.document(rng, header)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + good[8 + size :]


def refusal(data: bytes) -> str:
    try:
        checkpoint.parse(data, "fuzzed.safetensors")
    except ContractError as error:
        return str(error)
    return ""


@pytest.mark.timeout(mutate.LIMIT)
def test_a_checkpoint_is_loaded_or_refused(good: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = refused = 0
    for rng in mutate.generators(QUICK):
        if told := refusal(damaged(rng, good)):
            assert len(told) < 5000
            refused += 1
        else:
            loaded += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{loaded} loaded, {refused} refused, {grown:.0f} MiB more at the peak")
    assert refused > loaded / 4
    assert grown < 500


@pytest.mark.timeout(mutate.LIMIT)
def test_a_record_of_a_network_in_onnx_is_loaded_or_refused() -> None:
    terms = contract(
        graph=Graph(FOUR, "softmax", stride=4, clip=((0, 1),) * 4), training_data=("x",), metrics={"iou": 1}
    )
    record, data = to_record(terms, "net.onnx"), four_classes().SerializeToString()
    loaded = refused = 0
    for rng in mutate.generators(QUICK):
        try:
            damaged = source.graph.with_record(data, mutate.document(rng, record))
        except ValueError:  # Protocol buffers hold no half of a surrogate
            continue
        if told := refusal(damaged):
            assert len(told) < 1000
            refused += 1
        else:
            loaded += 1
    print(f"{loaded} loaded, {refused} refused")
    assert refused > loaded / 4


def test_what_the_issue_names(good: bytes, tmp_path: Path) -> None:
    """7.6 kB that told of 14 GB; widths of 2**62; statistics that make every mask clear."""
    size = int.from_bytes(good[:8], "little")
    for change in (
        {"widths": [2**62]},
        {"widths": [4096] * 10},
        {"widths": [64] * 60},
        {"stem": 2**40},
        {"dilation": -1},
    ):
        header = json.loads(good[8 : 8 + size])
        record = json.loads(header["__metadata__"]["mlm"])
        record["properties"]["mlm:hyperparameters"] |= change
        header["__metadata__"]["mlm"] = json.dumps(record)
        written = json.dumps(header).encode()
        with pytest.raises(ContractError):
            checkpoint.parse(len(written).to_bytes(8, "little") + written + good[8 + size :], "small.safetensors")
