"""Training from outside: the loop learns, is resumed to the bit after a kill, and its checkpoint is evaluated."""

import csv
import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from experiment import ROOT, TINY, finish, refused, start, write

from cloudjob.errors import UsageError
from cloudjob.model import checkpoint
from training import settings, state

pytest_plugins = ("tiny",)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_leaves_what_an_experiment_should(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"checkpoint.safetensors", "curves.csv", "loss.png", "metrics.json", "tensorboard"} <= names
    assert list((trained / "tensorboard").iterdir())
    contract = checkpoint.load(trained / "checkpoint.safetensors").contract
    assert contract.widths == (4, 8)
    assert contract.bands == ("red", "green", "blue", "nir")


def test_learns(trained):
    with (trained / "curves.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from training import state
from training.__main__ import main
when, what, nth = sys.argv.pop(1).split()
owner = {"learn": state.State, "replace": Path}[what]
original, count = getattr(owner, what), 0
def counted(*arguments):
    global count
    count += what == "learn" or arguments[1].name == "state.safetensors"
    if when == "after":
        original(*arguments)
    if count == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments) if when == "before" else None
setattr(owner, what, counted)
main()
"""


@pytest.mark.parametrize(
    ("event", "rows"),
    [
        ("before learn 6", 1),  # In the middle of the second epoch
        ("before replace 3", 3),  # The last epoch is half saved
        ("after replace 3", 3),
    ],
)
def test_killed_and_resumed_ends_the_same(trained, tmp_path, event, rows):
    out = tmp_path / "out"
    killed = start(tmp_path, out, program=("-c", KILLED, event))
    _, errors = killed.communicate(timeout=400)
    assert killed.returncode == -signal.SIGKILL, errors
    assert len(json.loads((out / "last" / "rows.json").read_text())) == rows
    finish(start(tmp_path, out))
    assert (out / "curves.csv").read_text() == (trained / "curves.csv").read_text()
    same = (out / "checkpoint.safetensors").read_bytes() == (trained / "checkpoint.safetensors").read_bytes()
    assert same


def test_other_settings_do_not_resume(trained):
    code, errors = refused(trained.parent, trained, TINY.replace("epochs = 3", "epochs = 4"))
    assert code == 3
    assert "other settings" in errors


def test_stages_begin_with_the_weights_of_the_one_before(tmp_path):
    stages = (
        TINY.replace("epochs = 3", "epochs = 1")
        .replace("samples = 16", "samples = 4")
        .replace("crop = 64", "crop = 32")
        + "[[before]]\n[before.network]\nbands = 3\n[before.training]\nseed = 5\n"
    )
    finish(start(tmp_path, tmp_path / "out", stages))
    first, last = (checkpoint.load(tmp_path / "out" / name) for name in
                   ("stage-1/checkpoint.safetensors", "checkpoint.safetensors"))  # fmt: skip
    assert (len(first.contract.bands), len(last.contract.bands)) == (3, 4)
    header = settings.read(tmp_path / "tiny.toml")
    assert header.before[0].training == replace(header.training, seed=5)
    alone = tmp_path / "alone"
    finish(start(tmp_path, alone, stages, "--start", str(tmp_path / "out" / "stage-1" / "checkpoint.safetensors")))
    assert not (alone / "stage-1").exists(), "with a start the stages before are passed over"
    assert checkpoint.load(alone / "checkpoint.safetensors").sha256 == last.sha256


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "there").write_text("somebody's")
    process = start(tmp_path, tmp_path / "there")
    _, errors = process.communicate(timeout=400)
    assert (process.returncode, errors.splitlines()[-1]) == (2, f"error: [Errno 17] File exists: '{tmp_path}/there'")


def test_nothing_to_learn_from_is_said(tmp_path):
    code, errors = refused(tmp_path, tmp_path / "out", "[training]\nepochs = 1\n")
    assert code == 2
    assert "no labelled patches to learn from" in errors


REAL = TINY.replace("labelled = 0\nsimulated = 1", "labelled = 1").replace("simulated = 4", "validation_share = 0.1")
REAL = REAL.replace("epochs = 3", "epochs = 8")


@pytest.fixture(scope="module")
def landsat(tmp_path_factory):
    """Four patches of three scenes as 38-Cloud ships them, the lower half bright and cloudy."""
    folder = tmp_path_factory.mktemp("landsat")
    label = np.zeros((96, 96), np.uint8)
    label[50:] = 255
    numbers = np.where(label, 40_000, 9_000).astype(np.uint16)
    for name in ("1_1_by_1_A", "1_2_by_2_A", "1_1_by_1_B", "1_1_by_1_C"):
        for band in ("red", "green", "blue", "nir"):
            write(folder / f"train_{band}" / f"{band}_patch_{name}.TIF", numbers)
        write(folder / "train_gt" / f"gt_patch_{name}.TIF", label)
    return folder


@pytest.fixture(scope="module")
def trained_on_landsat(landsat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("on_landsat")
    finish(start(folder, folder / "out", REAL, "--data", str(landsat), "--workers", "2"))
    return folder / "out"


def test_patches_on_disk_become_a_checkpoint(trained_on_landsat):
    contract = checkpoint.load(trained_on_landsat / "checkpoint.safetensors").contract
    assert contract.resolution == 30
    assert contract.training_data in [
        (f"38-cloud: {count} patches of 2 scenes, reflectance = number × 2e-05 -0.1",) for count in (2, 3)
    ]
    metrics = json.loads((trained_on_landsat / "metrics.json").read_text())
    rows = {(row["group"], row["buffer_px"]): row["iou"] for row in metrics["rows"] if row["method"] == "cloudjob"}
    assert contract.metrics["validation_iou"] == pytest.approx(rows["all 38-cloud", 0], abs=0.05)
    assert rows["pooled", 0] > 0.5, "bright is cloud: that is soon learnt"
    sheets = [path for path in trained_on_landsat.glob("*.png") if path.stem.startswith("patch_")]
    assert len(sheets) == (4 - int(contract.training_data[0].split()[1]))


def test_what_the_command_line_says_goes_before_the_settings_and_three_bands_need_no_infrared(landsat, tmp_path):
    shutil.copytree(landsat, tmp_path / "rgb", ignore=shutil.ignore_patterns("train_nir"))
    more = ("--data", str(tmp_path / "rgb"), "--epochs", "2", "--patches", "2", "--crop", "48")
    code, errors = refused(tmp_path, tmp_path / "four", REAL, *more)
    assert code == 2, errors
    assert "fewer than 4 bands, such as patch_1_1_by_1_" in errors
    process = start(tmp_path, tmp_path / "three", REAL.replace("[network]", "[network]\nbands = 3"), *more)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    last = errors.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'three' / 'checkpoint.safetensors'}: IoU 0.")
    assert last.endswith("on the validation scenes, 2 epochs")
    assert "2 labelled patches" in errors
    assert checkpoint.load(tmp_path / "three" / "checkpoint.safetensors").contract.bands == ("red", "green", "blue")


def test_other_data_do_not_resume(trained_on_landsat, landsat, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(landsat, other)
    for path in other.glob("*/*_B.TIF"):
        path.rename(path.with_name(path.name.replace("_B.TIF", "_D.TIF")))
    code, errors = refused(trained_on_landsat.parent, trained_on_landsat, REAL, "--data", str(other))
    assert code == 3, errors
    assert "other settings, patches" in errors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("labelled = 1", "labelled = 1\nclear = 1"), "no patches of clear ground"),
        (("validation_share = 0.1", "validation = ['elsewhere']"), "no scenes to validate on"),
        (("samples = 16", "samples = 3"), "3 samples, fewer than a batch of 4"),
        (("rate = 1e-2", "keep = 'worst'"), "training.keep is 'worst'"),
        (("crop = 64", "crop = 50"), "training.crop is 50; expected a multiple of the network's 4 px"),
    ],
)
def test_settings_that_do_not_suit_the_data_are_said(landsat, tmp_path, change, said):
    code, errors = refused(tmp_path, tmp_path / "out", REAL.replace(*change), "--data", str(landsat))
    assert code == 2, errors
    assert said in errors
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_unknown_loss_pixels_do_not_count():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[1.0, float("nan")], [0.0, float("nan")]]]])
    loss = state.masked_loss(logits, target)
    assert loss.item() == pytest.approx(np.log(2))
    loss.backward()
    assert (logits.grad[torch.isnan(target)] == 0).all()
    assert (logits.grad[~torch.isnan(target)] != 0).all()


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "experiments").glob("*.toml")), ids=lambda p: p.stem)
def test_every_experiment_is_readable_and_has_a_contract(path):
    chosen = settings.read(path)
    terms = settings.contract(chosen)
    assert terms.tile % terms.stride == 0
    assert len(terms.bands) == chosen.network.bands


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs = 3", "'epochs' is not a setting"),
        ("[training]\nepochs = 'x'", "epochs is 'x'; expected int"),
        ("[training]\nepochs = [3]", r"epochs is \[3\]; expected int"),
        ("[network]\nwidths = [8, '16']", r"widths is \[8, '16'\]; expected tuple\[int, \.\.\.\]"),
        ("[training]\nbatch = 0", "training.batch is 0; expected 1 or more"),
        ("[training]\nepochs = -1", "training.epochs is -1; expected 1 or more"),
        ("[[before]]\n[before.training]\ncrop = 0", "before: training.crop is 0; expected 1 or more"),
        ("=", "is not TOML"),
        ("[before]", "expected a table \\[\\[before\\]\\]"),
        ("[[before]]\n[before.mix]\nsnow = 1", "before: mix: 'snow'"),
    ],
)
def test_wrong_settings_are_said(tmp_path, text, said):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        settings.read(path)
