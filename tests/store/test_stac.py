"""An OUT as a static STAC catalog, and the COGs beside its items, as other programs read them."""

import json
import shutil
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import odc.stac
import output
import pystac
import pytest
import rasterio
import stackstac
from affine import Affine
from faulty import call
from odc.geo.geobox import GeoBox
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.enums import Resampling
from shapely import GeometryCollection, box

import cloudjob
from cloudjob.store import cog, ledger, stac
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # with affine 3
    pytest.mark.filterwarnings("ignore:The 'shapely.ops:DeprecationWarning"),  # odc-geo 0.5 with shapely 2.2
    pytest.mark.filterwarnings("ignore:The argument 'infer_datetime_format':UserWarning"),  # stackstac with pandas 2
]
DAYS = (1, 4, 9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stac")
    items = [
        jobs.make_scene(folder, f"S{day}", f"2024-06-0{day}T10:15:59.024000Z", values=jobs.pattern(day)) for day in DAYS
    ]
    catalog = jobs.write_catalog(folder / "items.json", items)
    jobs.run_here(catalog, jobs.brightness_checkpoint(folder / "net.safetensors"), folder / "out")
    with Lock(Out.at(folder / "out")) as lock:
        assert list(cog.attach(lock)) == [cog.path(group_of(folder / "out", f"S{day}"), f"S{day}") for day in DAYS]
    return folder / "out"


def group_of(out: Path, scene: str) -> str:
    return str(jobs.item_of(out, scene)["properties"]["cloudjob:group"])


def items_of(out: Path) -> list[pystac.Item]:
    return list(pystac.Catalog.from_file(str(out / "catalog.json")).get_items(recursive=True))


def test_from_root_to_items_and_back(made: Path) -> None:
    root = pystac.Catalog.from_file(str(made / "catalog.json"))
    (collection,) = root.get_children()
    assert isinstance(collection, pystac.Collection)
    found = items_of(made)
    assert [item.id for item in found] == [f"S{day}" for day in DAYS]
    alone = pystac.Item.from_file(found[0].get_self_href() or "")
    assert alone.get_root().id == root.id  # type: ignore[union-attr]
    assert alone.get_parent().id == alone.get_collection().id == collection.id == alone.collection_id  # type: ignore[union-attr]
    source = alone.get_links("derived_from")[0]
    assert str(source.get_absolute_href()).endswith("/S1/red.tif")
    assert source.media_type is None, "no item, but a file of the scene"


def test_all_of_it_is_valid(made: Path) -> None:
    kinds = pystac.STACObjectType
    for path, kind in ((made / "catalog.json", kinds.CATALOG), (made / "collection.json", kinds.COLLECTION)):
        JsonSchemaSTACValidator().validate_core(json.loads(path.read_text()), kind, "1.1.0")
    for day in DAYS:
        JsonSchemaSTACValidator().validate_core(jobs.item_of(made, f"S{day}"), kinds.ITEM, "1.1.0")


def test_the_extent_of_footprints_of_any_kind(tmp_path: Path) -> None:
    """In several parts, as one that crosses the antimeridian may be; or none."""
    out = Out.at(tmp_path / "out")
    parts = GeometryCollection([box(10, 46, 11, 47), box(12, 46, 13, 48)])
    output.run(out, [output.make_scene(0, footprint=parts)])

    def extent() -> Any:
        return stac.collection(output.SETTINGS, ledger.read(out))["extent"]["spatial"]["bbox"]

    assert extent() == [[10, 46, 13, 48]]
    (done,) = ledger.read(out).done.values()
    out.put_json(done.path, {**out.get_json(done.path), "geometry": None})
    assert extent() == [[-180, -90, 180, 90]]


def test_what_the_collection_says(made: Path) -> None:
    collection = pystac.Collection.from_file(str(made / "collection.json"))
    covers = [jobs.item_of(made, f"S{day}")["properties"]["eo:cloud_cover"] for day in DAYS]
    summaries = collection.summaries.to_dict()
    assert summaries["eo:cloud_cover"] == {"minimum": min(covers), "maximum": max(covers)}
    assert summaries["proj:code"] == ["EPSG:32633"]
    assert summaries["cloudjob:model"][0]["name"] == "brightness"
    classes = collection.to_dict()["item_assets"]["cloud"]["classification:classes"]
    assert [each["value"] for each in classes] == [0, 1, 254, 255]
    (west, south, east, north) = collection.extent.spatial.bboxes[0]
    for day in DAYS:
        box = jobs.item_of(made, f"S{day}")["bbox"]
        assert west <= box[0] + 1e-9
        assert south <= box[1] + 1e-9
        assert east >= box[2] - 1e-9
        assert north >= box[3] - 1e-9
    assert [str(moment.date()) for moment in collection.extent.temporal.intervals[0]] == ["2024-06-01", "2024-06-09"]  # type: ignore[union-attr]


def test_odc_stac_loads_the_masks_as_a_band(made: Path) -> None:
    found = odc.stac.load(items_of(made), bands=["mask"], crs="EPSG:32633", resolution=10, chunks=None)
    opened = cloudjob.open(made, group_of(made, "S1"))
    inside = found.mask.sel(x=opened.x, y=opened.y, method="nearest", tolerance=1e-6)
    np.testing.assert_array_equal(inside, opened.cloud)
    elsewhere = GeoBox((30, 20), Affine(30.0, 0, 600_300, 0, -30.0, 5_199_720), "EPSG:32633")
    other = odc.stac.load(items_of(made), bands=["mask"], geobox=elsewhere, resampling="nearest").mask
    centres = opened.cloud.sel(x=other.x, y=other.y, method="nearest")
    np.testing.assert_array_equal(other, centres)


def test_stackstac_loads_the_masks_as_a_band(made: Path) -> None:
    left, top = 600_300, 5_199_720
    listed = items_of(made)
    for item in listed:
        item.make_asset_hrefs_absolute()  # which stackstac does not do itself
    loaded = stackstac.stack(
        listed,
        assets=["mask"],
        epsg=32633,
        resolution=30,
        bounds=(left, top - 600, left + 900, top),
        snap_bounds=False,
        xy_coords="center",
        dtype=np.dtype("uint8"),
        fill_value=np.uint8(255),
        rescale=False,
        resampling=Resampling.nearest,
    ).compute()
    opened = cloudjob.open(made, group_of(made, "S1"))
    centres = opened.cloud.sel(x=loaded.x, y=loaded.y, method="nearest")
    np.testing.assert_array_equal(loaded.sel(band="mask"), centres)


def test_a_cog_is_that_of_its_mask_and_only_new_ones_are_written(made: Path) -> None:
    for day in DAYS:
        asset = jobs.item_of(made, f"S{day}")["assets"]["mask"]
        with rasterio.open(made / asset["href"].removeprefix("../../")) as file:
            np.testing.assert_array_equal(file.read(1), jobs.mask_of(made, f"S{day}"))
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    before = jobs.tree(made / "cogs")
    with Lock(Out.at(made)) as lock:
        assert list(cog.attach(lock)) == []
    assert jobs.tree(made / "cogs") == before


def test_killed_between_file_and_item_the_next_call_mends_it(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The item names no file that is not whole; a file that no scene has any more is deleted."""
    path = made / "cogs" / group_of(made, "S4") / "S4.tif"
    path.unlink()
    stray = path.with_name("gone.tif")
    stray.write_bytes(b"x")
    whole = Out.put_json

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Out, "put_json", killed)
    with pytest.raises(KeyboardInterrupt), Lock(Out.at(made)) as lock:
        list(cog.attach(lock))
    monkeypatch.setattr(Out, "put_json", whole)
    with Lock(Out.at(made)) as lock:
        list(cog.attach(lock))
    assert path.exists()
    assert not stray.exists()
    assert "mask" in jobs.item_of(made, "S4")["assets"]


def test_a_damaged_mask_costs_no_other_cog(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    group = group_of(out, "S1")
    shutil.rmtree(out / "cogs")
    slot = jobs.item_of(out, "S1")["properties"]["cloudjob:slot"]
    for shard in (out / "masks.zarr" / group / "cloud/c" / f"{slot}").glob("*/*"):
        shard.write_bytes(b"damaged")
    result = call(capfd, "export", out, "--all")
    assert result.code == 1
    assert "scene S1: its mask cannot be read" in result.stderr
    assert {path.name for path in (out / "cogs" / group).iterdir()} == {"S4.tif", "S9.tif"}


def test_cogs_stay_where_nobody_knows_whose_they_are(made: Path, tmp_path: Path) -> None:
    """A group whose metadata cannot be read has no scene that is done: its COGs were deleted."""
    out = Path(shutil.copytree(made, tmp_path / "out"))
    (out / "masks.zarr" / group_of(out, "S1") / "zarr.json").write_bytes(b"")
    before = jobs.tree(out / "cogs")
    with Lock(Out.at(out)) as lock:
        assert list(cog.attach(lock)) == []
    assert jobs.tree(out / "cogs") == before


def test_cogs_of_long_names_are_two() -> None:
    """Names were cut, and of two scenes one had the other's mask."""
    long = ["x" * 190 + "云云云" + end for end in "ab"]
    assert len({cog.path("g", name) for name in long}) == 2
    assert len({len(cog.path("g", name)) for name in long}) == 1
    assert cog.path("g", ".a") == "cogs/g/%2Ea.tif", "a hidden one was written anew each time"
    assert cog.path("g", "S1") == "cogs/g/S1.tif"
