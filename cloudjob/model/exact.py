"""Torch's settings while a network runs: every bit of float32, and always the same algorithm."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SETTINGS: tuple[tuple[Any, str, Any], ...] = (
    # By default GPUs round what they convolve to 10 bits (TF32). Measured on an H200: 11 labels in a million differ
    # from the CPU's then, and none without; of float16 150. A GPU has the time: it waits for the cores that read.
    (torch.backends.cudnn.conv, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    (torch.backends.mkldnn.conv, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    (torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),  # type: ignore[attr-defined]
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)
"""Where, which, and what it is while a network runs. Torch's old names for the same (`allow_tf32`) are not touched:
it raises RuntimeError where both are used."""


class _Exactly:
    """They are the process's, not a thread's: the first that comes in sets them, the last to go out gives them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[Any] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._before = [getattr(where, name) for where, name, _ in SETTINGS]
                for where, name, value in SETTINGS:
                    setattr(where, name, value)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    for (where, name, _), value in zip(SETTINGS, self._before, strict=True):
                        setattr(where, name, value)


exactly = _Exactly()
"""While in the block, torch computes with `SETTINGS` in all threads of the process; afterwards as it did before."""
