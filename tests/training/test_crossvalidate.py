"""Cross-validation by source, and stability: what they count."""

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_checkpoint
from experiment import FOUR, write

from cloudjob.model import checkpoint, predict
from training import crossvalidate, data, sample, settings, stability, worst
from training.patch import ALL_BANDS, Patch
from training.sample import Samples
from training.score import Counts
from training.settings import Mix
from training.state import State

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def patches(tmp_path):
    """A deck with its label, clear ground, and snow without swir16, each of another fold."""
    folder = tmp_path / "swir"
    folder.mkdir()
    deck = np.full((6, 64, 64), 400, np.uint16)
    deck[:, :, 48:] = 60
    write(folder / "algorithm-T29UNU-x_r0_c0.tif", deck)
    write(folder / "algorithm-T29UNU-x_r0_c0_label.tif", (deck[0] == 400).astype(np.uint8))
    write(folder / "california-x.tif", np.full((5, 64, 64), 90, np.uint16))
    (tmp_path / "surfaces").mkdir()
    write(tmp_path / "surfaces" / "snow-geoutils-x.tif", np.full((4, 64, 64), 250, np.uint16))
    return data.find(tmp_path).patches


TINY = """
[network]
bands = 5
widths = [4, 8]
stem = 2
[data]
teacher = ["algorithm-*"]
frozen = ["snow-*"]
simulated = 4
[mix]
labelled = 0.4
clear = 0.3
clouded = 0.2
simulated = 0.1
[training]
epochs = 2
samples = 24
batch = 8
crop = 32
keep = "last"
"""


def test_a_sample_says_of_which_folds_it_was_made(patches, monkeypatch):
    """Whether what it shows was read for it or is kept in memory."""
    made_of = []
    read = Patch.read
    monkeypatch.setattr(Patch, "read", lambda self, *bands: made_of.append(self.scene) or read(self, *bands))
    numbers = {"algorithm-T29UNU-x": 1, "california-x": 3, "snow-geoutils-x": 4}
    told = []
    for kept in (0, sample.KEPT):
        monkeypatch.setattr(sample, "KEPT", kept)
        samples = Samples(patches, Mix(1, 1, 1), 60, FOUR, crop=32, folds=crossvalidate.FOLDS)
        for index in range(60):
            made_of.clear()
            *_, folds = samples[index]
            told.append(folds)
            if not kept:
                assert folds == sum(1 << numbers[scene] for scene in set(made_of))
    assert told[:60] == told[60:]
    assert set(told) == {1 << 1, 1 << 3, 1 << 4, 1 << 1 | 1 << 3, 1 << 1 | 1 << 4}


def test_a_fold_learns_nothing_of_its_sources(patches, tmp_path):
    """Its network is the same to the byte, whatever its sources show."""
    (tmp_path / "tiny.toml").write_text(TINY)
    for turn in range(2):
        if turn:
            write(tmp_path / "swir" / "california-x.tif", np.full((5, 64, 64), 300, np.uint16))
        (tmp_path / f"{turn}").mkdir()
        (deck,) = (patch for patch in patches if patch.label)
        np.savez(tmp_path / f"{turn}" / "teacher.npz", **{deck.name: np.full((64, 64), 0.5, np.float16)})
        crossvalidate.train(settings.read(tmp_path / "tiny.toml"), patches, tmp_path / f"{turn}", 1)
    names = [f"fold-{number}" for number in range(len(crossvalidate.FOLDS))] + ["whole"]
    same = {
        name: len({(tmp_path / turn / name / "checkpoint.safetensors").read_bytes() for turn in "01"}) == 1
        for name in names
    }
    assert [name for name in names if same[name]] == ["fold-3"], "California is in fold 3"


def test_cross_validation_goes_on_where_it_was_killed(patches, tmp_path, monkeypatch):
    """Between two networks of one epoch: those that have it wait for the others."""
    (tmp_path / "tiny.toml").write_text(TINY)
    chosen = settings.read(tmp_path / "tiny.toml")
    (deck,) = (patch for patch in patches if patch.label)
    save, ends = State.save, []
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "teacher.npz", **{deck.name: np.full((64, 64), 0.5, np.float16)})
        if name == "twice":

            def killed(self, folder):
                if folder.parent.name == "fold-2":
                    raise KeyboardInterrupt
                save(self, folder)

            monkeypatch.setattr(State, "save", killed)
            with pytest.raises(KeyboardInterrupt):
                crossvalidate.train(chosen, patches, tmp_path / name, 1)
            monkeypatch.undo()
        crossvalidate.train(chosen, patches, tmp_path / name, 1)
        ends.append(
            {path.parent.name: path.read_bytes() for path in (tmp_path / name).glob("*/checkpoint.safetensors")}
        )
    assert len(ends[0]) == len(crossvalidate.FOLDS) + 1
    assert ends[0] == ends[1]


def test_all_stages_are_cross_validated_each_from_the_one_before(patches, tmp_path):
    """The command, once in one and once by hand, stage by stage."""
    both = TINY + '[[before]]\nversion = "0"\n[before.training]\nepochs = 1\n'
    (deck,) = (patch for patch in patches if patch.label)
    said = {deck.name: np.full((64, 64), 0.5, np.float16)}
    for name in ("one/tiny", "one/tiny/stage-1", "two/tiny", "three/tiny"):
        (tmp_path / name).mkdir(parents=True)
        np.savez(tmp_path / name / "teacher.npz", **said)
    (tmp_path / "tiny.toml").write_text(both)
    stage = tmp_path / "one" / "tiny" / "stage-1"
    starts = (["--start", str(stage)], ["--start", str(stage / "whole" / "checkpoint.safetensors")])
    for out, more in (("one", []), ("two", starts[0]), ("three", starts[1])):
        command = [str(tmp_path / "tiny.toml"), "--data", str(tmp_path), "--out", str(tmp_path / out), *more]
        done = CliRunner().invoke(crossvalidate.main, command)
        assert done.exit_code == 0, done.output
        assert "overcast" in done.output
    ends, folds = (
        [(tmp_path / out / "tiny" / part / "checkpoint.safetensors").read_bytes() for out in ("one", "two", "three")]
        for part in ("whole", "fold-0")
    )
    assert ends[0] == ends[1] == ends[2]
    assert folds[0] == folds[1] != folds[2]
    assert not (tmp_path / "two" / "tiny" / "stage-1").exists()


def test_no_source_is_in_two_folds_and_every_kind_is_in_one():
    patterns = [pattern for fold in crossvalidate.FOLDS for pattern in fold]
    assert len(set(patterns)) == len(patterns)
    kinds = crossvalidate.CLOUDY | crossvalidate.GROUND
    assert len(kinds) == 8


def test_judging_with_and_without_the_band(patches):
    contract = {"bands": ALL_BANDS[:5], "mean": (0.3,) * 5, "std": (0.3,) * 5, "optional_bands": ("swir16",)}
    model = predict.prepare(make_checkpoint(**contract), "cpu")
    found = crossvalidate.judge(model, patches, {})
    assert set(found["with"]) == set(found["without"]) == {"algorithm-T29UNU-x", "california-x", "snow-geoutils-x"}
    deck = found["with"]["algorithm-T29UNU-x"]
    assert all(count.cloud == 48 * 64 for count in deck)
    assert deck[0].hit >= deck[-1].hit
    kinds = crossvalidate.kinds(found["with"])
    assert set(kinds) == {"overcast", "bright ground", "snow"}
    lines = crossvalidate.rows("name", found, 0)
    assert any("overcast" in line and "recall" in line for line in lines)
    assert any("snow" in line and "false_positives" in line for line in lines)


def test_a_missed_pixel_costs_as_much_as_a_false_one():
    scenes = {
        "overcast": {"a": [Counts(hit=5, missed=5)]},
        "snow": {"b": [Counts(false=1, clear=9)]},
    }
    assert crossvalidate.cost(scenes, 0) == pytest.approx((0.5 + 0.1) / 2)


def test_the_teachers_word_stands_for_a_label():
    label = np.array([[0, 1, 255, 0]], np.uint8)
    soft = np.array([[0.9, np.nan, 0.2, 0.1]], np.float32)
    assert crossvalidate.truth(label, None) is label
    assert crossvalidate.truth(label, soft).tolist() == [[1, 255, 0, 0]]


def test_the_worst_image_of_each_kind_is_drawn(patches, tmp_path):
    """A network that calls all cloud is wrong on clear ground, and on a deck's gap."""
    out = tmp_path / "worst"
    out.mkdir()
    np.savez(out / "teacher.npz", **{"algorithm-T29UNU-x_r0_c0": np.float16(np.arange(64) < 48) * np.ones((64, 1))})
    ckpt = make_checkpoint(bands=ALL_BANDS[:4], mean=(0.3,) * 4, std=(0.3,) * 4)
    list(ckpt.unet.parameters())[-1].data.fill_(1e3)
    checkpoint.save(ckpt.unet, ckpt.contract, tmp_path / "all.safetensors")
    command = ["cloudjob-s2", str(tmp_path / "all.safetensors"), "--data", str(tmp_path), "--out", str(out)]
    done = CliRunner().invoke(worst.main, [*command, "--only", "california-*", "--only", "algorithm-*"])
    assert done.exit_code == 0, done.output
    told = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "wrong 100.00 %" in told["california-x"]
    assert "wrong 25.00 %, cloud 100.00 %" in told["algorithm-T29UNU-x"]
    assert {path.stem for path in out.glob("*.png")} == {"california-x", "algorithm-T29UNU-x"}


def test_stability_counts_what_changes(patches):
    (deck,) = (patch for patch in patches if patch.scene == "algorithm-T29UNU-x")
    image = np.tile(deck.read(6)[0], (1, 2, 2))
    for _, differ, cloud in stability.shifted(image, lambda x: x[0] > 0.3):
        assert differ == 0, "a mask by brightness moves with the image"
        assert cloud > 0
    changed = [differ for _, differ, _ in stability.scaled(image, lambda x: x[0] > 0.64)]
    assert len(changed) == 2 * stability.DRAWS
    assert max(changed) > 0
