"""Each publisher of docs/publishers.md: items of its form, pixels of our own, a server that answers as its own does."""

import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from file_server import file_server
from scenes import write_cog
from shapely import box
from shapely.geometry import mapping
from stac_server import stac_server

from cloudjob.catalog import presets, signing
from cloudjob.catalog.area import parse_bbox
from cloudjob.catalog.dates import parse_dates
from cloudjob.catalog.presets import catalog_for
from cloudjob.catalog.search import search
from cloudjob.errors import SceneError
from cloudjob.plan import survey
from cloudjob.plan.request import request
from cloudjob.scene.cube import open_cube
from cloudjob.scene.describe import describe
from cloudjob.scene.identity import merge
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.scene import is_empty

DOCS = Path(__file__).parents[2] / "docs" / "publishers.md"
BANDS = ("red", "green", "blue", "nir")
DEA = ("nbart_red", "nbart_green", "nbart_blue", "nbart_nir_1")
JUNE = parse_dates("2024-06", date(2024, 7, 1))
WORLD = parse_bbox(-180, -85, 180, 85)
TRANSFORM = (10, 0, 300_000, 0, -10, 5_500_020)
SHAPE = (110, 120)
PRODUCT = "S2A_MSIL2A_20240601T101031_N0510_R022_T33UUQ_20240601T150000"
STRIP = "S2A_OPER_MSI_L2A_DS_2APS_20240601T150000_S20240601T101559_N05.10"
PROJ = {"proj:shape": list(SHAPE), "proj:transform": list(TRANSFORM)}


def item(name, collection, assets, **properties):
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": mapping(box(12.2, 49.6, 12.3, 49.7)),
        "bbox": [12.2, 49.6, 12.3, 49.7],
        "properties": {"datetime": "2024-06-01T10:16:03Z", **properties},
        "links": [],
        "assets": assets,
    }


def assets(files, keys, **more):
    """An asset for each band, at the server's files."""
    return {
        key: {"href": f"{files.url}/{band}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"], **more}
        for band, key in zip(BANDS, keys, strict=True)
    }


def named(told, *, key="eo:bands", name="common_name"):
    """Say of each asset which band it is."""
    return {
        asset: {**what, key: [{"name": asset, name: band}]}
        for band, (asset, what) in zip(BANDS, told.items(), strict=True)
    }


@pytest.fixture
def files(tmp_path):
    with file_server(tmp_path) as server:
        yield server


def pixels(files, *, dtype=np.uint16, nodata=0, transform=TRANSFORM, bands=BANDS, epsg=32633):
    for number, band in enumerate(bands):
        values = np.random.default_rng(number).integers(1, 9000, SHAPE).astype(dtype)
        values[:20] = nodata
        write_cog(files.folder / f"{band}.tif", values, transform, epsg, nodata)


def masked(api, catalog, resolution=10):
    """The scene that a job would read, its numbers, and how the API was asked."""
    (found,) = search(catalog, WORLD, JUNE)
    scene = describe(found, catalog.assets, BANDS, resolution, catalog.signing)
    with SceneFiles(scene) as opened:
        return scene, open_cube(opened, scene.bands, scene.grid).values


def assert_only_data(values):
    """What `pixels` left without data has none, and nothing else."""
    assert is_empty(values)[:, :20].all()
    assert not is_empty(values)[:, 20:].any()


def here(name, api):
    """A preset, at the test's server."""
    preset = presets.PRESETS[name]
    return catalog_for(name).__class__(api.url, preset.collection, preset.assets, preset.signing)


def earth_search(files, collection, **properties):
    numbers = {"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 0.0001, "offset": -0.1}]}
    told = named(assets(files, BANDS, **PROJ, **numbers))
    elsewhere = {"type": "image/jp2"}
    jp2 = {
        f"{key}-jp2": {**asset, **elsewhere, "href": f"s3://requester-pays/{key}.jp2"} for key, asset in told.items()
    }
    about = {"platform": "sentinel-2a", "grid:code": "MGRS-33UUQ", "proj:epsg": 32633}
    about |= {"s2:processing_baseline": "05.10", "s2:generation_time": "2024-06-01T15:00:00Z"}
    about |= {"s2:product_uri": f"{PRODUCT}.SAFE", "s2:datastrip_id": STRIP}
    return item("S2A_33UUQ_20240601_0_L2A", collection, {**told, **jp2}, **about, **properties)


def test_earth_search(files):
    pixels(files)
    with stac_server() as api:
        for applied, offset in ((True, 0.0), (False, -0.1)):
            api.items = [earth_search(files, "sentinel-2-l2a", **{"earthsearch:boa_offset_applied": applied})]
            scene, values = masked(api, here("earth-search", api))
            assert {band.offset for band in scene.bands} == {offset}
            assert [band.key for band in scene.bands] == list(BANDS)
            assert (values[:, :20] == 0).all()
            # Beside its COGs lie ESA's own files, which nobody takes anything off
            own = catalog_for(api.url, assets={band: f"{band}-jp2" for band in BANDS})
            (found,) = search(own, WORLD, JUNE)
            assert {band.offset for band in describe(found, own.assets, BANDS, 10).bands} == {-0.1}
        assert api.searches[0][0] == "POST"


def test_earth_search_collection_1(files):
    pixels(files)
    one, other = earth_search(files, "sentinel-2-c1-l2a"), earth_search(files, "sentinel-2-l2a")
    one["id"] = "S2A_T33UUQ_20240601T101559_L2A"
    with stac_server(items=[one, other]) as api:
        preset = here("earth-search", api)
        both = [
            describe(found, preset.assets, BANDS, 10)
            for collection in ("sentinel-2-l2a", "sentinel-2-c1-l2a")
            for found in search(catalog_for(api.url, collection=collection), WORLD, JUNE)
        ]
        assert len(both) == 2
        assert len(merge(both)[0]) == 1


def test_planetary_computer(files, monkeypatch):
    pixels(files)
    monkeypatch.setattr(signing, "_fetch_token", lambda *_: ("sig=SECRET", JUNE.start.replace(year=2100)))
    told = assets(files, ("B04", "B03", "B02", "B08"), **PROJ)
    name = PRODUCT.replace("_N0510", "")
    about = {"platform": "Sentinel-2A", "s2:mgrs_tile": "33UUQ", "s2:processing_baseline": "05.10", "proj:epsg": 32633}
    blob = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/B04.tif"
    with stac_server(items=[item(name, "sentinel-2-l2a", told, **about)]) as api:
        scene, _ = masked(api, here("planetary-computer", api))
        assert (scene.platform, scene.bands[0].offset) == ("sentinel-2a", -0.1)
        earth = describe(earth_search(files, "sentinel-2-l2a"), presets.PRESETS["earth-search"].assets, BANDS, 10)
        assert scene.product == earth.product
    assert signing.open_href("", blob) == f"{blob}?sig=SECRET"


def test_cdse(files):
    """STAC 1.1: `bands`, a baseline in the processing extension, a datastrip of the EOPF extension."""
    pixels(files)
    numbers = {"data_type": "uint16", "nodata": 0, "raster:scale": 0.0001, "raster:offset": -0.1, "gsd": 10}
    told = assets(files, ("B04_10m", "B03_10m", "B02_10m", "B08_10m"), **numbers, **PROJ)
    fine = named(told, key="bands", name="eo:common_name")
    elsewhere = {"gsd": 20, "href": "s3://eodata/x.jp2"}
    coarse = {key.replace("10m", "20m"): {**asset, **elsewhere} for key, asset in fine.items()}
    about = {"platform": "sentinel-2a", "grid:code": "MGRS-33UUQ", "proj:code": "EPSG:32633"}
    about |= {"processing:version": "05.10", "eopf:datastrip_id": STRIP}
    with stac_server(items=[item(f"{PRODUCT}.SAFE", "sentinel-2-l2a", {**coarse, **fine}, **about)]) as api:
        scene, _ = masked(api, here("cdse", api))
        found, _ = masked(api, catalog_for(api.url))  # By what the item says, without the preset
    for each in (scene, found):
        assert [band.key for band in each.bands] == list(fine)
        assert (each.baseline, each.sensing.second, each.bands[0].offset) == ("05.10", 59, -0.1)
    assert scene.product == PRODUCT.replace("_N0510", "")


def test_digital_earth_africa(files, monkeypatch):
    """datacube-explorer, and the names of Earth Search v0."""
    pixels(files)
    told = named(assets(files, ("B04", "B03", "B02", "B08"), **PROJ))
    about = {"platform": "sentinel-2a", "proj:epsg": 32633, "sentinel:processing_baseline": "05.10"}
    about |= {"sentinel:utm_zone": 33, "sentinel:latitude_band": "U", "sentinel:grid_square": "UQ"}
    about |= {"sentinel:product_id": PRODUCT, "sentinel:boa_offset_applied": False}
    with stac_server(items=[item("6eec7f5e-0b3b-5cd3", "s2_l2a", told, **about)]) as api:
        api.refuses = lambda asked: isinstance(asked["collections"], str)  # A search by GET
        landing = api.landing()
        for link in landing["links"]:
            link.pop("method", None)
        monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
        scene, _ = masked(api, here("digital-earth-africa", api))
    assert (scene.bands[0].offset, scene.group[:5], scene.baseline) == (-0.1, "33UUQ", "05.10")


def test_digital_earth_australia(files):
    """Signed numbers of its own processor, nothing said of them, and the grid in the files only."""
    pixels(files, dtype=np.int16, nodata=-999)
    told = assets(files, DEA)
    told |= {"oa_fmask": {"href": f"{files.url}/fmask.tif", "type": "image/tiff"}}
    about = {"platform": "sentinel-2b", "odc:region_code": "55HFA", "odc:dataset_version": "3.2.1"}
    with stac_server(items=[item("a-uuid", "ga_s2bm_ard_3", told, **about)]) as api:
        scene, values = masked(api, here("digital-earth-australia", api))
        assert api.searches[0][2]["collections"] == ["ga_s2am_ard_3", "ga_s2bm_ard_3", "ga_s2cm_ard_3"]
    assert (scene.grid.shape, scene.bands[0].offset, scene.baseline, scene.scl) == (SHAPE, 0, "", None)
    assert signing.open_href("", "s3://dea-public-data/x.tif").startswith("https://dea-public-data.s3.")
    assert_only_data(values)


def elsewhere(monkeypatch, name, api, collection, **keys):
    """Another collection of a preset, at the test's server."""
    monkeypatch.setitem(presets.PRESETS, name, replace(presets.PRESETS[name], address=api.url, signing=""))
    return catalog_for(name, collection=collection, assets=keys)


@pytest.mark.parametrize(
    ("preset", "collection", "keys"),
    [
        ("cdse", "sentinel-2-l1c", ("B04", "B03", "B02", "B08")),
        ("digital-earth-africa", "s2_l2a_c1", BANDS),
        ("digital-earth-australia", "ga_s2am_ard_provisional_3", DEA),
        ("planetary-computer", "sentinel-2-l1c", ("B04", "B03", "B02", "B08")),
        ("earth-search", "sentinel-2-l1c", BANDS),
    ],
)
def test_another_collection_of_a_preset_has_other_names(preset, collection, keys, files, monkeypatch):
    pixels(files)
    told = assets(files, keys, **PROJ)
    with stac_server(items=[item("A", collection, told, **{"proj:epsg": 32633})]) as api:
        scene, _ = masked(api, elsewhere(monkeypatch, preset, api, collection))
    assert [band.key for band in scene.bands] == list(keys)


@pytest.mark.parametrize("name", ["B11", "nbart_swir_2"])
def test_landsat_has_other_bands_under_names_of_sentinel_2(name, files, monkeypatch):
    """Thermal infrared (HLS L30), and 2.2 µm (Digital Earth Australia), were read as short-wave infrared."""
    grid = {**PROJ, "proj:transform": [30, 0, 300_000, 0, -30, 5_500_020], "proj:epsg": 32633}
    ours = ("B04", "B03", "B02", "B05", name, "B06")
    bands = (*BANDS, "swir16")
    with stac_server() as api:
        for preset in ("planetary-computer", "digital-earth-australia"):
            catalog = elsewhere(monkeypatch, preset, api, "landsat", nir="B05")
            for said, found in (("", None), ("lwir12", "B06")):
                told = {key: {"href": f"{files.url}/{key}.tif", **grid} for key in ours}
                if said:
                    told[name]["eo:bands"] = [{"name": name, "common_name": said}]
                    told["B06"]["eo:bands"] = [{"name": "B06", "common_name": "swir16"}]
                api.items = [item("HLS.L30.T33UUQ.2024153T101559.v2.0", "landsat", told)]
                (one,) = search(catalog, WORLD, JUNE)
                scene = describe(one, catalog.assets, bands, 30, optional=("swir16",))
                assert scene.assets.get("swir16") == found


def test_brazil_data_cube(files, monkeypatch):
    """bdc-stac: its next link is forgotten in answers to a POST; of the projection items tell nothing."""
    pixels(files)
    told = named(assets(files, ("B04", "B03", "B02", "B08")))
    told["B8A"] = {**told["B08"], "eo:bands": [{"name": "B8A", "common_name": "nir08"}]}
    about = {"bdc:tiles": ["33UUQ"], "eo:cloud_cover": 12.0}
    names = [f"S2B_MSIL2A_202406{day:02}T101559_N9999_R022_T33UUQ_20240615T000000" for day in range(1, 4)]
    with stac_server(items=[item(name, "S2_L2A-1", told, **about) for name in names], page=2, matched=3) as api:
        landing, honest = api.landing(), api.search
        for link in landing["links"]:
            link.pop("method", None)

        def forgetful(method, asked):
            page = honest(method, asked)
            return page if method == "GET" else {**page, "links": []}

        monkeypatch.setattr(api, "landing", lambda: landing, raising=False)
        monkeypatch.setattr(api, "search", forgetful, raising=False)
        catalog = catalog_for(api.url, collection="S2_L2A-1")
        found = [describe(one, catalog.assets, BANDS, 10) for one in search(catalog, WORLD, JUNE)]
    assert [scene.id for scene in found] == names
    for scene in found:
        assert [band.key for band in scene.bands] == ["B04", "B03", "B02", "B08"]
        assert (scene.platform, scene.grid.epsg, scene.bands[0].offset) == ("sentinel-2b", 32633, -0.1)


def test_terrascope(files):
    pixels(files, dtype=np.int16, nodata=32767)
    about = {"platform": "sentinel-2c", "grid:code": "MGRS-33UUQ", "proj:code": "EPSG:32633"}
    about |= {"processing:version": "220", "processing:software": {"sentinel2_terrascope": "1.1.0"}}
    numbers = {"data_type": "int16", "nodata": 32767, "raster:scale": 0.0001, "raster:offset": 0, "gsd": 10}
    told = named(assets(files, ("B04", "B03", "B02", "B08"), **numbers, **PROJ), key="bands", name="eo:common_name")
    told["B8A"] = {**told["B08"], "bands": [{"name": "B8A", "eo:common_name": "nir08"}], "gsd": 20}
    with stac_server(items=[item("S2C_20240601T101603_33UUQ_TOC_V220", "terrascope-s2-toc-v2", told, **about)]) as api:
        catalog = catalog_for(api.url, collection="terrascope-s2-toc-v2")
        scene, values = masked(api, catalog)
    assert [band.key for band in scene.bands] == ["B04", "B03", "B02", "B08"]
    assert {(band.dtype, band.nodata, band.offset) for band in scene.bands} == {("int16", 32767, 0.0)}
    assert scene.baseline == ""
    assert_only_data(values)


HLS = (30, 0, 300_000, 0, -30, 5_500_020)
# As NASA writes it: zones of the south are those of the north, too, with northings below zero
UTM = """PROJCS["UTM Zone 33, Northern Hemisphere",GEOGCS["Unknown datum based upon the WGS84 ellipsoid",
DATUM["Not_specified_based_on_WGS_84_spheroid",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],
UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],
PARAMETER["central_meridian",15],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],
PARAMETER["false_northing",0],UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]"""


@pytest.mark.parametrize("told", [{}, {"proj:code": 32633, "proj:shape": list(SHAPE), "proj:transform": list(HLS)}])
def test_hls(files, told):
    """The grid stands in the files, the tile in the id; the Planetary Computer's items have the code as a number."""
    pixels(files, dtype=np.int16, nodata=-9999, transform=HLS, epsg=UTM)
    keys = dict(zip(BANDS, ("B04", "B03", "B02", "B08"), strict=True))
    name = "HLS.S30.T33UUQ.2024153T101559.v2.0"
    about = {"eo:cloud_cover": 12, **told}
    with stac_server(items=[item(name, "HLSS30_2.0", assets(files, keys.values()), **about)]) as api:
        scene, values = masked(api, catalog_for(api.url, collection="HLSS30_2.0", assets=keys), 30)
    assert (scene.grid.epsg, scene.grid.dx, scene.bands[0].offset, scene.group[:5]) == (32633, 30, 0, "33UUQ")
    assert_only_data(values)


@pytest.mark.parametrize(("code", "top"), [(None, -1_200_000), (32733, -1_200_000), (32733, 5_500_020)])
def test_hls_counts_northings_from_the_equator_in_both_halves_of_a_zone(files, code, top):
    """Items of the Planetary Computer say the code of the south, of either half; they were refused."""
    grid = (*HLS[:5], top)
    pixels(files, dtype=np.int16, nodata=-9999, transform=grid, epsg=UTM)
    keys = dict(zip(BANDS, ("B04", "B03", "B02", "B08"), strict=True))
    told = {"proj:code": code, "proj:shape": list(SHAPE), "proj:transform": list(grid)} if code else {}
    one = item("HLS.S30.T33LUH.2024153T101559.v2.0", "HLSS30_2.0", assets(files, keys.values()), **told)
    west, south = (12.2, 49.6) if top > 0 else (13.1, -11)
    one["geometry"] = mapping(box(west, south, west + 0.1, south + 0.1))
    with stac_server(items=[one]) as api:
        scene, values = masked(api, catalog_for(api.url, collection="HLSS30_2.0", assets=keys), 30)
    assert (scene.grid.epsg, scene.grid.y0) == (32633, top)
    assert_only_data(values)


def test_landsat(files, monkeypatch):
    pixels(files, transform=(30, 0, 300_000, 0, -30, 5_500_020))
    numbers = {"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 2.75e-05, "offset": -0.2}]}
    grid = {"proj:shape": list(SHAPE), "proj:transform": [30, 0, 300_000, 0, -30, 5_500_020]}
    told = named(assets(files, ("red", "green", "blue", "nir08"), **numbers, **grid))
    about = {"platform": "landsat-9", "proj:epsg": 32633, "landsat:wrs_path": "192"}
    with stac_server(items=[item("LC09_L2SP_192026_20240601_02_T1", "landsat-c2-l2", told, **about)]) as api:
        scene, values = masked(api, elsewhere(monkeypatch, "planetary-computer", api, "landsat-c2-l2", nir="nir08"), 30)
    assert {(band.scale, band.offset) for band in scene.bands} == {(2.75e-05, -0.2)}
    assert (values[:, :20] == 0).all()


@pytest.mark.parametrize("number", [{}, {"raster:bands": [{"data_type": "uint16", "scale": 1.0, "offset": 0.0}]}])
def test_landsat_of_which_no_scale_is_told_is_refused(number, files, monkeypatch):
    """USGS's own items tell none: by ESA's all ground was as bright as clouds, and nothing was said."""
    name = "LC09_L2SP_192026_20240601_20240603_02_T1"
    grid = {"proj:shape": list(SHAPE), "proj:transform": [30, 0, 300_000, 0, -30, 5_500_020], "proj:epsg": 32633}
    told = named(assets(files, ("red", "green", "blue", "nir08"), **number, **grid))
    for key, band in zip(told, (4, 3, 2, 5), strict=True):
        told[key]["href"] = f"https://h/{name}/{name}_SR_B{band}.TIF?token=x"
    keys = {"nir": "nir08"}
    with stac_server(items=[item(f"{name}_SR", "landsat-c2l2-sr", told)]) as api:
        catalog = catalog_for(api.url, collection="landsat-c2l2-sr", assets=keys)
        (found,) = search(catalog, WORLD, JUNE)
    with pytest.raises(SceneError, match="asset red: its item tells no scale") as caught:
        describe(found, catalog.assets, BANDS, 30)
    assert "--collection landsat-c2-l2" in caught.value.hint


SWISS = "ch.swisstopo.swisseo_s2-sr_v200"


def swisseo(files, day, stamp=None):
    """An item, and its bands' keys."""
    keys = [f"swisseo_s2-sr_v200_mosaic_{stamp or day}_{band}_10m.tif" for band in ("b04", "b03", "b02", "b08")]
    told = assets(files, keys, **{"proj:epsg": 2056, "eo:gsd": 10})
    told |= {key.replace("b04", "tci"): {"href": f"{files.url}/tci.tif"} for key in keys[:1]}
    one = item(day if stamp is None else "swisseo_s2-sr_v200", SWISS, told)
    one["geometry"] = mapping(box(7.4, 46.9, 7.5, 47))
    one["properties"]["datetime"] = f"{day[:10]}T{day[11:13]}:{day[13:15]}:{day[15:]}Z"
    return one, keys


def test_swisseo(files):
    """Keys that nobody can type: they hold the date. Of the projection items tell the code alone."""
    pixels(files, transform=(10, 0, 2_600_000, 0, -10, 1_200_000), epsg=2056)
    days = [swisseo(files, day) for day in ("2024-06-01t101041", "2024-06-03t102031")]
    with stac_server(items=[one for one, _ in days]) as api:
        catalog = catalog_for(api.url, collection=SWISS)
        found = [describe(each, catalog.assets, BANDS, 10, offset=-0.1) for each in search(catalog, WORLD, JUNE)]
    assert [[band.key for band in scene.bands] for scene in found] == [keys for _, keys in days]
    for scene in found:
        assert (scene.grid.epsg, scene.grid.shape, scene.bands[0].offset) == (2056, SHAPE, -0.1)
        with SceneFiles(scene) as opened:
            assert_only_data(open_cube(opened, scene.bands, scene.grid).values)


def test_swisseo_lists_its_newest_scene_once_more(files, tmp_path):
    """Under a name without a date, with files that the next one is written over: every night ended with a failure."""
    pixels(files, transform=(10, 0, 2_600_000, 0, -10, 1_200_000), epsg=2056)
    first, newest = "2024-06-01t101041", "2024-06-03t102031"
    asked = {"bbox": (7, 46, 8, 48), "dates": "2024-06", "collection": SWISS, "offset": -0.1, "out": tmp_path / "out"}
    with stac_server(items=[swisseo(files, first)[0], swisseo(files, newest, "current")[0]]) as api:
        assert list(survey.make(request(**asked, catalog=api.url)).refused) == ["swisseo_s2-sr_v200"]
        api.items.append(swisseo(files, newest)[0])
        found = survey.make(request(**asked, catalog=api.url))
    assert found.refused == {}
    assert [one.scene.id for one in found.plan.scenes] == [first, newest]


def test_the_table_says_what_the_presets_are():
    text = DOCS.read_text(encoding="utf-8")
    for name in presets.PRESETS:
        assert f"`--catalog {name}`" in text, name
    typed = re.findall(r"--asset (\w+)=\w+", text)
    assert set(typed) <= set(presets.COMMON)


def test_every_row_of_the_table_has_its_test():
    table = DOCS.read_text(encoding="utf-8").split("\n## ")[0]
    rows = re.findall(r"^\| (?!publisher|---)([^|]+?) \|", table, re.MULTILINE)
    assert rows == list(TRIED)
    for row, test in TRIED.items():
        assert callable(globals()[test]), row


TRIED = {
    "Earth Search v1": "test_earth_search",
    "Earth Search, Collection 1": "test_earth_search_collection_1",
    "Planetary Computer": "test_planetary_computer",
    "Copernicus Data Space": "test_cdse",
    "Digital Earth Africa": "test_digital_earth_africa",
    "Digital Earth Australia": "test_digital_earth_australia",
    "Brazil Data Cube": "test_brazil_data_cube",
    "Terrascope": "test_terrascope",
    "HLS (NASA)": "test_hls",
    "swissEO (swisstopo)": "test_swisseo",
    "Landsat Collection 2": "test_landsat",
}
