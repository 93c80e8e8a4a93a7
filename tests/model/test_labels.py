"""Kept probabilities: exact at thresholds of whole percent, and what is not known is not guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloudjob.classes import CLEAR, CLOUD, NO_DATA, NOT_COMPUTED, SHADOW, THIN_CLOUD
from cloudjob.model.labels import LIMITS, classify, is_whole, percent, relabelled


def test_rounded_down() -> None:
    values = np.array([[0.0, 0.0099, 0.5, 0.5099, 1.0, 1.0]], np.float32)
    valid = np.array([[True, True, True, True, True, False]])
    assert percent(values, valid).tolist() == [[0, 0, 50, 50, 100, NO_DATA]]


def test_clouds_of_both_kinds_count() -> None:
    values = np.array([0.2, 0.3, 0.4, 0.1], np.float32)[:, None, None]
    assert percent(values, np.ones((1, 1), bool), (CLEAR, CLOUD, THIN_CLOUD, SHADOW)).tolist() == [[70]]


def test_probabilities_that_exclude_no_other_or_lie_beside_0_and_1() -> None:
    """As of a network whose classes have a sigmoid each, or that gives a share somewhat beyond 0 and 1."""
    everywhere = np.ones((1, 4), bool)
    both = np.array([[[0.9, 0.2, 0.0, 1.0]], [[0.9, 0.3, 0.0, 1.0]], [[0.9] * 4]], np.float32)
    assert percent(both, everywhere, (CLOUD, THIN_CLOUD, SHADOW)).tolist() == [[100, 50, 0, 100]]
    beyond = np.array([[-0.0005, -0.5, 1.0005, 7]], np.float32)
    assert percent(beyond, everywhere).tolist() == [[0, 0, 100, 100]]


def test_clouds_widen_over_clear_and_shadow_but_neither_from_no_data_nor_over_other_clouds() -> None:
    kinds = np.array([[SHADOW, CLOUD, CLEAR, CLEAR, THIN_CLOUD, CLOUD, CLEAR, CLEAR, CLOUD, CLEAR]])
    classes = (CLEAR, CLOUD, THIN_CLOUD, SHADOW)
    valid = np.ones(kinds.shape, bool)
    valid[0, 8] = False
    likely = np.stack([kinds == each for each in classes]).astype(np.float32)
    found = [CLOUD, CLOUD, CLOUD, THIN_CLOUD, THIN_CLOUD, CLOUD, CLOUD, CLEAR, NO_DATA, CLEAR]
    assert classify(likely, valid, 0.5, (1, 1), classes).tolist() == [found]


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(0, 1, width=32)), st.integers(1, 99))
def test_at_a_threshold_of_whole_percent_the_mask_is_that_of_the_probability(values: np.ndarray, number: int) -> None:
    """And where a probability is the threshold itself, or next to it."""
    limit = number / 100
    values.flat[:3] = np.float32(limit), np.nextafter(np.float32(limit), 0), np.nextafter(np.float32(limit), 1)
    valid = np.ones(values.shape, bool)
    valid[2, 4] = False
    kept = percent(values, valid)
    assert is_whole(limit)
    np.testing.assert_array_equal(relabelled(kept, limit), classify(values, valid, limit))
    np.testing.assert_array_equal(relabelled(kept, limit, (1, 2)), classify(values, valid, limit, (1, 2)))


@pytest.mark.parametrize("threshold", [0.405, 0.0, 1.0, 0.999, 0.4000001])
def test_no_threshold_of_whole_percent(threshold: float) -> None:
    assert not is_whole(threshold)


def test_every_whole_percent_is_one() -> None:
    assert all(is_whole(number / 100) for number in range(1, 100))
    assert (np.diff(LIMITS[:101]) > 0).all()


def test_a_cloud_that_nobody_knows_may_reach_as_far_as_the_buffer() -> None:
    kept = np.array([[90, 0, 0, 0, 0, NOT_COMPUTED, NOT_COMPUTED, 0, NO_DATA]], np.uint8)
    assert relabelled(kept, 0.5).tolist() == [[1, 0, 0, 0, 0, 255, 255, 0, 254]]
    assert relabelled(kept, 0.5, (1, 1)).tolist() == [[1, 1, 0, 0, 255, 255, 255, 255, 254]]
    assert relabelled(kept, 0.5, (3, 4)).tolist() == [[1, 1, 1, 1, 1, 255, 255, 255, 254]]
