"""SIGKILL of a worker, the scheduler and the client, by event: the next run gives what an undisturbed one gives."""

import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from forks import Fork, forking
from jobs import (
    EVERYWHERE,
    GRID,
    LISTENS,
    PATIENCE,
    SABOTAGED,
    SCHEDULER,
    Result,
    assert_released,
    assert_same,
    dask_cluster,
    items,
    make_scene,
    processes_with,
    random_checkpoint,
    run_job,
    sabotage,
    slots,
    started,
    worker_of,
    write_catalog,
)

FIRST, LATE, SECOND = "S2A_33UUP_20240601_0_L2A", "S2A_33UUP_20240604_0_L2A", "S2A_33UUP_20240607_0_L2A"
REPROCESSED = "S2A_33UUP_20240601_1_L2A"
NEIGHBOUR = "S2A_33UVP_20240601_0_L2A"


@dataclass(frozen=True)
class World:
    """What the tests of this file share.

    Attributes:
        catalog: a reprocessed scene, a late one, one whose window grows, and one of another group.
        checkpoint: a small network.
        base: an OUT of the night before: two scenes, some tiles of each.
        grown: `base` after an undisturbed run over the catalog.
        fresh: an empty OUT after an undisturbed run over the catalog.
        cluster: address of a Dask scheduler with a worker.
        forking: starts `cloudjob` in a process of its own.
    """

    catalog: Path
    checkpoint: Path
    base: Path
    grown: Path
    fresh: Path
    cluster: str
    forking: Fork

    def run(self, out: Path, event: str = "", *, marker: Path | None = None, nth: int = 1, number: int = 0) -> Result:
        """Run over the catalog, sabotaged if there is an event."""
        where = ("--catalog", self.catalog, "--checkpoint", self.checkpoint, "--out", out, "--cluster", self.cluster)
        plan = {"CLOUDJOB_TEST_SABOTAGE": sabotage(marker, event, nth, number=number)} if marker else {}
        return self.forking("run", *where, *EVERYWHERE, sabotaged=bool(marker), **plan)

    def with_workers(self, out: Path, plan: str) -> Result:
        """Run over the catalog with two workers of its own, sabotaged by a plan."""
        more = {"command": SABOTAGED, "CLOUDJOB_TEST_SABOTAGE": plan}
        return run_job(self.catalog, self.checkpoint, out, "--workers", "2", **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kill")
    old = [make_scene(folder, FIRST, seed=1), make_scene(folder, SECOND, "2024-06-07T10:15:59Z", seed=2)]
    new = [
        make_scene(folder, REPROCESSED, seed=3, baseline="05.10", generated="2024-08-01T00:00:00Z"),
        make_scene(folder, LATE, "2024-06-04T10:15:59Z", seed=4),
        old[1],
        make_scene(folder, NEIGHBOUR, seed=5, transform=(*GRID[:2], 700_000.0, *GRID[3:])),
    ]
    before = write_catalog(folder / "before.json", old)
    catalog = write_catalog(folder / "after.json", new)
    checkpoint = random_checkpoint(folder / "checkpoint.safetensors")
    west, south, east, north = old[0]["bbox"]
    corner = [str(value) for value in (west, south, (west + east) / 2, (south + north) / 2)]
    with dask_cluster() as cluster, forking() as forks:
        made = World(catalog, checkpoint, folder / "base", folder / "grown", folder / "fresh", cluster, forks)
        last_night = run_job(before, checkpoint, made.base, "--bbox", *corner, "--cluster", cluster)
        assert last_night.code == 0, last_night.stderr
        shutil.copytree(made.base, made.grown)
        for out in (made.grown, made.fresh):
            undisturbed = made.run(out)
            assert undisturbed.code == 0, undisturbed.stderr
        yield made


def test_the_undisturbed_run_has_all_that_is_to_be_disturbed(world: World) -> None:
    group, neighbour = sorted(slots(world.grown))
    assert slots(world.base) == {group: [FIRST, SECOND]}
    assert slots(world.grown) == {group: ["", SECOND, REPROCESSED, LATE], neighbour: [NEIGHBOUR]}
    assert slots(world.fresh)[group] == [REPROCESSED, LATE, SECOND]
    assert {Path(path).stem for path in items(world.grown)} == {REPROCESSED, SECOND, LATE, NEIGHBOUR}


@pytest.mark.parametrize(
    ("event", "nth", "number"),
    [
        ("after resize", 1, signal.SIGKILL),  # the time axis grows: the mask's, and not yet the others'
        ("before list of slots", 1, signal.SIGKILL),  # consolidation, which commits the axis
        ("after list of slots", 1, signal.SIGKILL),  # the slot is the new version's, the old one's item is there
        ("after array", 4, signal.SIGKILL),  # the second group is half made
        ("after item", 1, signal.SIGKILL),  # the new version counts, the old one's item is still there
        ("after deletion of item", 1, signal.SIGKILL),
        ("before item", 1, signal.SIGKILL),  # all shards are there
        ("before item", 2, signal.SIGXFSZ),
        ("after item", 2, signal.SIGKILL),
        ("before index", 1, signal.SIGKILL),
    ],
)
def test_the_client_is_killed(world: World, tmp_path: Path, event: str, nth: int, number: int) -> None:
    """SIGXFSZ is the kernel's: in the middle of writing that file, of which a part is left."""
    out, marker = tmp_path / "out", tmp_path / "struck"
    shutil.copytree(world.base, out)
    killed = world.run(out, event, nth=nth, number=number, marker=marker)
    assert marker.exists()
    assert killed.code == -number, killed.stderr
    left = [path for path in out.rglob("*") if re.search(r"#\d+$", path.name)]
    assert bool(left) == (number == signal.SIGXFSZ)
    again = world.run(out)
    assert again.code == 0, again.stderr
    assert_same(out, world.grown)
    assert_released(out)


def test_a_first_run_is_killed_again_and_again(world: World, tmp_path: Path) -> None:
    """Also in the middle of making a group, and never let through until the end."""
    out = tmp_path / "out"
    events = ["after lock", "before contract", "after contract", "after root", "after array", "after resize"]
    for number, event in enumerate([*events, "before list of slots", "after list of slots"]):
        marker = tmp_path / f"struck {number}"
        killed = world.run(out, event, marker=marker, number=signal.SIGKILL)
        assert marker.exists(), event
        assert killed.code == -signal.SIGKILL, killed.stderr
    again = world.run(out)
    assert again.code == 0, again.stderr
    assert_same(out, world.fresh)
    assert_released(out)


@pytest.mark.parametrize(("event", "number"), [("after shard", signal.SIGKILL), ("before shard", signal.SIGXFSZ)])
def test_a_worker_is_killed(world: World, tmp_path: Path, event: str, number: int) -> None:
    """The run goes on with the others and needs no second one."""
    out, marker = tmp_path / "out", tmp_path / "struck"
    disturbed = world.with_workers(out, sabotage(marker, event, 5, number=number))
    assert marker.exists()
    assert disturbed.code == 0, disturbed.stderr
    assert "resource_tracker" not in disturbed.stderr
    assert_same(out, world.fresh)
    assert_released(out)


def test_the_client_is_killed_while_its_workers_write(world: World, tmp_path: Path) -> None:
    out, marker = tmp_path / "out", tmp_path / "struck"
    killed = world.with_workers(out, sabotage(marker, "after shard", 7, victim="client"))
    assert marker.exists()
    assert killed.code == -signal.SIGKILL
    assert len(items(out)) < 4
    _, alive = psutil.wait_procs(processes_with(str(marker)), timeout=60)
    assert alive == []
    again = world.run(out)
    assert again.code == 0, again.stderr
    assert_same(out, world.fresh)
    assert_released(out)


def test_the_scheduler_is_killed(world: World, tmp_path: Path) -> None:
    out, marker = tmp_path / "out", tmp_path / "struck"
    with started(*SCHEDULER, until=LISTENS) as (scheduler, address):
        plan = sabotage(marker, "after shard", 7, victim=str(scheduler.pid))
        with worker_of(address, command=SABOTAGED, CLOUDJOB_TEST_SABOTAGE=plan) as worker:
            lost = run_job(world.catalog, world.checkpoint, out, "--cluster", address)
            assert marker.exists()
            assert scheduler.wait(60) == -signal.SIGKILL
            assert lost.code == 4, lost.stderr
            assert "the Dask scheduler is lost" in lost.stderr
            assert "Traceback" not in lost.stderr
            assert worker.wait(PATIENCE) == 4
    assert_released(out)
    again = world.run(out)
    assert again.code == 0, again.stderr
    assert_same(out, world.fresh)
    assert_released(out)
