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

from cloudjob.errors import UsageError

SIDE = 256  # pixels; the networks' input
OVERLAP = 0.2
THREADS = 2


def available() -> bool:
    """Whether the peer is installed."""
    return all(importlib.util.find_spec(name) for name in ("ukis_csmask", "onnxruntime"))


def probability(reflectance: npt.NDArray[np.float32], level: str = "l2a") -> npt.NDArray[np.float32]:
    """Cloud probability (height, width) of reflectance (4, height, width) in red, green, blue, near infrared.

    Tiles, normalisation and blending are the peer's own; its class map is the largest of three probabilities, so
    cloud is where this is above those of ground and shadow. Returned is p(cloud) / (p(cloud) + the larger other),
    which is above 0.5 exactly where the peer says cloud.

    Raises:
        UsageError: the peer is not installed.
    """
    if not available():
        raise UsageError("ukis-csmask is not installed", hint="pip install ukis-csmask onnxruntime")
    from ukis_csmask.mask import CSmask  # noqa: PLC0415  (optional)
    from ukis_csmask.utils import tile_array, untile_array  # noqa: PLC0415

    session, mean, std = _session(level)
    image = CSmask.normalize(np.moveaxis(reflectance[[2, 1, 0, 3]], 0, 2).astype(np.float32), mean, std)
    tiles = np.moveaxis(tile_array(image, SIDE, SIDE, OVERLAP), -1, 1)
    name = session.get_inputs()[0].name
    logits = np.concatenate([session.run(None, {name: tile[None]})[0] for tile in tiles])
    scores = np.moveaxis(CSmask.softmax(logits), 1, -1)
    blended = untile_array(scores, (*reflectance.shape[1:], 3), OVERLAP, smooth_blending=True)
    other = np.maximum(blended[..., 0], blended[..., 2])
    share: npt.NDArray[np.float32] = blended[..., 1] / np.maximum(blended[..., 1] + other, 1e-6)
    return share.astype(np.float32)


@cache
def _session(level: str) -> tuple[Any, list[float], list[float]]:
    # By name, for neither is a dependency: types are the same whether they are installed or not.
    onnxruntime: Any = import_module("onnxruntime")
    folder = Path(str(import_module("ukis_csmask").__file__)).parent
    statistics = json.loads((folder / f"model_4b_{level}.json").read_text())["data"]["dataset_statistics"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    model = str(folder / f"model_4b_{level}.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session, *statistics["img"]
