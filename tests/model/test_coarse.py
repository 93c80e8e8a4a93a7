"""Masks of larger pixels: by the share of cloud in each, never mixed with no data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloudjob.model.coarse import coarsen, coarsen_percent


@pytest.mark.parametrize(
    ("cell", "becomes"),
    [
        ([0, 0, 0, 0], 0),
        ([1, 0, 0, 0], 0),
        ([1, 1, 0, 0], 1),  # half of it
        ([1, 0, 254, 254], 1),  # half of what holds data
        ([0, 0, 254, 254], 0),
        ([1, 254, 254, 254], 254),  # fewer than half hold data
        ([254, 254, 255, 255], 254),
        ([1, 255, 255, 255], 1),  # what was not asked for does not count
        ([255, 255, 255, 255], 255),
        ([1, 2, 2, 0], 2),  # the most frequent kind of cloud
        ([1, 2, 0, 0], 1),
        ([3, 3, 1, 0], 3),  # what is not clear counts together, shadows too
        ([3, 1, 0, 0], 1),
    ],
)
def test_a_larger_pixel(cell: list[int], becomes: int) -> None:
    assert coarsen(np.array(cell, np.uint8).reshape(2, 2), 2).tolist() == [[becomes]]


def test_at_the_edge_there_are_fewer_pixels_in_one() -> None:
    mask = np.zeros((5, 7), np.uint8)
    mask[4, 6] = 1
    mask[:3, :3] = 1
    assert coarsen(mask, 3).tolist() == [[1, 0, 0], [0, 0, 1]]


@given(arrays(np.uint8, st.tuples(st.integers(1, 13), st.integers(1, 13)), elements=st.sampled_from([0, 1, 254, 255])))
def test_the_rule_pixel_by_pixel(mask: np.ndarray) -> None:
    found = coarsen(mask, 4)
    for row, column in np.ndindex(found.shape):
        cell = mask[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        asked, data, cloud = (cell != 255).sum(), (cell < 254).sum(), (cell == 1).sum()
        expected = 255 if not asked else 254 if data < asked / 2 else int(cloud >= data / 2)
        assert found[row, column] == expected


def test_no_larger_pixels_change_nothing() -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 254, 255], np.uint8), (9, 9))
    assert coarsen(mask, 1) is mask


def test_probabilities_are_averaged_where_there_is_a_class() -> None:
    percent = np.array([[90, 95, 254, 254], [99, 254, 254, 90]], np.uint8)
    mask = coarsen(np.where(percent < 254, np.uint8(0), percent), 2)
    assert coarsen_percent(percent, mask, 2).tolist() == [[95, 254]]  # 94.7; their sum is no byte
