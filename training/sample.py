"""What the network is shown: one crop after another, real, simulated or both, each a pure function of its number.

A sample depends on (seed, epoch, index) alone, so that training can be killed and resumed, and that the number of
loading processes changes nothing.

Sources of the method: simulated clouds as in `cloudjob.simulate`; clouds cut from one image and pasted on another as
in CutMix (Yun et al. 2019, arXiv:1905.04899); a teacher's soft labels as targets (Hinton et al. 2015,
arXiv:1503.02531).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import gaussian_filter, maximum_filter  # type: ignore[attr-defined]  # scipy's own lists hide it
from torch.utils.data import Dataset

from cloudjob.demo import simulate
from cloudjob.demo.fractal import noise
from cloudjob.model.contract import Contract
from training.data import UNKNOWN, Patch

Float = npt.NDArray[np.float32]
Sample = tuple[Float, Float]

SKY_SIDE = 384  # pixels of a simulated sky, of which a crop is used
BRIGHTEST = Contract.brightest  # one bad number would spoil the BatchNorm of a whole batch
RIDGE = ("farmland", "forest", "bare", "snow")
HARD = (RIDGE, ("bare", "forest", "snow"), ("town", "farmland"), RIDGE, ("bare", "snow", "ice"), None, None)
"""Kinds of simulated ground in turn: what passes for cloud most easily, and anything."""
KEPT = 2e9  # bytes of patches kept in memory; larger data sets are read again every epoch
DOUBTFUL = (0.06, 0.25)  # opacity between thin haze and thin cloud, where people disagree: not taught


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of sample; they are divided by their sum.

    Attributes:
        labelled: crops of labelled patches.
        clear: crops of known clear patches, among them snow, ice and sand; some of simulated ground.
        pasted: clouds of a labelled patch on clear ground.
        clouded: simulated clouds on clear or labelled ground.
        simulated: simulated clouds on simulated ground.
    """

    labelled: float = 1.0
    clear: float = 0.0
    pasted: float = 0.0
    clouded: float = 0.0
    simulated: float = 0.0

    def shares(self) -> npt.NDArray[np.float64]:
        """The shares in the order of the attributes; their sum is 1."""
        shares = np.array([self.labelled, self.clear, self.pasted, self.clouded, self.simulated], np.float64)
        return np.asarray(shares / shares.sum())


@dataclass
class Samples(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Crops of `crop` pixels: reflectance (bands, crop, crop) and target (1, crop, crop), NaN where unknown.

    Attributes:
        patches: to train on; those with a known label, those known to be clear, or both.
        mix: what is shown how often.
        length: samples of one epoch.
        crop: side in pixels.
        bands: number of bands, the first of red, green, blue and near infrared.
        seed: of everything that is random.
        epoch: of the next samples.
        augment: whether crops are zoomed, turned and their radiometry changed.
        skies: number of simulated skies (and of simulated grounds).
        soft: targets (height, width) that replace a patch's label, by its name; see `training.teach`.
        widened: pixels by which targets' clouds are widened.
        anew: names of patches of which every crop is put to `ask`, half of them mixed with another.
        ask: reflectance (4, crop, crop) → target (crop, crop), as `peer.probability_of_tile`.
        whole: show `length` crops, fixed by the seed, once an epoch in random order, instead of new ones.
    """

    patches: Sequence[Patch]
    mix: Mix
    length: int
    crop: int = 256
    bands: int = 4
    seed: int = 0
    epoch: int = 0
    augment: bool = True
    skies: int = 400
    soft: dict[str, Float] = field(default_factory=dict)
    whole: bool = False
    widened: int = 0
    anew: frozenset[str] = frozenset()
    ask: Callable[[Float], Float] | None = None
    _cache: dict[str, Sample] = field(default_factory=dict)
    _kept: int = 0
    _skies: dict[int, npt.NDArray[np.float16]] = field(default_factory=dict)
    _grounds: dict[int, npt.NDArray[np.float16]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.labelled = [p for p in self.patches if p.label is not None or p.name in self.soft]
        self.scenes = _by_scene(self.labelled)
        self.opaque = _by_scene([p for p in self.labelled if self._has_opaque_clouds(p)])
        self.clear = [p for p in self.patches if p.clear]
        self.mixed = _by_scene([p for p in self.patches if p.name in self.anew])

    def warm(self) -> None:
        """Make everything that is kept in memory, before loading processes are forked and would each make their own."""
        for patch in self.patches:
            if self._kept >= KEPT:
                break
            self._read(patch)
        if self.mix.clouded or self.mix.simulated:
            for number in range(self.skies):
                self._sky(number)
        if self.mix.simulated:
            for number in range(self.skies):
                self._ground(number)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        anew = False
        kind = rng.choice(5, p=self.mix.shares())
        if kind == 0 and self.whole:
            number = int(np.random.default_rng((self.seed, self.epoch)).permutation(self.length)[index])
            place = np.random.default_rng((self.seed, number))
            image, target = self._crop(rng, self.labelled[number % len(self.labelled)], place)
        elif kind == 0:
            patch = self._draw(rng, self.scenes)
            image, target = self._crop(rng, patch)
            anew = patch.name in self.anew
            if anew and rng.random() < 0.5:
                image = self._blend(rng, image)
        elif kind == 1:
            image, target = self._bare(rng)
        elif kind == 2:
            image, target = self._pasted(rng)
        else:
            image, target = self._clouded(rng, simulated=kind == 4)
        if self.augment:
            image = sensor(rng, image)
        if anew and self.ask:  # of what the network sees, but in colour: who cannot see the same cannot be followed
            target = np.where((image == 0).all(axis=0), np.nan, self._wide(self.ask(image))).astype(np.float32)
        if self.augment:
            image, target = lose_sides(rng, fade(rng, image[: self.bands]), target)
        return torch.from_numpy(image[: self.bands].copy()), torch.from_numpy(target[None].copy())

    def _draw(self, rng: np.random.Generator, scenes: dict[str, list[Patch]]) -> Patch:
        """A patch of a scene: every scene is shown equally often, however many patches it is cut into."""
        patches = scenes[list(scenes)[rng.integers(len(scenes))]]
        return patches[rng.integers(len(patches))]

    def _crop(self, rng: np.random.Generator, patch: Patch, place: np.random.Generator | None = None) -> Sample:
        """A crop, zoomed and turned when augmenting; `place` says where, else it is anywhere."""
        image, target = self._read(patch)
        zoom = float(np.exp(rng.uniform(-0.7, 0.7))) if self.augment and rng.random() < 0.3 else 1.0
        height, width = target.shape
        side = min(round(self.crop * zoom), height, width) if zoom != 1 else self.crop
        row, column = (int((place or rng).integers(max(0, full - side) + 1)) for full in (height, width))
        image = image[:, row : row + side, column : column + side]
        target = target[row : row + side, column : column + side]
        if zoom != 1:
            image, target = resize(image, target, self.crop)
        image, target = pad(image, target, self.crop)
        return turn(rng, image, target) if self.augment else (image, target)

    def _read(self, patch: Patch) -> Sample:
        """Reflectance and target of a whole patch, kept in memory."""
        if patch.name in self._cache:
            return self._cache[patch.name]
        image, label = patch.read()
        target = label.astype(np.float32)
        target[label == UNKNOWN] = np.nan
        if patch.name in self.soft:
            target = np.where((image != 0).any(axis=0), self.soft[patch.name], np.nan).astype(np.float32)
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

    def _blend(self, rng: np.random.Generator, image: Float) -> Float:
        """Two crops seen through each other: haze and thin cloud of every kind, for the teacher to judge.

        After Zhang et al. 2018 (mixup, arXiv:1710.09412), with the teacher's word for the mixture as in Beyer et al.
        2022 (a good teacher is patient and consistent, arXiv:2106.05237).
        """
        other, _ = self._crop(rng, self._draw(rng, self.mixed))
        share = np.float32(rng.uniform(0.2, 0.8))
        empty = (image == 0).all(axis=0) | (other == 0).all(axis=0)
        return np.where(empty, 0, share * image + (1 - share) * other).astype(np.float32)

    def _bare(self, rng: np.random.Generator) -> Sample:
        """Clear ground, real or simulated, at times as bright as snow in the sun."""
        if rng.random() < 0.4 and self.mix.simulated:
            image, target = self._painted(rng)
        else:
            image, target = self._crop(rng, self.clear[rng.integers(len(self.clear))])
        return (dazzle(rng, image) if self.augment and rng.random() < 0.4 else image), target

    def _has_opaque_clouds(self, patch: Patch) -> bool:
        """Clouds through which the ground is seen cannot be pasted on another."""
        if self.mix.pasted == 0:
            return False
        image, target = self._read(patch)
        clouds = image[:3].mean(axis=0)[np.nan_to_num(target) > 0.5]
        return bool(clouds.size > 1000 and np.median(clouds) > 0.3)

    def _pasted(self, rng: np.random.Generator) -> Sample:
        """The clouds of one patch over the clear ground of another, wherever they are the brighter."""
        image, target = self._crop(rng, self.clear[rng.integers(len(self.clear))])
        clouds, label = self._crop(rng, self._draw(rng, self.opaque))
        matte = gaussian_filter(np.nan_to_num(label), 3)
        matte = np.clip(2 * matte, 0, 1).astype(np.float32)
        mixed = image + (np.maximum(clouds, image) - image) * matte
        unknown = np.isnan(label) | ((label > 0) & hidden(image, mixed))
        return mixed, np.where(unknown, np.nan, np.maximum(target, label)).astype(np.float32)

    def _clouded(self, rng: np.random.Generator, *, simulated: bool) -> Sample:
        """Simulated clouds on simulated ground, or on a patch."""
        if simulated:
            image, target = self._painted(rng)
        elif self.labelled and self.mix.labelled and rng.random() < 0.2:
            image, target = self._crop(rng, self._draw(rng, self.scenes))
        else:
            image, target = self._crop(rng, self.clear[rng.integers(len(self.clear))])
        parts = self._sky(int(rng.integers(self.skies)))
        parts, _ = turn(rng, *_window(rng, parts, parts[0], self.crop))
        sky = simulate.Sky(opacity=parts[0].copy(), colour=parts[2:].copy(), shadow=parts[1].copy())
        mixed, label = simulate.overlay(image, sky)
        mixed[:, (image == 0).all(axis=0)] = 0
        doubt = (sky.opacity > DOUBTFUL[0]) & (sky.opacity < DOUBTFUL[1]) | (label > 0) & hidden(image, mixed)
        doubt &= ~(target >= 0.5)
        target = np.where(doubt, np.nan, np.maximum(target, label)).astype(np.float32)
        return mixed, target

    def _painted(self, rng: np.random.Generator) -> Sample:
        """A crop of simulated ground."""
        image = self._ground(int(rng.integers(self.skies)))
        return turn(rng, *_window(rng, image, np.zeros(image.shape[1:], np.float32), self.crop))

    def _sky(self, number: int) -> Float:
        """(6, side, side): opacity, shadow and the clouds' four bands."""
        if number not in self._skies:
            rng = np.random.default_rng((self.seed, 1_000_003, number))
            sky = simulate.sky(rng, (SKY_SIDE, SKY_SIDE))
            self._skies[number] = np.concatenate([sky.opacity[None], sky.shadow[None], sky.colour]).astype(np.float16)
        return self._skies[number].astype(np.float32)

    def _ground(self, number: int) -> Float:
        if number not in self._grounds:
            self._paint(number // 4)
        return self._grounds[number].astype(np.float32)

    def _paint(self, number: int) -> None:
        """Four grounds, cut from one landscape: relief is calmer in a small part than in a small whole."""
        rng = np.random.default_rng((self.seed, 1_000_033, number))
        kinds = HARD[number // 2 % len(HARD)]
        shape = 2 * SKY_SIDE, 2 * SKY_SIDE
        image = ridge(rng, shape) if kinds is RIDGE else simulate.ground(rng, shape, kinds=kinds)[0]
        for part in range(4):
            row, column = (SKY_SIDE * place for place in divmod(part, 2))
            # Every other landscape is painted in pixels of 20 m: mountains and roofs come in more than one size.
            side = SKY_SIDE // (1 + number % 2)
            ground = torch.from_numpy(image[:, row : row + side, column : column + side])[None]
            if side < SKY_SIDE:
                ground = torch.nn.functional.interpolate(ground, scale_factor=2, mode="bilinear")
            self._grounds[4 * number + part] = ground[0].numpy().astype(np.float16)


def ridge(rng: np.random.Generator, shape: tuple[int, int]) -> Float:
    """Snow above rock above forest and fields (4, height, width), with sharp lines between them, as in the demo."""
    height = noise(rng, shape, slope=rng.uniform(1.4, 2.2), outer=shape[0])
    image = simulate.ground(rng, shape, kinds=("farmland", "forest"))[0]
    snow_line = np.quantile(height, rng.uniform(0.2, 0.85))
    for kind, line in (("bare", snow_line - rng.uniform(0, 0.6)), ("snow", snow_line)):
        image = np.where(height > line, simulate.ground(rng, shape, kinds=(kind,))[0], image)
    return image


def dazzle(rng: np.random.Generator, image: Float) -> Float:
    """Ground as bright as snow in the sun (bands, height, width), tinted, often brighter than a sensor can count.

    There is little real snow to learn from; that fields, ridges and roads are ground whatever their brightness is
    learnt from these.
    """
    image = image * np.exp(rng.uniform(0.2, 1.6) + rng.normal(0, 0.12, (len(image), 1, 1))).astype(np.float32)
    return saturated(rng, image, darkest=0.5) if rng.random() < 0.5 else image


def saturated(rng: np.random.Generator, image: Float, darkest: float) -> Float:
    """Each band (of four) cut where its sensor counts no further, the visible ones at similar reflectances."""
    limit = rng.uniform(darkest, 1.2) * np.exp(rng.normal(0, 0.08, 4)) * np.array([1, 1, 1, rng.uniform(0.6, 2)])
    cut: Float = np.minimum(image, limit.astype(np.float32)[: len(image), None, None])
    return cut


def sensor(rng: np.random.Generator, image: Float) -> Float:
    """What sensors and processing levels do to an image (bands, height, width).

    Gain and offset of all bands and of each, the blue haze of level 1C, saturation, 8-bit numbers and noise.
    """
    empty = (image == 0).all(axis=0)
    bands = len(image)
    gain = np.exp(rng.normal(0, 0.06) + rng.normal(0, 0.02, bands))
    offset = rng.normal(0, 0.006) + rng.normal(0, 0.004, bands)
    if rng.random() < 0.2:
        # Path radiance grows towards short waves, about as wavelength^−4 (Rayleigh): red, green, blue, near infrared.
        offset = offset + rng.uniform(0, 0.08) * np.array([0.30, 0.53, 1.0, 0.10])[:bands]
    image = image * np.float32(gain[:, None, None]) + np.float32(offset[:, None, None])
    if rng.random() < 0.2:
        image = saturated(rng, image, darkest=0.3)
    if rng.random() < 0.1:
        image = (np.round(image * rng.uniform(150, 400)) / 255).astype(np.float32)
    if rng.random() < 0.2:
        image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 0.006))
    image = np.clip(image, 0.0001, BRIGHTEST).astype(np.float32)
    image[:, empty] = 0
    return image


def fade(rng: np.random.Generator, image: Float) -> Float:
    """Half of the images with less colour than they had, down to none.

    Clouds are seen in a black and white picture too: form is learnt, not only colour, for some snow has the clouds'.
    """
    if rng.random() < 0.5:
        return image
    grey = image.mean(axis=0)
    faded: Float = grey + np.float32(rng.random()) * (image - grey)
    return faded


def lose_sides(rng: np.random.Generator, image: Float, target: Float) -> Sample:
    """Some crops' sides without data: tiles reach beyond the scene, and beyond its sensor's swath."""
    empty = (image == 0).all(axis=0)
    if rng.random() < 0.2:
        for side in rng.choice(4, size=int(rng.integers(1, 3)), replace=False):
            np.rot90(empty, side)[: int(rng.integers(1, target.shape[0] // 2))] = True
    return np.where(empty, 0, image).astype(np.float32), np.where(empty, np.nan, target).astype(np.float32)


def resize(image: Float, target: Float, side: int) -> Sample:
    """Both to `side` × `side` pixels; a target pixel is unknown where any part of it was."""
    known = ~np.isnan(target)
    planes = np.concatenate([image, np.nan_to_num(target)[None], known[None].astype(np.float32)])
    shrink = max(target.shape) > side
    small = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], size=(side, side), mode="bilinear", antialias=shrink, align_corners=False
    )[0].numpy()
    target = np.where(small[-1] > 0.999, np.clip(small[-2], 0, 1), np.nan).astype(np.float32)
    return small[:-2], target


def pad(image: Float, target: Float, side: int) -> Sample:
    """With no data to the right and below, up to `side` × `side`."""
    rows, columns = (max(0, side - full) for full in target.shape)
    if rows == columns == 0:
        return image, target
    return (
        np.pad(image, ((0, 0), (0, rows), (0, columns))),
        np.pad(target, ((0, rows), (0, columns)), constant_values=np.nan),
    )


def turn(rng: np.random.Generator, image: Float, target: Float) -> Sample:
    """One of the eight turns and mirror images of a square."""
    turns = int(rng.integers(4))
    image, target = np.rot90(image, turns, (1, 2)), np.rot90(target, turns)
    return (image[:, :, ::-1], target[:, ::-1]) if rng.random() < 0.5 else (image, target)


def hidden(before: Float, after: Float) -> npt.NDArray[np.bool_]:
    """Where a cloud cannot be seen on its ground, for no band changes by more than 0.03 reflectance."""
    unseen: npt.NDArray[np.bool_] = np.abs(after - before).max(axis=0) < 0.03
    return unseen


def _by_scene(patches: list[Patch]) -> dict[str, list[Patch]]:
    scenes: dict[str, list[Patch]] = {}
    for patch in patches:
        scenes.setdefault(patch.scene, []).append(patch)
    return scenes


def _window(rng: np.random.Generator, image: Float, target: Float, side: int) -> Sample:
    row, column = (int(rng.integers(max(0, full - side) + 1)) for full in target.shape)
    return (
        image[:, row : row + side, column : column + side],
        target[row : row + side, column : column + side],
    )
