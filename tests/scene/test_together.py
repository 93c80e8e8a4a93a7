"""Assets of one item that are of several scenes: their mask was wrong, and nobody was told."""

from pathlib import Path
from typing import Any

import pytest
from scenes import BANDS, make_item

from cloudjob.errors import SceneError
from cloudjob.scene.describe import describe
from cloudjob.scene.product import told_by
from cloudjob.scene.scene import Scene

SAFE = "S2A_MSIL2A_20240601T101031_N{}_R022_T{}_20240601T150000.SAFE/{}"
COG = "33/T/UN/2024/6/S2A_{}_{}_0_L2A/{}"


def described(folder: Path, hrefs: dict[str, str], **swir: Any) -> Scene:
    """An item whose bands have these addresses; `swir` is its optional band's asset."""
    item = make_item(folder)
    for band, asset in item["assets"].items():
        asset["href"] = f"https://h/{hrefs.get(band, f'{band}.tif')}"
    if swir:
        item["assets"]["swir16"] = {**item["assets"]["red"], **swir}
    wanted = (*BANDS, "swir16")
    return describe(item, {band: band for band in wanted}, wanted, 10, optional=("swir16",))


@pytest.mark.parametrize(
    ("red", "nir", "says"),
    [
        (SAFE.format("0510", "33TUN", "B04.jp2"), SAFE.format("0500", "33TUN", "B08.jp2"), "products"),
        (SAFE.format("0510", "33TUN", "B04.jp2"), SAFE.format("0510", "33TVN", "B08.jp2"), "products"),
        ("N0510/B04.tif", "N0500/B08.tif", "baselines, as their addresses tell: 0510 and 0500"),
        ("red_N05.10.tif", "nir_N05.00.tif", "baselines, as their addresses tell: 0510 and 0500"),
        ("T33TUN_20240601T101031_B04.jp2", "T33TVN_20240601T101031_B08.jp2", "tiles, .*33TUN and 33TVN"),
        ("T33TUN_20240601T101031_B04.jp2", "T33TUN_20240611T101031_B08.jp2", "days, .*20240601 and 20240611"),
        (COG.format("33TUN", "20240601", "B04.tif"), COG.format("33TUN", "20240606", "B08.tif"), "days"),
        ("2024-06-01/red.tif", "2024-06-02/nir.tif", "days"),
    ],
)
def test_addresses_that_tell_of_several_scenes(red: str, nir: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=f"its assets red and nir are of different {says}"):
        described(tmp_path, {"red": red, "nir": nir})
    with_it = described(tmp_path, {"red": red}, href=f"https://h/{nir.replace('B08', 'B11')}")
    assert [band.name for band in with_it.bands] == list(BANDS)
    assert "are of different" in with_it.left_out[0].fault


@pytest.mark.parametrize(
    "names",
    [
        ("T33TUN_20240601T101031_B04_10m.jp2", "T33TUN_20240601T101031_B11_20m.jp2"),
        ("LC08_L2SP_192028_20240601_20240610_02_T1_SR_B4.TIF", "LC08_L2SP_192028_20240601_20240610_02_T1_SR_B6.TIF"),
        ("HLS.S30.T33UUQ.2024153T101559.v2.0.B04.tif", "HLS.S30.T33UUQ.2024153T101559.v2.0.B11.tif"),
        ("S2_04RED.tif", "S2_03GRN.tif"),  # Tiles, but for what stands before them
        ("20240601/red.tif", "derived-20241128/swir16_20240601.tif"),
        ("20240601/red.tif", "swir16.tif"),
        ("a20240601b/red.tif", "a20240602b/swir16.tif"),
        ("20241399/red.tif", "20241398/swir16.tif"),  # No days
        ("red.tif?day=20240601", "swir16.tif?day=20240602"),
    ],
)
def test_addresses_of_one_scene(names: tuple[str, str], tmp_path: Path) -> None:
    scene = described(tmp_path, {"red": names[0]}, href=f"https://h/{names[1]}")
    assert [band.name for band in scene.bands] == [*BANDS, "swir16"]


def test_what_an_address_tells() -> None:
    told = told_by("https://h/S2A_MSIL2A_20240601T101031_N0510_R022_T33TUN_20240601T150000.SAFE/T33TUN_2024-06-01.jp2")
    assert told == {
        "products": {"S2A_MSIL2A_20240601T101031_N0510_R022_T33TUN_20240601T150000"},
        "baselines": {"0510"},
        "tiles": {"33TUN"},
        "days": {"20240601"},
    }


@pytest.mark.parametrize(
    ("told", "apart"),
    [
        ({"proj:transform": [10, 0, 700_000, 0, -10, 5_200_020]}, True),
        ({"proj:transform": [10, 0, 600_000, 0, -10, 5_300_040]}, True),
        ({"proj:transform": [10, 0, 600_700, 0, -10, 5_200_020]}, True),  # Half of it and more
        ({"proj:transform": [10, 0, 600_600, 0, -10, 5_200_020]}, False),
        ({"proj:transform": [20, 0, 600_000, 0, -20, 5_200_020], "proj:shape": [75, 70]}, False),
        ({"proj:epsg": 32632}, True),
    ],
)
def test_bands_that_lie_apart(told: dict[str, Any], apart: bool, tmp_path: Path) -> None:
    """Of one that lies elsewhere all was no data."""
    item = make_item(tmp_path)
    item["assets"]["nir"] |= told
    if not apart:
        assert len(describe(item, {band: band for band in BANDS}, BANDS, 10).bands) == 4
        return
    with pytest.raises(SceneError, match="its assets red and nir lie apart: 150 × 139 pixels of EPSG:32633"):
        describe(item, {band: band for band in BANDS}, BANDS, 10)
