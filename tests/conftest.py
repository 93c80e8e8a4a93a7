"""Fixtures that several test files share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import settings

from cloudjob.model.checkpoint import Checkpoint, untrained
from cloudjob.model.contract import Contract

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("CLOUDJOB_SHARED", ROOT.parent / "shared"))
REAL = SHARED / "data" / "stac" / "items.json"

settings.register_profile("busy", deadline=None)  # two noisy cores: time proves nothing
settings.load_profile("busy")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has what it starts in the background ignore Ctrl-C, and all that is started from there.
    signal.signal(signal.SIGINT, signal.default_int_handler)

needs_real_scenes = pytest.mark.skipif(not REAL.exists(), reason="the real scenes of ../shared/data are not here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: while one that is left for the end is at work other cores are idle."""
    items.sort(key=lambda item: item.path.parent.name not in ("end_to_end", "training", "cluster"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """No test cuts the power. Those of the order in which files reach the disk put a function of their own here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a command that is called in this process leaves in the environment must not reach another test's processes.

    `--json` makes Dask's processes say less; a test that waits for a scheduler's address would wait for ever.
    """
    with mock.patch.dict(os.environ):
        yield


def make_checkpoint(**changes: object) -> Checkpoint:
    """A small network with fixed random weights whose probabilities lie on both sides of 0.5."""
    contract = Contract(
        **{
            "name": "test",
            "version": "0",
            "bands": ("red", "green", "blue", "nir"),
            "mean": (0.2,) * 4,
            "std": (0.2,) * 4,
            "tile": 64,
            "halo": 24,
            "widths": (4, 8, 8),
            **changes,
        }  # type: ignore[arg-type]
    )
    torch.manual_seed(3)
    network = untrained(contract).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.mul_(2)
        noise = torch.rand(1, len(contract.bands), 128, 128) * 2 - 1
        network.final.bias -= network(noise).median()
    return Checkpoint(contract, network, "0" * 64)
