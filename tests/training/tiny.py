"""Fixtures that tests of training share, as a plugin."""

import numpy as np
import pytest
from experiment import finish, numbers, start, write

from training.patch import Layer, Patch


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    finish(start(folder, folder / "out"))
    return folder / "out"


@pytest.fixture
def patches(tmp_path):
    """A patch with a bright cloud on dark ground, known, and one of clear ground."""
    image = np.stack([numbers(60, 96)] * 4)
    image[:, 20:60, 30:70] = 500
    image[:, :, 90:] = 0
    label = (image[0] == 500).astype(np.uint8)
    write(tmp_path / "cloudy.tif", image)
    write(tmp_path / "cloudy_label.tif", label)
    write(tmp_path / "clear.tif", np.stack([numbers(90, 96)] * 4))
    cloudy, clear = (tuple(Layer(tmp_path / f"{n}.tif", i, 0.0016) for i in (1, 2, 3, 4)) for n in ("cloudy", "clear"))
    return [
        Patch("cloudy", "cloudy", "chips", cloudy, tmp_path / "cloudy_label.tif"),
        Patch("clear", "clear", "surfaces", clear, clear=True),
    ]
