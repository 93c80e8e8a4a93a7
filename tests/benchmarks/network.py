"""Speed of the networks: `python tests/benchmarks/network.py [SIDE]`; Mpx per CPU-second, or per second on a GPU.

The network that ships, the one first specified, and the peer `ukis-csmask`, all on one image of SIDE × SIDE pixels;
on a CPU with one thread, as a worker computes. The shipped network also through onnxruntime, where `onnx` is there, and
on how many pixels of noise it says something else than torch.
"""

import contextlib
import importlib.util
import io
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cloudjob.model import checkpoint, predict
from cloudjob.model.checkpoint import untrained
from cloudjob.model.contract import Contract
from training import peer

REPEATS = 3


def main() -> None:
    """Print one line per network."""
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 1120  # a tile of 1024 with its halo
    torch.set_num_threads(1)
    peer.THREADS = 1
    shipped = checkpoint.load()
    bands = shipped.contract.bands
    image = np.random.default_rng(0).random((len(bands), side, side), np.float32)
    terms = Contract("specified", "1", bands[:4], (0.25,) * 4, (0.25,) * 4)
    specified = checkpoint.Checkpoint(terms, untrained(terms).eval(), "")
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        for name, made in (("shipped", shipped), ("SimpleUNet(4)", specified)):
            model = predict.prepare(made, device)
            measure(f"{name}, {model.device_name}", side, device, lambda m=model: run(m, image))
    session = onnx_session(shipped, side)
    if session:
        normal = ((image - 0.25) / 0.25)[None]
        measure("shipped, onnxruntime", side, "cpu", lambda: session.run(None, {"image": normal}))
        (logits,) = session.run(None, {"image": normal})
        likely = run(predict.prepare(shipped, "cpu"), image)
        limit = shipped.contract.threshold
        differ = np.count_nonzero((1 / (1 + np.exp(-logits[0, 0])) >= limit) != (likely >= limit))
        print(f"shipped, onnxruntime: pixels whose label differs from torch's  {differ} of {likely.size:,}")
    if peer.available():
        measure("ukis-csmask (4 bands, L2A)", side, "cpu", lambda: peer.probability(image[:4]))


def run(model: predict.Model, image: np.ndarray) -> np.ndarray:
    return predict.probability(model, image[: len(model.contract.bands)])[0]


def measure(name: str, side: int, device: str, work: Callable[[], object]) -> None:
    """The best of some repeats; on a GPU by the wall clock."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(REPEATS + 1):  # the first one warms up
        begin = clock()
        result = work()
        seconds.append(clock() - begin)
    images = len(result) if isinstance(result, list) and "onnx" not in name else 1
    print(f"{name:44} {images * side**2 / 1e6 / min(seconds[1:]):8.3f} Mpx/s")


def onnx_session(ckpt: checkpoint.Checkpoint, side: int) -> object:
    """The shipped network, BatchNorm folded, in onnxruntime with one thread; None where it cannot be made."""
    if not (importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx")):
        print("onnxruntime: needs `pip install onnx onnxruntime`")
        return None
    import onnxruntime

    network = predict.prepare(ckpt, "cpu").network
    target = Path("/tmp") / f"cloudjob-{ckpt.sha256[:8]}.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, len(ckpt.contract.bands), side, side),),
            target,
            input_names=["image"],
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
