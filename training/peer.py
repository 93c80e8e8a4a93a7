"""The strong peer `ukis-csmask` 1.0.0 (DLR, Apache-2.0): beside our network in the evaluation, and as a teacher.

It needs `pip install ukis-csmask onnxruntime`. Its four-band networks (EfficientNet-B4 U-Nets) come in the wheel.
"""

import importlib.util
import json
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cloudjob.errors import UsageError

SIDE = 256  # pixels; the networks' input
OVERLAP = 0.2
ORDER = (2, 1, 0, 3, 4, 5)
"""Its bands, blue first, among ours."""
THREADS = 0
"""Of onnxruntime; 0 for as many as torch takes, which is one in a process that prepares samples."""


def available() -> bool:
    """Whether the peer is installed."""
    return all(importlib.util.find_spec(name) for name in ("ukis_csmask", "onnxruntime"))


def probability(reflectance: npt.NDArray[np.float32], level: str = "l2a") -> npt.NDArray[np.float32]:
    """Cloud probability (height, width) of reflectance (4 or 6, height, width) in the order of `ALL_BANDS`.

    With both infrared bands its network of six bands is asked, else that of four; a band of NaN is absent.

    Tiles, normalisation and blending are the peer's own; its class map is the largest of three probabilities, so
    cloud is where this is above those of ground and shadow. Returned is p(cloud) / (p(cloud) + the larger other),
    which is above 0.5 exactly where the peer says cloud.

    Raises:
        UsageError: the peer is not installed.
    """
    _check()
    from ukis_csmask.utils import tile_array, untile_array  # noqa: PLC0415  (optional)

    height, width = reflectance.shape[1:]
    grown = [(0, 0), (0, max(0, SIDE - height)), (0, max(0, SIDE - width))]
    image = np.pad(reflectance, grown, mode="symmetric")  # it takes nothing smaller than its tile
    model = _model(reflectance, level)
    tiles = np.moveaxis(tile_array(_normalised(image, model), SIDE, SIDE, OVERLAP), -1, 1)
    scores = np.moveaxis(np.concatenate([_scores(tile, model) for tile in tiles]), 1, -1)
    whole = untile_array(scores, (*image.shape[1:], 3), OVERLAP, smooth_blending=True)
    return _share(whole[:height, :width])


def probability_of_tile(reflectance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same for level 2A (4 or 6, `SIDE`, `SIDE`) at once: four times as fast, and different near the edges."""
    _check()
    model = _model(reflectance, "l2a")
    tile = np.moveaxis(_normalised(reflectance, model), -1, 0)
    return _share(np.moveaxis(_scores(tile, model)[0], 0, -1))


def _model(reflectance: npt.NDArray[np.float32], level: str) -> str:
    six = len(reflectance) == len(ORDER) and not np.isnan(reflectance[4:]).any()
    return f"model_{6 if six else 4}b_{level}"


def _check() -> None:
    if not available():
        raise UsageError("ukis-csmask is not installed", hint="pip install ukis-csmask onnxruntime")


def _normalised(reflectance: npt.NDArray[np.float32], model: str) -> npt.NDArray[np.float32]:
    """(height, width, band) in the peer's order and units."""
    from ukis_csmask.mask import CSmask  # noqa: PLC0415

    _, mean, std = _session(model)
    bands = np.moveaxis(reflectance[list(ORDER[: len(mean)])], 0, 2).astype(np.float32)
    normalised: npt.NDArray[np.float32] = CSmask.normalize(bands, mean, std)
    return normalised


def _scores(tile: npt.NDArray[np.float32], model: str) -> npt.NDArray[np.float64]:
    """(1, class, height, width), their sum over classes 1, of a tile (band, height, width)."""
    from ukis_csmask.mask import CSmask  # noqa: PLC0415

    session, _, _ = _session(model)
    logits = session.run(None, {session.get_inputs()[0].name: tile[None].astype(np.float32)})[0]
    scores: npt.NDArray[np.float64] = CSmask.softmax(logits)
    return scores


def _share(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Of cloud, between itself and the larger of the other two, from (height, width, class)."""
    other = np.maximum(scores[..., 0], scores[..., 2])
    share: npt.NDArray[np.float64] = scores[..., 1] / np.maximum(scores[..., 1] + other, 1e-6)
    return share.astype(np.float32)


@cache
def _session(model: str) -> tuple[Any, list[float], list[float]]:
    # By name, for neither is a dependency: types are the same whether they are installed or not.
    onnxruntime: Any = import_module("onnxruntime")
    folder = Path(str(import_module("ukis_csmask").__file__)).parent
    statistics = json.loads((folder / f"{model}.json").read_text())["data"]["dataset_statistics"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS or torch.get_num_threads()
    path = str(folder / f"{model}.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session, *statistics["img"]
