"""Threshold and buffer chosen on training-side scenes and written into a copy of the checkpoint."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cloudjob.errors import UsageError
from cloudjob.model import checkpoint, labels, predict
from training import peer
from training.methods import cases
from training.patch import CLOUD, UNKNOWN, Patch, empty
from training.score import Case, Counts, said

Option = tuple[float, int]  # threshold, and buffer in pixels

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(15))
OPTIONS = tuple((threshold, buffer) for threshold in THRESHOLDS for buffer in range(5))


def choose(found: Iterable[Case], options: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
    """Of each method's (threshold, buffer in pixels) that with the best mean IoU over scenes that have clouds.

    Raises:
        UsageError: there are no clouds.
    """
    counts: dict[str, dict[tuple[str, Option], Counts]] = {}
    for case in found:
        scene = counts.setdefault(case.patch.scene, defaultdict(Counts))
        for method, them in options.items():
            for cut, buffer in them:
                scene[method, (cut, buffer)].add(said(case.scores[method], cut, buffer), case.label)
    cloudy = [scene for scene in counts.values() if any(each.cloud for each in scene.values())]
    if not cloudy:
        raise UsageError("--choose-on matches no scene with clouds", hint="there is nothing to choose a threshold by")

    def best(method: str) -> Option:
        return max(options[method], key=lambda each: sum(scene[method, each].iou or 0.0 for scene in cloudy))

    return {method: best(method) for method in options}


def fix_choice(path: Path, patches: Sequence[Patch], out: Path, widened: int) -> tuple[float, int, float]:
    """Choose threshold and buffer on training-side patches and write them into the checkpoint `path` → `out`.

    Args:
        path: the checkpoint.
        patches: to choose on; those without a label get the teacher's.
        out: the file to write.
        widened: pixels by which the labels' clouds are widened, as in training (`settings.Data.widened`).

    Returns:
        Threshold, buffer in pixels, and the best cut for brightness on the same patches.

    Raises:
        UsageError: there is no cloud in the patches.
    """
    ckpt = checkpoint.load(path)
    found = (generous(case, widened) for case in cases(predict.prepare(ckpt), patches, with_peer=False))
    options = {"cloudjob": OPTIONS, "brightness": tuple((cut, 0) for cut in THRESHOLDS)}
    chosen = choose(found, options)
    (threshold, buffer), (bright, _) = chosen["cloudjob"], chosen["brightness"]
    # What was measured before was so at another threshold
    contract = dataclasses.replace(
        ckpt.contract, threshold=threshold, buffer=buffer * ckpt.contract.resolution, metrics={}
    )
    checkpoint.save(ckpt.unet, contract, out)
    return threshold, buffer, bright


def generous(case: Case, by: int) -> Case:
    """The case with its label's clouds widened by so many pixels; where there is no label it is the teacher's."""
    label = case.label
    if not case.patch.known:
        taught = (peer.probability(case.reflectance, case.patch.level) >= 0.5).astype(np.uint8)
        label = np.where(empty(case.reflectance), UNKNOWN, taught).astype(np.uint8)
    near = labels.widen(label == CLOUD, (by, by))
    return dataclasses.replace(case, label=np.where(near & (label != UNKNOWN), CLOUD, label).astype(np.uint8))
