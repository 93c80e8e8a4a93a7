"""What numbers in files mean: items and files that say different things of it, or nothing, from outside."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import rasterio
from scenes import BANDS

from cloudjob.errors import SceneError
from cloudjob.scene.describe import describe

CLOUDY = np.where(np.arange(64) < 32, 0.04, 0.7)[None, :].repeat(64, axis=0)
"""Reflectance: a lake, and clouds in the eastern half."""


def scene(folder: Path, numbers: np.ndarray, *, tagged: float | None = 0, baseline: str = "03.01", **told: Any) -> Any:
    """Write a scene whose bands all have these numbers (y, x), and return its item: `told` is all it says of them."""
    item = jobs.make_scene(folder, "A", values=dict.fromkeys(BANDS, numbers), nodata=tagged, baseline=baseline)
    for asset in item["assets"].values():
        asset["raster:bands"] = [told]
    return item


def tag(item: dict[str, Any], scale: float | None, offset: float | None) -> None:
    """Let all its files tell GDAL's scale and offset."""
    for asset in item["assets"].values():
        with rasterio.open(asset["href"], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.scales = [scale or 1]
            file.offsets = [offset or 0]


def masked(folder: Path, item: dict[str, Any], **how: Any) -> tuple[str, list[str], np.ndarray | None]:
    """Do the job: why it failed or "", what its item warns of, and its mask by a network for which red is cloud."""
    net = jobs.brightness_checkpoint(folder / "net.safetensors")
    (result,) = jobs.run_here(jobs.write_catalog(folder / "items.json", [item]), net, folder / "out", **how)
    if result.state != "done":
        return str(result.reason), [], None
    warnings = jobs.item_of(folder / "out", "A")["properties"].get("cloudjob:warnings", [])
    return "", warnings, jobs.mask_of(folder / "out", "A")


TOLD = {"data_type": "uint16", "scale": 1e-4, "offset": 0}


@pytest.mark.parametrize(
    ("told", "tags", "how", "fault", "warning"),
    [
        # Nobody but the file tells: what is usual would be wrong
        ({}, (2.75e-5, -0.2), {}, r"its file tells scale 2\.75e-05 and offset -0\.2 .* usual are 0\.0001 and 0", ""),
        ({}, (1e-4, -0.1), {}, "tells scale 0.0001 and offset -0.1", ""),
        ({}, (None, -1000), {}, "and offset -0.1", ""),  # Of numbers, as ESA says it
        ({"scale": 1e-4}, (1e-4, -0.1), {}, "and offset -0.1", ""),
        (
            {"data_type": "uint16", "scale": 1, "offset": 0},
            (2e-4, 0),
            {},
            "tells scale 0.0002",
            "",
        ),  # rio-stac, before the file had tags
        ({}, (2e-4, 0), {"offset": 0.0}, "tells scale 0.0002", ""),
        # Both tell
        (TOLD, (2.75e-5, -0.2), {}, "", "the file of red tells scale 2.75e-05 and offset -0.2"),
        (TOLD, (1e-4, -0.1), {}, "", "its item 0.0001 and 0: the item's were used"),
        # They agree, or somebody has said which is right
        ({}, (1e-4, 0), {}, "", ""),  # HLS
        (TOLD, (1e-4, 0), {}, "", ""),
        (TOLD, (None, None), {}, "", ""),
        ({**TOLD, "offset": -0.1}, (1e-4, -0.1), {}, "", ""),
        ({**TOLD, "offset": -0.1}, (1e-4, -1000), {}, "", ""),
        ({}, (1e-4, -0.1), {"offset": 0.0}, "", ""),
    ],
)
def test_a_files_own_scale_and_offset_are_compared(
    told: dict[str, Any], tags: Any, how: Any, fault: str, warning: str, tmp_path: Path
) -> None:
    """Landsat's numbers by ESA's scale were all cloud, without a word."""
    item = scene(tmp_path, np.rint((CLOUDY - told.get("offset", 0)) * 1e4).astype(np.uint16), **told)
    tag(item, *tags)
    reason, warnings, mask = masked(tmp_path, item, **how)
    if fault:
        assert re.search(fault, reason)
        assert "write raster:scale and raster:offset into the item" in reason  # What to do is kept with it
    else:
        assert mask is not None
        assert [warning in each for each in warnings] == [True] * bool(warning)


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_of_the_offset_goes_before_what_a_file_tells(flag: bool, tmp_path: Path) -> None:
    """Earth Search tells -0.1 of numbers off which it has been taken already."""
    item = scene(tmp_path, np.rint(CLOUDY * 1e4 + (0 if flag else 1000)).astype(np.uint16), baseline="05.10")
    item["properties"]["earthsearch:boa_offset_applied"] = flag
    tag(item, 1e-4, -0.1)
    reason, warnings, mask = masked(tmp_path, item)
    assert (reason, warnings) == ("", [])
    np.testing.assert_array_equal(mask == 1, CLOUDY > 0.5)


FILLED = np.s_[:10]


@pytest.mark.parametrize(
    ("kind", "scale", "fill", "told"),
    [
        ("int16", 1e-4, -999, {}),
        ("int16", 1e-4, 32767, {}),
        ("int16", 1e-4, -9999, {}),
        ("float32", 1, -999, {}),
        ("float32", 1, 9999, {}),
        ("float32", 1, 1e20, {}),
        ("float32", 1, 3.4e38, {}),
        ("float32", 1e-4, -999, {}),
        ("float32", 1e-4, 3.4e38, {}),
        ("uint16", 1e-4, 65535, {"nodata": 65535}),
        ("uint16", 1e-4, 9999, {"nodata": 9999}),
        ("int16", 1e-4, 555, {"nodata": 555}),
    ],
)
@pytest.mark.parametrize("tagged", [None, -9998])
def test_what_says_no_data_in_every_band_is_none(
    kind: str, scale: float, fill: float, told: dict[str, Any], tagged: float | None, tmp_path: Path
) -> None:
    """Though no file tells so, or tells something else. Such a scene's empty side was cloud, or clear ground."""
    numbers = (CLOUDY / scale).astype(kind)
    numbers[FILLED] = fill
    item = scene(
        tmp_path, numbers, tagged=0 if kind == "uint16" else tagged, data_type=kind, scale=scale, offset=0, **told
    )
    reason, warnings, mask = masked(tmp_path, item)
    assert (reason, warnings) == ("", [])
    assert mask is not None
    assert (mask[FILLED] == 254).all()
    np.testing.assert_array_equal(mask[10:] == 1, CLOUDY[10:] > 0.5)


@pytest.mark.parametrize(("kind", "number"), [("int16", 9999), ("float32", 9999), ("uint16", 32767), ("uint16", 65535)])
def test_bright_numbers_are_data_though_every_band_has_the_same(kind: str, number: int, tmp_path: Path) -> None:
    numbers = (CLOUDY / 1e-4).astype(kind)
    numbers[:2, :2] = number
    item = scene(tmp_path, numbers, tagged=None, data_type=kind, scale=1e-4, offset=0)
    reason, warnings, mask = masked(tmp_path, item)
    assert (reason, warnings) == ("", [])
    assert mask is not None
    assert (mask[:2, :2] == 1).all()


def test_a_lake_in_whole_numbers_is_masked_whatever_they_are_packed_in(tmp_path: Path) -> None:
    """Of a small area of it none is above 0.02, which fractions of a wrong scale are not, either."""
    numbers = np.linspace(20, 190, 64 * 64).round().reshape(64, 64).astype(np.float32)
    item = scene(tmp_path, numbers, data_type="float32", scale=1e-4, offset=0)
    reason, warnings, mask = masked(tmp_path, item)
    assert (reason, warnings) == ("", [])
    assert mask is not None
    assert (mask == 0).all()


def test_fractions_that_may_be_a_lakes_or_percent_are_masked_and_doubted(tmp_path: Path) -> None:
    """A lake, as a file that was resampled has it, was refused; plants in percent look the same."""
    numbers = np.linspace(20, 190, 64 * 64).reshape(64, 64).astype(np.float32)
    item = scene(tmp_path, numbers, data_type="float32", scale=1e-4, offset=0)
    reason, (warning,), mask = masked(tmp_path, item)
    assert not reason
    assert "unless all of it is dark water, its numbers are percent already" in warning
    assert mask is not None
    assert (mask == 0).all()


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"nir": 1234}, "in every pixel with data nir is 1234: no ground is so"),
        ({"red": 5000, "nir": 12}, "in every pixel with data red is 5000, nir is 12: "),
        (dict.fromkeys(BANDS, 2500), "in every pixel with data red is 2500, green is 2500, blue is 2500, nir is 2500"),
        ({}, ""),
    ],
)
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_band_of_one_number_is_told(numbers: dict[str, int], says: str, lanes: int, tmp_path: Path) -> None:
    """A file that was never filled; its scenes were masked without a word."""
    values = jobs.pattern(1)
    for band, number in numbers.items():
        values[band] = np.full_like(values[band], number)
        values[band][:20] = 0  # No data
    item = jobs.make_scene(tmp_path, "A", values=values)
    reason, warnings, _ = masked(tmp_path, item, lanes=lanes)
    assert not reason
    assert [says in each for each in warnings] == [True] * bool(says)


def test_one_band_of_other_numbers_is_refused(tmp_path: Path) -> None:
    """All bands were counted together, and three of four are reflectance."""
    values = jobs.pattern(1)
    values["nir"] = (values["nir"].astype(np.uint32) * 20).clip(0, 65534).astype(np.uint16)
    reason, _, _ = masked(tmp_path, jobs.make_scene(tmp_path, "A", values=values))
    assert "the values of nir are no reflectance" in reason


@pytest.mark.parametrize(("number", "says", "stays"), [(65535, "% of its pixels are 65535", 1), (900, "nir is 900", 0)])
def test_a_scene_that_grows_is_judged_anew(number: int, says: str, stays: int, tmp_path: Path) -> None:
    """Its item kept the share of the part that was masked first, and what the other part has disproved."""
    values = jobs.pattern(1)
    rows = 4 if number == 65535 else 70
    for band in BANDS if number == 65535 else ("nir",):
        values[band][:rows] = number
    item = jobs.make_scene(tmp_path, "A", values=values)
    west, south, east, north = item["bbox"]
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    net = jobs.brightness_checkpoint(tmp_path / "net.safetensors")
    jobs.run_here(catalog, net, tmp_path / "out", bbox=(west, north - (north - south) / 5, east, north))
    (first,) = jobs.item_of(tmp_path / "out", "A")["properties"]["cloudjob:warnings"]
    assert says in first
    (grown,) = jobs.run_here(catalog, net, tmp_path / "out")
    jobs.run_here(catalog, net, tmp_path / "whole")
    jobs.assert_same(tmp_path / "out", tmp_path / "whole")
    told = jobs.item_of(tmp_path / "out", "A")["properties"].get("cloudjob:warnings", [])
    assert [says in each for each in told] == [True] * stays
    assert first not in told
    assert grown.receipt is not None
    assert grown.receipt.warnings == tuple(told), "a log tells it, too"


def test_what_a_part_tells_is_never_the_whole_scenes(tmp_path: Path) -> None:
    """An item of the version before tells nothing, and what was added to it was taken for all of it."""
    values = jobs.pattern(1)
    values["nir"][192:] = 900
    item = jobs.make_scene(tmp_path, "A", values=values)
    west, south, east, north = item["bbox"]
    catalog = jobs.write_catalog(tmp_path / "items.json", [item])
    net, out = jobs.brightness_checkpoint(tmp_path / "net.safetensors"), tmp_path / "out"
    jobs.run_here(catalog, net, out, bbox=(west, north - (north - south) / 5, east, north))
    (path,) = out.glob("items/*/A.json")
    found = json.loads(path.read_text())
    del found["properties"]["cloudjob:numbers"]
    path.write_text(json.dumps(found))
    last = south + (north - south) / 50
    for end in (0.3, 1):  # Each adds less than a thousand pixels in which near infrared has one number
        jobs.run_here(catalog, net, out, bbox=(west, south, west + (east - west) * end, last))
        properties = jobs.item_of(out, "A")["properties"]
        assert "cloudjob:numbers" not in properties
        assert "cloudjob:warnings" not in properties


def test_a_number_in_one_band_that_no_fraction_means_is_counted(tmp_path: Path) -> None:
    """65535 was passed over as saturated, as ESA writes it in whole numbers, also among reflectances."""
    values = dict.fromkeys(BANDS, CLOUDY.astype(np.float32)) | {"nir": np.where(CLOUDY > 0.5, 65535, 0.04)}
    values["nir"][0] = 65535
    item = jobs.make_scene(tmp_path, "A", values={band: numbers.astype(np.float32) for band, numbers in values.items()})
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"data_type": "float32", "scale": 1, "offset": 0}]
    reason, _, _ = masked(tmp_path, item)
    assert "the values of nir are no reflectance" in reason


def test_of_a_few_pixels_no_share_is_told(tmp_path: Path) -> None:
    """One of thirty that is saturated is none of them in a hundred."""
    numbers = np.rint(CLOUDY[:30, :30] * 1e4).astype(np.uint16)
    numbers[0, 0] = 65535
    reason, warnings, _ = masked(tmp_path, scene(tmp_path, numbers, tagged=None, **TOLD))
    assert (reason, warnings) == ("", [])


def test_a_bright_cloud_that_saturates_one_band_is_masked(tmp_path: Path) -> None:
    """Of a small area over its top that was most of red: the scene was refused, and given up."""
    values = {band: np.linspace(9000, 12_000, 4096).reshape(64, 64).astype(np.uint16) for band in BANDS}
    values["red"][:, 20:] = 65535
    reason, warnings, mask = masked(tmp_path, jobs.make_scene(tmp_path, "A", values=values))
    assert (reason, warnings) == ("", [])
    assert mask is not None
    assert (mask == 1).all()


def test_many_saturated_pixels_are_doubted(tmp_path: Path) -> None:
    """ESA says so of what is too bright, and others of what is missing."""
    numbers = np.rint(CLOUDY * 1e4).astype(np.uint16)
    numbers[FILLED] = 65535
    reason, warnings, mask = masked(tmp_path, scene(tmp_path, numbers, tagged=None, **TOLD))
    assert not reason
    assert mask is not None
    assert (mask[FILLED] == 1).all()
    assert warnings == ["16 % of its pixels are 65535 in every band: if that says no data, its item has to tell it"]


def test_bands_of_which_the_item_tells_different_things_are_doubted(tmp_path: Path) -> None:
    item = scene(tmp_path, np.rint(CLOUDY * 1e4 + 1000).astype(np.uint16), **{**TOLD, "offset": -0.1})
    item["assets"]["nir"]["raster:bands"] = [TOLD]
    _, warnings, _ = masked(tmp_path, item)
    (warning,) = warnings
    assert "different scales and offsets of its bands: red 0.0001 and -0.1, " in warning
    assert warning.endswith("nir 0.0001 and 0")


def test_one_file_for_two_bands_is_refused(tmp_path: Path) -> None:
    item = scene(tmp_path, np.rint(CLOUDY * 1e4).astype(np.uint16), **TOLD)
    item["assets"]["nir"]["href"] = item["assets"]["red"]["href"]
    with pytest.raises(SceneError, match=r"its assets red and nir are one file, .*red\.tif"):
        describe(item, {band: band for band in BANDS}, BANDS, 10)
    with pytest.raises(SceneError, match="assets red and red are one file") as caught:
        describe(item, dict.fromkeys(BANDS, "red"), BANDS, 10)
    assert caught.value.hint == "export its bands one by one", "they have been named"


@pytest.mark.parametrize("offset", [0.1, 0.2])
def test_an_offset_without_its_sign_is_refused(offset: float, tmp_path: Path) -> None:
    """All of such a scene is brighter than it is: much of its ground was cloud."""
    item = scene(tmp_path, np.ones((64, 64), np.uint16), **{**TOLD, "offset": offset})
    with pytest.raises(SceneError, match=f"its offset is {offset}; by it no number is darker") as caught:
        describe(item, {band: band for band in BANDS}, BANDS, 10)
    assert f"--offset -{offset}" in str(caught.value.hint)
    shifted = scene(tmp_path, np.ones((64, 64), np.int16), data_type="int16", scale=1e-4, offset=offset)
    describe(shifted, {band: band for band in BANDS}, BANDS, 10)  # Negative ones may be darker


@pytest.mark.parametrize("number", [None, 1])
def test_one_band_that_is_black_beside_bright_ones_is_refused(number: int | None, tmp_path: Path) -> None:
    """Reflectance already, or by another scale: one bright band hid it, and what tells a cloud is how bands differ."""
    values = jobs.pattern(1)
    nir = (values["nir"] * 1e-4).astype(np.float32) if number is None else np.full_like(values["nir"], number)
    item = jobs.make_scene(tmp_path, "A", values=values | {"nir": nir}, nodata=None)
    for asset in item["assets"].values():
        del asset["raster:bands"]
    reason, _, _ = masked(tmp_path, item)
    assert "no value of nir is above 0.001, though others are above 0.2" in reason


def test_blue_that_is_corrected_to_nothing_over_leaves_is_no_black_band(tmp_path: Path) -> None:
    dark = np.tile(np.arange(60, 124, dtype=np.uint16), (64, 1))
    values = {"red": dark, "green": 2 * dark, "blue": np.ones_like(dark), "nir": 30 * dark}
    reason, warnings, _ = masked(tmp_path, jobs.make_scene(tmp_path, "A", values=values))
    assert not reason
    assert warnings[0].startswith("in every pixel with data blue is 1: ")


@pytest.mark.parametrize("lanes", [1, 6])
def test_a_band_that_lacks_data_where_others_have_some_is_told(lanes: int, tmp_path: Path) -> None:
    """A file of which half was never written is no data there by all that it says: half of the mask was empty."""
    values = jobs.pattern(1)
    whole = jobs.make_scene(tmp_path, "A", values=values)
    values["nir"] = values["nir"].copy()
    values["nir"][100:] = 0
    half = jobs.make_scene(tmp_path / "half", "A", values=values)
    for item, told in ((whole, []), (half, [r"where other bands have data some have none: nir in 5\d %; are their "])):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        reason, warnings, _ = masked(tmp_path, item, lanes=lanes)
        assert not reason
        assert len(warnings) == len(told)
        assert all(map(re.match, told, warnings))


@pytest.mark.parametrize(
    ("name", "warned"),
    [
        ("S2A_MSIL2A_20240601T101031_N0301_R022_T33UUP_20240601T150000.SAFE", False),
        ("S2A_MSIL2A_20240531T235959_N0301_R022_T33UUP_20240715T150000.SAFE", False),
        ("S2A_MSIL2A_20240501T101031_N0301_R022_T33UUP_20240601T150000.SAFE", True),  # When it was made
        ("S2A_MSIL2A_20249901T101031_N0301_R022_T33UUP_20240601T150000.SAFE", False),
    ],
)
def test_a_time_that_is_not_the_products_is_told(name: str, warned: bool, tmp_path: Path) -> None:
    """Where an item says when it was listed, or made, its mask lay at that time without a word."""
    item = jobs.make_scene(tmp_path, "A", values=jobs.pattern(1), properties={"s2:product_uri": name})
    reason, warnings, _ = masked(tmp_path, item)
    assert not reason
    told = "its datetime is of 2024-06-01, but its product's name of 2024-05-01"
    assert [told in each for each in warnings] == [True] * warned
