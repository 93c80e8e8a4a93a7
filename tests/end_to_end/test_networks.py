"""Networks in ONNX from outside: their classes everywhere an OUT tells them, and one mask however the work is cut."""

import json
from pathlib import Path

import jobs
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from networks import FOUR, LIMITS, contract, fixed, four_classes, save

from cloudjob.classes import CLOUD, COLOURS
from cloudjob.model.contract import Graph

NAMES = ("clear", "cloud", "thin_cloud", "cloud_shadow", "no_data", "not_computed")
VALUES = [0, 1, 2, 3, 254, 255]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """An OUT of a network with four classes, and the scene's numbers."""
    folder = tmp_path_factory.mktemp("four")
    rng = np.random.default_rng(0)
    values = {
        band: np.kron(rng.integers(1, 12_000, (100, 85)), np.ones((2, 2))).astype(np.uint16) for band in jobs.BANDS
    }
    values["red"][:30, :40] = 0
    catalog = jobs.write_catalog(folder / "items.json", [jobs.make_scene(folder, "S1", values=values)])
    net = save(folder / "net.onnx", four_classes(), contract(tile=jobs.TILE, graph=Graph(FOUR, "softmax", stride=4)))
    done = jobs.run_job(catalog, net, folder / "out", "--workers", "1", "--probability", "--json")
    assert done.code == 0, done.stderr
    return folder / "out", values


def wanted(values: dict[str, np.ndarray]) -> np.ndarray:
    red = values["red"] * 1e-4
    return np.select([red == 0, *(red < limit for limit in LIMITS)], [254, *FOUR[:3]], CLOUD).astype(np.uint8)


def test_every_class_in_mask_group_and_item(four: tuple[Path, dict[str, np.ndarray]]) -> None:
    out, values = four
    mask = wanted(values)
    np.testing.assert_array_equal(jobs.mask_of(out, "S1"), mask)
    item = jobs.item_of(out, "S1")
    pystac.Item.from_dict(item).validate()
    told = item["properties"]
    counts = dict(zip(NAMES, (int((mask == value).sum()) for value in VALUES), strict=True))
    assert told["cloudjob:pixels"] == counts
    valid = (mask < 254).sum()
    assert told["eo:cloud_cover"] == pytest.approx(100 * (counts["cloud"] + counts["thin_cloud"]) / valid, abs=1e-3)
    assert [each["name"] for each in item["assets"]["cloud"]["classification:classes"]] == [*NAMES]
    opened = xr.open_zarr(out / "masks.zarr", group=told["cloudjob:group"])
    assert opened.cloud.flag_values == VALUES
    assert opened.cloud.flag_meanings.split() == [*NAMES]
    assert opened.cloud.flag_colors.split()[3] == "#34428c"
    assert json.loads((out / "job.json").read_text())["classes"] == [0, 1, 2, 3]
    percent = jobs.mask_of(out, "S1", "cloud_probability")
    assert (percent[(mask == 1) | (mask == 2)] >= 40).all()
    assert (percent[mask == 3] < 50).all()


def test_every_class_in_export_report_and_status(four: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    out, values = four
    assert jobs.cloudjob("export", out, "S1", tmp_path / "mask.tif").code == 0
    with rasterio.open(tmp_path / "mask.tif") as file:
        np.testing.assert_array_equal(file.read(1), wanted(values))
        assert {value: file.colormap(1)[value] for value in VALUES} == {value: COLOURS[value] for value in VALUES}
        assert file.tags(1)["3"] == "cloud_shadow"
    assert "<Category>thin_cloud</Category>" in (tmp_path / "mask.tif.aux.xml").read_text()
    assert jobs.cloudjob("report", out).code == 0
    page = (out / "report" / "index.html").read_text()
    for text in ("Thin cloud", "Shadow", 'class="cloud-shadow"', "it never counts as cloud"):
        assert text in page
    assert "There is no class for cloud shadows" not in page
    status = json.loads(jobs.cloudjob("status", out, "--json").stdout)
    cover = jobs.item_of(out, "S1")["properties"]["eo:cloud_cover"]
    assert status["cloud_cover"] == [cover] * 3


def test_windows_of_one_size_give_one_mask_however_the_work_is_cut(tmp_path: Path) -> None:
    """One worker; two, one of them killed; a small area alone."""
    catalog = jobs.write_catalog(
        tmp_path / "items.json",
        [jobs.make_scene(tmp_path, f"S{n}", f"2024-06-0{n}T10:15:59Z", seed=n) for n in (1, 2)],
    )
    net = fixed(tmp_path / "net.onnx")
    whole = tmp_path / "whole"
    assert jobs.run_job(catalog, net, whole, "--workers", "1").code == 0
    plan = jobs.sabotage(tmp_path / "marker", "after shard", 3)
    cut = jobs.run_job(
        catalog, net, tmp_path / "cut", "--workers", "2", command=jobs.SABOTAGED, CLOUDJOB_TEST_SABOTAGE=plan
    )
    assert (tmp_path / "marker").exists()
    if cut.code:
        assert jobs.run_job(catalog, net, tmp_path / "cut", "--workers", "2").code == 0
    jobs.assert_same(tmp_path / "cut", whole)
    labels = jobs.mask_of(whole, "S1")
    assert all((labels == value).mean() > 0.01 for value in (0, 1, 3))
    west, south, east, north = jobs.item_of(whole, "S1")["bbox"]
    part = west + 0.6 * (east - west), south + 0.2 * (north - south), west + 0.65 * (east - west), north
    small = jobs.run_job(catalog, net, tmp_path / "small", "--workers", "1", "--bbox", *map(str, part))
    assert small.code == 0, small.stderr
    few = jobs.mask_of(tmp_path / "small", "S1")
    computed = few != 255
    assert 0.1 < computed.mean() < 0.9
    np.testing.assert_array_equal(few[computed], labels[computed])
