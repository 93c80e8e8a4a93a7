from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import BANDS, make_item

from cloudjob.errors import PassingError, SceneError
from cloudjob.grid import Tiling, Window
from cloudjob.scene import read
from cloudjob.scene.cube import open_scene
from cloudjob.scene.describe import describe
from cloudjob.scene.scene import Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return describe(make_item(tmp_path_factory.mktemp("scene")), {b: b for b in (*BANDS, "scl")}, BANDS, 10)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_hold_what_the_padded_tiles_need(scene: Scene, data: st.DataObject) -> None:
    tiling = Tiling(*scene.grid.shape, data.draw(st.sampled_from([32, 64])), data.draw(st.sampled_from([0, 16])), 16)
    tiles = data.draw(st.lists(st.sampled_from(tiling.all()), min_size=1, max_size=6, unique=True))
    whole = np.pad(open_scene(scene, scene.bands, scene.grid).values, ((0, 0), (100, 100), (100, 100)))
    seen = []
    for row in read.rows(scene, tiling, tiles):
        for column in row.columns:
            padded = tiling.padded((row.row, column))
            expected = whole[:, padded.top + 100 : padded.bottom + 100, padded.left + 100 : padded.right + 100]
            np.testing.assert_array_equal(row.crop(padded), expected)
            seen.append((row.row, column))
    assert seen == sorted(tiles)


def test_every_pixel_is_read_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from stackstac.rio_reader import AutoParallelRioReader

    read_pixels = 0
    original = AutoParallelRioReader.read

    def counted(self: AutoParallelRioReader, window: object, **options: object) -> np.ndarray:
        nonlocal read_pixels
        values = original(self, window, **options)
        read_pixels += values.size
        return values

    monkeypatch.setattr(AutoParallelRioReader, "read", counted)
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    assert sum(len(row.columns) for row in read.rows(scene, tiling, tiling.all())) == len(tiling.all())
    assert read_pixels == 4 * 150 * 139


def test_the_next_row_is_read_while_this_one_is_held(scene: Scene) -> None:
    tiling = Tiling(*scene.grid.shape, 32, 16, 16)
    rows = read.rows(scene, tiling, tiling.all())
    next(rows)
    rows.close()  # a consumer that stops early leaves no thread behind


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("HTTP response code: 404", False),
        ("HTTP response code: 503", True),
        ("HTTP response code: 403", True),  # a signature that ran out
        ("not recognized as a supported file format", True),  # how a cut connection looks
    ],
)
def test_faults_of_servers_that_may_pass(scene: Scene, text: str, passing: bool) -> None:
    from dataclasses import replace

    remote = replace(scene, bands=tuple(replace(b, href=f"https://h.example/{b.name}.tif") for b in scene.bands))
    error = read.failed(RuntimeError(f"'https://h.example/red.tif?sig=abc' {text}"), remote)
    assert isinstance(error, PassingError) is passing
    assert isinstance(error, SceneError)
    assert "abc" not in str(error)
    assert scene.id in str(error)
    assert not isinstance(read.failed(RuntimeError(text), scene), PassingError)  # disks do not heal


def test_the_scene_classification_is_read_on_its_own_grid(tmp_path: Path) -> None:
    from scenes import write_cog

    item = make_item(tmp_path)
    classes = np.random.default_rng(1).integers(0, 12, (75, 70)).astype(np.uint8)
    write_cog(tmp_path / "scl.tif", classes, (20, 0, 600_000, 0, -20, 5_200_020))
    item["assets"]["scl"] = {
        "href": str(tmp_path / "scl.tif"),
        "proj:shape": [75, 70],
        "proj:transform": [20, 0, 600_000, 0, -20, 5_200_020],
    }
    scene = describe(item, {b: b for b in (*BANDS, "scl")}, BANDS, 10)
    part = read.classification(scene, scene.scl, Window(64, 128, 0, 139), {})
    np.testing.assert_array_equal(part.values, classes[32:64])
