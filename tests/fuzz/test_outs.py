"""OUTs in any state: looked at, checked, reported, mended and run again, without a traceback, a hang, or a loss."""

import functools
import os
import random
import shutil
import time
from pathlib import Path

import mutate
import output
import pytest

from cloudjob.errors import CloudjobError, ContractError
from cloudjob.report import page
from cloudjob.shown import attach
from cloudjob.store import check, cog, ledger
from cloudjob.store.document import dump, parse
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.repair import repair

QUICK = 12
PATIENCE = 20
"""Seconds of CPU; a wait without end ends with the test's own time-out."""
SCENES = [output.make_scene(number) for number in range(3)]
SHARED = ("job.json", "lock/", "masks.zarr/32TQM/zarr.json", "masks.zarr/32TQM/cloud/zarr.json", "masks.zarr/zarr.json")
"""What concerns every scene."""


def build(folder: Path) -> Path:
    out = Out.at(folder)
    output.run(out, SCENES, failing={SCENES[2].id: "HTTP 404"})
    told = {"started": "2024-06-02T01:00:00+00:00", "how": "complete", "seconds": 1.5, "catalog": "c", "dates": "d"}
    out.put_json(
        "runs/20240602T010000.000000Z.json",
        told | {"cloudjob": "0.1.0", "settings": vars(output.SETTINGS), "scenes": []},
    )
    attach(out, quiet=True)
    page.write(out)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fuzz") / "good")


def damage(rng: random.Random, out: Path, outside: Path) -> str:
    """Do something to one file, and say to which."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.is_symlink())
    path = rng.choice(files)
    kind = rng.random()
    data = path.read_bytes()
    if path.suffix == ".json" and kind < 0.5:
        try:
            path.write_bytes(dump(mutate.document(rng, parse(data))))
        except (ValueError, RecursionError):
            path.write_bytes(b"null")
    elif kind < 0.8:
        path.write_bytes(mutate.data(rng, data))
    else:
        path.unlink()
        made = rng.choice(("nothing", "folder", "pipe", "link to a file", "link to a folder", "moved"))
        if made == "folder":
            path.mkdir()
        elif made == "pipe":
            os.mkfifo(path)
        elif made.startswith("link"):
            path.symlink_to(outside if made.endswith("folder") else outside / "0")
        elif made == "moved":
            path.with_name(rng.choice(("a.json", "7", ".x", "x#1"))).write_bytes(data)
    return str(path.relative_to(out))


def attempt(rng: random.Random, good: Path, folder: Path) -> tuple[list[str], int]:
    """One try; returns what was damaged, and how many of the commands were refused."""
    shutil.rmtree(folder, ignore_errors=True)
    place, outside = Path(shutil.copytree(good, folder / "out")), folder / "outside"
    for name in ("0", "a.json", "32TQM/b.json", "zarr.json", "1#1"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("precious")
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    damaged = [damage(rng, place, outside) for _ in range(rng.choice((1, 1, 2, 4)))]
    out, refused = Out.at(place), 0

    def mended() -> None:
        with Lock(out) as lock:
            list(repair(lock, (*check.check(out), *cog.faults(out))))

    for what in (
        lambda: ledger.summary(out),
        lambda: list(check.check(out)),
        lambda: list(cog.faults(out)),
        lambda: page.write(out),
        mended,
        lambda: output.run(out, SCENES),
    ):
        started = time.process_time()
        try:
            what()
        except CloudjobError:
            refused += 1
        assert time.process_time() - started < PATIENCE, damaged
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before, damaged
    if not refused:
        found = ledger.read(out)
        assert set(found.done) == {scene.id for scene in SCENES}, damaged
    elif not any(name.startswith(SHARED) for name in damaged):
        spared = [scene.id for scene in SCENES[:2] if not any(_concerns(name, scene.id) for name in damaged)]
        try:
            assert set(spared) <= set(ledger.read(out).done), damaged
        except ContractError:  # A link in the place of a folder's only file
            assert any((place / name).is_symlink() for name in damaged), damaged
    return damaged, refused


def _concerns(path: str, scene_id: str) -> bool:
    slot = [scene.id for scene in SCENES].index(scene_id)
    return scene_id in path or f"/c/{slot}" in path or path.endswith(("/c/0", "/zarr.json"))


@pytest.mark.timeout(mutate.LIMIT)
def test_an_out_in_any_state_is_answered_for(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_template", functools.cache(page._template))  # Half of the time of a try
    refused = [attempt(rng, good, tmp_path / "try")[1] for rng in mutate.generators(QUICK)]
    print(f"{len(refused)} tries: {sum(map(bool, refused))} with a refusal")
    assert sum(map(bool, refused)) < len(refused)
