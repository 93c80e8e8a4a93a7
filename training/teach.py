"""Targets from the teacher, `ukis-csmask`, for scenes without labels by people."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training import peer
from training.patch import ALL_BANDS, CLEAR, CLOUD, UNKNOWN, Float, Patch, any_of, empty
from training.settings import Data

SURE = 0.1
"""The teacher's probability below which it is sure that there is no cloud."""


def targets(patches: Sequence[Patch], settings: Data, cache: Path) -> dict[str, Float]:
    """Targets (height, width) by patch name, 0 to 1 and NaN for unknown; `cache` keeps what the teacher said.

    Scenes in `settings.teacher` get its probability, those in `settings.confirmed` their own label, where cloud
    counts only if the teacher says so too, and what is not labelled is clear if the teacher is sure of that: it
    takes ice for cloud, but hardly ever cloud for ice. Scenes in `settings.agreeing`, with a label by an algorithm too,
    get the teacher's probability where both say the same, or where there is no label and the teacher is sure.
    """
    said = dict(np.load(cache)) if cache.exists() else {}
    known = len(said)
    result: dict[str, Float] = {}
    for patch in patches:
        groups = (settings.teacher, settings.agreeing, settings.confirmed)
        taught, agreeing, confirmed = (any_of(patch.scene, names) for names in groups)
        if not taught and not agreeing and not confirmed:
            continue
        reflectance, label = patch.read(len(ALL_BANDS))
        if patch.name not in said:
            said[patch.name] = _ask(reflectance, patch.level)
        if taught:
            result[patch.name] = said[patch.name].astype(np.float32)
        elif agreeing:
            sure = np.abs(said[patch.name] - 0.5) > 0.5 - SURE
            same = np.where(label == UNKNOWN, sure, (said[patch.name] > 0.5) == (label == CLOUD))
            result[patch.name] = np.where(same, said[patch.name], np.nan).astype(np.float32)
        else:
            agreed = (label == CLOUD) & (said[patch.name] > 0.5)
            clear = (label == CLEAR) | (label == UNKNOWN) & (said[patch.name] < SURE)
            result[patch.name] = np.where(clear, 0, np.where(agreed, 1, np.nan)).astype(np.float32)
        result[patch.name][empty(reflectance)] = np.nan
    if len(said) > known:
        _save(cache, said)
    return result


class Words:
    """What the teacher says of blends, by their number; a file keeps it, for it is slow.

    Args:
        path: of the file.
        seed: of the blends.
        names: of the patches that they are made of.
    """

    def __init__(self, path: Path, seed: int, names: Sequence[str]) -> None:
        self.path = path
        self.of = hashlib.sha256(repr((seed, sorted(names))).encode()).hexdigest()
        said = dict(np.load(path)) if path.exists() else {}
        self.said = said if str(said.pop("of", "")) == self.of else {}
        self.known = len(self.said)

    def __call__(self, number: int, reflectance: Float) -> Float:
        """Probability (side, side) of cloud in reflectance (6, side, side)."""
        if str(number) not in self.said:
            self.said[str(number)] = np.round(255 * peer.probability_of_tile(reflectance)).astype(np.uint8)
        return np.asarray(self.said[str(number)] / np.float32(255), np.float32)

    def save(self) -> None:
        """Keep what is new."""
        if len(self.said) > self.known:
            _save(self.path, {**self.said, "of": np.array(self.of)})
            self.known = len(self.said)


def _save(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.replace(path)


def _ask(reflectance: Float, level: str) -> npt.NDArray[np.float16]:
    """The mean of what the teacher says to the image and to its three mirror images."""
    total = np.zeros(reflectance.shape[1:], np.float32)
    for rows in (slice(None), slice(None, None, -1)):
        for columns in (slice(None), slice(None, None, -1)):
            mirrored = np.ascontiguousarray(reflectance[:, rows, columns])
            total += peer.probability(mirrored, level)[rows, columns]
    return (total / 4).astype(np.float16)
