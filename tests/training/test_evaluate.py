"""Checkpoints measured beside other methods; threshold and buffer chosen."""

import json
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace

import networks
import numpy as np
import pytest
from click.testing import CliRunner
from experiment import ROOT, write

from cloudjob.demo.collection import collection
from cloudjob.errors import ContractError
from cloudjob.model import checkpoint, predict
from cloudjob.model.contract import Graph
from training import choice, evaluate
from training.methods import likelihood
from training.score import Case, Counts, Reliability, Table

pytest_plugins = ("tiny",)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_scores_of_known_masks():
    label = np.array([[1, 1, 1, 0, 0, 0, 0, 255]], np.uint8)
    said = np.array([[1, 1, 0, 1, 0, 0, 0, 1]], bool)
    scores = Counts().add(said, label).scores()
    assert scores == {"iou": 0.5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "false_positives": 0.25}
    empty = Counts().add(np.zeros((1, 2), bool), np.zeros((1, 2), np.uint8)).scores()
    assert empty["iou"] is None
    assert empty["false_positives"] == 0


def case(patch, score):
    reflectance, label = patch.read()
    return Case(patch, reflectance, label, {"cloudjob": score.astype(np.float32)})


def test_choice_finds_the_threshold_and_buffer_that_made_the_labels(patches):
    score = np.full((96, 96), 0.28)
    score[22:58, 32:68] = 0.52  # two pixels inside the label's square on each side
    chosen = choice.choose([case(patches[0], score)], {"cloudjob": choice.OPTIONS})
    threshold, buffer = chosen["cloudjob"]
    assert 0.28 < threshold <= 0.52
    assert buffer == 2


def test_reliability_of_a_calibrated_score(patches):
    curve = Reliability()
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


def refused(path, folder, *more):
    """Exit code and stderr where there is nothing to evaluate; in this process, which has torch loaded."""
    command = [str(path), "--data", str(folder), "--out", str(folder / "out"), "--no-peer", *more]
    result = CliRunner().invoke(evaluate.main, command)
    return result.exit_code, result.stderr


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
    code, errors = refused(trained / "checkpoint.safetensors", tmp_path, *more)
    assert code == 2, errors
    assert said in errors
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_scenes_without_labels_alone_are_refused(trained, tmp_path):
    """As the demo's catalog: after its minutes it printed the head of an empty table."""
    demo = collection(tmp_path / "demo", shrink=8).parent
    code, errors = refused(trained / "checkpoint.safetensors", demo)
    assert code == 2, errors
    assert "has labels" in errors
    assert "--clear" in errors


def test_false_alarms_of_cloudless_patches_count_in_their_scene(patches):
    """As in 38-Cloud: of one scene some patches have clouds and some have none."""
    cloudy, clear = (replace(patch, scene="one", source="38-cloud") for patch in patches)
    label = cloudy.read()[1] == 1
    found = [case(cloudy, label), case(clear, label)]
    table = Table({"cloudjob": 0.5}, (0,))
    for each in found:
        table.add(each)
    rows = {r["group"]: r["iou"] for r in table.rows()}
    assert rows["pooled"] == rows["all 38-cloud"] == rows["one"] == 0.5
    assert "clear scenes" not in rows


def test_the_providers_classification_is_told_by_scene_and_not_pooled(patches, tmp_path):
    classes = np.full((96, 96), 4, np.uint8)
    classes[20:40, 30:70], classes[40:60, 30:70], classes[0, 0] = 9, 10, 3
    write(tmp_path / "scl.tif", classes)
    patch = replace(patches[0], scl=tmp_path / "scl.tif")
    reflectance, label = patch.read()
    scores = {"cloudjob": label.astype(np.float32), "SCL": patch.provider().astype(np.float32)}
    table = Table({"cloudjob": 0.5, "SCL": 0.5}, (0,))
    table.add(Case(patch, reflectance, label, scores))
    table.add(case(patches[1], np.zeros((96, 96))))
    rows = {(row["group"], row["method"]): row["iou"] for row in table.rows()}
    assert rows["cloudy", "SCL"] == 1
    assert [group for group, method in rows if method == "SCL"] == ["cloudy"]
    assert patches[1].provider() is None


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
    (tmp_path / "clear.tif").unlink()
    code, errors = refused(path, tmp_path, "--beside", path, "--beside", path)
    assert code == 2
    assert "tiny, tiny" in errors


def test_networks_of_others_see_their_bands_in_their_order_or_are_refused(tmp_path):
    """One that tells more than cloud, or takes what patches do not hold, would be measured as something else."""
    image = np.random.default_rng(0).uniform(0.01, 1, (6, 64, 64)).astype(np.float32)
    weights = np.zeros((1, 4, 1, 1))
    weights[0, 2] = 20
    kinds = {
        "red first": (networks.bright(), networks.contract()),
        "blue first": (
            networks.graph(weights, np.array([-10.0])),
            networks.contract(bands=("blue", "green", "red", "nir")),
        ),
        "four classes": (networks.four_classes(), networks.contract(graph=Graph(networks.FOUR, "softmax", stride=4))),
        "other bands": (networks.bright(), networks.contract(bands=("red", "green", "blue", "rededge071"))),
    }
    red, blue, *others = (
        predict.prepare(checkpoint.load(networks.save(tmp_path / f"{name}.onnx", *kind)))
        for name, kind in kinds.items()
    )
    np.testing.assert_array_equal(likelihood(red, image), likelihood(blue, image))
    for other in others:
        with pytest.raises(
            ContractError, match="expected bands among red, green, blue, nir, swir16, swir22, and cloud"
        ):
            likelihood(other, image)


def test_evaluation_of_a_missing_checkpoint(tmp_path, patches):
    (tmp_path / "clear.tif").unlink()
    code, errors = refused(tmp_path / "none.safetensors", tmp_path)
    assert code == 3
    assert "none.safetensors" in errors
    assert "hint:" in errors


def test_images_without_a_band_of_the_network_are_refused(trained, tmp_path):
    """It took them for no data: nothing was cloud, and that is what was printed of the network."""
    image = np.full((3, 48, 48), 50, np.uint16)
    image[:, :20] = 400
    write(tmp_path / "rgb.tif", image)
    write(tmp_path / "rgb_label.tif", (image[0] == 400).astype(np.uint8))
    code, errors = refused(trained / "checkpoint.safetensors", tmp_path)
    assert code == 3, errors
    assert "tiny needs nir, which an image lacks" in errors


def test_a_choice_leaves_no_figure_of_another_threshold(trained, patches, tmp_path):
    found = checkpoint.load(trained / "checkpoint.safetensors")
    told = replace(found.contract, metrics={"validation_iou": 0.9})
    checkpoint.save(found.unet, told, tmp_path / "told.safetensors")
    choice.fix_choice(tmp_path / "told.safetensors", patches, tmp_path / "copy.safetensors", 0)
    assert checkpoint.load(tmp_path / "copy.safetensors").contract.metrics == {}
