import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from output import ALL, SETTINGS, files, make_scene, overtaken, run

from cloudjob.errors import CONTRACT, ContractError
from cloudjob.store import check, folder, ledger, settings
from cloudjob.store.lock import Lock, LockLostError
from cloudjob.store.out import Out


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "out")


def test_the_contract_is_written_once(out: Out):
    settings.check(out, SETTINGS)
    assert not Path(out.address).exists()
    with Lock(out) as lock:
        settings.claim(lock, SETTINGS)
        settings.claim(lock, SETTINGS)
    assert settings.read(out) == SETTINGS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"checkpoint": "b" * 64, "version": "1.1"},
            "checkpoint was aaaaaaaaaaaa…, now bbbbbbbbbbbb…; version was 1.0, now 1.1",
        ),
        ({"threshold": 0.6}, "threshold was 0.5, now 0.6"),
        ({"threshold": 0.5000001}, "threshold was 0.5, now 0.5000001"),
        ({"buffer": 40.0}, "buffer was 0, now 40"),
        ({"resolution": 20.0}, "resolution was 10, now 20"),
        ({"probability": True}, "probability was False, now True"),
        ({"geometry": "c" * 64}, "geometry was none, now cccccccccccc…"),
        ({"algorithm": 2}, "algorithm was 1, now 2"),
        ({"bands": ("red", "nir")}, "bands was"),
    ],
)
def test_other_settings_are_refused_by_name(out: Out, change: dict[str, object], named: str):
    run(out, [make_scene(0)])
    before = files(out)
    with pytest.raises(ContractError) as refused:
        run(out, [make_scene(1)], contract=replace(SETTINGS, **change))  # type: ignore[arg-type]
    assert named in str(refused.value)
    assert refused.value.exit_code == CONTRACT
    assert "--redo" in str(refused.value.hint)
    assert "another --out" in str(refused.value.hint)
    assert files(out) == before


def test_redo_leaves_nothing_of_the_old_contract(out: Out, tmp_path: Path):
    run(out, [make_scene(0), make_scene(1), make_scene(2)], failing={make_scene(2).id: "no"})
    other = replace(SETTINGS, threshold=0.6)
    settings.check(out, other, redo=True)
    run(out, [make_scene(1)], contract=other, redo=True)
    calm = Out.at(tmp_path / "calm")
    run(calm, [make_scene(1)], contract=other)
    assert files(out) == files(calm)
    # The same command again goes on where it was: it does not start anew.
    assert run(out, [make_scene(1)], contract=other, redo=True).counts == {"done": 1}


@pytest.mark.parametrize("last", ["items", "failures", "masks.zarr", "cogs"])
def test_a_redo_that_was_held_up_takes_nothing_from_the_run_that_took_over(
    out: Out, last: str, monkeypatch: pytest.MonkeyPatch
):
    """To delete many masks takes minutes: a laptop sleeps amid it, and goes on when another run has ended."""
    run(out, [make_scene(0), make_scene(1)])
    original, mine, theirs = Out.delete_under, replace(SETTINGS, threshold=0.6), replace(SETTINGS, threshold=0.7)

    with Lock(out) as lock:

        def sleeping(self: Out, prefix: str, *how: Any) -> None:
            original(self, prefix, *how)
            if prefix == last:
                monkeypatch.undo()
                overtaken(lock, [make_scene(0)], contract=theirs, redo=True)

        monkeypatch.setattr(Out, "delete_under", sleeping)
        with pytest.raises(LockLostError):
            settings.claim(lock, mine, redo=True)
    assert settings.read(out) == theirs
    assert list(check.check(out)) == []
    assert [*ledger.read(out).done] == [make_scene(0).id]


def test_a_redo_that_sleeps_amid_the_masks_deletes_none_of_the_run_that_took_over(
    out: Out, monkeypatch: pytest.MonkeyPatch
):
    run(out, [make_scene(0), make_scene(1)])
    original, theirs = folder._walk, replace(SETTINGS, threshold=0.7)
    with Lock(out) as lock:

        def sleeping(root: Path, prefix: str, *how: Any, **more: Any) -> Iterator[Any]:
            for number, found in enumerate(original(root, prefix, *how, **more)):
                if (prefix, number) == ("masks.zarr", 2):
                    monkeypatch.undo()
                    overtaken(lock, [make_scene(0)], contract=theirs, redo=True)
                yield found

        monkeypatch.setattr(folder, "_walk", sleeping)
        with pytest.raises(LockLostError):
            settings.claim(lock, replace(SETTINGS, threshold=0.6), redo=True)
    assert settings.read(out) == theirs
    assert list(check.check(out)) == []


@pytest.mark.parametrize("gone", ["items", "failures", "masks.zarr"])
def test_redo_cut_short_ends_as_one_that_was_not(out: Out, tmp_path: Path, gone: str, monkeypatch: pytest.MonkeyPatch):
    run(out, [make_scene(0), make_scene(1)], failing={make_scene(1).id: "no"})
    other = replace(SETTINGS, threshold=0.6)
    original = Out.delete_under

    def dying(self: Out, prefix: str, *how: Any) -> None:
        original(self, prefix, *how)
        if prefix == gone:
            raise KeyboardInterrupt

    monkeypatch.setattr(Out, "delete_under", dying)
    with pytest.raises(KeyboardInterrupt):
        run(out, [make_scene(0)], contract=other, redo=True)
    monkeypatch.undo()
    assert not ledger.read(out).done
    with pytest.raises(ContractError, match="threshold was"):
        run(out, [make_scene(0)], contract=other)
    run(out, [make_scene(0)], contract=other, redo=True)
    calm = Out.at(tmp_path / "calm")
    run(calm, [make_scene(0)], contract=other)
    assert files(out) == files(calm)


@pytest.mark.parametrize("name", ["photo.jpg", "masks.zarr/zarr.json", "items/x/y.json"])
def test_a_folder_that_holds_something_else_is_refused(out: Out, name: str):
    path = Path(out.address, name)
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ContractError, match="not made by cloudjob") as refused:
        settings.check(out, SETTINGS, redo=True)
    assert refused.value.exit_code == CONTRACT
    assert [found for found in Path(out.address).rglob("*") if found.is_file()] == [path]


def test_a_folder_that_holds_only_a_dead_lock_is_fresh(out: Out):
    with Lock(out):
        pass
    run(out, [make_scene(0)], ALL[:1])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "not json", json.dumps({"checkpoint": "x", "bands": []}), json.dumps({"mine": 1, "bands": []})],
)
def test_somebody_elses_job_json_is_refused(out: Out, text: str):
    out.put("job.json", text.encode())
    with pytest.raises(ContractError, match="not made by cloudjob"):
        settings.check(out, SETTINGS, redo=True)
    assert out.get("job.json") == text.encode()


@pytest.mark.parametrize(
    "odd",
    [
        {"threshold": "0.5"},
        {"threshold": 2},
        {"buffer": -1},
        {"buffer": True},
        {"resolution": "ten"},
        {"resolution": 0},
        {"resolution": 10**30},
        {"version": 1},
        {"bands": [1, 2]},
        {"bands": 7},
        {"probability": 1},
        {"algorithm": "1"},
        {"geometry": {}},
        {"classes": [0, 1, 77]},
        {"classes": [[]]},
    ],
    ids=str,
)
def test_a_contract_of_other_types_is_none(out: Out, odd: dict[str, object]):
    """It is shown in the report, and compared with a run's."""
    out.put_json("job.json", SETTINGS.to_json())
    assert settings.read(out) == SETTINGS
    out.put_json("job.json", SETTINGS.to_json() | odd)
    with pytest.raises(ContractError, match=r"job\.json is not one that this version of cloudjob wrote"):
        settings.read(out)
