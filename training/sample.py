"""What the network is shown: one crop after another, real, simulated or both, each a pure function of its number.

A sample depends on (seed, epoch, index) alone, so that training can be killed and resumed, and that the number of
loading processes changes nothing. Inside, an image is (bands, height, width) reflectance: 0 where there are no data,
and a plane of NaN where the band is absent.

Sources of the method: simulated clouds as in `cloudjob.simulate`; clouds cut from one image and pasted on another as
in CutMix (Yun et al. 2019, arXiv:1905.04899); a teacher's soft labels as targets (Hinton et al. 2015,
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
from cloudjob.demo.fractal import noise
from cloudjob.model import predict
from cloudjob.model.contract import Contract
from training.data import ALL_BANDS, UNKNOWN, Patch
from training.sensor import SWIR, condensed, dazzle, empty, fade, frost, lose_sides, sensor, undecided

Float = npt.NDArray[np.float32]
Sample = tuple[Float, Float]

SKY_SIDE = 384  # pixels of a simulated sky, of which a crop is used
FOUR = Contract("", "", ALL_BANDS[:4], (0.25,) * 4, (0.25,) * 4)
RIDGE = ("farmland", "forest", "bare", "snow")
HARD = (RIDGE, ("bare", "forest", "snow"), ("town", "farmland"), RIDGE, ("bare", "snow", "ice"), None, None)
"""Kinds of simulated ground in turn: what passes for cloud most easily, and anything."""
BLENDED = 0.25  # share of labelled crops that are two seen through each other, where there are such
VEILS = ("cirrus", "altostratus")  # through which the ground is seen
FROSTED = 0.6  # share of crops of real snow whose swir16 is made up
KEPT = 2e9  # bytes of patches kept in memory; larger data sets are read again every epoch
DOUBTFUL = (0.05, 0.15)  # opacity between thin haze and thin cloud, where people disagree: not taught


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
    """Crops of `crop` pixels: reflectance (bands, crop, crop) as the network sees it, and target (1, crop, crop).

    The target is NaN where it is unknown.

    Attributes:
        patches: to train on; those with a known label, those known to be clear, or both.
        mix: what is shown how often.
        length: samples of one epoch.
        crop: side in pixels.
        contract: of the network: its bands, and what it sees outside and where a band is absent.
        seed: of everything that is random.
        epoch: of the next samples.
        augment: whether crops are zoomed, turned and their radiometry changed.
        skies: number of simulated skies (and of simulated grounds).
        soft: targets (height, width) that replace a patch's label, by its name; see `training.teach`.
        widened: pixels by which targets' clouds are widened.
        blended: names of patches of which crops are seen through each other and put to `ask`.
        blends: how many of these are made.
        ask: reflectance (6, side, side) → target (side, side), as `peer.probability_of_tile`.
        side: of what it is asked.
        frozen: names of patches of snow and ice, whose `swir16` is made up.
        whole: show `length` crops, fixed by the seed, once an epoch in random order, instead of new ones.
    """

    patches: Sequence[Patch]
    mix: Mix
    length: int
    crop: int = 256
    contract: Contract = FOUR
    seed: int = 0
    epoch: int = 0
    augment: bool = True
    skies: int = 400
    soft: dict[str, Float] = field(default_factory=dict)
    whole: bool = False
    widened: int = 0
    blended: frozenset[str] = frozenset()
    blends: int = 0
    ask: Callable[[Float], Float] | None = None
    side: int = 256
    frozen: frozenset[str] = frozenset()
    _cache: dict[str, Sample] = field(default_factory=dict)
    _kept: int = 0
    _skies: dict[int, npt.NDArray[np.float16]] = field(default_factory=dict)
    _grounds: dict[int, npt.NDArray[np.float16]] = field(default_factory=dict)
    _blends: dict[int, npt.NDArray[np.float16]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bands = len(self.contract.bands)
        self.labelled = [p for p in self.patches if (p.label is not None and not p.clear) or p.name in self.soft]
        self.scenes = _by_scene(self.labelled)
        self.opaque = _by_scene([p for p in self.labelled if self._has_opaque_clouds(p)])
        self.clear = [p for p in self.patches if p.clear]
        # Large data sets of clear ground are shown more often than small ones, but not as much as they are larger.
        sizes = Counter(p.source for p in self.clear)
        weights = np.array([sizes[p.source] ** -0.5 for p in self.clear], np.float64)
        self.often = weights / weights.sum() if self.clear else weights

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
        for number in range(self.blends):
            self._blend(number)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        kind = rng.choice(5, p=self.mix.shares())
        if kind == 0 and self.whole:
            number = int(np.random.default_rng((self.seed, self.epoch)).permutation(self.length)[index])
            place = np.random.default_rng((self.seed, number))
            image, target = self._crop(rng, self.labelled[number % len(self.labelled)], place)
        elif kind == 0 and self.blends and rng.random() < BLENDED:
            both = self._blend(int(rng.integers(self.blends)))
            image, target = turn(rng, *_window(rng, both[:-1], both[-1], self.crop))
        elif kind == 0:
            image, target = self._crop(rng, self._draw(rng, self.scenes))
        elif kind == 1:
            image, target = self._bare(rng)
        elif kind == 2:
            image, target = self._pasted(rng)
        else:
            image, target = self._clouded(rng, simulated=kind == 4)
        image = image[: self.bands]
        if self.augment:
            image, target = lose_sides(rng, fade(rng, sensor(rng, image)), undecided(image, target))
        image = image.copy()
        see(self.contract, image)
        return torch.from_numpy(image), torch.from_numpy(target[None].copy())

    def _draw(self, rng: np.random.Generator, scenes: dict[str, list[Patch]]) -> Patch:
        """A patch of a scene: every scene is shown equally often, however many patches it is cut into."""
        patches = scenes[list(scenes)[rng.integers(len(scenes))]]
        return patches[rng.integers(len(patches))]

    def _crop(self, rng: np.random.Generator, patch: Patch, place: np.random.Generator | None = None) -> Sample:
        """A crop, zoomed and turned when augmenting; `place` says where, else it is anywhere."""
        image, target = self._read(patch)
        zoom = float(np.exp(rng.uniform(-0.7, 0.7))) if self.augment and rng.random() < 0.3 else 1.0
        height, width = target.shape
        if self.augment and min(height, width) < self.crop * zoom:  # a small patch fills the crop, up to twice as large
            zoom = max(min(zoom, min(height, width) / self.crop), 0.5)
        side = min(round(self.crop * zoom), height, width) if zoom != 1 else self.crop
        row, column = (int((place or rng).integers(max(0, full - side) + 1)) for full in (height, width))
        image = image[:, row : row + side, column : column + side]
        target = target[row : row + side, column : column + side]
        if zoom != 1:
            image, target = resize(image, target, self.crop)
        image, target = pad(image, target, self.crop)
        if patch.name in self.frozen and self.bands > SWIR and rng.random() < FROSTED:
            image = frost(rng, image, target)
        return turn(rng, image, target) if self.augment else (image, target)

    def _read(self, patch: Patch) -> Sample:
        """Reflectance and target of a whole patch, kept in memory."""
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

    def _blend(self, number: int) -> Float:
        """(bands + 1, side, side): two crops seen through each other, and what the teacher says of them.

        Haze and thin cloud of every kind. After Zhang et al. 2018 (mixup, arXiv:1710.09412), with the teacher's word
        for the mixture as in Beyer et al. 2022 (a good teacher is patient and consistent, arXiv:2106.05237).
        """
        if number not in self._blends:
            assert self.ask
            rng = np.random.default_rng((self.seed, 1_000_051, number))
            scenes = _by_scene([p for p in self.patches if p.name in self.blended])
            crops = []
            for _ in range(2):
                image, label = self._draw(rng, scenes).read(len(ALL_BANDS))
                crop, _ = _window(rng, image, label.astype(np.float32), self.side)
                crops.append(turn(rng, *pad(crop, crop[0], self.side))[0])
            share = np.float32(rng.uniform(0.2, 0.8))
            image = share * crops[0] + (1 - share) * crops[1]
            nothing = empty(crops[0]) | empty(crops[1])
            image[:, nothing] = 0
            target = np.where(nothing, np.nan, self._wide(self.ask(image)))
            self._blends[number] = np.concatenate([image[: self.bands], target[None]]).astype(np.float16)
        return self._blends[number].astype(np.float32)

    def _plain(self, rng: np.random.Generator) -> Sample:
        """A crop of real clear ground."""
        return self._crop(rng, self.clear[rng.choice(len(self.clear), p=self.often)])

    def _bare(self, rng: np.random.Generator) -> Sample:
        """Clear ground, real or simulated, at times as bright as snow in the sun."""
        image, target = self._painted(rng) if rng.random() < 0.4 and self.mix.simulated else self._plain(rng)
        return (dazzle(rng, image) if self.augment and rng.random() < 0.25 else image), target

    def _has_opaque_clouds(self, patch: Patch) -> bool:
        """Clouds through which the ground is seen cannot be pasted on another."""
        if self.mix.pasted == 0:
            return False
        image, target = self._read(patch)
        clouds = image[:3].mean(axis=0)[np.nan_to_num(target) > 0.5]
        return bool(clouds.size > 1000 and np.median(clouds) > 0.3)

    def _pasted(self, rng: np.random.Generator) -> Sample:
        """The clouds of one patch over the clear ground of another, wherever they are the brighter."""
        image, target = self._plain(rng)
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
            image, target = self._plain(rng)
        parts = self._sky(int(rng.integers(self.skies)))
        parts, _ = turn(rng, *_window(rng, parts, parts[0], self.crop))
        sky = simulate.Sky(opacity=parts[0].copy(), colour=parts[2:].copy(), shadow=parts[1].copy())
        mixed, label = simulate.overlay(image, sky)
        mixed[:, empty(image)] = 0
        doubt = (sky.opacity > DOUBTFUL[0]) & (sky.opacity < DOUBTFUL[1]) | (label > 0) & hidden(image, mixed)
        doubt &= ~(target >= 0.5)
        target = np.where(doubt, np.nan, np.maximum(target, label)).astype(np.float32)
        return mixed, target

    def _painted(self, rng: np.random.Generator) -> Sample:
        """A crop of simulated ground."""
        image = self._ground(int(rng.integers(self.skies)))[: self.bands]
        return turn(rng, *_window(rng, image, np.zeros(image.shape[1:], np.float32), self.crop))

    def _sky(self, number: int) -> Float:
        """(7, side, side): opacity, shadow and the clouds' five bands; of a third no ground is seen, a sixth is a veil."""
        if number not in self._skies:
            rng = np.random.default_rng((self.seed, 1_000_003, number))
            shape = SKY_SIDE, SKY_SIDE
            deck, veil = ((str(rng.choice(kinds)),) for kinds in (simulate.DECKS, VEILS))
            if number % 3 == 0:
                sky = simulate.sky(rng, shape, cover=1, kinds=deck)
            else:
                sky = simulate.sky(rng, shape, kinds=veil if number % 6 == 1 else None)
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


def see(contract: Contract, image: Float) -> None:
    """Fill an image (bands, height, width) as the network sees it when it is used, in place."""
    image[:, empty(image)] = np.nan
    predict.fill(contract, image)


def resize(image: Float, target: Float, side: int) -> Sample:
    """Both to `side` × `side` pixels; a target pixel is unknown where any part of it was."""
    known = ~np.isnan(target)
    planes = np.concatenate([image, np.nan_to_num(target)[None], known[None].astype(np.float32)]).astype(np.float32)
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
    unseen: npt.NDArray[np.bool_] = np.nanmax(np.abs(after - before), axis=0) < 0.03
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
