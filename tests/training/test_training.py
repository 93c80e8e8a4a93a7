"""Training from outside: the loop learns, is resumed to the bit after a kill, and its checkpoint is evaluated."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_data import numbers, write

from cloudjob.errors import UsageError
from cloudjob.model import checkpoint
from training import evaluate, loop, settings, teach
from training.data import Layer, Patch
from training.sample import Mix, Samples, ridge

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
ROOT = Path(__file__).parents[2]
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


def start(folder, out, text=TINY, *more):
    path = folder / "tiny.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "training", str(path), "--out", str(out), "--threads", "1", *more]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    finish(start(folder, folder / "out"))
    return folder / "out"


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


def test_killed_and_resumed_ends_the_same(trained, tmp_path):
    out = tmp_path / "out"
    process = start(tmp_path, out)
    limit = time.monotonic() + 120
    while not (out / "last" / "rows.json").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = len(json.loads((out / "last" / "rows.json").read_text()))
    assert done < 3
    finish(start(tmp_path, out))
    assert (out / "curves.csv").read_text() == (trained / "curves.csv").read_text()
    same = (out / "checkpoint.safetensors").read_bytes() == (trained / "checkpoint.safetensors").read_bytes()
    assert same


def test_an_average_is_the_mean_of_the_weights_with_statistics_of_its_own(trained, tmp_path):
    first = trained / "checkpoint.safetensors"
    known, other = checkpoint.load(first), checkpoint.load(first)
    weights = other.network.state_dict()
    for name in weights.keys() - {name for name in weights if "num_batches" in name}:
        weights[name] += 0.01
    (tmp_path / "tiny.toml").write_text(TINY)
    means = []
    for shift in (0, 100):  # of BatchNorm's statistics, which nobody reads
        for name in (name for name in weights if "running" in name):
            weights[name] += shift
        checkpoint.save(other.network, other.contract, tmp_path / "other.safetensors")
        means.append(tmp_path / "means" / f"{shift}.safetensors")
        command = [sys.executable, "-m", "training.average", str(tmp_path / "tiny.toml"), str(first)]
        command += [str(tmp_path / "other.safetensors"), "--out", str(means[-1])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    assert means[0].read_bytes() == means[1].read_bytes()
    mean, before = checkpoint.load(means[0]).network.state_dict(), known.network.state_dict()
    for name in (name for name in mean if "running" not in name and "num_batches" not in name):
        torch.testing.assert_close(mean[name], (before[name] + weights[name]) / 2)


def test_networks_that_differ_have_no_average(trained, tmp_path):
    (tmp_path / "wide.toml").write_text(TINY.replace("widths = [4, 8]", "widths = [4, 12]"))
    path = trained / "checkpoint.safetensors"
    command = [sys.executable, "-m", "training.average", str(tmp_path / "wide.toml"), str(path)]
    command += ["--out", str(tmp_path / "mean.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 3
    assert f"{path}: not all are the settings' network" in done.stderr
    assert not (tmp_path / "mean.safetensors").exists()


def test_other_settings_do_not_resume(trained):
    process = start(trained.parent, trained, TINY.replace("epochs = 3", "epochs = 4"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "other settings" in errors


def test_nothing_to_learn_from_is_said(tmp_path):
    process = start(tmp_path, tmp_path / "out", "[training]\nepochs = 1\n")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
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
    process = start(tmp_path, tmp_path / "four", REAL, *more)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "fewer than 4 bands, such as patch_1_1_by_1_" in errors
    process = start(tmp_path, tmp_path / "three", REAL.replace("[network]", "[network]\nbands = 3"), *more)
    _, errors = process.communicate(timeout=240)
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
    process = start(trained_on_landsat.parent, trained_on_landsat, REAL, "--data", str(other))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "other settings, patches" in errors


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("labelled = 1", "labelled = 1\nclear = 1"), "no patches of clear ground"),
        (("validation_share = 0.1", "validation = ['elsewhere']"), "no scenes to validate on"),
        (("samples = 16", "samples = 3"), "3 samples, fewer than a batch of 4"),
        (("rate = 1e-2", "keep = 'worst'"), "training.keep is 'worst'"),
    ],
)
def test_settings_that_do_not_suit_the_data_are_said(landsat, tmp_path, change, said):
    process = start(tmp_path, tmp_path / "out", REAL.replace(*change), "--data", str(landsat))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert said in errors
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_unknown_loss_pixels_do_not_count():
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    target = torch.tensor([[[[1.0, float("nan")], [0.0, float("nan")]]]])
    loss = loop.masked_loss(logits, target)
    assert loss.item() == pytest.approx(np.log(2))
    loss.backward()
    assert (logits.grad[torch.isnan(target)] == 0).all()
    assert (logits.grad[~torch.isnan(target)] != 0).all()


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "experiments").glob("*.toml")), ids=lambda p: p.stem)
def test_every_experiment_is_readable_and_has_a_contract(path):
    chosen = settings.read(path)
    terms = loop.contract(chosen)
    assert terms.tile % terms.stride == 0
    assert len(terms.bands) == chosen.network.bands


@pytest.mark.parametrize(
    ("text", "said"),
    [("epochs = 3", "'epochs' is not a setting"), ("[training]\nepochs = 'x'", "epochs is 'x'"), ("=", "is not TOML")],
)
def test_wrong_settings_are_said(tmp_path, text, said):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        settings.read(path)


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


def test_samples_depend_on_their_number_only(patches):
    mix = Mix(1, 1, 1, 1, 1)
    first, second = (Samples(patches, mix, 12, crop=64, skies=3, epoch=2) for _ in range(2))
    for index in (5, 0, 11):
        for a, b in zip(first[index], second[index], strict=True):
            assert torch.equal(a, b) or torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    other = Samples(patches, mix, 12, crop=64, skies=3, epoch=3)
    assert not all(torch.equal(first[i][0], other[i][0]) for i in range(12))


def test_samples_hold_truth(patches):
    samples = Samples(patches, Mix(1, 1, 1, 1, 1), 60, crop=64, skies=6)
    clouds = 0
    for index in range(60):
        image, target = samples[index]
        assert image.shape == (4, 64, 64)
        assert target.shape == (1, 64, 64)
        assert torch.isfinite(image).all()
        assert torch.isnan(target[0][(image == 0).all(dim=0)]).all()
        known = target[~torch.isnan(target)]
        assert ((known >= 0) & (known <= 1)).all()
        clouds += int((known > 0.5).sum())
    assert clouds > 1000


def test_crop_keeps_image_and_target_together(patches):
    samples = Samples(patches[:1], Mix(), 40, crop=48)
    for index in range(40):
        image, target = samples[index]
        known = ~torch.isnan(target[0])
        bright = image[0] > 0.35
        agree = (bright == (target[0] > 0.5))[known]
        assert agree.float().mean() > 0.9 if known.any() else True


def test_clouds_of_labels_are_widened(patches):
    narrow, wide = (
        Samples(patches[:1], Mix(), 1, crop=48, augment=False, widened=by)._read(patches[0])[1] for by in (0, 2)
    )
    assert (np.isnan(narrow) == np.isnan(wide)).all()
    clouds, more = (np.nan_to_num(target) > 0 for target in (narrow, wide))
    assert (more >= clouds).all()
    rows, columns = np.nonzero(more & ~clouds)
    near = [
        clouds[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].any()
        for row, column in zip(rows, columns, strict=True)
    ]
    assert near
    assert all(near)


def test_a_ridge_is_dark_and_white():
    image = ridge(np.random.default_rng(3), (96, 80))
    assert image.shape == (5, 96, 80)
    assert (image[0] > 0.5).mean() > 0.05
    assert (image[0] < 0.2).mean() > 0.05


@pytest.mark.parametrize(
    ("has", "expected"), [({}, None), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)]
)
def test_half_precision_only_where_the_processor_has_it(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert loop.half(torch.device("cpu")) is expected
    assert loop.half(torch.device("cuda")) is torch.float16


def test_fixed_crops_are_shown_once_an_epoch(patches):
    first, second = (
        Samples(patches[:1], Mix(), 5, crop=48, whole=True, augment=False, epoch=epoch) for epoch in (0, 1)
    )
    seen = [{first[i][0].numpy().tobytes() for i in range(5)}, {second[i][0].numpy().tobytes() for i in range(5)}]
    assert seen[0] == seen[1]
    assert len(seen[0]) == 5


def test_algorithms_clouds_count_only_where_the_teacher_agrees(patches, tmp_path):
    label = np.zeros((96, 96), np.uint8)
    label[20:60, 30:70] = 1
    label[70:90] = 255  # the algorithms disagree
    write(patches[0].label, label)
    said = np.zeros((96, 96), np.float16)
    said[20:40] = 1
    said[80:84] = 0.5
    said[84:88] = 1
    np.savez(tmp_path / "teacher.npz", cloudy=said)
    chosen = settings.Data(confirmed=("cloudy",))
    target = teach.targets(patches, chosen, tmp_path / "teacher.npz")["cloudy"]
    assert (target[20:40, 30:70] == 1).all()
    assert np.isnan(target[40:60, 30:70]).all()
    assert (target[:20, :90] == 0).all()
    assert (target[70:80, :90] == 0).all(), "the teacher is sure that it is clear"
    assert np.isnan(target[80:88]).all(), "what it takes for cloud may be snow"
    assert (target[88:90, :90] == 0).all()
    assert np.isnan(target[:, 90:]).all()


def test_scores_of_known_masks():
    label = np.array([[1, 1, 1, 0, 0, 0, 0, 255]], np.uint8)
    said = np.array([[1, 1, 0, 1, 0, 0, 0, 1]], bool)
    scores = evaluate.Counts().add(said, label).scores()
    assert scores == {"iou": 0.5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "false_positives": 0.25}
    empty = evaluate.Counts().add(np.zeros((1, 2), bool), np.zeros((1, 2), np.uint8)).scores()
    assert empty["iou"] is None
    assert empty["false_positives"] == 0


def case(patch, score):
    reflectance, label = patch.read()
    return evaluate.Case(patch, reflectance, label, {"cloudjob": score.astype(np.float32)})


def test_choice_finds_the_threshold_and_buffer_that_made_the_labels(patches):
    score = np.full((96, 96), 0.28)
    score[22:58, 32:68] = 0.52  # two pixels inside the label's square on each side
    chosen = evaluate.choose([case(patches[0], score)], {"cloudjob": evaluate.OPTIONS})
    threshold, buffer = chosen["cloudjob"]
    assert 0.28 < threshold <= 0.52
    assert buffer == 2


def test_reliability_of_a_calibrated_score(patches):
    curve = evaluate.Reliability()
    curve.add(case(patches[1], np.full((96, 96), 0.25)))
    curve.add(case(patches[0], np.full((96, 96), 0.75)))
    rows = curve.rows()
    assert [row["pixels"] for row in rows] == [96 * 96, 96 * 90]
    assert rows[0]["cloud"] == 0
    assert rows[1]["cloud"] == pytest.approx(1600 / (96 * 90))


def test_evaluation_from_the_command_line(trained, patches, tmp_path):
    folder = patches[0].label.parent
    (folder / "clear.tif").unlink()
    for name in ("cloudy", "cloudy_label"):
        for other in ("chosen", "odd"):
            shutil.copy(folder / f"{name}.tif", folder / f"{name.replace('cloudy', other)}.tif")
    command = [sys.executable, "-m", "training.evaluate", str(trained / "checkpoint.safetensors"), "--ignore", "odd"]
    command += ["--data", str(folder), "--out", str(tmp_path / "out"), "--no-peer", "--choose-on", "chosen"]
    command += ["--beside", str(trained / "checkpoint.safetensors")]  # under its own name
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "brightness" in done.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    groups = {(row["group"], row["method"], row["buffer_px"]) for row in metrics["rows"]}
    assert not {"odd", "chosen"} & {row["group"] for row in metrics["rows"]}
    assert ("cloudy", "cloudjob", 0) in groups
    assert ("pooled", "brightness", 4) in groups
    scores = {row["method"]: row["iou"] for row in metrics["rows"] if (row["group"], row["buffer_px"]) == ("cloudy", 0)}
    assert scores.keys() == {"cloudjob", "brightness", "tiny"}
    assert scores["cloudjob"] == scores["tiny"]
    assert metrics["cuts"]["cloudjob"] == metrics["cuts"]["tiny"]
    assert (tmp_path / "out" / "cloudy.png").stat().st_size > 1000
    assert (tmp_path / "out" / "reliability.png").exists()
    written = checkpoint.load(tmp_path / "out" / "checkpoint.safetensors")
    assert written.sha256 == metrics["checkpoint"]
    assert written.contract.threshold == metrics["threshold"]
    assert written.contract.metrics["iou_cloudy_0px"] == pytest.approx(scores["cloudjob"], abs=1e-4)
    bright = next(r for r in metrics["rows"] if r["method"] == "brightness" and r["group"] == "cloudy")
    assert bright["iou"] > 0.9


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--only", "elsewhere"), "no scene is left to measure on of elsewhere"),
        (("--choose-on", "cloudy"), "no scene is left to measure on"),
        (("--choose-on", "elsewhere"), "matches no scene with clouds"),
    ],
)
def test_nothing_to_measure_or_choose_on_is_said(trained, patches, tmp_path, more, said):
    (tmp_path / "clear.tif").unlink()
    command = [sys.executable, "-m", "training.evaluate", str(trained / "checkpoint.safetensors"), "--no-peer"]
    command += ["--data", str(patches[0].label.parent), "--out", str(tmp_path / "out"), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_false_alarms_of_cloudless_patches_count_in_their_scene(patches):
    """As in 38-Cloud: of one scene some patches have clouds and some have none."""
    cloudy, clear = (replace(patch, scene="one", source="38-cloud") for patch in patches)
    label = cloudy.read()[1] == 1
    found = [case(cloudy, label), case(clear, label)]
    table = evaluate.Table({"cloudjob": 0.5}, (0,))
    for each in found:
        table.add(each)
    rows = {r["group"]: r["iou"] for r in table.rows()}
    assert rows["pooled"] == rows["all 38-cloud"] == rows["one"] == 0.5
    assert "clear scenes" not in rows


def test_a_data_set_larger_than_memory_is_measured_one_patch_at_a_time(trained, patches, tmp_path):
    alive = []

    def many():
        for _ in range(5):
            found = case(patches[0], np.full((96, 96), 0.75))
            alive.append(weakref.ref(found))
            yield found
            del found
            assert sum(ref() is not None for ref in alive) <= 1

    ckpt = checkpoint.load(trained / "checkpoint.safetensors")
    metrics = evaluate.report(ckpt, many(), {"cloudjob": 0.5}, tmp_path / "out")
    assert len(alive) == 5
    assert metrics["reliability"][0]["pixels"] == 5 * 96 * 90


def test_two_checkpoints_of_one_name_cannot_be_told_apart(trained, patches, tmp_path):
    path = str(trained / "checkpoint.safetensors")
    command = [sys.executable, "-m", "training.evaluate", path, "--beside", path, "--beside", path, "--no-peer"]
    command += ["--data", str(patches[0].label.parent), "--out", str(tmp_path / "out")]
    (tmp_path / "clear.tif").unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "tiny, tiny" in done.stderr


def test_evaluation_of_a_missing_checkpoint(tmp_path, patches):
    command = [sys.executable, "-m", "training.evaluate", str(tmp_path / "none.safetensors")]
    command += ["--data", str(patches[0].label.parent), "--out", str(tmp_path / "out"), "--no-peer"]
    (tmp_path / "clear.tif").unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3
    assert "none.safetensors" in done.stderr
    assert "hint:" in done.stderr
