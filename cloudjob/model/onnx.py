"""A network in ONNX, run by ONNX Runtime: from reflectance to the probability of each class."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cloudjob.errors import ContractError, SceneError
from cloudjob.model import graph as graphs
from cloudjob.model.contract import Contract
from cloudjob.model.share import share

Array = npt.NDArray[np.float32]

WINDOWS = 8
"""How many windows of one size go into one call on a GPU; on CPUs one, where more only cost memory."""

TRIAL = 512
"""Rows, about, of the random numbers with which a network is tried. Where it takes any size they have a stride more of
columns: so what gives one size for all, or exchanges rows and columns, is found."""


class OnnxNetwork:
    """A network that is tried, and ready to predict: from the bytes of a file, which errors call by its path.

    Raises:
        ContractError: it does not fit its record; ONNX Runtime is not installed or cannot run it; what it gives for
            random numbers has another shape than its record says, or is no probability.
    """

    def __init__(self, data: bytes, contract: Contract, path: str) -> None:
        assert contract.graph is not None
        self.contract, self.graph, self.path = contract, contract.graph, path
        found = graphs.inspect(data, path)
        graphs.check(found, contract, path)
        self.parameters = found.parameters
        self._single = found.taken.shape[0] == 1
        runtime = graphs.library("onnxruntime")
        self.runtime = f"onnxruntime {runtime.__version__}"
        try:
            self._session = runtime.InferenceSession(data, _options(runtime), providers=_providers(runtime))
        except Exception as error:  # noqa: BLE001  # ONNX Runtime's own are many and share no class
            raise ContractError(f"checkpoint {path}: ONNX Runtime cannot load it: {_line(error)}") from None
        self._name = found.taken.name
        self._weight = _fade(self.graph.window, contract.halo) if self.graph.window else np.ones((), np.float32)
        self._try()

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cuda" if self._session.get_providers()[0] == "CUDAExecutionProvider" else "cpu")

    def probability(self, window: Array, inside: npt.NDArray[np.bool_]) -> Array:
        """The probability of each class.

        Args:
            window: reflectance (band, y, x), finite everywhere: a tile with the contract's padding.
            inside: (y, x), where there are data.

        Returns:
            (class, y, x) float32, 0 to 1; for one class (y, x).

        Raises:
            SceneError: the network gives something that is no number, or cannot be run.
        """
        height, width = window.shape[1:]
        side, halo, step = self.graph.window, self.contract.halo, self.contract.stride
        if not side:
            scores: Array = self._run([self._scaled(window, inside)])[0]
        else:
            scores = np.zeros((len(self.graph.classes), height, width), np.float32)
            tops, lefts = (range(side - 2 * halo, length - side + 1, step) for length in (height, width))
            places = [(slice(top, top + side), slice(left, left + side)) for top in tops for left in lefts]
            places = [place for place in places if inside[place].any()]
            for place, found in zip(places, self._each(window, inside, places), strict=True):
                scores[:, *place] += found * self._weight
        one: Array = scores[0]
        return one if len(scores) == 1 else scores

    def _each(self, window: Array, inside: npt.NDArray[np.bool_], places: list[tuple[slice, slice]]) -> Iterator[Array]:
        """Give the scores (class, y, x) of windows of one size, in calls of one number of them."""
        count = 1 if self._single or self.device.type == "cpu" else WINDOWS
        for start in range(0, len(places), count):
            now = places[start : start + count]
            scaled = [self._scaled(window[:, *place], inside[place]) for place in now]
            # Filled up, or the device might choose another algorithm for the last ones
            yield from self._run([*scaled, *scaled[:1] * (count - len(now))])[: len(now)]

    def _scaled(self, window: Array, inside: npt.NDArray[np.bool_]) -> Array:
        values = np.minimum(window, np.float32(self.contract.brightest))
        if self.graph.per_tile:
            return _by_itself(values, inside)
        if self.graph.clip:
            low, high = np.array(self.graph.clip, np.float32).T[..., None, None]
            values = np.clip(values, low, high)
        mean, std = (np.array(each, np.float32)[:, None, None] for each in (self.contract.mean, self.contract.std))
        scaled: Array = (values - mean) / std
        return scaled

    def _run(self, windows: list[Array]) -> Array:
        """Scores (window, class, y, x), made probabilities."""
        return self._probable(self._raw(windows))

    def _raw(self, windows: list[Array]) -> Array:
        """What the graph itself gives."""
        try:
            (raw,) = self._session.run(None, {self._name: np.stack(windows)})
        except Exception as error:  # noqa: BLE001  # See above
            raise SceneError(f"the network {self.contract.name} failed: {_line(error)}") from None
        scores: Array = np.ascontiguousarray(raw)
        return scores

    def _probable(self, raw: Array) -> Array:
        scores = torch.from_numpy(raw)
        if self.graph.activation == "sigmoid":
            scores = torch.sigmoid(scores)
        elif self.graph.activation == "softmax":
            scores = torch.softmax(scores, dim=1)
        probability: Array = scores.numpy()
        return probability

    def _try(self) -> None:
        """Run it on random numbers: does it give what its record says?"""
        noise = self._noise(self.graph.stride)
        bands, height, width = noise.shape
        everywhere = np.ones((height, width), np.bool_)
        try:
            raw = self._raw([self._scaled(noise, everywhere)])
            scores = self._probable(raw)
        except SceneError as error:
            raise ContractError(f"checkpoint {self.path}: {error}", hint=self._larger_stride()) from None
        told = f"checkpoint {self.path}, tried on random numbers of shape (1, {bands}, {height}, {width}),"
        wanted = (1, len(self.graph.classes), height, width)
        if scores.shape != wanted:
            says = f"{told} gives the shape {scores.shape}; its record says {wanted}"
            raise ContractError(says, hint=self._larger_stride() or graphs.FORM)
        if not np.isfinite(scores).all():
            raise ContractError(f"{told} gives values that are not finite numbers")
        low, high = float(scores.min()), float(scores.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise ContractError(
                f"{told} gives {low:.3g} to {high:.3g}, but its record's activation is none: expected 0 to 1",
                hint='its record should say "sigmoid" for one class, "softmax" for more',
            )
        if self.graph.activation != "none" and self._is_probability(raw, everywhere):
            raise ContractError(
                f"{told} gives probabilities, of which its record's {self.graph.activation} would make others",
                hint='its record should say "none"',
            )

    def _noise(self, stride: int) -> Array:
        height = self.graph.window or max(1, TRIAL // stride) * stride
        width = self.graph.window or height + stride
        return np.random.default_rng(0).random((len(self.contract.bands), height, width), np.float32)

    def _larger_stride(self) -> str | None:
        """What to do where the record's stride is the fault: with sides of larger multiples it gives what it should."""
        strides = () if self.graph.window else (2**halvings for halvings in range(1, 8))
        for stride in (each for each in strides if each > self.graph.stride):
            noise = self._noise(stride)
            with suppress(SceneError):
                raw = self._raw([self._scaled(noise, np.ones(noise.shape[1:], np.bool_))])
                if raw.shape == (1, len(self.graph.classes), *noise.shape[1:]):
                    return f'its record should say "stride": {stride}'
        return None

    def _is_probability(self, raw: Array, everywhere: npt.NDArray[np.bool_]) -> bool:
        """Whether what the graph gives are probabilities, whatever it ends in, as where several are averaged.

        Those of several classes add up to 1. Of one class they stay between 0 and 1 over shadow and cloud, too: of
        scores that do so, a sigmoid would call all cloud.
        """
        if raw.min() < 0 or raw.max() > 1:
            return False
        if raw.shape[1] > 1:
            return bool(np.allclose(raw.sum(axis=1), 1, rtol=0, atol=1e-3))
        flat = [np.full((len(self.contract.bands), *everywhere.shape), level, np.float32) for level in (0.02, 0.8)]
        found = np.stack([raw, *(self._raw([self._scaled(window, everywhere)]) for window in flat)])
        return bool(found.min() >= 0 and found.max() <= 1 and np.ptp(found) > 0.1)


def _by_itself(values: Array, inside: npt.NDArray[np.bool_]) -> Array:
    """Each band less its own mean, over its own deviation, both of the pixels with data; 0 where there are none."""
    scaled = np.zeros_like(values)
    if inside.any():
        known = values[:, inside].astype(np.float64)
        mean, std = known.mean(axis=1)[:, None], known.std(axis=1)[:, None]
        scaled[:, inside] = (known - mean) / np.maximum(std, 1e-6)  # A band that is one number all over gives 0
    return scaled


def _fade(side: int, halo: int) -> Array:
    """What a window (y, x) of one size counts: with its neighbours it adds up to 1.

    Tapered by a cosine (Tukey), as ukis-csmask does: a window's edge knows only half of its surroundings.
    """
    ramp = np.sin(np.pi / 2 * np.arange(halo + 1) / halo) ** 2
    line = np.concatenate([ramp, np.ones(side - 2 * halo - 2), ramp[::-1]]).astype(np.float32)
    return np.asarray(np.outer(line, line))


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # One core each: two differ in the last bit
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # What matters is raised
    return options


def _providers(runtime: Any) -> list[Any]:
    if "CUDAExecutionProvider" not in runtime.get_available_providers() or not torch.cuda.is_available():
        return ["CPUExecutionProvider"]
    # By default it tries every algorithm, takes all memory, and doubles what it holds
    how = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(torch.cuda.get_device_properties(0).total_memory // share()),
        "use_tf32": "0",
    }
    return [("CUDAExecutionProvider", how), "CPUExecutionProvider"]


def _line(error: Exception) -> str:
    """The first line of what ONNX Runtime says, not all of a graph."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
