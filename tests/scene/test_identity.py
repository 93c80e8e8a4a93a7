import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from shapely import box
from shapely.geometry import mapping

from cloudjob.grid import Grid
from cloudjob.scene.identity import Identity, merge, said, same_scene
from cloudjob.scene.scene import Scene

TIME = datetime(2023, 6, 28, 7, 18, 48, tzinfo=UTC)
WHOLE = (48, 25, 49, 26)


def make_scene(name, *, baseline="05.09", generated="2023-06-28T11:39:55.000000Z", where=WHOLE, **changes):
    scene = Scene(
        id=name,
        collection="sentinel-2-l2a",
        item={"id": name, "geometry": mapping(box(*where))},
        group="39QTA",
        grid=Grid(32639, 199980, 2900040, 10, 10, 10980, 10980),
        time=TIME + timedelta(minutes=6),
        platform="sentinel-2a",
        sensing=TIME,
        baseline=baseline,
        generated=generated,
        bands=(),
        scl=None,
        fingerprint=name,
    )
    return replace(scene, **changes)


old = make_scene("S2A_39QTA_20230628_0_L2A")


def pair(**changes):
    return Identity.of(old), Identity.of(make_scene("S2A_39QTA_20230628_1_L2A", **changes))


NEWER = {"baseline": "05.10"}


@pytest.mark.parametrize(
    "changes",
    [
        NEWER,
        {"generated": "2024-01-01T00:00:00Z"},
        NEWER | {"platform": "Sentinel-2A"},
        NEWER | {"sensing": TIME + timedelta(seconds=2)},
        NEWER | {"where": (48, 25, 49, 25.91)},
        NEWER | {"time": TIME + timedelta(hours=1)},  # The catalog's idea of the time is not the datastrip's
    ],
)
def test_a_reprocessed_product_is_the_same_scene(changes):
    a, b = pair(**changes)
    assert same_scene(a, b)
    assert same_scene(b, a)


@pytest.mark.parametrize(
    "changes",
    [
        {},  # Neither baseline nor generation differ
        {"baseline": "5.09", "generated": "2023-06-28T13:39:55+02:00"},  # The same, written otherwise
        NEWER | {"platform": "sentinel-2b"},
        NEWER | {"group": "39QUA"},
        NEWER | {"sensing": TIME + timedelta(seconds=11)},
        NEWER | {"sensing": TIME - timedelta(minutes=100)},
        NEWER | {"where": (48, 25, 49, 25.89)},  # 89 % of the larger one
        NEWER | {"where": (48, 25, 48.2, 26)},  # The other half of a tile, or a part of it
        NEWER | {"where": (48.9, 25, 49.9, 26)},
    ],
)
def test_everything_else_is_a_scene_of_its_own(changes):
    a, b = pair(**changes)
    assert not same_scene(a, b)
    assert not same_scene(b, a)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"baseline": "05.09"}, {"baseline": "05.10"}),
        ({"baseline": "5.09"}, {"baseline": "05.10"}),
        ({"baseline": "05.09"}, {"baseline": "5.1"}),  # As a number
        ({"baseline": "N0509"}, {"baseline": "05.10"}),
        ({"baseline": "05.09"}, {"baseline": "N05_10"}),
        ({"baseline": "509"}, {"baseline": "5.11"}),
        ({"baseline": "02.14"}, {"baseline": "05.00", "generated": "2020-01-01T00:00:00Z"}),
        ({"baseline": ""}, {"baseline": "02.04"}),
        ({"generated": ""}, {"generated": "2019-05-06T05:46:11.879Z"}),
        ({"generated": "2023-06-28T11:39:55Z"}, {"generated": "2023-06-28T11:39:55.5Z"}),
        ({"generated": "2023-06-28T11:39:55"}, {"generated": "2023-06-28T12:39:56+01:00"}),
        ({"generated": "2023-06-28T11:39:55Z"}, {"generated": "2023-06-28t11:39:59z"}),
        ({"generated": "2023-06-28T11:39:55Z"}, {"generated": "2023-06-28T11:39:60Z"}),
        ({"generated": "unknown"}, {"generated": "2019-05-06T05:46:11.879Z"}),
    ],
)
def test_the_newer_version_wins_in_any_order(older, newer):
    a, b = make_scene("a", **older), make_scene("b", **newer)
    assert Identity.of(a).version < Identity.of(b).version
    assert merge([a, b]) == merge([b, a]) == ([b], [(a, b)])


def test_three_versions_and_others_around_them():
    versions = [make_scene(f"v{n}", baseline=f"05.{n:02}", sensing=TIME + timedelta(seconds=n)) for n in (9, 10, 11)]
    half = make_scene("half", where=(48, 25, 48.3, 26), baseline="05.11")
    later = make_scene("later", sensing=TIME + timedelta(days=5))
    tile = make_scene("tile", group="39QUA", where=(49, 25, 50, 26))
    scenes = [*versions, half, later, tile]
    for seed in range(20):
        shuffled = random.Random(seed).sample(scenes, len(scenes))
        kept, dropped = merge(shuffled)
        assert kept == [scene for scene in shuffled if scene.id not in ("v9", "v10")]
        assert sorted((lost.id, won.id) for lost, won in dropped) == [("v10", "v11"), ("v9", "v11")]


def test_sensing_times_on_both_sides_of_a_slot_of_time_are_compared():
    """The tolerance must not depend on where the clock stands."""
    for second in range(20):
        a = make_scene("a", sensing=TIME + timedelta(seconds=second))
        b = make_scene("b", sensing=TIME + timedelta(seconds=second + 9), baseline="05.10")
        c = make_scene("c", sensing=TIME + timedelta(seconds=second + 11), baseline="05.10")
        assert merge([a, b])[0] == [b]
        assert merge([a, c])[0] == [a, c]
        earlier = replace(b, sensing=TIME + timedelta(seconds=second - 9))
        assert merge([a, earlier])[0] == [earlier]


def test_an_id_listed_twice_collapses():
    assert merge([old, replace(old)]) == ([old], [(old, old)])
    moved = make_scene(old.id, baseline="05.10", where=(48.5, 25, 49.5, 26))
    assert merge([old, moved]) == ([moved], [(old, moved)])


def test_one_product_in_two_collections_is_one_scene():
    elsewhere = replace(old, collection="sentinel-2-c1-l2a", id="S2A_T39QTA_20230628T071848_L2A")
    assert merge([old, elsewhere]) == merge([elsewhere, old]) == ([elsewhere], [(old, elsewhere)])


def test_one_product_by_its_name_is_one_scene_whatever_its_time():
    """A publisher that tells no datastrip dates a scene by its tile: minutes away."""
    name = "S2A_MSIL2A_20230628T071621_R006_T39QTA_20230628T113955"
    a, b = replace(old, product=name), make_scene("b", sensing=TIME + timedelta(minutes=7), product=name)
    assert same_scene(Identity.of(a), Identity.of(b))
    assert merge([a, b]) == ([b], [(a, b)])
    assert merge([a, replace(b, group="39QUA")])[1] == []


def test_what_an_item_says_of_itself_tells_it_from_all_but_its_twin():
    properties = {"datetime": None, "start_datetime": "2024-06-01T00:00:00Z", "end_datetime": "2024-06-16T00:00:00Z"}
    item = {"id": "a", "collection": "c", "geometry": mapping(box(*WHOLE)), "properties": properties}
    assert said(item) == said({**item, "id": "b", "assets": {}})
    others = ({"start_datetime": "2024-05-31T00:00:00Z"}, {"platform": "sentinel-2b"}, {"s2:product_uri": "other"})
    others += ({"s2:processing_baseline": "05.10"}, {"s2:generation_time": "2024-06-02T00:00:00Z"})
    others += ({"grid:code": "MGRS-33UUQ"},)
    for other in ({"collection": "d"}, {"geometry": mapping(box(0, 0, 1, 1))}):
        assert said(item) != said({**item, **other})
    for other in others:
        assert said(item) != said({**item, "properties": {**properties, **other}})


def test_an_identity_survives_the_ledger():
    identity = Identity.of(old)
    again = Identity.from_json(json.loads(json.dumps(identity.to_json())))
    assert again == identity
    assert same_scene(again, Identity.of(make_scene("new", **NEWER)))


def test_many_scenes_of_one_tile_are_not_all_compared(monkeypatch):
    count = []
    monkeypatch.setattr("cloudjob.scene.identity.same_scene", lambda a, b: count.append(1) or same_scene(a, b))
    scenes = [make_scene(str(n), sensing=TIME + timedelta(days=n)) for n in range(300)]
    assert merge(scenes) == (scenes, [])
    assert len(count) == 0


@pytest.mark.parametrize(
    "odd", [{"product": {}}, {"platform": 7}, {"baseline": "9" * 5000}, {"group": None}, {"x": "y"}]
)
def test_an_identity_of_other_types_is_none(odd):
    record = json.loads(json.dumps(Identity.of(make_scene("a")).to_json()))
    assert Identity.from_json(record).product == record["product"]
    with pytest.raises(TypeError):
        Identity.from_json(record | odd)
