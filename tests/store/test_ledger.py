import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from output import ALL, files, make_scene, run

from cloudjob.errors import ContractError
from cloudjob.scene.identity import Identity
from cloudjob.store import failures, ledger
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
    with pytest.raises(ContractError, match="is damaged"):
        run(out, [make_scene(1)])
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
    assert known.partial == {"newer": frozenset(ALL)}
    run(out, [make_scene(1)])
    assert set(ledger.read(out).done) == {make_scene(1).id}
    assert not item_path(out, old.id).exists()


# Failures


def test_a_failure_is_kept_without_secrets_until_it_succeeds(out: Out):
    scene = make_scene(0)
    reason = "GET https://blob.example/red.tif?sv=1&sig=S3CRET answered 500"
    run(out, [scene, make_scene(1)], ALL[:4], failing={scene.id: reason})
    known = ledger.read(out)
    failure = known.failures[scene.id]
    assert failure.reason == "GET https://blob.example/red.tif answered 500"
    assert (failure.runs, failure.tiles, failure.item) == (1, frozenset(ALL[:4]), scene.item)
    assert known.partial == {scene.id: frozenset(ALL[:1])}
    assert known.to_retry() == [failure]
    assert b"S3CRET" not in b"".join(files(out).values())
    assert run(out, [scene, make_scene(1)], ALL[:1]).counts == {"done": 1, "failed before": 1}
    known = ledger.read(out)
    assert known.done[scene.id].tiles == frozenset(ALL[:4])  # what was asked for then, and now
    assert not known.failures
    assert not any(name.startswith("failures") for name in files(out))


def test_three_runs_with_one_reason_and_it_is_abandoned(out: Out):
    scene = make_scene(0)
    for seconds in (30.1, 30.2, 29.9):
        made = run(out, [scene], failing={scene.id: f"timed out after {seconds} s"})
        assert made.counts in ({"new": 1}, {"failed before": 1})
    known = ledger.read(out)
    assert known.failures[scene.id].runs == 3
    assert known.failures[scene.id].abandoned
    assert known.to_retry() == []
    made = run(out, [scene])
    assert [one.scene.id for one in made.abandoned] == [scene.id]
    assert made.to_do == []


def test_another_reason_starts_counting_anew(out: Out):
    scene = make_scene(0)
    for reason in ("no such file", "no such file", "timed out", "timed out"):
        run(out, [scene], failing={scene.id: reason})
    assert ledger.read(out).failures[scene.id].runs == 2
    assert ledger.read(out).failures[scene.id].first <= ledger.read(out).failures[scene.id].last


def test_a_changed_source_revives_an_abandoned_scene(out: Out):
    for _ in range(3):
        run(out, [make_scene(0)], failing={make_scene(0).id: "no"})
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


@pytest.mark.parametrize("data", [b"[]", b"", b"null", b'{"id": 1}'])
def test_a_failure_that_is_none_is_named_and_costs_nothing(out: Out, data: bytes):
    out.put("failures/mine.json", data)
    assert set(ledger.read(out).damaged) == {"failures/mine.json"}


# Runs

RAN = {"started": "2024-06-02T01:00:00+00:00", "how": "complete", "seconds": 1.5}


@pytest.mark.parametrize("damaged", [b"{", b"[]", b"{}", b'{"started": 1, "how": 2, "seconds": 3}'])
def test_a_damaged_record_of_a_run_is_named(damaged: bytes, out: Out):
    path = ledger.write_run(out, datetime(2024, 6, 2, 1, tzinfo=UTC), RAN)
    out.put(path, damaged)
    found = ledger.summary(out)
    assert found.last_run is None
    assert set(found.damaged) == {path}


def test_the_summary(out: Out):
    run(out, [make_scene(0), make_scene(3), make_scene(1)], failing={make_scene(1).id: "no"})
    ledger.write_run(out, datetime(2024, 6, 2, 1, tzinfo=UTC), RAN)
    path = ledger.write_run(out, datetime(2024, 6, 3, 1, tzinfo=UTC), {**RAN, "why": "https://x.y/z?sig=S3CRET"})
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
