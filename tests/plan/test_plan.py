from dataclasses import replace
from pathlib import Path

import pytest
from output import ALL, GRID, TILING, make_scene, run

from cloudjob.errors import ContractError
from cloudjob.grid import Tiling
from cloudjob.plan import plan
from cloudjob.store import ledger
from cloudjob.store.out import Out


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "out")


def make(out: Out, *scenes: object, wanted: object = ALL) -> plan.Plan:
    return plan.make(scenes, ledger.read(out), lambda _: wanted)  # type: ignore[arg-type]


def test_every_state(out: Out):
    new, grown, changed, failed, done = (make_scene(day) for day in range(5))
    run(out, [grown], ALL[:1])
    run(out, [changed, done])
    run(out, [failed], failing={failed.id: "no"})
    made = make(out, done, failed, grown, new, replace(changed, fingerprint="f2"))
    assert [(one.scene.id, one.state) for one in made.scenes] == [
        (new.id, "new"),
        (grown.id, "grown"),
        (changed.id, "changed"),
        (failed.id, "failed before"),
        (done.id, "done"),
    ]
    assert [one.scene.id for one in made.to_do] == [new.id, grown.id, changed.id, failed.id]
    assert made.counts == {"changed": 1, "done": 1, "failed before": 1, "grown": 1, "new": 1}
    assert made.to_json()["scenes"][0] == {
        "id": new.id,
        "group": "32TQM",
        "datetime": "2024-06-01T10:15:59.024000Z",
        "state": "new",
        "tiles": 6,
        "replaces": None,
        "without": {},
    }


def test_a_reingested_catalog_changes_nothing(out: Out):
    scene = make_scene(0)
    run(out, [scene])
    again = replace(scene, item={**scene.item, "properties": {**scene.item["properties"], "updated": "2030-01-01"}})
    assert make(out, again).counts == {"done": 1}


def test_a_smaller_window_is_done(out: Out):
    run(out, [make_scene(0)])
    assert make(out, make_scene(0), wanted=ALL[:1]).counts == {"done": 1}


def test_a_scene_none_of_whose_tiles_is_wanted_is_left_alone(out: Out):
    made = make(out, make_scene(0), wanted=())
    assert (made.scenes, made.outside) == ((), (make_scene(0).id,))


def test_a_failed_scene_is_retried_where_it_was_wanted_whatever_the_bbox_now(out: Out):
    run(out, [make_scene(0)], ALL[:2], failing={make_scene(0).id: "no"})
    (one,) = make(out, make_scene(0), wanted=()).to_do
    assert (one.state, one.tiles) == ("failed before", frozenset(ALL[:2]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"baseline": "05.09"}, {"baseline": "05.11"}),
        ({"generated": "2024-06-01T12:00:00Z"}, {"generated": "2024-09-01T12:00:00Z"}),
    ],
)
def test_the_newer_version_counts_whichever_comes_first(out: Out, old: dict[str, str], new: dict[str, str]):
    older, newer = make_scene(0, **old), make_scene(0, id="newer", **new)
    run(out, [older])
    (one,) = make(out, newer).to_do
    assert (one.state, one.replaces, one.tiles) == ("changed", older.id, frozenset(ALL))
    run(out, [newer])
    made = make(out, older)
    assert (made.scenes, made.superseded) == ((), {older.id: "newer"})


def test_the_newer_version_takes_over_from_one_that_failed(out: Out):
    older = make_scene(0)
    run(out, [older], ALL[:3], failing={older.id: "no"})
    newer = make_scene(0, id="newer", baseline="05.11")
    made = run(out, [newer], ALL[3:4])
    assert made.replaces == {"newer": older.id}
    known = ledger.read(out)
    assert known.scenes == {"32TQM": ("newer",)}
    assert known.done["newer"].tiles == frozenset(ALL[:4])
    assert not known.failures


def test_what_failed_is_asked_for_until_it_is_given_up_though_another_version_has_less(out: Out):
    first, again = make_scene(0), make_scene(0, id="again", collection="another")
    run(out, [first], ALL[:2])
    run(out, [again], ALL[:4], failing={again.id: "no"})
    (one,) = make(out, again, wanted=ALL[:2]).scenes
    assert (one.state, one.tiles, one.replaces) == ("failed before", frozenset(ALL[:4]), first.id)
    known = ledger.read(out)
    failure = known.failures[again.id]
    assert not failure.abandoned
    for over in ({"runs": 3}, {"group": "32TPM"}):
        now = replace(known, failures={again.id: replace(failure, **over)})
        assert plan.make([again], now, lambda _: ALL[:2]).superseded == {again.id: first.id}


def test_an_older_version_stands_beside_a_newer_one_that_failed(out: Out):
    older, newer = make_scene(0), make_scene(0, id="newer", baseline="05.11")
    run(out, [newer], failing={newer.id: "no"})
    (one,) = make(out, older).scenes
    assert (one.state, one.replaces) == ("new", None)


def test_a_failure_is_over_only_where_the_scene_is_done_or_lies_elsewhere_now(out: Out):
    failed, grown = make_scene(0), make_scene(1)
    run(out, [grown], ALL[:2])
    run(out, [failed, replace(grown, fingerprint="f2")], failing={failed.id: "no", grown.id: "no"})
    assert make(out, make_scene(2)).settled == (), "no catalog lists them tonight"
    made = make(out, replace(failed, group="32TPM"), grown, wanted=ALL[:2])
    assert (made.counts, made.settled) == ({"done": 1, "failed before": 1}, (grown.id,))
    made = make(out, replace(failed, group="32TPM"), wanted=())
    assert (made.outside, made.settled) == ((failed.id,), (failed.id,))


def test_tiles_of_another_grid_are_not_those_of_the_one_where_a_scene_lies_now(out: Out):
    run(out, [make_scene(0)])
    (one,) = make(out, make_scene(0, group="32TPM", fingerprint="f2"), wanted=ALL[:1]).scenes
    assert (one.state, one.tiles) == ("changed", frozenset(ALL[:1]))


def test_an_hour_later_is_another_scene(out: Out):
    first = make_scene(0)
    run(out, [first])
    later = make_scene(0, id="later", baseline="05.11", sensing=first.sensing.replace(hour=11))
    assert make(out, later).counts == {"new": 1}


def test_one_id_in_two_collections_is_an_error(out: Out):
    with pytest.raises(ContractError, match="two collections"):
        make(out, make_scene(0), replace(make_scene(0), collection="other"))


def test_cost_counts_the_halo_and_reads_only_what_there_is():
    scenes = [make_scene(0), make_scene(1)]
    made = plan.make(scenes, ledger.Ledger(), lambda _: ALL)
    cost = plan.cost(made, lambda _: TILING, speed=2.0, lanes=4, measured=False)
    assert cost.pixels == 2 * GRID.height * GRID.width
    # Tiles of 32 in 60 × 70 pixels, stride 16: sides of 32, 32 and 32, 32, 16, and 16 more on each side.
    assert cost.seen == 2 * (64 + 64) * (64 + 64 + 48)
    # Rows 0…47 and 16…59; columns 0…47, 16…69 and 48…69; two bytes.
    assert cost.bytes == 2 * 2 * (48 + 44) * (48 + 54 + 22)
    assert cost.hours == pytest.approx(cost.seen / 2e6 / 4 / 3600)


def test_cost_counts_only_what_is_to_do(out: Out):
    run(out, [make_scene(0)])
    made = make(out, make_scene(0))
    assert plan.cost(made, lambda _: TILING, speed=1, lanes=1, measured=True).seen == 0


def test_the_halo_of_the_shipped_tiles_is_what_it_is_said_to_be():
    made = plan.make([make_scene(0)], ledger.Ledger(), lambda _: Tiling(10980, 10980, 1024, 48, 16).all())
    cost = plan.cost(made, lambda _: Tiling(10980, 10980, 1024, 48, 16), speed=1, lanes=1, measured=False)
    assert cost.pixels == 10980**2
    assert 1.2 < cost.seen / cost.pixels < 1.25


@pytest.mark.parametrize(("dtype", "size"), [("uint8", 1), ("int16", 2), ("uint16", 2), ("float32", 4)])
def test_bytes_follow_the_numbers_of_the_bands(dtype: str, size: int):
    scene = make_scene(0)
    scene = replace(scene, bands=tuple(replace(band, dtype=dtype) for band in scene.bands))
    made = plan.make([scene], ledger.Ledger(), lambda _: [(0, 0)])
    cost = plan.cost(made, lambda _: TILING, speed=1, lanes=1, measured=False)
    assert cost.bytes == 48 * 48 * size
