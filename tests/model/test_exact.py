"""What torch is told while a network runs, and that it forgets it afterwards."""

import threading
from collections.abc import Iterator

import pytest
import torch

from cloudjob.model.exact import SETTINGS, exactly

WANTED = [value for _, _, value in SETTINGS]


def now() -> list[object]:
    return [getattr(where, name) for where, name, _ in SETTINGS]


@pytest.fixture(autouse=True)
def as_they_were() -> Iterator[None]:
    before = now()
    yield
    for (where, name, _), value in zip(SETTINGS, before, strict=True):
        setattr(where, name, value)


def test_torch_computes_exactly_only_while_asked_to() -> None:
    before = now()
    assert before[0] == "tf32", "torch's default for convolutions, which this is about"
    with exactly():
        assert now() == WANTED
    assert now() == before


def test_what_somebody_has_chosen_by_old_names_or_new_ones_is_his_again() -> None:
    """Torch raises where both are used, and warns of the old: neither is to come of us."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    before = now()
    with exactly():
        assert now() == WANTED
    assert now() == before
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32


def test_settings_come_back_after_an_error() -> None:
    before = now()
    with pytest.raises(RuntimeError, match="CUDA out of memory"), exactly():
        raise RuntimeError("CUDA out of memory")
    assert now() == before


def test_a_thread_that_is_done_does_not_change_them_for_another() -> None:
    before = now()
    there, go = threading.Event(), threading.Event()
    seen = []

    def other() -> None:
        with exactly():
            there.set()
            assert go.wait(10)
            seen.append(now())

    thread = threading.Thread(target=other)
    with exactly():
        thread.start()
        assert there.wait(10)
    assert now() == WANTED
    go.set()
    thread.join()
    assert seen == [WANTED]
    assert now() == before
