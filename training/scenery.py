"""Simulated skies and grounds to draw crops from, each made once and kept in memory."""

import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch

from cloudjob.demo import simulate
from cloudjob.demo.fractal import noise
from training.patch import Float

Half = npt.NDArray[np.float16]

SKY_SIDE = 384  # pixels of a simulated sky, of which a crop is used
VEILS = ("cirrus", "altostratus")
"""Clouds through which the ground is seen."""
RIDGE = ("farmland", "forest", "bare", "snow")
HARD = (RIDGE, ("bare", "forest", "snow"), ("town", "farmland"), RIDGE, ("bare", "snow", "ice"), None, None)
"""Kinds of simulated ground in turn: what passes for cloud most easily, and anything."""


@dataclass
class Scenery:
    """Skies and grounds by number, each a pure function of seed and number; float16.

    Attributes:
        seed: of everything that is random.
    """

    seed: int
    _skies: dict[int, Half] = field(default_factory=dict)
    _grounds: dict[int, Half] = field(default_factory=dict)

    def warm(self, skies: int, grounds: int, workers: int) -> None:
        """Make the first of each, in as many processes."""
        if workers > 1:
            # Forked, as those that load samples are: what they make is theirs until it is sent back.
            with ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=helper) as pool:
                try:
                    self._skies |= enumerate(pool.map(partial(make_sky, self.seed), range(skies)))
                    landscapes = pool.map(partial(make_grounds, self.seed), range(-(-grounds // 4)))
                    self._grounds |= enumerate(ground for four in landscapes for ground in four)
                except BaseException:  # Ctrl-C among them: what nobody waits for is not made
                    pool.shutdown(cancel_futures=True)
                    raise
        for number in range(skies):
            self.sky(number)
        for number in range(grounds):
            self.ground(number)

    def sky(self, number: int) -> Half:
        """(7, side, side): opacity, shadow and the clouds' five bands."""
        if number not in self._skies:
            self._skies[number] = make_sky(self.seed, number)
        return self._skies[number]

    def ground(self, number: int) -> Half:
        """(5, side, side) reflectance; every two of seven landscapes are ridges of snow."""
        if number not in self._grounds:
            four = make_grounds(self.seed, number // 4)
            self._grounds |= {number // 4 * 4 + part: ground for part, ground in enumerate(four)}
        return self._grounds[number]


def helper(_: int = 0) -> None:
    """What a process that prepares samples begins with: one thread, and deaf to Ctrl-C, which is for its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def make_sky(seed: int, number: int) -> Half:
    """(7, side, side), as `Scenery.sky`. Every other is a deck, every third of which ends; every sixth is one veil."""
    rng = np.random.default_rng((seed, 1_000_003, number))
    shape = SKY_SIDE, SKY_SIDE
    deck, veil = ((str(rng.choice(kinds)),) for kinds in (simulate.DECKS, VEILS))
    if number % 2 == 0:
        sky = simulate.sky(rng, shape, cover=1, kinds=deck)
        sky = ended(rng, sky) if number % 3 == 0 else sky
    else:
        sky = simulate.sky(rng, shape, kinds=veil if number % 6 == 1 else None)
    return np.concatenate([sky.opacity[None], sky.shadow[None], sky.colour]).astype(np.float16)


def ended(rng: np.random.Generator, sky: simulate.Sky) -> simulate.Sky:
    """A deck of cloud that ends in view, along a line more or less straight, within a pixel or some thirty."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in sky.opacity.shape), indexing="ij")
    turn = rng.uniform(0, 2 * np.pi)
    bends = rng.uniform(0, 0.5) * noise(rng, sky.opacity.shape, slope=2.0, outer=SKY_SIDE)
    ramp = np.cos(turn) * rows + np.sin(turn) * columns + bends
    width = np.exp(rng.uniform(np.log(0.005), np.log(0.15)))
    cover = np.clip(0.5 + (ramp - np.quantile(ramp, rng.uniform(0.2, 0.8))) / width, 0, 1).astype(np.float32)
    return simulate.Sky(opacity=sky.opacity * cover, colour=sky.colour, shadow=sky.shadow * cover)


def make_grounds(seed: int, number: int) -> list[Half]:
    """Four grounds (5, side, side) of one landscape: relief is calmer in a small part than in a small whole."""
    rng = np.random.default_rng((seed, 1_000_033, number))
    kinds = HARD[number // 2 % len(HARD)]
    shape = 2 * SKY_SIDE, 2 * SKY_SIDE
    image = ridge(rng, shape) if kinds is RIDGE else simulate.ground(rng, shape, kinds=kinds)[0]
    # Every other landscape is painted in pixels of 20 m: mountains and roofs come in more than one size.
    side = SKY_SIDE // (1 + number % 2)
    grounds = []
    for part in range(4):
        row, column = (SKY_SIDE * place for place in divmod(part, 2))
        ground = torch.from_numpy(image[:, row : row + side, column : column + side])[None]
        if side < SKY_SIDE:
            ground = torch.nn.functional.interpolate(ground, scale_factor=2, mode="bilinear")
        grounds.append(ground[0].numpy().astype(np.float16))
    return grounds


def ridge(rng: np.random.Generator, shape: tuple[int, int]) -> Float:
    """Snow above rock above forest and fields (5, height, width), with sharp lines between them, as in the demo."""
    height = noise(rng, shape, slope=rng.uniform(1.4, 2.2), outer=shape[0])
    image = simulate.ground(rng, shape, kinds=("farmland", "forest"))[0]
    snow_line = np.quantile(height, rng.uniform(0.2, 0.85))
    for kind, line in (("bare", snow_line - rng.uniform(0, 0.6)), ("snow", snow_line)):
        image = np.where(height > line, simulate.ground(rng, shape, kinds=(kind,))[0], image)
    return image
