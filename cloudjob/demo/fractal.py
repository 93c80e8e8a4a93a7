"""Random fields in which every size has its share, as in clouds and in landscapes.

Made in the frequency domain: D. Saupe, "Algorithms for random fractals", in "The Science of Fractal Images" (Springer,
1988), chapter 2; here with an outer scale, above which structures get no stronger.
"""

import math

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    slope: float,
    outer: float,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Float:
    """A random field of mean 0 and standard deviation 1 whose amplitude falls with frequency as a power.

    Args:
        rng: where chance comes from.
        shape: (height, width) in pixels.
        slope: amplitude along a line ~ frequency^−slope; 1 is rugged, 2 is smooth.
        outer: structures larger than this many pixels get no stronger.
        stretch: above 1, how many times longer structures are along `angle` than across.
        angle: radians from the direction of columns.
    """
    # Larger than asked for by a part of the outer scale, for the field repeats itself at its edges.
    height, width = (_fast(side + min(side // 4, int(outer))) for side in shape)
    rows = np.fft.fftfreq(height).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    along = (columns * math.cos(angle) + rows * math.sin(angle)) * stretch
    across = rows * math.cos(angle) - columns * math.sin(angle)
    # In two dimensions, power ~ frequency^(−2 slope) along a line takes amplitude ~ frequency^(−slope − 1/2).
    amplitude = (along**2 + across**2 + np.float32(1 / outer**2)) ** np.float32(-slope / 2 - 0.25)
    amplitude[0, 0] = 0
    phases = rng.standard_normal((2, *amplitude.shape), np.float32)
    field = np.fft.irfft2((phases[0] + 1j * phases[1]) * amplitude, s=(height, width)).astype(np.float32, copy=False)
    # The expected standard deviation: a column but the first stands for two frequencies, |phase|² is 2 on average.
    power = 4 * float((amplitude**2).sum()) - 2 * float((amplitude[:, 0] ** 2).sum())
    return field[: shape[0], : shape[1]] * np.float32(height * width / math.sqrt(power))


def _fast(side: int) -> int:
    """The next size that a Fourier transform likes: 2^a × (1, 3 or 5)."""
    return min(base << max(0, math.ceil(math.log2(side / base))) for base in (1, 3, 5))
