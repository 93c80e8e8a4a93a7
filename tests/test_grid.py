from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from shapely import MultiPoint, Polygon, box

from cloudjob.grid import Grid, Tiling, Window, by_row

sizes = st.integers(1, 300)
strides = st.sampled_from([1, 4, 16])
tilings = st.builds(
    lambda height, width, tile, halo, stride: Tiling(height, width, tile * stride, halo * stride, stride),
    sizes, sizes, st.integers(1, 5), st.integers(0, 3), strides,
)  # fmt: skip


@given(tilings)
def test_cores_cover_every_pixel_once(tiling: Tiling) -> None:
    seen = np.zeros((tiling.height, tiling.width), int)
    for tile in tiling.all():
        seen[tiling.core(tile).slices] += 1
    assert (seen == 1).all()


@given(tilings)
def test_padded_windows_begin_and_have_sides_at_multiples_of_the_stride(tiling: Tiling) -> None:
    for tile in tiling.all():
        core, padded = tiling.core(tile), tiling.padded(tile)
        assert padded.top % tiling.stride == padded.left % tiling.stride == 0
        assert all(side % tiling.stride == 0 for side in padded.shape)
        assert padded.top == core.top - tiling.halo
        assert padded.left == core.left - tiling.halo
        assert 0 <= padded.bottom - core.bottom - tiling.halo < tiling.stride
        assert 0 <= padded.right - core.right - tiling.halo < tiling.stride


@given(tilings, st.integers(1, 6))
def test_tiles_of_whole_larger_pixels_cover_each_of_those_once(tiling: Tiling, factor: int) -> None:
    tiling = replace(tiling, tile=tiling.tile * factor)
    seen = np.zeros(Grid(32633, 0, 0, 10, 10, tiling.height, tiling.width).coarsen(factor).shape, int)
    for tile in tiling.all():
        window = tiling.core(tile).coarsen(factor)
        assert seen[window.slices].shape == window.shape
        seen[window.slices] += 1
    assert (seen == 1).all()


@given(tilings, st.data())
def test_a_tile_depends_on_nothing_but_the_scene(tiling: Tiling, data: st.DataObject) -> None:
    """Neither the tiles that are wanted beside it nor their order move it, nor how far the scene goes on behind it."""
    wanted = data.draw(st.lists(st.sampled_from(tiling.all()), min_size=1, max_size=9, unique=True))
    assert [(row, column) for row, columns in by_row(wanted) for column in columns] == sorted(wanted)
    longer = replace(tiling, height=tiling.height + 5 * tiling.tile, width=tiling.width + 5 * tiling.tile)
    for row, column in wanted:
        padded, other = tiling.padded((row, column)), longer.padded((row, column))
        corner = row * tiling.tile - tiling.halo, column * tiling.tile - tiling.halo
        assert (padded.top, padded.left) == (other.top, other.left) == corner
        if tiling.core((row, column)).shape == (tiling.tile, tiling.tile):
            assert padded == other


def test_a_tile_must_fit_the_stride() -> None:
    with pytest.raises(ValueError, match="tile 60 must be a multiple of 16"):
        Tiling(100, 100, 60, 16, 16)


UTM = Grid(32633, 600_000, 5_200_020, 10, 10, 200, 300)


@given(st.integers(0, 199), st.integers(0, 299))
def test_crop_keeps_pixels_where_they_are(top: int, left: int) -> None:
    part = UTM.crop(Window(top, 200, left, 300))
    assert part.shape == (200 - top, 300 - left)
    assert part.bounds == (600_000 + 10 * left, UTM.bounds[1], UTM.bounds[2], 5_200_020 - 10 * top)


@given(st.integers(1, 12))
def test_coarsened_grids_keep_their_origin_and_cover_all(factor: int) -> None:
    coarse = UTM.coarsen(factor)
    assert (coarse.x0, coarse.y0, coarse.dx) == (UTM.x0, UTM.y0, 10 * factor)
    assert 0 <= coarse.height * factor - UTM.height < factor
    assert 0 <= coarse.width * factor - UTM.width < factor


def test_metres_of_a_degree_shrink_towards_the_pole() -> None:
    tall, wide = Grid(4326, 10, 60.5, 1e-4, 1e-4, 10_000, 10).metres
    assert tall == pytest.approx(11.12, abs=0.01)
    assert wide == pytest.approx(tall / 2, rel=1e-3)
    assert UTM.metres == (10, 10)


@pytest.mark.parametrize("epsg", [3144, 2297])
def test_metres_are_believed_of_a_projection_that_proj_cannot_compute(epsg: int) -> None:
    """Of the Faroe Islands and of Greenland; it was an error that nobody caught."""
    assert Grid(epsg, 200_000, 1_000_000, 10, 10, 100, 100).metres == (10, 10)


def test_an_area_touches_only_tiles_it_shares_ground_with() -> None:
    tiling = Tiling(200, 300, 64, 16, 16)
    grid = Grid(4326, 10.0, 50.0, 0.01, 0.01, 200, 300)
    assert tiling.touched(grid, box(10.1, 49.5, 10.2, 49.9)) == [(0, 0)]
    assert tiling.touched(grid, box(10.1, 49.3, 10.65, 49.9)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert tiling.touched(grid, box(20, 49, 21, 50)) == []
    assert tiling.touched(grid, box(0, 0, 60, 60)) == tiling.all()


@given(
    st.sampled_from([4326, 32633, 32733, 3035]),
    st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)), min_size=3, max_size=6),
    st.integers(1, 9),
)
def test_the_tiles_touched_are_those_that_share_area_one_by_one(epsg: int, corners: list, turn: int) -> None:
    size = 0.001 if epsg == 4326 else 100
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(10 + turn, -48 if epsg == 32733 else 48)
    grid, tiling = Grid(epsg, x, y, size, size, 200 + turn, 300), Tiling(200 + turn, 300, 64, 16, 16)
    west, south, east, north = Transformer.from_crs(epsg, 4326, always_xy=True).transform_bounds(*grid.bounds)
    points = [(west + right * (east - west), south + up * (north - south)) for right, up in corners]
    area = MultiPoint(points).convex_hull.buffer(1e-4)
    projected = grid.project(area)
    alone = [tile for tile in tiling.all() if projected.intersection(box(*grid.crop(tiling.core(tile)).bounds)).area]
    assert tiling.touched(grid, area) == alone
    assert tiling.touched(grid, area) == alone, "asked again"


def test_an_area_that_is_no_rectangle_touches_no_tile_beside_it() -> None:
    grid, tiling = Grid(4326, 10.0, 50.0, 0.01, 0.01, 128, 128), Tiling(128, 128, 64, 16, 16)
    assert tiling.touched(grid, Polygon([(10, 50), (11.2, 50), (10, 48.8)])) == [(0, 0), (0, 1), (1, 0)]


def test_a_parallel_is_no_straight_line_on_a_scenes_grid() -> None:
    """At the middle it runs 60 m south of the first row of tiles, beyond 21 km from there within it."""
    north = Transformer.from_crs(4326, 32633, always_xy=True).transform(15, 60)[1]
    grid = Grid(32633, 436_000, north + 6460, 100, 100, 128, 1280)
    touched = Tiling(128, 1280, 64, 16, 16).touched(grid, box(10, 59, 20, 60))
    assert [column for row, column in touched if row == 0] == [0, 1, 2, 3, 4, 5, 6, 13, 14, 15, 16, 17, 18, 19]


def test_an_area_of_the_whole_world_touches_every_tile() -> None:
    assert len(Tiling(200, 300, 64, 16, 16).touched(UTM, box(-180, -90, 180, 90))) == 20
    fiji = Grid(32760, 300_000, 8_000_020, 1000, 1000, 200, 600)  # reaches beyond 180°
    tiling = Tiling(200, 600, 64, 16, 16)
    assert tiling.touched(fiji, box(-180, -90, 180, 90)) == tiling.all()
    east, west = tiling.touched(fiji, box(179, -20, 180, -17)), tiling.touched(fiji, box(-180, -20, -179, -17))
    assert east
    assert west
    assert max(column for _, column in east) <= min(column for _, column in west) + 1
