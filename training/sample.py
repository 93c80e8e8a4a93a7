"""What the network is shown: one crop after another, real, simulated or both, each a pure function of its number.

A sample depends on (seed, epoch, index) alone, so that training can be killed and resumed, and that the number of
loading processes changes nothing. It says which folds of a cross-validation it was made of, so that one stream of
samples trains them all. Inside, an image is `training.patch.Reflectance`.

Sources of the method: simulated clouds as in `cloudjob.demo.simulate`; clouds cut from one image and pasted on another
as in CutMix (Yun et al. 2019, arXiv:1905.04899); a teacher's soft labels as targets (Hinton et al. 2015,
arXiv:1503.02531); what the sensor does to an image: `training.sensor`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter, maximum_filter  # type: ignore[attr-defined]  # scipy's own lists hide it
from torch.utils.data import Dataset

from cloudjob.demo import simulate
from cloudjob.model import predict
from cloudjob.model.contract import Contract
from training.crop import Sample, hidden, pad, resize, turn, window
from training.patch import ALL_BANDS, SWIR, UNKNOWN, Float, Patch, any_of, empty
from training.scenery import Scenery
from training.sensor import (
    WITHHELD,
    condensed,
    dazzle,
    dimmed,
    fade,
    frost,
    lose_sides,
    sensor,
    snowed,
    snowfall,
    undecided,
)
from training.settings import Mix

BLENDED = 0.25  # share of labelled crops that are two seen through each other, where there are such
FROSTED = 0.8  # share of crops of real snow whose swir16 is made up
SNOWED = 0.1  # share of crops with clouds that are snow instead, by their swir16 alone
SNOWY = 0.35  # share of clear grounds under clouds that are snow made up
KEPT = 2e9  # bytes of patches kept in memory; larger data sets are read again every epoch
DOUBTFUL = (0.03, 0.08)  # opacity between thin haze and thin cloud, where people disagree: not taught


@dataclass
class Samples(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """Crops of `crop` pixels: reflectance (bands, crop, crop) as the network sees it, target (1, crop, crop), folds.

    The target is NaN where it is unknown. Of the last number bit k is set where the crop shows a scene of fold k.

    Attributes:
        patches: to train on; those with a known label, those known to be clear, or both.
        mix: what is shown how often.
        length: samples of one epoch; 0 is as many as there are labelled patches.
        contract: of the network: its bands, and what it sees outside and where a band is absent.
        crop: side in pixels.
        seed: of everything that is random.
        epoch: of the next samples.
        skies: number of simulated skies (and of simulated grounds).
        soft: targets (height, width) that replace a patch's label, by its name; see `training.teach`.
        widened: pixels by which targets' clouds are widened.
        blended: names of patches of which crops are seen through each other and put to `ask`.
        blends: how many of these are made.
        ask: (number of the blend, reflectance (6, side, side)) → what the teacher says (side, side).
        side: of what it is asked.
        frozen: names of patches of snow and ice, whose `swir16` is made up.
        whole: show `length` crops, fixed by the seed, once an epoch in random order, instead of new ones.
        folds: of a cross-validation, each patterns of scenes.
    """

    patches: Sequence[Patch]
    mix: Mix
    length: int
    contract: Contract
    crop: int = 256
    seed: int = 0
    epoch: int = 0
    skies: int = 400
    soft: dict[str, Float] = field(default_factory=dict)
    whole: bool = False
    widened: int = 0
    blended: frozenset[str] = frozenset()
    blends: int = 0
    ask: Callable[[int, Float], Float] | None = None
    side: int = 256
    frozen: frozenset[str] = frozenset()
    folds: tuple[tuple[str, ...], ...] = ()
    _cache: dict[str, Sample] = field(default_factory=dict)
    _kept: int = 0
    _blends: dict[int, tuple[npt.NDArray[np.float16], int]] = field(default_factory=dict)
    _shown: int = 0

    def __post_init__(self) -> None:
        self.bands = len(self.contract.bands)
        self.scenery = Scenery(self.seed)
        self.labelled = [p for p in self.patches if (p.label is not None and not p.clear) or p.name in self.soft]
        self.length = self.length or len(self.labelled)
        self.scenes = _by_scene(self.labelled)
        self.opaque = _by_scene([p for p in self.labelled if self._has_opaque_clouds(p)])
        self.clear = [p for p in self.patches if p.clear]
        # Large data sets of clear ground are shown more often than small ones, but not as much as they are larger.
        sizes = Counter(p.source for p in self.clear)
        weights = np.array([sizes[p.source] ** -0.5 for p in self.clear], np.float64)
        self.often = weights / weights.sum() if self.clear else weights

    def warm(self, workers: int = 1) -> None:
        """Make everything that is kept in memory, before loading processes are forked and would each make their own."""
        for patch in self.patches:
            if self._kept >= KEPT:
                break
            self._read(patch)
        skies = self.skies if self.mix.clouded or self.mix.simulated else 0
        self.scenery.warm(skies, self.skies if self.mix.simulated else 0, workers)
        for number in range(self.blends):
            self._blend(number)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        self._shown = 0
        kind = rng.choice(5, p=self.mix.shares())
        if kind == 0 and self.whole:
            number = int(np.random.default_rng((self.seed, self.epoch)).permutation(self.length)[index])
            place = np.random.default_rng((self.seed, number))
            image, target = self._crop(rng, self.labelled[number % len(self.labelled)], place)
        elif kind == 0 and self.blends and rng.random() < BLENDED:
            both, shown = self._blend(int(rng.integers(self.blends)))
            self._shown |= shown
            image, target = turn(rng, *window(rng, both[:-1], both[-1], self.crop))
        elif kind == 0:
            image, target = self._crop(rng, self._draw(rng, self.scenes))
        elif kind == 1:
            image, target = self._bare(rng)
        elif kind == 2:
            image, target = self._pasted(rng)
        else:
            image, target = self._clouded(rng, simulated=kind == 4)
        image = image[: self.bands]
        snow = self.bands > SWIR and kind != 1 and rng.random() < SNOWED
        if snow:
            image, target = snowed(rng, image, target)
        sensed = sensor(rng, image, 0 if snow else WITHHELD)
        image, target = lose_sides(rng, fade(rng, sensed), undecided(image, target))
        image = image.copy()
        see(self.contract, image)
        return torch.from_numpy(image), torch.from_numpy(target[None].copy()), self._shown

    def _draw(self, rng: np.random.Generator, scenes: dict[str, list[Patch]]) -> Patch:
        """A patch of a scene: every scene is shown equally often, however many patches it is cut into."""
        patches = scenes[list(scenes)[rng.integers(len(scenes))]]
        return patches[rng.integers(len(patches))]

    def _crop(self, rng: np.random.Generator, patch: Patch, place: np.random.Generator | None = None) -> Sample:
        """A crop, at times zoomed, and turned; `place` says where, else it is anywhere."""
        image, target = self._read(patch)
        zoom = float(np.exp(rng.uniform(-0.7, 0.7))) if rng.random() < 0.3 else 1.0
        height, width = target.shape
        if min(height, width) < self.crop * zoom:  # a small patch fills the crop, up to twice as large
            zoom = max(min(zoom, min(height, width) / self.crop), 0.5)
        side = min(round(self.crop * zoom), height, width) if zoom != 1 else self.crop
        image, target = window(place or rng, image, target, side)
        if zoom != 1:
            image, target = resize(image, target, self.crop)
        image, target = pad(image, target, self.crop)
        if patch.name in self.frozen and self.bands > SWIR and rng.random() < FROSTED:
            image = frost(rng, image, target)
        return turn(rng, image, target)

    def _read(self, patch: Patch) -> Sample:
        """Reflectance and target of a whole patch, kept in memory."""
        self._shown |= self._folds_of(patch)
        if patch.name in self._cache:
            return self._cache[patch.name]
        image, label = patch.read(self.bands)
        target = label.astype(np.float32)
        target[label == UNKNOWN] = np.nan
        if patch.name in self.soft:
            target = np.where(~empty(image), self.soft[patch.name], np.nan).astype(np.float32)
        target = self._wide(target)
        if self._kept < KEPT:
            self._cache[patch.name] = image, target
            self._kept += image.nbytes + target.nbytes
        return image, target

    def _wide(self, target: Float) -> Float:
        """A target with its clouds widened; what is unknown stays so."""
        if not self.widened:
            return target
        wide = maximum_filter(np.nan_to_num(target), 2 * self.widened + 1)
        return np.where(np.isnan(target), target, wide).astype(np.float32)

    def _folds_of(self, patch: Patch) -> int:
        """Bit k is set where the patch is of fold k."""
        members = (any_of(patch.scene, fold) for fold in self.folds)
        return sum(1 << number for number, member in enumerate(members) if member)

    def _blend(self, number: int) -> tuple[npt.NDArray[np.float16], int]:
        """(bands + 1, side, side): two crops seen through each other, and what the teacher says of them; their folds.

        Haze and thin cloud of every kind. After Zhang et al. 2018 (mixup, arXiv:1710.09412), with the teacher's word
        for the mixture as in Beyer et al. 2022 (a good teacher is patient and consistent, arXiv:2106.05237).
        """
        if number not in self._blends:
            assert self.ask
            rng = np.random.default_rng((self.seed, 1_000_051, number))
            scenes = _by_scene([p for p in self.patches if p.name in self.blended])
            crops, shown = [], 0
            for _ in range(2):
                patch = self._draw(rng, scenes)
                shown |= self._folds_of(patch)
                image, label = patch.read(len(ALL_BANDS))
                crop, _ = window(rng, image, label.astype(np.float32), self.side)
                crops.append(turn(rng, *pad(crop, crop[0], self.side))[0])
            share = np.float32(rng.uniform(0.2, 0.8))
            image = share * crops[0] + (1 - share) * crops[1]
            nothing = empty(crops[0]) | empty(crops[1])
            image[:, nothing] = 0
            target = np.where(nothing, np.nan, self._wide(self.ask(number, image)))
            both = np.concatenate([image[: self.bands], target[None]])
            self._blends[number] = both.astype(np.float16), shown
        return self._blends[number]

    def _plain(self, rng: np.random.Generator) -> Sample:
        """A crop of real clear ground."""
        return self._crop(rng, self.clear[rng.choice(len(self.clear), p=self.often)])

    def _ground(self, rng: np.random.Generator) -> Sample:
        """Real clear ground for clouds to lie over, at times under snow."""
        image, target = self._plain(rng)
        image = snowfall(rng, image) if rng.random() < SNOWY else image
        return dimmed(rng, image), target

    def _bare(self, rng: np.random.Generator) -> Sample:
        """Clear ground, real or simulated, at times as bright as snow in the sun."""
        image, target = self._painted(rng) if rng.random() < 0.4 and self.mix.simulated else self._plain(rng)
        chance = rng.random()
        if chance < 0.15:
            image = dazzle(rng, image)
        elif chance < 0.55:
            image = snowfall(rng, image)
        return dimmed(rng, image), target

    def _has_opaque_clouds(self, patch: Patch) -> bool:
        """Clouds through which the ground is seen cannot be pasted on another."""
        if self.mix.pasted == 0:
            return False
        image, target = self._read(patch)
        clouds = image[:3].mean(axis=0)[np.nan_to_num(target) > 0.5]
        return bool(clouds.size > 1000 and np.median(clouds) > 0.3)

    def _pasted(self, rng: np.random.Generator) -> Sample:
        """The clouds of one patch over the clear ground of another, wherever they are the brighter."""
        image, target = self._ground(rng)
        clouds, label = self._crop(rng, self._draw(rng, self.opaque))
        if self.bands > SWIR and np.isnan(clouds[SWIR]).any():
            clouds = condensed(rng, clouds)
        matte = gaussian_filter(np.nan_to_num(label), 3)
        matte = np.clip(2 * matte, 0, 1).astype(np.float32)
        mixed = image + (np.maximum(clouds, image) - image) * matte
        seen = matte > 0.02  # where nothing was pasted the ground's own target stands
        unknown = np.isnan(label) & seen | ((label > 0) & hidden(image, mixed))
        label = np.nan_to_num(label)
        return mixed, np.where(unknown, np.nan, np.maximum(target, label)).astype(np.float32)

    def _clouded(self, rng: np.random.Generator, *, simulated: bool) -> Sample:
        """Simulated clouds on simulated ground, or on a patch."""
        if simulated:
            image, target = self._painted(rng)
        elif self.labelled and self.mix.labelled and rng.random() < 0.2:
            image, target = self._crop(rng, self._draw(rng, self.scenes))
        else:
            image, target = self._ground(rng)
        whole = self.scenery.sky(int(rng.integers(self.skies)))
        parts, _ = turn(rng, *window(rng, whole, whole[0], self.crop))
        colour = parts[2:].copy()
        # Real clouds differ more, and those of ice are darker.
        colour[SWIR] *= np.float32(np.exp(rng.uniform(np.log(0.35), np.log(1.6))))
        sky = simulate.Sky(opacity=parts[0].copy(), colour=colour, shadow=parts[1].copy())
        mixed, _ = simulate.overlay(image, sky)
        mixed[:, empty(image)] = 0
        label = (sky.opacity >= DOUBTFUL[1]).astype(np.uint8)
        doubt = (sky.opacity > DOUBTFUL[0]) & (sky.opacity < DOUBTFUL[1]) | (label > 0) & hidden(image, mixed)
        doubt &= ~(target >= 0.5)
        target = np.where(doubt, np.nan, np.maximum(target, label)).astype(np.float32)
        return mixed, target

    def _painted(self, rng: np.random.Generator) -> Sample:
        """A crop of simulated ground."""
        whole = self.scenery.ground(int(rng.integers(self.skies)))[: self.bands]
        image, target = window(rng, whole, whole[0], self.crop)
        return turn(rng, image, np.zeros_like(target))


def see(contract: Contract, image: Float) -> None:
    """Fill an image (bands, height, width) as the network sees it when it is used, in place."""
    image[:, empty(image)] = np.nan
    predict.fill(contract, image)


def _by_scene(patches: list[Patch]) -> dict[str, list[Patch]]:
    scenes: dict[str, list[Patch]] = {}
    for patch in patches:
        scenes.setdefault(patch.scene, []).append(patch)
    return scenes
