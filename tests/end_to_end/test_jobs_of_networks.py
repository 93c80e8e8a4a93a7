"""Jobs with networks in ONNX: their classes everywhere an OUT tells them, and one mask however the work is cut."""

import json
from pathlib import Path

import jobs
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from networks import FOUR, LIMITS, contract, fixed, four_classes, graph, save
from onnx import helper

from cloudjob.classes import CLOUD, COLOURS
from cloudjob.model.contract import Graph
from cloudjob.report import page
from cloudjob.store import ledger
from cloudjob.store.export import export
from cloudjob.store.out import Out

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
    (done,) = jobs.run_here(catalog, net, folder / "out", probability=True)
    assert done.state == "done"
    return folder / "out", values


def wanted(values: dict[str, np.ndarray]) -> np.ndarray:
    red = values["red"] * 1e-4
    return np.select([red == 0, *(red < limit for limit in LIMITS)], [254, *FOUR[:3]], CLOUD).astype(np.uint8)


def test_every_class_in_mask_group_and_item(four: tuple[Path, dict[str, np.ndarray]]) -> None:
    out, values = four
    mask = wanted(values)
    np.testing.assert_array_equal(jobs.mask_of(out, "S1"), mask)
    item = jobs.item_of(out, "S1")
    pystac.Item.from_dict(item)
    told = item["properties"]
    counts = dict(zip(NAMES, (int((mask == value).sum()) for value in VALUES), strict=True))
    assert told["cloudjob:pixels"] == counts
    valid = (mask < 254).sum()
    assert told["eo:cloud_cover"] == pytest.approx(100 * (counts["cloud"] + counts["thin_cloud"]) / valid, abs=1e-3)
    assert [each["name"] for each in item["assets"]["cloud"]["classification:classes"]] == [*NAMES]
    opened = xr.open_zarr(out / "masks.zarr" / told["cloudjob:group"])
    assert opened.cloud.flag_values == VALUES
    assert opened.cloud.flag_meanings.split() == [*NAMES]
    assert opened.cloud.flag_colors.split()[3] == "#34428c"
    assert json.loads((out / "job.json").read_text())["classes"] == [0, 1, 2, 3]
    percent = jobs.mask_of(out, "S1", "cloud_probability")
    assert (percent[(mask == 1) | (mask == 2)] >= 40).all()
    assert (percent[mask == 3] < 50).all()


def test_every_class_in_export_report_and_status(four: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    out, values = four
    (one,) = export(Out.at(out), "S1", tmp_path / "mask.tif")
    assert one.scenes == ("S1",)
    with rasterio.open(tmp_path / "mask.tif") as file:
        np.testing.assert_array_equal(file.read(1), wanted(values))
        assert {value: file.colormap(1)[value] for value in VALUES} == {value: COLOURS[value] for value in VALUES}
        assert file.tags(1)["3"] == "cloud_shadow"
    assert "<Category>thin_cloud</Category>" in (tmp_path / "mask.tif.aux.xml").read_text()
    page.write(Out.at(out))
    text = (out / "report" / "index.html").read_text()
    for words in ("Thin cloud", "Shadow", 'class="cloud-shadow"', "it never counts as cloud"):
        assert words in text
    assert "There is no class for cloud shadows" not in text
    cover = jobs.item_of(out, "S1")["properties"]["eo:cloud_cover"]
    assert ledger.summary(Out.at(out)).cloud_cover == (cover,) * 3


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    return jobs.write_catalog(folder / "items.json", [jobs.make_scene(folder, "S1", "2024-06-01T10:15:59Z", seed=1)])


def test_windows_of_one_size_give_one_mask_however_the_work_is_cut(catalog: Path, tmp_path: Path) -> None:
    """Cut for one lane and for seven; a small area alone; and grown from it."""
    net = fixed(tmp_path / "net.onnx")
    jobs.run_here(catalog, net, tmp_path / "whole")
    jobs.run_here(catalog, net, tmp_path / "cut", lanes=7)
    jobs.assert_same(tmp_path / "cut", tmp_path / "whole")
    labels = jobs.mask_of(tmp_path / "whole", "S1")
    assert all((labels == value).mean() > 0.01 for value in (0, 1, 3))
    west, south, east, north = jobs.item_of(tmp_path / "whole", "S1")["bbox"]
    part = west + 0.6 * (east - west), south + 0.2 * (north - south), west + 0.65 * (east - west), north
    jobs.run_here(catalog, net, tmp_path / "small", bbox=part)
    few = jobs.mask_of(tmp_path / "small", "S1")
    computed = few != 255
    assert 0.1 < computed.mean() < 0.9
    np.testing.assert_array_equal(few[computed], labels[computed])
    jobs.run_here(catalog, net, tmp_path / "small")
    np.testing.assert_array_equal(jobs.mask_of(tmp_path / "small", "S1"), labels)


def test_a_scene_whose_network_gives_no_number_has_failed(catalog: Path, tmp_path: Path) -> None:
    """Not clear, and not the other scene's matter."""
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"]),
        helper.make_node("Sqrt", ["x"], ["scores"]),  # Of 1.35 − red
    ]
    weights = np.zeros((1, 4, 1, 1))
    weights[0, 0] = -0.7
    terms = contract(graph=Graph(activation="none", stride=4))
    folder = tmp_path / "files"
    values = {band: np.full(jobs.SHAPE, 5000, np.uint16) for band in jobs.BANDS}
    bright = {**values, "red": values["red"].copy()}
    bright["red"][100, 100] = 20_000
    scenes = [
        jobs.make_scene(folder, name, f"2024-06-0{day}T10:15:59Z", values=told)
        for day, (name, told) in enumerate((("good", values), ("broken", bright)), start=1)
    ]
    net = save(tmp_path / "net.onnx", graph(weights, np.ones(1), nodes=nodes), terms)
    found = jobs.run_here(jobs.write_catalog(tmp_path / "items.json", scenes), net, tmp_path / "out")
    states = {each.id: (each.state, each.reason) for each in found}
    assert states["good"] == ("done", "")
    assert states["broken"][0] == "failed"
    assert "values that are not finite numbers, 1 of" in states["broken"][1]
