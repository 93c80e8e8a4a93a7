"""Data sets of strangers: what is wrong with them is said before a training begins, and nothing is taken for clear."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from experiment import refused, write
from rasterio import Affine

from cloudjob.errors import ContractError, UsageError
from cloudjob.model import checkpoint
from training import check, crossvalidate, data, prepare, settings
from training.score import BUFFERS, Case, Table, summary

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLOUD = np.zeros((48, 48), bool)
CLOUD[10:30, 10:40] = True
IMAGE = np.broadcast_to(np.where(CLOUD, 0.6, 0.08), (4, 48, 48))
UTM = {"crs": "EPSG:32632", "transform": Affine(10, 0, 600_000, 0, -10, 5_000_000)}


def chips(folder, image=IMAGE / 0.0016, label=CLOUD, names=("a", "b"), **kinds):
    image, label = (np.asarray(each) for each in (image, label))
    for name in names:
        write(folder / f"{name}.tif", image.astype(kinds.get("dtype", "uint16")))
        write(folder / f"{name}_label.tif", label.astype("uint8"))
    return folder


def look(folder):
    return check.look(data.find(folder).patches, [folder])


def tag(path, **tags):
    with rasterio.open(path, "r+") as raster:
        for name, value in tags.items():
            setattr(raster, name, value)


def test_a_good_data_set_is_told_in_one_line(tmp_path, capsys):
    assert look(chips(tmp_path)) == {"a", "b"}
    said = f"{tmp_path}/: 2 labels, {100 * 600 / 48**2:.1f} % cloud, of reflectance 0.60; the rest 0.08"
    assert capsys.readouterr().err.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({"label": 255 * CLOUD}, "none of the 2 labels of .* holds cloud"),
        ({"image": IMAGE * 10_000}, "a mean reflectance of 9.6; expected 0.06 to 1.6"),
        ({"image": IMAGE / 100, "dtype": "float32"}, "a mean reflectance of 0.006; expected"),
        ({"image": IMAGE / 0.016}, "a mean reflectance of 0.059; expected"),
    ],
)
def test_what_cannot_be_clouds_is_refused(tmp_path, kinds, said):
    with pytest.raises(UsageError, match=said):
        look(chips(tmp_path, **kinds))


def test_a_data_set_of_clear_scenes_is_learnt_beside_a_cloudy_one_and_measured_alone(tmp_path, capsys):
    clear, cloudy = chips(tmp_path / "clear", label=0 * CLOUD, names="cd"), chips(tmp_path / "cloudy")
    assert check.look(data.gather([clear, cloudy]).patches, [clear, cloudy]) == {"a", "b"}
    assert f"{clear}/: 2 labels, no cloud" in capsys.readouterr().err
    with pytest.raises(UsageError, match="none of the 2 labels"):
        look(clear)
    assert check.look(data.find(clear).patches, [clear], learnt=False) == set()


def test_what_a_teacher_may_see_is_no_label_without_cloud(tmp_path):
    """A training that validates on its scenes alone was refused."""
    folder = chips(tmp_path, label=255 * CLOUD)
    assert check.look(data.find(folder).patches, [folder], ("a", "b")) == {"a", "b"}


def test_haze_over_water_may_be_measured(tmp_path, capsys):
    folder = chips(tmp_path, IMAGE / 0.016)
    assert check.look(data.find(folder).patches, [folder], learnt=False) == {"a", "b"}
    assert "warning: the clouds of" in capsys.readouterr().err


def test_labels_that_are_inverted_are_warned_of(tmp_path, capsys):
    look(chips(tmp_path, label=~CLOUD))
    assert "warning: what the labels call cloud is darker" in capsys.readouterr().err


def test_faults_of_single_patches_are_counted_and_told_together(tmp_path):
    chips(tmp_path, names="abcdef")
    write(tmp_path / "b_label.tif", np.stack([CLOUD] * 3).astype("uint8"))
    (tmp_path / "c.tif").write_bytes((tmp_path / "c.tif").read_bytes()[:5000])
    write(tmp_path / "d.tif", np.full((4, 48, 48), 9000, "uint16"))  # numbers of another scale
    for name, x in (("e", 600_000), ("e_label", 600_400)):
        tag(tmp_path / f"{name}.tif", **UTM | {"transform": Affine(10, 0, x, 0, -10, 5_000_000)})
    with pytest.raises(ContractError) as caught:
        look(tmp_path)
    for said in ("4 of 6 patches", "b_label.tif has 3 bands", "c.tif: it cannot be read", "median reflectance of 14.4"):
        assert said in str(caught.value)
    chips(tmp_path, names="bcd")
    with pytest.raises(ContractError, match=r"e_label\.tif lies elsewhere than .*e\.tif"):
        look(tmp_path)
    chips(tmp_path, names="e")
    for name, side in (("f", 10), ("f_label", 20)):
        tag(tmp_path / f"{name}.tif", **UTM | {"transform": Affine(side, 0, 600_000, 0, -side, 5_000_000)})
    with pytest.raises(ContractError, match=r"f_label\.tif lies elsewhere than .*f\.tif"):
        look(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "nothing", "told"), [("float32", np.nan, None), ("int16", -9999, None), ("uint16", 65535, 65535)]
)
def test_no_data_of_any_kind_are_unknown(tmp_path, dtype, nothing, told):
    image = (IMAGE / 0.0016).astype(dtype)
    image[:, :5] = nothing
    write(chips(tmp_path) / "a.tif", image)
    tag(tmp_path / "a.tif", nodata=told)
    reflectance, label = data.find(tmp_path).patches[0].read(5)
    assert (label[:5] == 255).all()
    assert (label[5:] == CLOUD[5:]).all()
    assert (reflectance[:4, :5] == 0).all()


def test_chips_with_scale_place_and_names_of_their_own(tmp_path):
    """One's own scenes: reflectance as catalogs tell it, pixels of 20 m, and bands whose names are believed."""
    chips(tmp_path, IMAGE * 10_000 + 1000)
    for name in "ab":
        place = UTM | {"transform": Affine(20, 0, 600_000, 0, -20, 5_000_000)}
        tag(tmp_path / f"{name}.tif", scales=(1e-4,) * 4, offsets=(-0.1,) * 4, **place)
    patch = data.find(tmp_path).patches[0]
    assert patch.resolution == 20
    np.testing.assert_allclose(patch.read()[0], IMAGE, atol=1e-4)
    tag(tmp_path / "b.tif", descriptions=("B02", "B03", "B04", "B08"))
    with pytest.raises(ContractError, match=r"b\.tif says that its band 1 is blue; expected red"):
        data.find(tmp_path)


def test_floats_are_reflectance(tmp_path):
    patch, _ = data.find(chips(tmp_path, IMAGE, dtype="float32")).patches
    np.testing.assert_allclose(patch.read()[0], IMAGE, atol=1e-6)


def test_chips_of_three_bands(tmp_path):
    (patch, _) = data.find(chips(tmp_path, IMAGE[:3] / 0.0016)).patches
    assert np.isnan(patch.read()[0][3]).all()


def test_labels_without_image_hidden_files_and_folders_that_are_not_there(tmp_path, monkeypatch):
    chips(tmp_path / "swir")
    (tmp_path / "swir" / "._a.tif").write_bytes(b"of a Mac")
    monkeypatch.chdir(tmp_path / "swir")
    assert len(data.find(data.Path()).patches) == 2
    (tmp_path / "swir" / "b.tif").rename(tmp_path / "swir" / "b.TIF")
    with pytest.raises(ContractError, match=r"b_label\.tif has no image b\.tif"):
        data.find(tmp_path)
    with pytest.raises(UsageError, match="there is no such folder"):
        data.find(tmp_path / "none")


SETTINGS = """
[network]
widths = [4, 8]
[data]
validation = ["b"]
[training]
epochs = 1
samples = 4
batch = 4
crop = 32
"""


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("", 2, "none of the 1 patches that validate holds cloud, such as b"),
        ("[[before]]\n[before.data]\nvalidation = ['none']\n", 2, "no scenes to validate on"),
        ("[[before]]\n[before.training]\nbatch = 9\n", 2, "4 samples, fewer than a batch of 9"),
        ("[mix]\nlabelled = 0\n", 2, "expected shares of 0 or more"),
        ("[mix]\nlabelled = -1\nclear = 2\n", 2, "expected shares of 0 or more"),
    ],
)
def test_faults_of_any_stage_are_told_before_the_first(tmp_path, more, code, said):
    chips(tmp_path / "chips")
    write(tmp_path / "chips" / "b_label.tif", np.zeros((48, 48), np.uint8))
    found = refused(tmp_path, tmp_path / "out", SETTINGS + more, "--data", str(tmp_path / "chips"))
    assert found[0] == code
    assert said in found[1]
    assert "samples an epoch" not in found[1]


def test_no_iou_is_told_where_nothing_that_validates_is_cloud(tmp_path):
    """It stood in the record as 0.0, measured on nothing."""
    chips(tmp_path / "chips")
    write(tmp_path / "chips" / "b_label.tif", np.zeros((48, 48), np.uint8))
    text = SETTINGS.replace("epochs = 1", "epochs = 1\nkeep = 'last'")
    more = "--data", str(tmp_path / "chips"), "--workers", "0"
    code, errors = refused(tmp_path, tmp_path / "out", text, *more)
    assert code == 0, errors
    assert errors.splitlines()[-1].endswith("nothing with clouds validates, 1 epochs")
    assert checkpoint.load(tmp_path / "out" / "checkpoint.safetensors").contract.metrics == {}


def test_many_images_whose_names_tell_no_source_have_a_record(tmp_path):
    """Each was a source of its own, and a record holds 64 lines: a training of 65 such images could not begin."""
    patches = data.find(chips(tmp_path, names=[f"image{number}" for number in range(65)])).patches
    (tmp_path / "s.toml").write_text(SETTINGS)
    terms = settings.contract(prepare.described(settings.read(tmp_path / "s.toml"), patches))
    assert terms.training_data == ("data of one's own: 65 patches of 65 scenes, reflectance = number × 0.0016",)
    table = Table({"cloudjob": 0.5}, BUFFERS)
    for patch in patches:
        image, label = patch.read()
        table.add(Case(patch, image, label, {"cloudjob": CLOUD.astype(np.float32)}))
    assert summary(table.rows())["iou_pooled_0px"] == 1
    replace(terms, metrics=summary(table.rows()))


def test_a_broken_patch_is_told_before_a_cross_validation(tmp_path):
    chips(tmp_path / "chips")
    path = tmp_path / "chips" / "b.tif"
    path.write_bytes(path.read_bytes()[:5000])
    (tmp_path / "s.toml").write_text(SETTINGS)
    command = [str(tmp_path / "s.toml"), "--data", str(tmp_path / "chips"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(crossvalidate.main, command)
    assert result.exit_code == 3
    assert "1 of 2 patches cannot be used" in result.stderr
    assert not (tmp_path / "out").exists()
