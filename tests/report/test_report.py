"""The report from the outside: `cloudjob report` on what a run made, and the page as a browser would take it apart."""

import base64
import itertools
import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import output
import pytest
import rasterio
import scenes
from faulty import call
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from cloudjob.classes import COLOURS
from cloudjob.demo import collection as demo
from cloudjob.report.alarm import alarms, disagreement
from cloudjob.report.overview import Row, Run
from cloudjob.store import ledger, slots
from cloudjob.store.ledger import Ledger
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

Capfd = pytest.CaptureFixture[str]

SNOW = "S2B_33TVN_20240608_0_L2A"
CUT = "S2A_33TVN_20240603_0_L2A"
"""Of the demo's scenes: one of which the swath covers a part only."""


@dataclass
class Page(HTMLParser):
    """A page taken apart: its elements, its rows by scene, and all its text."""

    source: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    rows: dict[str, list[tuple[str, dict[str, str]]]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._row = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag == "tr" and given.get("id", "").startswith("scene-"):
            self._row = given["id"]
        if self._row:
            self.rows.setdefault(self._row, []).append((tag, given))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self._row = ""

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._row:
            self.words[self._row] = self.words.get(self._row, "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, scene: str) -> str:
        """The `id` of a scene's row."""
        (found,) = (
            row
            for row, parts in self.rows.items()
            if any(a.get("class") == "name" and a["data-v"] == scene for _, a in parts)
        )
        return found

    def pictures(self, scene: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.rows[self.row(scene)] if tag == "img"]

    def look(self) -> str:
        """What stands at the top: the alarms."""
        return self.text[self.text.index("UTC") : self.text.index("Scenes in all")]


def pixels(address: str) -> np.ndarray:
    """(band, y, x) of an image that stands in the page; WebP leaves out an alpha band that says nothing."""
    kind, data = address.split(",", 1)
    assert kind == "data:image/webp;base64"
    with MemoryFile(base64.b64decode(data)) as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open() as file:
            return file.read()


def made(capfd: Capfd, out: Path, code: int = 0) -> Page:
    result = call(capfd, "report", out)
    assert result.code == code, result.stderr
    path = out / "report" / "index.html"
    assert result.stdout == f"{path}\n"
    return Page(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class World:
    catalog: Path
    out: Path


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The demo's scenes, an eighth as long and wide, masked by a run of the command line."""
    folder = tmp_path_factory.mktemp("report")
    catalog = demo.collection(folder / "catalog", shrink=8)
    result = jobs.run_job(catalog, jobs.brightness_checkpoint(folder / "net.safetensors"), folder / "out")
    assert result.code == 0, result.stderr
    return World(catalog.parent, folder / "out")


@pytest.fixture
def world(still: World, tmp_path: Path) -> World:
    """The same in an OUT of its own."""
    shutil.copytree(still.out, tmp_path / "out")
    return World(still.catalog, tmp_path / "out")


def edit(out: Path, scene: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the properties of a scene's item."""
    (path,) = (out / "items").glob(f"*/{scene}.json")
    item = json.loads(path.read_text())
    change(item["properties"])
    path.write_text(json.dumps(item))


def agree(out: Path) -> None:
    """Make every provider say just what we do."""
    for path in (out / "items").glob("*/S2*.json"):
        edit(
            out,
            path.stem,
            lambda told: told.update(
                {"cloudjob:provider_cloud_cover": told["eo:cloud_cover"], "cloudjob:scl_agreement": 0.99}
            ),
        )


def test_every_scene_is_there_and_the_page_needs_nothing_else(world: World, capfd: Capfd) -> None:
    page = made(capfd, world.out)
    items = [json.loads(path.read_text())["properties"] for path in (world.out / "items").glob("*/S2*.json")]
    ids = [told["cloudjob:source"]["id"] for told in sorted(items, key=lambda told: told["datetime"], reverse=True)]
    assert len(ids) == 6
    assert [next(a["data-v"] for _, a in parts if a.get("class") == "name") for parts in page.rows.values()] == ids
    for told in items:
        words = page.words[page.row(told["cloudjob:source"]["id"])]
        assert f"{told['eo:cloud_cover']:.1f} %" in words
        assert f"{told['cloudjob:provider_cloud_cover']:.1f} %" in words
        assert f"{100 * told['cloudjob:scl_agreement']:.1f} %" in words
        assert f"{len(told['cloudjob:tiles'])} of {len(told['cloudjob:tiles'])}" in words
        assert told["cloudjob:model"]["sha256"][:8] in words
    assert "brightness 1" in page.text
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
        assert not any(name.startswith("on") or name == "style" for name in attributes), attributes
    assert not re.search(r"@import|url\(", page.source)
    assert len(page.all("script")) == len(page.all("style")) == 1
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_it_can_be_read_by_machines_that_read_aloud(world: World, capfd: Capfd) -> None:
    page = made(capfd, world.out)
    heads = [head for head in page.all("th") if head.get("role") == "columnheader"]
    assert [head["aria-sort"] for head in heads if "aria-sort" in head] == ["none", "descending", *["none"] * 7]
    assert sum("data-kind" in button for button in page.all("button")) == 9
    assert all(picture["alt"] for picture in page.all("img"))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"


def mixed(cell: np.ndarray) -> np.ndarray:
    """The colour of many pixels: their colours by their shares; no data where there is more of that."""
    labelled = cell[cell < 254]
    if len(labelled) < (cell == 254).sum():
        return np.array(COLOURS[254][:3])
    return np.mean([COLOURS[value][:3] for value in labelled], axis=0)


def test_pictures_show_the_share_of_cloud(world: World, capfd: Capfd) -> None:
    page, rng = made(capfd, world.out), np.random.default_rng(1)
    for scene in ledger.read(Out.at(world.out)).done:
        image, mask = page.pictures(scene)
        values = jobs.mask_of(world.out, scene)
        step = -(-max(values.shape) // 224)
        drawn = pixels(mask["src"])[:3]
        assert drawn.shape[1:] == tuple(-(-side // step) for side in values.shape)
        for row, column in zip(*(rng.integers(0, side, 60) for side in drawn.shape[1:]), strict=True):
            cell = values[row * step : (row + 1) * step, column * step : (column + 1) * step].ravel()
            np.testing.assert_allclose(drawn[:, row, column], mixed(cell), atol=1)
        assert pixels(image["src"]).shape == drawn.shape
        assert (int(image["width"]), int(image["height"])) == drawn.shape[:0:-1]
    image, mask = page.pictures(CUT)
    light, classes = pixels(image["src"]).mean(axis=0), pixels(mask["src"])[0]
    clear, cloud, none = (light[classes == COLOURS[value][0]].mean() for value in (0, 1, 254))
    assert cloud > clear + 40  # This network finds bright pixels, so the image must show them bright
    assert none == pytest.approx(np.mean(COLOURS[254][:3]), abs=15)


def test_tiles_that_were_not_computed_are_transparent(tmp_path: Path, capfd: Capfd) -> None:
    out = Out.at(tmp_path / "out")
    output.run(out, [output.make_scene(0)], [(0, 0), (1, 1)])  # One corner of six tiles, and its neighbour across
    page = made(capfd, tmp_path / "out")
    (mask,) = page.pictures(output.make_scene(0).id)
    opaque = pixels(mask["src"])[3]
    expected = output.expected(output.make_scene(0), [(0, 0), (1, 1)])[:, :64]
    np.testing.assert_array_equal(opaque, np.where(expected == 255, 0, 255))
    assert mask["class"] == "mask"
    assert "2 of 6" in page.text
    assert "the image cannot be read" in page.text
    assert "Cloud masks: 1 scene in " in page.text


def test_only_what_is_new_is_read_again(world: World, tmp_path: Path, capfd: Capfd) -> None:
    shutil.copytree(world.catalog, tmp_path / "catalog")
    for path in (world.out / "items").glob("*/S2*.json"):
        edit(world.out, path.stem, lambda told: move(told, world.catalog, tmp_path / "catalog"))
    first = made(capfd, world.out)
    before = jobs.tree(world.out / "report" / "pictures")
    shutil.rmtree(tmp_path / "catalog")
    second = made(capfd, world.out)
    assert jobs.tree(world.out / "report" / "pictures") == before
    for scene in ledger.read(Out.at(world.out)).done:
        assert [one["src"] for one in second.pictures(scene)] == [one["src"] for one in first.pictures(scene)]
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:fingerprint": "another"}))
    result = call(capfd, "report", world.out)
    assert result.code == 0
    assert "1 of 6 scenes lack a picture" in result.stderr
    third = Page((world.out / "report" / "index.html").read_text())
    assert [one.get("class") for one in third.pictures(SNOW)] == ["mask"]
    assert "no image" in third.words[third.row(SNOW)]
    assert "red.tif: No such file" in third.words[third.row(SNOW)]
    assert len(third.pictures(CUT)) == 2


def move(told: dict[str, Any], old: Path, new: Path) -> None:
    for band in told["cloudjob:reflectance"].values():
        band["href"] = band["href"].replace(str(old), str(new))


def test_pictures_of_scenes_that_are_gone_are_deleted(world: World, capfd: Capfd) -> None:
    made(capfd, world.out)
    (item,) = (world.out / "items").glob(f"*/{SNOW}.json")
    item.unlink()
    page = made(capfd, world.out)
    assert len(page.rows) == 5
    assert len(list((world.out / "report" / "pictures").rglob("*.json"))) == 5
    assert "1 scene incomplete" in page.look()


def test_an_image_that_cannot_be_read_costs_nothing_else(world: World, capfd: Capfd) -> None:
    for path in (world.out / "items").glob("*/S2*.json"):
        edit(world.out, path.stem, lambda told: told["cloudjob:reflectance"]["green"].update(href="/nowhere/green.tif"))
    result = call(capfd, "report", world.out)
    assert result.code == 0
    assert "6 of 6 scenes lack a picture" in result.stderr
    page = Page((world.out / "report" / "index.html").read_text())
    assert len(page.all("img")) == 6
    before = jobs.tree(world.out / "report" / "pictures")
    made(capfd, world.out)
    assert jobs.tree(world.out / "report" / "pictures") == before  # The masks are kept all the same


def test_a_server_that_is_gone_does_not_cost_the_night(tmp_path: Path, capfd: Capfd) -> None:
    output.run(Out.at(tmp_path / "out"), [output.make_scene(number) for number in range(40)])
    page = made(capfd, tmp_path / "out")
    untried = page.text.count("not tried: 10 others before could not be read")
    assert 14 <= untried <= 30  # 16 are asked for at once
    assert page.text.count("the image cannot be read: red.tif: No such file") == 40 - untried
    assert len(page.all("img")) == 40


@pytest.mark.parametrize(("kind", "number", "tag"), [("int16", -999, -999), ("float32", np.nan, None)])
def test_no_data_of_another_number_is_no_data_in_a_picture(
    kind: str, number: float, tag: float | None, world: World, tmp_path: Path, capfd: Capfd
) -> None:
    (before, _) = made(capfd, world.out).pictures(CUT)

    def rewrite(told: dict[str, Any]) -> None:
        for band, source in told["cloudjob:reflectance"].items():
            with rasterio.open(source["href"]) as file:
                numbers, epsg = file.read(1).astype(kind), file.crs.to_epsg()
                numbers[numbers == 0] = number
                scenes.write_cog(tmp_path / f"{band}.tif", numbers, file.transform, epsg, nodata=tag)
            source["href"] = str(tmp_path / f"{band}.tif")

    edit(world.out, CUT, rewrite)
    shutil.rmtree(world.out / "report")
    (after, _) = made(capfd, world.out).pictures(CUT)
    near = np.isclose(pixels(after["src"]).astype(int), pixels(before["src"]), atol=12)
    assert near.mean() > 0.98, "all but some cells at the edge of the swath"


def test_a_damaged_mask_is_said_and_costs_nothing_else(world: World, capfd: Capfd) -> None:
    done = ledger.read(Out.at(world.out)).done[SNOW]
    for shard in (world.out / "masks.zarr" / done.group / "cloud" / "c" / str(done.slot)).rglob("*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-9] + b"not zarr!")
    page = made(capfd, world.out)
    assert "the mask cannot be read" in page.words[page.row(SNOW)]
    assert len(page.pictures(CUT)) == 2


def test_a_scene_that_disagrees_with_its_provider_is_an_alarm(world: World, capfd: Capfd) -> None:
    agree(world.out)
    page = made(capfd, world.out)
    assert "All quiet" in page.look()
    assert "verdict quiet" in page.source
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:provider_cloud_cover": told["eo:cloud_cover"] + 14.9}))
    assert "All quiet" in made(capfd, world.out).look()
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:provider_cloud_cover": told["eo:cloud_cover"] + 15.1}))
    page = made(capfd, world.out)
    assert "1 scene of the last run disagrees with the provider" in page.look()
    assert "1 alarm" in page.look()
    assert "15 points" in page.look()
    assert "85 %" in page.look()
    assert SNOW in page.look()
    assert [row for row, parts in page.rows.items() if parts[0][1].get("class") == "odd"] == [page.row(SNOW)]
    assert f"#{page.row(SNOW)}" in [link["href"] for link in page.all("a")]
    assert page.source.count('<path class="odd"') == 2  # In the plot, and in its key
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:provider_cloud_cover": told["eo:cloud_cover"] + 0.04}))
    page = made(capfd, world.out)
    assert "+0.0" in page.words[page.row(SNOW)]  # And not −0.0
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:provider_cloud_cover": told["eo:cloud_cover"]}))
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:scl_agreement": 0.849}))
    assert "1 alarm" in made(capfd, world.out).look()
    shutil.rmtree(world.out / "runs")  # It was not the last run that made it
    page = made(capfd, world.out)
    assert "No alarm, 1 notice" in page.look()
    assert "1 scene of earlier runs disagrees" in page.look()


def test_what_nobody_could_compare_is_not_green(world: World, capfd: Capfd) -> None:
    for path in (world.out / "items").glob("*/S2*.json"):
        edit(world.out, path.stem, lambda told: told.update({"cloudjob:provider_cloud_cover": None}))
        edit(world.out, path.stem, lambda told: told.pop("cloudjob:scl_agreement", None))
    page = made(capfd, world.out)
    assert "Nothing failed, and nothing could be compared" in page.look()
    assert "verdict quiet" not in page.source


def test_a_scene_that_took_the_place_of_another_says_so(world: World, capfd: Capfd) -> None:
    edit(world.out, SNOW, lambda told: told.update({"cloudjob:replaces": ["33TVN", "S2B_OLDER"]}))
    page = made(capfd, world.out)
    assert "in place of the older S2B_OLDER" in page.words[page.row(SNOW)]


def test_the_map_shows_every_tile(world: World, capfd: Capfd) -> None:
    drawn = made(capfd, world.out).source.split('<figure class="map">')[1].split("</figure>")[0]
    groups = {done.group for done in ledger.read(Out.at(world.out)).done.values()}
    assert drawn.count('class="tile"') == len(groups)
    for group in groups:
        assert re.search(rf"<title>{group[:5]}: \d+ scenes</title>", drawn)


@pytest.mark.parametrize(
    ("west", "east"), [((10, 12), (13, 15)), ((178, 179.5), (-179.9, -178)), ((-180, -179), (179, 180))]
)
def test_tiles_across_the_date_line_lie_side_by_side(west: tuple[float, float], east: tuple[float, float]) -> None:
    from shapely import box
    from shapely.geometry import mapping

    from cloudjob.report.map import where

    rows = [replace(ROW, id=name, tile=name, group=name) for name in "ab"]
    areas = {"a": mapping(box(west[0], 50, west[1], 51)), "b": mapping(box(east[0], 50, east[1], 51))}
    points = re.findall(
        r"[ML]([\d.-]+) ([\d.-]+)", "".join(re.findall(r'class="tile" d="([^"]+)"', str(where(rows, areas))))
    )
    xs, ys = zip(*((float(x), float(y)) for x, y in points), strict=True)
    assert min(xs) >= 0
    assert max(xs) <= 640
    assert max(xs) - min(xs) > 300
    assert min(ys) >= 0


def test_names_of_small_tiles_hide_neither_each_other_nor_the_tiles() -> None:
    """Windows of two tiles that lie side by side, far from others: their names lay on one another."""
    from shapely import box
    from shapely.geometry import mapping

    from cloudjob.report.map import where

    places = {"33TUN": (13.5, 47.2), "33TVN": (13.8, 47.2), "33TUL": (13.6, 45.4)}
    rows = [replace(ROW, id=name, tile=name, group=name) for name in places]
    areas = {name: mapping(box(x, y, x + 0.07, y + 0.05)) for name, (x, y) in places.items()}
    drawn = str(where(rows, areas))
    texts = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="middle">(\w+)</text>', drawn)
    assert [name for *_, name in texts] == ["33TUL", "33TUN"]
    for name in places:
        assert f"<title>{name}: 1 scene</title>" in drawn
    for x, y, name in texts:
        (path,) = re.findall(rf'd="([^"]+)"><title>{name}', drawn)
        corners = [tuple(map(float, point.split())) for point in re.findall(r"[\d.]+ [\d.]+", path)]
        if name == "33TUN":
            assert float(y) - 14 > max(low for _, low in corners), "it stands below"
        else:
            assert float(y) < min(high for _, high in corners), "below stand the degrees"
        assert min(left for left, _ in corners) < float(x) < max(right for right, _ in corners)


def test_a_window_in_no_tile_tells_its_long_name_when_pointed_at() -> None:
    from shapely import box
    from shapely.geometry import mapping

    from cloudjob.report.map import where

    window = "32736_446235_9705660_512x512"
    rows = [replace(ROW, id=name, tile=name, group=name) for name in ("36MVB", window)]
    drawn = str(where(rows, {"36MVB": mapping(box(32, -3, 33, -2)), window: mapping(box(33.5, -3, 33.6, -2.9))}))
    assert re.findall(r'text-anchor="middle">([^<]+)<', drawn) == ["36MVB"]
    assert f"<title>{window}: 1 scene</title>" in drawn


SCRIPT = "<script>alert(1)</script>"


def test_nothing_from_outside_becomes_markup(tmp_path: Path, capfd: Capfd) -> None:
    out = Out.at(tmp_path / "out")
    odd, failed = f"S2A{SCRIPT}\"'&amp;", f"S2B{SCRIPT}"
    scenes = [output.make_scene(0, id=odd), output.make_scene(1, id=failed)]
    output.run(out, scenes, failing={failed: f'cannot open "a&b"{SCRIPT}'})
    (item,) = (tmp_path / "out" / "items").glob("*/S2A*.json")
    told = json.loads(item.read_text())
    told["properties"]["cloudjob:warnings"] = [f"dark{SCRIPT}"]
    item.write_text(json.dumps(told))
    page = made(capfd, tmp_path / "out")
    assert len(page.all("script")) == 1
    assert SCRIPT not in page.source
    for text in (odd, failed, f'cannot open "a&b"{SCRIPT}', f"dark{SCRIPT}"):
        assert text in page.text
    assert "1 scene failed" in page.look()
    assert "1 scene with a warning" in page.look()


def test_images_are_signed_by_where_they_lie(world: World, capfd: Capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever catalog the last runs had: their records may be gone, and a saved file's items lie there, too."""
    asked: list[tuple[str, str]] = []

    def sign(how: str, href: str) -> str:
        asked.append((how, href))
        return href

    monkeypatch.setattr("cloudjob.catalog.signing.open_href", sign)
    made(capfd, world.out)
    assert {how for how, _ in asked} == {""}
    assert {Path(href).name for _, href in asked} == {"red.tif", "green.tif", "blue.tif"}


def test_no_secret_is_shown(world: World, tmp_path: Path, capfd: Capfd) -> None:
    signed = "https://127.0.0.1:9/green.tif?se=2034&sig=SECRETSIGNATURE%3D"
    edit(world.out, SNOW, lambda told: told["cloudjob:reflectance"]["green"].update(href=signed))
    edit(world.out, CUT, lambda told: told.update({"cloudjob:warnings": [f"odd: {signed}"]}))
    (path,) = (world.out / "runs").glob("*.json")
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"catalog": "https://me:SECRETWORD@stac?token=SECRETTOKEN"})
    )
    result = call(capfd, "report", world.out)
    assert result.code == 0
    told = [result.stderr, *(path.read_text() for path in (world.out / "report").rglob("*") if path.is_file())]
    assert not any("SECRET" in text or "sig=" in text for text in told)
    assert "the image cannot be read" in told[0]


def test_failures_with_their_reasons(tmp_path: Path, capfd: Capfd) -> None:
    out = Out.at(tmp_path / "out")
    scenes = [output.make_scene(number) for number in range(3)]
    lost, late, fine = (scene.id for scene in scenes)
    for _ in range(3):
        output.run(out, [scenes[0]], failing={lost: "HTTP 404"})
        jobs.a_day_passes(tmp_path / "out")
    output.run(out, scenes[1:], failing={late: "timed out after 30 s"})
    page = made(capfd, tmp_path / "out")
    assert "1 scene failed" in page.look()
    assert "1 scene abandoned" in page.look()
    told = page.text[page.text.index("Not done") : page.text.index("Scenes in all")]
    assert re.search(rf"{lost}\s+abandoned\s+HTTP 404\s+On 3 nights", told)
    assert re.search(rf"{late}\s+failed\s+timed out after 30 s\s+Once, last 20", told)
    assert [next(a["data-v"] for _, a in parts if a.get("class") == "name") for parts in page.rows.values()] == [fine]


def test_what_is_not_done_is_told_briefly(tmp_path: Path, capfd: Capfd) -> None:
    """Every reason began with the scene's name, which stands above it, and twenty of them came before all else."""
    out = Out.at(tmp_path / "out")
    scenes = [output.make_scene(number) for number in range(14)]
    faults = [f"HTTP 404 {'of' * number}" for number in range(12)]  # Each of a kind of its own
    reasons = {scene.id: f"scene {scene.id}, asset nir: {fault}" for scene, fault in zip(scenes, faults, strict=False)}
    output.run(out, scenes[:13], failing=reasons)
    with Lock(out) as lock:
        slots.prepare(lock, output.SETTINGS, ledger.read(out), scenes[13:], tile_of=lambda _: output.TILE)
    page = made(capfd, tmp_path / "out")
    assert page.text.count("asset nir: HTTP 404") == 12
    assert all(page.text.count(id_) == 1 for id_ in reasons)
    assert "2 more that failed" in page.text
    assert "(cloudjob list OUT)" in page.look(), "how somebody learns their dates"
    assert "<code>cloudjob list OUT</code>" in (tmp_path / "out/report/index.html").read_text()
    for command in ("status", "list"):
        told = call(capfd, command, out).stdout
        assert told.count("asset nir: HTTP 404") == 12
        assert all(told.count(id_) == 1 for id_ in reasons), told


def test_failures_of_one_kind_stand_together(tmp_path: Path, capfd: Capfd) -> None:
    """A folder that is gone took a block for each scene; what failed on more nights, or otherwise, has its own."""
    out = Out.at(tmp_path / "out")
    scenes = [output.make_scene(number) for number in range(7)]
    ids = [scene.id for scene in scenes]
    gone = {
        id_: f"scene {id_}, asset red: https://host.example/{tile}/{id_}/T{tile}_B04.tif: HTTP 404"
        for tile, id_ in zip(("UN", "VN", "UP", "VP", "UQ", "VQ", "UR"), ids, strict=True)
    }
    elsewhere = {ids[5]: gone[ids[5]].replace("host.", "other."), ids[6]: f"scene {ids[6]}, asset nir: HTTP 404"}
    output.run(out, scenes[:1], failing=gone)
    jobs.a_day_passes(tmp_path / "out")
    output.run(out, scenes, failing=gone | elsewhere)
    page = made(capfd, tmp_path / "out")
    told = " ".join(page.text[page.text.index("Not done") :].split())
    assert all(told.count(f"{id_} failed") == 1 for id_ in (ids[0], ids[5], ids[6])), told
    (names,) = re.findall(r"4 scenes failed (.+?) ?The first: asset red: https:", told)
    assert sorted(names.split(", ")) == ids[1:5]
    assert "Once each, last 20" in told
    assert "On 2 nights, last 20" in told


@pytest.mark.parametrize(("east", "north"), [(10.5, 47), (11, 47.3), (12, 47), (17, 47), (40, 47), (11, 52)])
def test_no_degrees_of_the_map_are_cut_off_or_lie_on_others(east: float, north: float) -> None:
    """In a narrow window their letters are 26 of the drawing's units high."""
    from shapely import box
    from shapely.geometry import mapping

    from cloudjob.report.map import WIDTH, where

    drawn = str(where([replace(ROW, id="a")], {"a": mapping(box(10, 46, east, north))}))
    height = int(re.findall(rf"0 0 {WIDTH} (\d+)", drawn)[0])
    told = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">(\d[^<]*)</text>', drawn)
    boxes = [(float(x), float(y) - 26, float(x) + 26 * 0.6 * len(text), float(y)) for x, y, text in told]
    assert {text[-1] for *_, text in told} == {"E", "N"}
    assert all(left >= 0 and top >= -4 and right <= WIDTH + 3 and low <= height for left, top, right, low in boxes)
    pairs = itertools.combinations((box(*sides) for sides in boxes), 2)
    assert not any(one.intersection(other).area > 30 for one, other in pairs)


def test_the_runs(world: World, capfd: Capfd) -> None:
    (path,) = (world.out / "runs").glob("*.json")
    told = json.loads(path.read_text())
    receipts = [scene["receipt"] for scene in told["scenes"]]
    page = made(capfd, world.out)
    assert f"{sum(r['clear'] + r['cloud'] + r['no_data'] for r in receipts) / 1e6:.1f} Mpx" in page.text
    assert f"{sum(r['bytes_read'] for r in receipts) / 1e6:.1f} MB" in page.text
    assert "earlier run" not in page.text
    assert "2000-01-01/.." in page.text
    assert "T00:00:00Z" not in page.text
    later = {**told, "started": "2030-01-01T00:00:00+00:00", "how": "interrupted", "seconds": 5400.0}
    later["scenes"] = [{"id": "x", "state": "failed"}, told["scenes"][0]]
    (world.out / "runs" / "20300101T000000.000000Z.json").write_text(json.dumps(later))
    page = made(capfd, world.out)
    assert "1 earlier run" in page.text
    assert "1 h 30 min" in page.text
    speed = sum(r["clear"] + r["cloud"] + r["no_data"] for r in receipts[:1]) / 1e6 / 5400
    assert f"{speed:.2g} Mpx/s" in page.text  # It was 0.0
    assert "The last run was interrupted" in page.look()
    assert "1 of 2 scenes of the last run failed" in page.look()
    (world.out / "runs" / "20310101T000000.000000Z.json").write_text("{}")
    page = made(capfd, world.out)
    assert "1 file of this OUT cannot be used, such as runs/20310101T000000.000000Z.json" in page.look()
    assert "1 earlier run" in page.text


def test_an_out_that_is_none(tmp_path: Path, capfd: Capfd) -> None:
    result = call(capfd, "report", tmp_path / "nowhere")
    assert result.code == 2
    assert "there is no" in result.stderr
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    result = call(capfd, "report", tmp_path / "photos")
    assert result.code == 3
    assert "was not made by cloudjob" in result.stderr
    assert "--out" not in result.stderr, "`report` has no such option"
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_an_empty_out_and_then_its_first_run(tmp_path: Path, capfd: Capfd) -> None:
    (tmp_path / "out").mkdir()
    assert "Nothing here yet" in made(capfd, tmp_path / "out").text
    output.run(Out.at(tmp_path / "out"), [output.make_scene(0)])  # The report is no stranger
    assert len(made(capfd, tmp_path / "out").rows) == 1


ROW = Row("a", "g", "33UUP", "k", datetime(2024, 6, 1, tzinfo=UTC), 50, 50, 99, 5000, 0, 1, 4, 4, "1", "f", ())
RUN = Run(datetime(2024, 6, 2, tzinfo=UTC), "complete", 60, frozenset("a"), 0, 1, 1, {}, "c", "d", "1")


@pytest.mark.parametrize(
    ("changes", "odd"),
    [
        ({"cloud": 65.1}, True),
        ({"cloud": 34.9}, True),
        ({"cloud": 65}, False),
        ({"cloud": 99, "provider": None}, False),
        ({"cloud": None}, False),
        ({"cloud": 99, "computed": 0.89}, False),  # The provider's figure is of the whole scene
        ({"agreement": 84.9}, True),
        ({"agreement": 84.9, "computed": 0.1}, True),
        ({"agreement": 84.9, "compared": 999}, False),
        ({"agreement": None}, False),
    ],
)
def test_when_a_scene_disagrees(changes: dict[str, Any], odd: bool) -> None:
    assert bool(disagreement(replace(ROW, **changes))) == odd


@pytest.mark.parametrize(("cloud", "count", "said"), [(61, 20, "more"), (39, 5, "less"), (60, 20, ""), (61, 4, "")])
def test_when_the_whole_drifts(cloud: float, count: int, said: str) -> None:
    """No scene disagrees by itself; those before the newest twenty do not count."""
    rows = [replace(ROW, cloud=cloud)] * count + [ROW] * (40 if count == 20 else 0)
    found = alarms(rows, [RUN], Ledger(), [])
    assert [alarm.level for alarm in found] == ["alarm"] * bool(said)
    assert all(f"11 points {said} cloud" in alarm.title for alarm in found)


def test_when_a_run_is_an_alarm() -> None:
    run = replace(RUN, done=frozenset("abcd"), failed=1)
    assert alarms([ROW], [run], Ledger(), []) == []
    titles = [alarm.title for alarm in alarms([ROW], [replace(run, failed=2), run], Ledger(), [])]
    assert titles == ["2 of 6 scenes of the last run failed"]
    assert [alarm.level for alarm in alarms([], [replace(run, how="interrupted")], Ledger(), ["x"])] == [
        "alarm",
        "notice",
    ]


def test_dots_lie_where_they_should() -> None:
    from cloudjob.report.plot import cloud_share

    days = [replace(ROW, time=ROW.time + timedelta(days=day), cloud=day % 101) for day in range(301, -1, -7)]
    drawn = str(cloud_share(days, days[-1].time, days[0].time))
    points = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    points += [(float(x), float(y)) for x, y in re.findall(r'class="odd" d="M([\d.]+) ([\d.-]+)l', drawn)]
    assert len(points) == len(days)
    assert all(44 <= x <= 330 and 0 <= y <= 114 for x, y in points)
    assert len({x for x, _ in points}) == len(days)
    assert drawn.count("h6") == len(days)  # The provider's figures
    crowd = str(cloud_share([ROW] * 151, ROW.time, ROW.time))
    assert "h6" not in crowd
    assert crowd.count("<circle") == 151
    assert "01 Jun 2024" in drawn
