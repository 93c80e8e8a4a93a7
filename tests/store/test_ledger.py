import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from unittest import mock

import pytest
from output import ALL, SETTINGS, files, make_scene, run

from cloudjob.errors import LONGEST
from cloudjob.plan import plan
from cloudjob.scene.identity import Identity
from cloudjob.store import again, check, failures, ledger, listing, runs, settings
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "out")


def item_path(out: Out, id_: str) -> Path:
    return Path(out.address) / f"items/32TQM/{id_}.json"


def reads(out: Out, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The items that `ledger.read` has to open one by one."""
    opened: list[str] = []
    original = Out.get

    def watched(self: Out, path: str) -> bytes | None:
        opened.append(path)
        return original(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Out, "get", watched)
        ledger.read(out)
    return [path for path in opened if path.startswith("items/") and not path.endswith("/index.json")]


def entries(out: Out) -> dict[str, object]:
    """What is done, lists and tuples alike."""
    return {id_: json.dumps(vars(done), default=sorted) for id_, done in ledger.read(out).done.items()}


def test_nothing_is_known_of_nothing(out: Out):
    assert ledger.read(out) == ledger.Ledger()
    assert not Path(out.address).exists()


def test_what_is_done(out: Out):
    run(out, [make_scene(0), make_scene(1)], ALL[:3])
    done = ledger.read(out).done[make_scene(1).id]
    assert (done.group, done.slot, done.fingerprint, done.tiles) == ("32TQM", 1, "f1", frozenset(ALL[:3]))
    assert Identity.from_json(done.identity) == Identity.of(make_scene(1))
    assert done.provider_cloud_cover == 12.5


def test_what_is_not_listed_is_asked_for_by_name(out: Out, monkeypatch: pytest.MonkeyPatch):
    """Some object stores list less than they hold. Who masks again what is done deletes it first."""
    run(out, [make_scene(0), make_scene(1)], failing={make_scene(1).id: "broken"})
    known = ledger.read(out)
    monkeypatch.setattr(Out, "tags", lambda *_: {})
    monkeypatch.setattr(Out, "names", lambda *_: set())
    found = ledger.read(out, ["32TQM"])
    assert found.done.keys() == known.done.keys() == {make_scene(0).id}
    assert (found.failures, found.scenes, found.damaged) == (known.failures, known.scenes, {})


def test_the_cache_saves_reading_items(out: Out, monkeypatch: pytest.MonkeyPatch):
    run(out, [make_scene(0), make_scene(1)])
    assert reads(out, monkeypatch) == []
    known = entries(out)
    (Path(out.address) / "items/32TQM/index.json").unlink()
    assert len(reads(out, monkeypatch)) == 2
    assert entries(out) == known


def test_the_cache_is_never_believed_against_an_item(out: Out, monkeypatch: pytest.MonkeyPatch):
    run(out, [make_scene(0), make_scene(1)])
    path = item_path(out, make_scene(1).id)
    item = json.loads(path.read_text())
    item["properties"]["cloudjob:fingerprint"] = "other"
    path.write_text(json.dumps(item))
    assert reads(out, monkeypatch) == [f"items/32TQM/{path.name}"]
    assert ledger.read(out).done[make_scene(1).id].fingerprint == "other"
    path.unlink()
    assert set(ledger.read(out).done) == {make_scene(0).id}
    ledger.refresh(out)
    assert set(json.loads((path.parent / "index.json").read_text())) == {make_scene(0).id}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {}}', '{"a": {"tiles": []}}'])
def test_a_broken_cache_does_no_harm(out: Out, text: str):
    run(out, [make_scene(0)])
    known = entries(out)
    (Path(out.address) / "items/32TQM/index.json").write_text(text)
    assert entries(out) == known
    ledger.refresh(out)
    assert json.loads((Path(out.address) / "items/32TQM/index.json").read_text())[make_scene(0).id]["slot"] == 0


def test_a_copied_out_is_the_same(out: Out, tmp_path: Path):
    run(out, [make_scene(0)])
    copy = Out.at(shutil.copytree(out.address, tmp_path / "copy"))
    assert run(copy, [make_scene(0)]).counts == {"done": 1}


def test_an_item_that_is_none_is_named_and_costs_nothing_else(out: Out):
    run(out, [make_scene(0)])
    item_path(out, "mine").write_text("{}")
    found = ledger.read(out)
    assert set(found.done) == {make_scene(0).id}
    assert "is not an item that cloudjob wrote" in found.damaged["items/32TQM/mine.json"]


def test_what_a_damaged_item_holds_is_told_in_short_and_without_secrets(out: Out):
    """`check` and `status` printed all of it."""
    run(out, [make_scene(0)])
    path = item_path(out, make_scene(0).id)
    item = json.loads(path.read_text())
    item["properties"]["datetime"] = "https://me:pw@a.test/?token=sekret " + "A" * 9999
    path.write_text(json.dumps(item))
    (told,) = ledger.read(out).damaged.values()
    assert "is not an item that cloudjob wrote: ValueError" in told
    assert not [secret for secret in ("me:pw", "sekret") if secret in told]
    assert len(told) <= LONGEST


BAD: dict[str, object] = {
    "id": 7,
    "cloudjob:group": None,
    "cloudjob:slot": "0",
    "cloudjob:fingerprint": [],
    "cloudjob:tiles": [[0, "a"]],
    "cloudjob:sensing": "yesterday",
    "datetime": "2024-06-01T10:15:59",
    "eo:cloud_cover": "12",
    "geometry": {"type": "Polygon", "coordinates": "x"},
}


@pytest.mark.parametrize("name", BAD)
def test_an_item_of_other_types_costs_its_own_scene_and_is_made_again(out: Out, name: str):
    run(out, [make_scene(0), make_scene(1)])
    path = item_path(out, make_scene(0).id)
    good = path.read_bytes()
    item = json.loads(good)
    (item if name in item else item["properties"])[name] = BAD[name]
    path.write_text(json.dumps(item))
    found = ledger.read(out)
    assert set(found.done) == {make_scene(1).id}
    assert set(found.damaged) == {f"items/32TQM/{path.name}"}
    run(out, [make_scene(0), make_scene(1)])
    assert path.read_bytes() == good


@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 100_000, b'{"a": NaN}', b"\xff\xfe", None])
def test_a_damaged_group_costs_its_own_scenes_and_deletes_nothing(out: Out, damage: bytes | None):
    run(out, [make_scene(0)])
    before = files(out)
    path = Path(out.address, "masks.zarr/32TQM/zarr.json")
    path.write_bytes(damage) if damage is not None else path.unlink()
    found = ledger.read(out)
    assert set(found.damaged) == {"masks.zarr/32TQM/zarr.json"}
    assert not found.leftovers
    assert run(out, [make_scene(1)]).counts == {"new": 1}  # Wanted, and not to be had
    assert not ledger.read(out).done
    path.write_bytes(before["masks.zarr/32TQM/zarr.json"])
    assert files(out) == before


def test_a_copy_of_an_item_beside_it_is_named_and_costs_nothing(out: Out):
    run(out, [make_scene(0)])
    shutil.copy(item_path(out, make_scene(0).id), item_path(out, "copy"))
    found = ledger.read(out)
    assert set(found.done) == {make_scene(0).id}
    assert "belongs at" in found.damaged["items/32TQM/copy.json"]


def test_an_item_whose_slot_has_another_owner_no_longer_counts(out: Out):
    """A run that was killed between giving a slot to a newer version and deleting the old item."""
    old = make_scene(0)
    run(out, [old])
    kept = item_path(out, old.id).read_text()
    newer = make_scene(0, id="newer", baseline="05.11")
    run(out, [newer])
    item_path(out, old.id).write_text(kept)
    item_path(out, "newer").unlink()
    known = ledger.read(out)
    assert (known.done, known.leftovers) == ({}, (f"items/32TQM/{old.id}.json",))
    run(out, [make_scene(1)])
    assert set(ledger.read(out).done) == {make_scene(1).id}
    assert not item_path(out, old.id).exists()


def test_an_item_that_does_not_count_takes_no_other_ones_place(out: Out, tmp_path: Path):
    """A newer version's, whose slot the group never gave to it, or no longer does."""
    old, newer = make_scene(0), make_scene(0, id="newer", baseline="05.11")
    other = Out.at(tmp_path / "other")
    for each in ([old], [newer]):
        run(other, each)
    run(out, [old])
    shutil.copy(item_path(other, "newer"), item_path(out, "newer"))
    known = ledger.read(out)
    assert (set(known.done), known.leftovers) == ({old.id}, ("items/32TQM/newer.json",))


# Failures


def test_a_failure_is_kept_without_secrets_until_it_succeeds(out: Out):
    scene = make_scene(0)
    reason = "GET https://blob.example/red.tif?sv=1&sig=S3CRET answered 500"
    run(out, [scene, make_scene(1)], ALL[:4], failing={scene.id: reason})
    known = ledger.read(out)
    failure = known.failures[scene.id]
    assert failure.reason == "GET https://blob.example/red.tif answered 500"
    assert (failure.runs, failure.tiles, failure.item) == (1, frozenset(ALL[:4]), scene.item)
    assert known.to_retry() == [failure]
    assert b"S3CRET" not in b"".join(files(out).values())
    assert run(out, [scene, make_scene(1)], ALL[:1]).counts == {"done": 1, "failed before": 1}
    known = ledger.read(out)
    assert known.done[scene.id].tiles == frozenset(ALL[:4])  # what was asked for then, and now
    assert not known.failures
    assert not any(name.startswith("failures") for name in files(out))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Call it with hours to let them pass."""
    now = datetime(2024, 6, 2, 1, tzinfo=UTC)
    monkeypatch.setattr(failures, "_now", lambda: f"{now.isoformat()}")

    def wait(hours: float) -> None:
        nonlocal now
        now += timedelta(hours=hours)

    return wait


def fail(out: Out, clock: Callable[[float], None], *reasons: str, hours: float = 24, **how: Any) -> failures.Failure:
    """Fail for these reasons, one night after the other; what the ledger then knows."""
    scene = make_scene(0)
    with Lock(out) as lock:
        settings.claim(lock, SETTINGS)
        for reason in reasons:
            failures.record(lock, ledger.read(out).failures.get(scene.id), scene, ALL, reason, **how)
            clock(hours)
    return ledger.read(out).failures[scene.id]


def test_three_nights_with_one_reason_and_it_is_abandoned(out: Out, clock: Callable[[float], None]):
    scene = make_scene(0)
    for seconds in (30.1, 30.2, 29.9):
        made = run(out, [scene], failing={scene.id: f"timed out after {seconds} s"})
        assert made.counts in ({"new": 1}, {"failed before": 1})
        clock(23.99)  # A nightly job starts a bit earlier or later
    known = ledger.read(out)
    assert known.failures[scene.id].runs == 3
    assert known.failures[scene.id].abandoned
    assert known.to_retry() == []
    made = run(out, [scene])
    assert [one.scene.id for one in made.abandoned] == [scene.id]
    assert made.to_do == []


def test_runs_of_one_night_count_once(out: Out, clock: Callable[[float], None]):
    assert fail(out, clock, *["no"] * 9, hours=2).runs == 1
    assert fail(out, clock, "no", "no", "no", hours=2).runs == 2


def test_a_night_of_a_clock_that_was_ahead_holds_back_none_that_come(out: Out, clock: Callable[[float], None]):
    assert fail(out, clock, "no", hours=-24 * 365).runs == 1
    assert fail(out, clock, "no", "no").abandoned


def test_what_lies_outside_a_scene_never_counts_and_forgets_nothing(out: Out, clock: Callable[[float], None]):
    failure = fail(out, clock, *["503"] * 5, outside=True)
    assert (failure.runs, failure.abandoned, failure.reason) == (0, False, "503")
    assert fail(out, clock, "corrupt", "corrupt").runs == 2
    failure = fail(out, clock, "503", "401", outside=True)
    assert (failure.runs, failure.reason, failure.counted) == (2, "401", "corrupt")
    assert fail(out, clock, "corrupt").abandoned


def test_an_outage_takes_no_band_from_a_scene_that_was_given_up(out: Out, clock: Callable[[float], None]):
    scene = make_scene(0)
    spare = scene.without(scene.bands[-1])
    given_up = fail(out, clock, "corrupt", "corrupt", "corrupt")
    assert fail(out, clock, "503", outside=True, spare=spare).fingerprint == given_up.fingerprint
    assert fail(out, clock, "corrupt", spare=spare).fingerprint == spare.fingerprint


def test_a_record_of_the_version_before_begins_to_count_anew(out: Out, clock: Callable[[float], None]):
    """It counted outages, too."""
    failure = fail(out, clock, "503", "503", "503")
    assert failure.abandoned
    record = out.get_json(failure.path)
    for name in ("counted", "night", "version"):
        del record[name]
    out.put_json(failure.path, record)
    assert not ledger.read(out).failures[failure.id].abandoned
    assert fail(out, clock, "503").runs == 1


def test_a_new_version_of_cloudjob_tries_once_more(
    out: Out, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
):
    assert fail(out, clock, "no", "no", "no").abandoned
    monkeypatch.setattr(failures, "_version", lambda: "99")
    assert [one.id for one in ledger.read(out).to_retry()] == [make_scene(0).id]
    assert fail(out, clock, "no", hours=1).abandoned


def test_an_abandoned_scene_is_tried_again_when_asked_for(out: Out, clock: Callable[[float], None]):
    failure = fail(out, clock, "no", "no", "no")
    known = ledger.read(out)
    assert known.to_retry([failure.id]) == known.to_retry(["all"]) == [failure]
    assert known.to_retry(["another"]) == []
    for asked, state in ((["all"], "failed before"), ([failure.id], "failed before"), (["another"], "abandoned")):
        (one,) = plan.make([make_scene(0)], known, lambda _: ALL, asked).scenes
        assert one.state == state


def test_another_reason_starts_counting_anew(out: Out, clock: Callable[[float], None]):
    failure = fail(out, clock, "no such file", "no such file", "timed out", "timed out")
    assert failure.runs == 2
    assert failure.first < failure.last


def test_two_reasons_in_turn_are_no_way_to_be_tried_for_ever(out: Out, clock: Callable[[float], None]):
    """Which of two bad files is read first is chance; each of them began to count anew."""
    turns = ("asset B04: cut at row 1", "asset B11: cut at row 2")
    assert not fail(out, clock, *turns, *turns).abandoned
    failure = fail(out, clock, "asset B04: cut at row 9")
    assert (failure.runs, failure.abandoned) == (3, True)


def test_reasons_that_are_new_every_time_do_not_make_the_record_grow(out: Out, clock: Callable[[float], None]):
    """What a server answers may name a request, or a machine of its: each is a reason of its own, and kept."""
    requests = [
        f"request {ascii_lowercase[number % 26]}{ascii_lowercase[number // 26]} refused" for number in range(60)
    ]
    sizes = []
    for some in (requests[:30], requests[30:]):
        failure = fail(out, clock, *some, hours=1)
        sizes.append(Path(out.address, failure.path).stat().st_size)
    assert sizes[0] == sizes[1]


def test_two_reasons_of_one_night_count_once_each(out: Out, clock: Callable[[float], None]):
    assert not fail(out, clock, *["no such file", "timed out"] * 4, hours=2).abandoned


def test_the_same_fault_of_another_asset_is_another_reason(out: Out, clock: Callable[[float], None]):
    assert fail(out, clock, "asset B04: read failed at row 1", "asset B11: read failed at row 2").runs == 1
    assert fail(out, clock, "asset B11: read failed at row 30").runs == 2


def test_an_item_that_describes_no_scene_is_a_failure_like_any_other(out: Out, clock: Callable[[float], None]):
    item = {
        "id": "ODD",
        "properties": {"token": "S3CRET", "updated": "1"},
        "assets": {"red": {"href": "https://h/r.tif?sig=S3CRET"}, "other": {}},
        "links": [{"rel": "self", "href": "https://h/ODD"}, {"rel": "next", "href": "x"}],
    }
    with Lock(out) as lock:
        for update in range(3):
            item["properties"] |= {"updated": str(update), "created": str(update)}
            refusal = failures.Refusal("ODD", item, {"red": "red", "nir": "nir"}, "", "it has no asset nir")
            failures.record(lock, ledger.read(out).failures.get("ODD"), refusal, (), refusal.reason)
            clock(24)
    failure = ledger.read(out).failures["ODD"]
    assert failure.abandoned
    assert failure.item["assets"] == {"red": {"href": "https://h/r.tif"}}
    assert [link["rel"] for link in failure.item["links"]] == ["self"]
    assert b"S3CRET" not in b"".join(files(out).values())
    assert failures.Refusal("ODD", {**item, "bbox": [1]}, {}, "", "").fingerprint != failure.fingerprint


def test_what_was_known_of_a_scene_that_can_no_longer_be_described_is_kept(out: Out, clock: Callable[[float], None]):
    """Where it lies, and which tiles were asked for: a later run may describe it again."""
    before = fail(out, clock, "no")
    refusal = failures.Refusal(before.id, make_scene(0).item, {"red": "red"}, "", "it has no asset nir")
    with Lock(out) as lock:
        after = failures.record(lock, before, refusal, (), refusal.reason)
    assert (after.group, after.tiles, after.identity) == (before.group, frozenset(ALL), before.identity)
    assert ledger.read(out).failures == {before.id: after}


@pytest.mark.parametrize("odd", [float("nan"), "\ud800", "x" * failures.LARGEST, {1, 2}])
def test_an_item_that_is_no_json_or_too_long_is_not_kept(odd: object):
    assert failures.Refusal("ODD", {"id": "ODD", "x": odd}, {}, "", "").kept == {}


def test_a_changed_source_revives_an_abandoned_scene(out: Out, clock: Callable[[float], None]):
    fail(out, clock, "no", "no", "no")
    changed = make_scene(0, fingerprint="f2")
    assert run(out, [changed], failing={changed.id: "no"}).counts == {"failed before": 1}
    assert ledger.read(out).failures[changed.id].runs == 1


def test_an_item_beats_a_failure_that_a_kill_left(out: Out):
    scene = make_scene(0)
    run(out, [scene])
    with Lock(out) as lock:
        failures.record(lock, None, scene, ALL, "no")
    known = ledger.read(out)
    assert (set(known.done), known.failures, known.leftovers) == ({scene.id}, {}, (f"failures/{scene.id}.json",))
    run(out, [make_scene(1)])
    assert out.names("failures") == set()


def test_the_failure_of_a_change_that_was_taken_back_is_over(out: Out):
    run(out, [make_scene(0)])
    changed = make_scene(0, fingerprint="f2")
    run(out, [changed], failing={changed.id: "no"})
    known = ledger.read(out)
    assert (set(known.done), set(known.failures), known.leftovers) == ({changed.id}, {changed.id}, ())
    assert plan.make([make_scene(0)], known, lambda _: ALL).settled == (changed.id,)
    run(out, [make_scene(0)])
    assert not ledger.read(out).failures
    assert set(ledger.read(out).done) == {changed.id}, "its mask was always good"
    assert list(check.check(out)) == []


@pytest.mark.parametrize("data", [b"[]", b"", b"null", b'{"id": 1}'])
def test_a_failure_that_is_none_is_named_and_costs_nothing(out: Out, data: bytes):
    out.put("failures/mine.json", data)
    assert set(ledger.read(out).damaged) == {"failures/mine.json"}


@pytest.mark.parametrize(
    "odd",
    [
        {"night": "2024-06-01T00:00:00"},  # without a zone
        {"night": 3},
        {"counted": [1]},
        {"version": 3},
        {"runs": True},
        {"assets": {"red": 3}},
        {"signing": "by a newer one"},
        {"item": {"properties": 3}},
        {"item": {"id": "another"}},
        {"item": [1]},
        {"others": {"cut": ["1", "", "2024-06-02T01:00:00Z"]}},
        {"others": {"cut": [1, "", "2024-06-02T01:00:00"]}},
        {"identity": Identity.of(make_scene(0)).to_json() | {"sensing": "2024-06-01T10:15:59"}},  # without a zone
        {"identity": Identity.of(make_scene(0)).to_json() | {"footprint": {"type": "Cube", "coordinates": []}}},
    ],
)
def test_a_failure_of_other_types_is_named_and_costs_nothing(out: Out, odd: dict[str, object]):
    scene = make_scene(0)
    run(out, [scene, make_scene(1)], failing={scene.id: "no"})
    path = f"failures/{scene.id}.json"
    out.put_json(path, out.get_json(path) | odd)
    assert set(ledger.read(out).damaged) == {path}
    assert {one.state for one in listing.scenes(out)} == {"done", "incomplete"}
    run(out, [scene, make_scene(1)], failing={scene.id: "no"})
    assert not ledger.read(out).damaged


def test_a_failure_of_a_newer_version_is_one(out: Out):
    scene = make_scene(0)
    run(out, [scene], failing={scene.id: "no"})
    path = f"failures/{scene.id}.json"
    out.put_json(path, out.get_json(path) | {"more": "is told"})
    assert ledger.read(out).failures[scene.id].reason == "no"


def test_a_place_in_memory_is_no_other_reason(out: Out, clock: Callable[[float], None]):
    assert fail(out, clock, *(f"<Thing at 0x7f{n}a{n:x}>" for n in range(9, 12))).runs == 3


@pytest.mark.parametrize("odd", [[-1, 0], [2**62, 0], ["0", 0], [0.0, 0], [True, 0], [0]])
def test_a_failure_of_tiles_that_are_none_costs_nothing(out: Out, odd: list[object]):
    scene = make_scene(0)
    run(out, [scene, make_scene(1)], failing={scene.id: "no"})
    path = f"failures/{scene.id}.json"
    out.put_json(path, out.get_json(path) | {"tiles": [odd]})
    assert set(ledger.read(out).damaged) == {path}
    run(out, [scene, make_scene(1)])
    assert set(ledger.read(out).done) == {scene.id, make_scene(1).id}


@pytest.mark.parametrize("state", ["failed", "changed"])
def test_tiles_that_a_scene_does_not_have_are_not_wanted(out: Out, state: str):
    scene = make_scene(0)
    run(out, [scene], failing={scene.id: "no"} if state == "failed" else {})
    path = f"failures/{scene.id}.json" if state == "failed" else f"items/32TQM/{scene.id}.json"
    told = out.get_json(path)
    (told if state == "failed" else told["properties"]).update(
        {"tiles" if state == "failed" else "cloudjob:tiles": [[0, 0], [255, 0], [0, 3]]}
    )
    out.put_json(path, told)
    again = scene if state == "failed" else make_scene(0, fingerprint="f2")
    planned = plan.make([again], ledger.read(out), lambda _: ALL[:2])
    assert planned.to_do[0].tiles == {(0, 0), *ALL[:2]}


# Runs

RAN = {"started": "2024-06-02T01:00:00+00:00", "how": "complete", "seconds": 1.5}


def ran(out: Out, started: datetime, record: dict[str, Any]) -> str:
    path = runs.path_of(out, started)
    runs.write(out, path, record)
    return path


def test_a_damaged_group_of_a_scene_that_failed_is_read_once(out: Out):
    """By a run that asks for another group: all was read twice, for 100,000 scenes too."""
    beside = make_scene(1, id="beside", group="32TPM")
    run(out, [make_scene(0), beside], failing={beside.id: "no"})
    out.put("masks.zarr/32TPM/zarr.json", b"{")
    with mock.patch.object(Out, "tags", autospec=True, side_effect=Out.tags) as listed:
        found = ledger.read(out, {"32TQM"})
    assert [call.args[1] for call in listed.call_args_list].count("items") == 1
    assert (set(found.damaged), set(found.failures)) == ({"masks.zarr/32TPM/zarr.json"}, {beside.id})


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"{}", b'{"started": 1, "how": 2, "seconds": 3}'])
def test_a_damaged_record_of_a_run_is_named(damaged: bytes, out: Out):
    path = ran(out, datetime(2024, 6, 2, 1, tzinfo=UTC), RAN)
    out.put(path, damaged)
    found = ledger.summary(out)
    assert found.last_run is None
    assert set(found.damaged) == {path}


@pytest.mark.parametrize(
    "ahead", ["20990101T000000.000000Z.json", "99991231T235959.999999Z.json", "99999999T000000.000000Z.json"]
)
def test_the_last_run_is_the_last_one_whatever_the_clock_said(out: Out, ahead: str):
    """A clock that was ahead once, or that begins in 1970 after a power cut."""
    out.put_json(f"runs/{ahead}", RAN)
    for year, why in ((2024, "first"), (1970, "second")):
        ran(out, datetime(year, 1, 1, tzinfo=UTC), {**RAN, "why": why})
    assert len(runs.paths(out)) == 3
    if ahead < "9999":
        assert (ledger.summary(out).last_run or {})["why"] == "second"


def test_the_summary(out: Out):
    run(out, [make_scene(0), make_scene(3), make_scene(1)], failing={make_scene(1).id: "no"})
    ran(out, datetime(2024, 6, 2, 1, tzinfo=UTC), RAN)
    path = ran(out, datetime(2024, 6, 3, 1, tzinfo=UTC), {**RAN, "why": "https://x.y/z?sig=S3CRET"})
    assert path == "runs/20240603T010000.000000Z.json"
    found = ledger.summary(out)
    covers = [done.cloud_cover for done in ledger.read(out).done.values()]
    assert (found.groups, found.done, found.failed, found.abandoned) == ({"32TQM": 2}, 2, {make_scene(1).id: "no"}, {})
    assert found.cloud_cover == pytest.approx((min(covers), sum(covers) / 2, max(covers)))
    assert (found.first, found.last) == ("2024-06-01T10:15:59.024000Z", "2024-06-04T10:15:59.024000Z")
    assert found.last_run == {**RAN, "why": "https://x.y/z"}
    assert found.incomplete == ()


def test_the_summary_of_nothing(out: Out):
    found = ledger.summary(out)
    assert (found.done, found.cloud_cover, found.last_run) == (0, None, None)


@pytest.mark.parametrize("odd", ["9999-12-31", "0001-01-01", "soon", None, 3, [], {}, {"day": 3, "identity": None}])
def test_an_odd_mark_of_a_damaged_scene_costs_no_other(out: Out, odd: object, caplog: pytest.LogCaptureFixture):
    """A day that is none was looked for, and ended every later run."""
    out.put_json(again.FILE, {"A": odd, "B": "2024-06-01"})
    assert again.read(out) == [again.Marked("B", date(2024, 6, 1))]
    assert "of scene A; `cloudjob check OUT --repair` finds" in caplog.text
    assert "scene B" not in caplog.text


@pytest.mark.parametrize("odd", [b"{", b"[3]", b'"A"', b"\xff"])
def test_marks_of_damaged_scenes_are_not_lost_without_a_word(out: Out, odd: bytes, caplog: pytest.LogCaptureFixture):
    out.put(again.FILE, odd)
    assert again.read(out) == []
    assert "again.json cannot be read" in caplog.text
    assert "`cloudjob check OUT --repair` finds" in caplog.text
    caplog.clear()
    ledger.refresh(out)
    assert "again.json" not in caplog.text, "it is told once in a run"


def test_what_is_marked_stays_so_until_it_is_done(out: Out):
    """Two repairs before the next run; the later one knows more."""
    first, second = again.Marked("A", date(2024, 6, 1)), again.Marked("B", date(2024, 6, 2))
    again.mark(out, [first])
    again.mark(out, [second])
    assert again.read(out) == [first, second]
    known = again.Marked("A", date(2024, 6, 1), Identity.of(make_scene(0)), "32TQM", frozenset(ALL))
    again.mark(out, [known])
    assert again.read(out) == [known, second]
    again.settle(out, {"B": Identity.of(make_scene(1)).to_json()})
    assert again.read(out) == [known]
    again.settle(out, {"of another publisher": Identity.of(make_scene(0, collection="another")).to_json()})
    assert again.read(out) == []
