"""A tiny experiment, started as users start one, and small rasters."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import rasterio
from click.testing import CliRunner

from cloudjob.model.contract import Contract
from training.__main__ import main
from training.patch import BANDS

ROOT = Path(__file__).parents[2]
THREE, FOUR = (Contract(f"{n} bands", "1", BANDS[:n], (0.25,) * n, (0.25,) * n) for n in (3, 4))
TINY = """
[network]
widths = [4, 8]
stem = 2
[data]
simulated = 4
[mix]
labelled = 0
simulated = 1
[training]
epochs = 3
samples = 16
batch = 4
crop = 64
rate = 1e-2
average = 0.9
"""


def start(folder, out, text=TINY, *more, program=("-m", "training")):
    path = folder / "tiny.toml"
    path.write_text(text)
    command = [sys.executable, *program, str(path), "--out", str(out), "--threads", "1", *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def refused(folder, out, text=TINY, *more):
    """Exit code and stderr of an experiment that is over before it begins; in this process, which has torch loaded."""
    path = folder / "tiny.toml"
    path.write_text(text)
    result = CliRunner().invoke(main, [str(path), "--out", str(out), *more])
    return result.exit_code, result.stderr


def finish(process):
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors


SIDE = 16


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values if values.ndim == 3 else values[None]
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(path, "w", dtype=values.dtype.name, **profile) as file:
        file.write(values)


def numbers(value, side=SIDE):
    return np.full((side, side), value, np.uint16)
