"""When a source is out: what is known of it after so many scenes."""

import pytest

from cloudjob.errors import KeysMissingError, OutageError, OutsideError, PassingError, SceneError
from cloudjob.plan.sources import Sources

HERE, THERE = "https://here/{}.tif", "https://there/1.tif"


@pytest.mark.parametrize(
    ("error", "tries"),
    [(PassingError("x"), 5), (OutsideError("x"), 5), (OutageError("x"), 5), (KeysMissingError("x"), 1)],
)
def test_a_source_is_given_up_after_five_scenes_and_at_once_where_keys_are_missing(
    error: SceneError, tries: int
) -> None:
    sources = Sources()
    for number in range(tries):
        assert sources.lost(HERE.format(number)) is None
        sources.failed(HERE.format(number), error)
    assert sources.lost(HERE.format("next")) is error
    assert sources.lost(THERE) is None
    assert not sources.own(HERE.format(0), error)
    assert sources.verdict()


def test_a_scene_with_a_fault_of_its_own_shows_that_its_source_answers() -> None:
    sources = Sources()
    sources.failed(HERE.format("gone"), SceneError("404"))
    for number in range(9):
        sources.failed(HERE.format(number), PassingError("cut"))
    assert sources.lost(HERE.format("next")) is None
    assert sources.verdict() is None
    assert sources.own(HERE.format(0), PassingError("cut"))
    assert not sources.own(HERE.format(0), OutageError("503"))
