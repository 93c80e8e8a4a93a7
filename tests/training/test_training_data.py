"""Readers of labelled patches: each layout as distributed, and every way in which a data set can be broken."""

import json
import shutil

import numpy as np
import pytest
from conftest import SHARED
from experiment import SIDE, numbers, write

from cloudjob.errors import ContractError, UsageError
from training import data

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
needs_data = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="the real patches of ../shared/data are not here"
)


def half_cloudy(cloud, side=SIDE):
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = cloud
    return mask


def scene_38(folder, name, value=10_000, extra=""):
    for band in ("red", "green", "blue", "nir"):
        write(folder / f"train_{band}{extra}" / f"{band}_{name}.TIF", numbers(value))
    write(folder / f"train_gt{extra}" / f"gt_{name}.TIF", half_cloudy(255))


FIRST = "patch_1_1_by_1_LC08_L1TP_002053_20160520_20170324_01_T1"
SECOND = "patch_2_1_by_2_LC08_L1TP_002053_20160520_20170324_01_T1"
OTHER = "patch_1_1_by_1_LC08_L1TP_032030_20160420_20170223_01_T1"


@pytest.fixture
def cloud_38(tmp_path):
    for name in (FIRST, SECOND, OTHER):
        scene_38(tmp_path, name)
    return tmp_path


def test_38_cloud(cloud_38):
    found = data.find(cloud_38)
    assert [p.name for p in found.patches] == sorted([FIRST, SECOND, OTHER])
    reflectance, label = found.patches[0].read()
    assert reflectance.shape == (4, SIDE, SIDE)
    assert reflectance.dtype == np.float32
    assert reflectance[0, 0, 0] == pytest.approx(10_000 * 2e-5 - 0.1)
    assert (label == half_cloudy(1)).all()


def test_38_cloud_drops_and_counts_the_patches_its_list_calls_empty(cloud_38):
    (cloud_38 / "training_patches_38-Cloud.csv").write_text(f"name\n{FIRST}\n{SECOND}\n{OTHER}\n")
    (cloud_38 / "training_patches_38-Cloud_nonempty.csv").write_text(f"name\n{FIRST}\n{OTHER}\n")
    found = data.find(cloud_38)
    assert [p.name for p in found.patches] == [FIRST, OTHER]
    assert found.dropped == 1


def test_38_cloud_finds_its_list_beside_the_folder_too(cloud_38):
    folder = cloud_38 / "38-Cloud_training"
    folder.mkdir()
    for path in list(cloud_38.glob("train_*")):
        path.rename(folder / path.name)
    (cloud_38 / "training_patches_38-cloud_nonempty.csv").write_text(f"name\n{FIRST}\n")
    found = data.find(folder)
    assert [p.name for p in found.patches] == [FIRST]
    assert found.dropped == 2


def test_suffixes_and_stray_files(cloud_38):
    path = cloud_38 / "train_nir" / f"nir_{FIRST}.TIF"
    path.rename(path.with_suffix(".tif"))
    (cloud_38 / "train_red.zip").write_bytes(b"as downloaded")
    assert len(data.find(cloud_38).patches) == 3


def test_38_cloud_without_lists_drops_patches_of_zeros(cloud_38):
    scene_38(cloud_38, "patch_9_9_by_9_LC08_L1TP_002053_20160520_20170324_01_T1", value=0)
    found = data.find(cloud_38)
    assert len(found.patches) == 3
    assert found.dropped == 1


def test_95_cloud_whose_list_names_the_patches_of_38_cloud_too(tmp_path):
    first, second = tmp_path / "38-Cloud_training", tmp_path / "95-cloud_training_only_additional_to38-cloud"
    scene_38(first, FIRST)
    scene_38(second, SECOND, extra="_additional_to38cloud")
    scene_38(second, OTHER, extra="_additional_to38cloud")
    (second / "training_patches_95-cloud_nonempty.csv").write_text(f"name\n{FIRST}\n{SECOND}\n")
    found = data.gather([first, second])
    assert [p.name for p in found.patches] == [FIRST, SECOND]
    assert found.dropped == 1
    assert found.patches[1].read()[0].shape == (4, SIDE, SIDE)
    assert {p.resolution for p in found.patches} == {30}


def test_a_data_set_given_twice_is_said(cloud_38):
    with pytest.raises(UsageError, match="3 patches are there twice, such as patch_1_1"):
        data.gather([cloud_38, cloud_38])


def test_unlabelled_files_are_clear_ground_only_in_a_folder_called_so(on_cloud_n):
    for folder in (on_cloud_n / "train_features", on_cloud_n / "train_features" / "adwp"):
        with pytest.raises(UsageError, match="no labelled patches"):
            data.find(folder)
    write(on_cloud_n / "surfaces" / "beach-1.tif", numbers(40))
    (patch,) = data.find(on_cloud_n / "surfaces").patches
    with pytest.raises(ContractError, match=r"beach-1\.tif has no band 2"):
        patch.read()


def test_splits_go_by_scene(cloud_38):
    rest, chosen = data.split(data.find(cloud_38).patches, ("*002053*",))
    assert {p.name for p in chosen} == {FIRST, SECOND}
    assert {p.name for p in rest} == {OTHER}


@pytest.fixture
def on_cloud_n(tmp_path):
    for chip in ("adwp", "adwu"):
        for key in ("B02", "B03", "B04", "B08"):
            write(tmp_path / "train_features" / chip / f"{key}.tif", numbers(1000 + int(key[1:])))
        write(tmp_path / "train_labels" / f"{chip}.tif", half_cloudy(1))
    return tmp_path


def test_on_cloud_n(on_cloud_n):
    (on_cloud_n / "train_metadata.csv").write_text(
        "chip_id,location,datetime,cloudpath\nadwp,Chifunfu,2020-04-29T08:20:47Z,x\nadwu,Chifunfu,2020-04-29T08:20:47Z,x\n"
    )
    found = data.find(on_cloud_n)
    assert [p.name for p in found.patches] == ["adwp", "adwu"]
    assert len({p.scene for p in found.patches}) == 1
    reflectance, label = found.patches[0].read()
    assert reflectance[:, 0, 0] == pytest.approx([0.1004, 0.1003, 0.1002, 0.1008])
    assert label.sum() == SIDE * SIDE // 2


def test_on_cloud_n_drops_empty_chips(on_cloud_n):
    for key in ("B02", "B03", "B04", "B08"):
        write(on_cloud_n / "train_features" / "adwu" / f"{key}.tif", numbers(0))
    found = data.find(on_cloud_n)
    assert [p.name for p in found.patches] == ["adwp"]
    assert found.dropped == 1


def test_unknown_and_no_data_are_255(on_cloud_n):
    mask = half_cloudy(1)
    mask[0, 0] = 255
    write(on_cloud_n / "train_labels" / "adwp.tif", mask)
    for key in ("B02", "B03", "B04", "B08"):
        values = numbers(1000)
        values[-1] = 0
        write(on_cloud_n / "train_features" / "adwp" / f"{key}.tif", values)
    reflectance, label = data.find(on_cloud_n).patches[0].read()
    assert label[0, 0] == 255
    assert (label[-1] == 255).all()
    assert (reflectance[:, -1] == 0).all()
    assert (label == 255).sum() == SIDE + 1


def broken(folder, change):
    patches = data.find(folder).patches
    change()
    with pytest.raises(ContractError) as caught:
        patches[0].read()
    return str(caught.value)


def test_missing_band_is_named(on_cloud_n):
    path = on_cloud_n / "train_features" / "adwp" / "B08.tif"
    path.unlink()
    with pytest.raises(ContractError, match=r"adwp/B08\.tif: there is no such file"):
        data.find(on_cloud_n)


def test_missing_label_is_named(cloud_38):
    (cloud_38 / "train_gt" / f"gt_{OTHER}.TIF").unlink()
    with pytest.raises(ContractError, match=f"gt_{OTHER}.TIF: there is no such file"):
        data.find(cloud_38)


def test_unreadable_file_is_named(on_cloud_n):
    path = on_cloud_n / "train_labels" / "adwp.tif"
    assert str(path) in broken(on_cloud_n, lambda: path.write_bytes(b"no tiff"))


def test_truncated_file_is_named(on_cloud_n):
    path = on_cloud_n / "train_features" / "adwp" / "B03.tif"
    assert str(path) in broken(on_cloud_n, lambda: path.write_bytes(path.read_bytes()[:300]))


def test_mask_with_other_values_is_named(on_cloud_n):
    path = on_cloud_n / "train_labels" / "adwp.tif"
    message = broken(on_cloud_n, lambda: write(path, half_cloudy(7)))
    assert f"{path} has the value 7" in message


def test_mask_of_another_shape_is_named(on_cloud_n):
    path = on_cloud_n / "train_labels" / "adwp.tif"
    assert f"{path} has (8, 8) pixels" in broken(on_cloud_n, lambda: write(path, half_cloudy(1, 8)))


def test_band_of_another_shape_is_named(on_cloud_n):
    path = on_cloud_n / "train_features" / "adwp" / "B03.tif"
    assert f"{path} has (8, 8) pixels" in broken(on_cloud_n, lambda: write(path, numbers(5, 8)))


def test_unknown_layout(tmp_path):
    with pytest.raises(UsageError, match="no labelled patches"):
        data.find(tmp_path)


def test_broken_items_file_is_named(tmp_path):
    (tmp_path / "items.json").write_text(json.dumps({"features": [{"id": "x", "assets": {}}]}))
    with pytest.raises(ContractError, match=r"items\.json"):
        data.find(tmp_path)


@needs_data
def test_real_data_sets_of_ours():
    found = data.find(SHARED / "data" / "stac")
    labelled = {p.name for p in found.patches if p.label}
    assert {"ocn-chip1", "ocn-chip2", "ocn-chip3", "alberta-2020-04-26"} <= labelled
    reflectance, _ = next(p for p in found.patches if p.name == "coast-18N").read()
    assert 0.03 < np.median(reflectance[0]) < 0.12
    chips = data.find(SHARED / "data" / "chips").patches
    assert len([p for p in chips if p.scene == "snow-layton-alberta-2020-04-11"]) == 8
    surfaces = data.find(SHARED / "data" / "surfaces").patches
    assert {p.name.split("-")[0] for p in surfaces if not p.clear} == {"cloudy"}


@needs_data
def test_real_38_cloud_patch(tmp_path):
    for path in (SHARED / "data" / "38-cloud-patches").iterdir():
        band, name = path.stem.split("_", 1)
        (tmp_path / f"train_{band}").mkdir()
        shutil.copy(path, tmp_path / f"train_{band}" / path.name)
    write(tmp_path / "train_gt" / f"gt_{name}.TIF", half_cloudy(255, 384))
    (patch,) = data.find(tmp_path).patches
    assert patch.scene == "LC08_L1TP_032030_20160420_20170223_01_T1"
    reflectance, _ = patch.read()
    assert reflectance.shape == (4, 384, 384)
    assert 0.02 < np.median(reflectance[0]) < 0.6
