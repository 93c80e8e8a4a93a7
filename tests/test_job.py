"""The main path where it meets what seldom happens; the tasks run in this process. The rest is in test_end_to_end."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jobs
import numpy as np
import pytest
from distributed import KilledWorker
from scenes import write_cog

from cloudjob import job, record
from cloudjob.cluster import network, task
from cloudjob.errors import ContractError, UnreachableError, UsageError
from cloudjob.model import predict
from cloudjob.model.checkpoint import parse
from cloudjob.model.coarse import coarsen
from cloudjob.plan import survey
from cloudjob.plan.request import Job, request
from cloudjob.plan.survey import Survey
from cloudjob.report import overview
from cloudjob.store import failures, ledger
from cloudjob.store.receipt import SceneResult

Stream = Callable[[Any, Any, Iterable[tuple[str, task.Task]]], Iterator[tuple[task.Task, Any]]]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of one scene, whose tasks run here."""
    checkpoint = jobs.random_checkpoint(tmp_path / "net.safetensors")
    jobs.tasks_here(monkeypatch, checkpoint)
    item = jobs.make_scene(tmp_path / "files", "scene")
    return request(
        bbox=(-180, -90, 180, 90),
        dates="2000/..",
        out=tmp_path / "out",
        catalog=jobs.write_catalog(tmp_path / "items.json", [item]),
        checkpoint=checkpoint,
    )


def run(asked: Job) -> list[Survey | SceneResult]:
    return list(job.run(asked, lambda: nullcontext(None)))  # type: ignore[arg-type]


def test_another_run_may_do_the_work_while_the_cluster_starts(asked: Job) -> None:
    @contextmanager
    def slow() -> Iterator[None]:
        run(asked)
        yield

    (survey,) = job.run(asked, slow)  # type: ignore[arg-type]
    assert isinstance(survey, Survey)
    assert [planned.state for planned in survey.plan.scenes] == ["done"]
    assert len(asked.out.names("runs")) == 2, "every run leaves one"


def test_what_ended_a_run_is_told_also_when_its_lock_is_gone(asked: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Iterator[tuple[task.Task, Any]]:
        shutil.rmtree(f"{asked.out}/lock")
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(job, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(asked)


@pytest.mark.parametrize("jump", [timedelta(hours=-6), timedelta(hours=6)])
def test_a_clock_that_is_set_while_a_run_is_at_work(
    jump: timedelta, asked: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record told seconds below 0, which the report took for damage; or six hours."""
    moved = timedelta()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + moved

    monkeypatch.setattr(record, "datetime", Clock)
    for event in job.run(asked, lambda: nullcontext(None)):  # type: ignore[arg-type]
        moved = moved if isinstance(event, Survey) else jump
    seen = ledger.read(asked.out)
    (told,) = overview.runs(asked.out, seen)
    assert not seen.damaged
    assert 0 <= told.seconds < 3600
    (path,) = asked.out.names("runs")
    found = asked.out.get_json(f"runs/{path}")
    assert found["started"] <= found["ended"]


def test_an_estimate_is_measured_once_there_has_been_a_run(asked: Job) -> None:
    before = survey.estimate(asked, survey.make(asked), lanes=2)
    assert (before.measured, before.speed) == (False, survey.ASSUMED_SPEED)
    done = run(asked)[-1]
    assert isinstance(done, SceneResult)
    made = done.receipt
    assert made
    after = survey.estimate(asked, survey.make(asked), lanes=2)
    assert after.measured
    seconds = made.read_seconds + made.network_seconds + made.write_seconds
    assert after.speed == pytest.approx(made.seen / 1e6 / seconds)


@pytest.mark.parametrize("what", ["", "lock", "masks.zarr"])
@pytest.mark.parametrize("when", ["before a task", "after a task"])
def test_an_out_that_vanishes_ends_the_run_in_a_line(
    when: str, what: str, asked: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted or moved away under a run at work, whole or in part: told, and never a traceback."""

    def vanishing(_: object, __: object, work: Iterable[tuple[str, task.Task]]) -> Iterator[tuple[task.Task, Any]]:
        model = predict.prepare(parse(asked.data, asked.contract.name), "cpu")
        for _, part in work:
            if when == "before a task":
                Path(str(asked.out), what).rename(f"{asked.out}-away")
            try:
                outcome: Any = task.mask_tiles(part, model)
            except Exception as error:  # noqa: BLE001 -- as a worker hands it back
                outcome = error
            if when == "after a task":
                Path(str(asked.out), what).rename(f"{asked.out}-away")
            yield part, outcome

    monkeypatch.setattr(job, "stream", vanishing)
    with pytest.raises(UnreachableError) as told:
        run(asked)
    assert "another run" not in str(told.value.hint)


@pytest.mark.parametrize(
    ("when", "name"),
    [
        ("before its task", "cloud/zarr.json"),
        ("before its task", ""),
        ("after its task", "status/zarr.json"),
        ("after its task", ""),
    ],
)
def test_a_group_that_is_damaged_under_a_run_costs_its_own_scenes(
    when: str, name: str, asked: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended the run with 3 for all of them."""
    east = (*jobs.GRID[:2], jobs.GRID[2] + 100_000, *jobs.GRID[3:])
    damaged, good = jobs.make_scene(tmp_path, "damaged"), jobs.make_scene(tmp_path, "good", transform=east)
    jobs.write_catalog(tmp_path / "items.json", [damaged, good])

    def damage(group: str) -> None:
        if name:
            Path(group, name).write_bytes(b"x")
        else:
            Path(group).rename(f"{asked.out}-away")
            Path(group).symlink_to(f"{asked.out}-away")

    def here(_: object, __: object, work: Iterable[tuple[str, task.Task]]) -> Iterator[tuple[task.Task, Any]]:
        model = predict.prepare(parse(asked.data, asked.contract.name), "cpu")
        for _, part in work:
            if when == "before its task" and part.scene.id == "damaged":
                damage(f"{asked.out}/masks.zarr/{part.slot.group}")
            try:
                outcome: Any = task.mask_tiles(part, model)
            except Exception as error:  # noqa: BLE001 -- as a worker hands it back
                outcome = error
            if when == "after its task" and part.scene.id == "damaged":
                damage(f"{asked.out}/masks.zarr/{part.slot.group}")
            yield part, outcome

    monkeypatch.setattr(job, "stream", here)
    ended = {event.id: event for event in run(asked) if isinstance(event, SceneResult)}
    assert {name: result.state for name, result in ended.items()} == {"damaged": "failed", "good": "done"}
    assert f"its group {ended['damaged'].group} is damaged" in str(ended["damaged"].reason)
    (failure,) = failures.read_all(asked.out, {})
    assert (failure.id, failure.runs) == ("damaged", 0)


@pytest.mark.parametrize("what", ["items", "job.json"])
def test_what_is_deleted_under_a_run_is_told(what: str, asked: Job) -> None:
    """A run that says nothing of it would end with 0, and its masks would be nobody's."""
    events = job.run(asked, lambda: nullcontext(None))  # type: ignore[arg-type]
    for event in events:
        if isinstance(event, SceneResult):
            Path(str(asked.out), what).rename(f"{asked.out}-away")
            with pytest.raises(UnreachableError, match=f"{what}.* was deleted while the run was at work"):
                next(events)


def test_a_worker_that_is_killed_never_counts_against_a_scene(asked: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(_: object, __: object, work: Iterable[tuple[str, task.Task]]) -> Iterator[tuple[task.Task, Any]]:
        for key, part in work:
            yield part, KilledWorker(key, SimpleNamespace(address="tcp://h:1"), 3)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "stream", deadly)
    assert [run(asked)[-1].state for _ in range(4)] == ["failed"] * 4  # type: ignore[union-attr]
    (failure,) = failures.read_all(asked.out, {})
    assert (failure.runs, "its workers died of it" in failure.reason) == (0, True)


def test_a_classification_that_is_cut_short_costs_only_the_comparison(asked: Job, tmp_path: Path) -> None:
    file = tmp_path / "scl.tif"
    classes = np.random.default_rng(1).integers(0, 12, (100, 85)).astype(np.uint8)
    write_cog(file, classes, (20, 0, *jobs.GRID[2:4], -20, jobs.GRID[5]))
    file.write_bytes(file.read_bytes()[:-2000])  # Its header is whole
    item = jobs.make_scene(tmp_path / "files", "scene")
    item["assets"]["scl"] = {
        "href": str(file),
        "proj:shape": [100, 85],
        "proj:transform": [20, 0, *jobs.GRID[2:4], -20, jobs.GRID[5]],
    }
    jobs.write_catalog(tmp_path / "items.json", [item])
    done = run(asked)[-1]
    assert isinstance(done, SceneResult)
    assert done.state == "done"
    assert done.receipt
    assert "its scene classification is not compared" in " ".join(done.receipt.warnings)


def test_a_worker_without_the_network_ends_the_run_not_one_scene_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = network.ModelPlugin("net", b"", "abc")  # Dask keeps one whose setup failed
    worker = SimpleNamespace(address="tcp://h:1", plugins={plugin.name: plugin})
    monkeypatch.setattr(network, "get_worker", lambda: worker)
    for _ in range(2):
        with pytest.raises(UnreachableError, match="could not load the network"):
            network.worker_model("abc")
        worker.plugins.clear()


@pytest.mark.parametrize("resolution", [20, 30, 60])
def test_a_coarser_mask_is_made_of_the_networks_own(asked: Job, tmp_path: Path, resolution: int) -> None:
    """Never of coarser pixels: and the item, the statistics and the store's grid are those of the coarser mask."""
    coarse = request(
        bbox=(-180, -90, 180, 90),
        dates="2000/..",
        out=tmp_path / "coarse",
        catalog=tmp_path / "items.json",
        checkpoint=tmp_path / "net.safetensors",
        resolution=resolution,
        probability=True,
    )
    run(asked), run(coarse)
    fine = jobs.mask_of(tmp_path / "out", "scene")
    found, item = jobs.mask_of(tmp_path / "coarse", "scene"), jobs.item_of(tmp_path / "coarse", "scene")
    np.testing.assert_array_equal(found, coarsen(fine, resolution // 10))
    percent = jobs.mask_of(tmp_path / "coarse", "scene", "cloud_probability")
    np.testing.assert_array_equal(percent >= 254, found >= 254)
    properties = item["properties"]
    assert properties["proj:shape"] == list(found.shape)
    assert properties["proj:transform"][:6] == [resolution, 0, 600_000, 0, -resolution, 5_200_020]
    assert properties["cloudjob:pixels"]["cloud"] == (found == 1).sum()
    assert properties["eo:cloud_cover"] == pytest.approx(100 * (found == 1).sum() / (found < 254).sum(), abs=1e-3)


def test_pixels_of_a_size_at_which_nobody_measured_the_network_are_refused(asked: Job, tmp_path: Path) -> None:
    item = jobs.make_scene(tmp_path / "coarse", "scene", transform=(60.0, *jobs.GRID[1:4], -60.0, jobs.GRID[5]))
    jobs.write_catalog(tmp_path / "items.json", [item])
    with pytest.raises(ContractError, match="pixels of 60 m; the network's masks were measured with pixels of 10 m"):
        run(asked)
    assert not (tmp_path / "out").exists()


def test_a_mask_is_never_finer_than_the_network(tmp_path: Path) -> None:
    for resolution in (5, 25):
        with pytest.raises(UsageError, match=f"resolution is {resolution} m; expected 10 m"):
            request(bbox=(1, 2, 3, 4), dates="2024", out=tmp_path / "out", resolution=resolution)
