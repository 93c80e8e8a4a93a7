"""A network that starves a run: late, standing still for longer than heartbeats, or cut; and no scene is lost."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jobs
import numpy as np
import pytest
from distributed import Client
from faulty import served
from file_server import FileServer, file_server
from forks import Fork, forking
from slow_link import Link, slow_link

from cloudjob.store import check
from cloudjob.store.out import Out

SCENES = [f"S{day:02}" for day in range(1, 7)]
SILENCE = 2
"""Seconds: Dask's processes give a sign of life every half."""


@dataclass(frozen=True)
class World:
    """What the tests share.

    Attributes:
        files: a slow server, so that there is something to disturb.
        catalog: scenes on it.
        checkpoint: a small network.
        scheduler: its address; it has one worker.
        expected: scene → mask, of an undisturbed run.
        forking: starts `cloudjob` in a process of its own.
    """

    files: FileServer
    catalog: Path
    checkpoint: Path
    scheduler: str
    expected: dict[str, np.ndarray]
    forking: Fork

    def run(self, out: Path, scheduler: str) -> jobs.Result:
        where = ("--catalog", self.catalog, "--checkpoint", self.checkpoint, "--out", out, "--cluster", scheduler)
        return self.forking("run", *where, *jobs.EVERYWHERE)

    @contextmanager
    def running(self, out: Path, scheduler: str) -> Iterator[Callable[[], jobs.Result]]:
        """A run of which some scene is done, and the last one is not: yields what lets that be done, and waits."""
        self.files.go.clear()
        self.files.disturb(f"{SCENES[-1]}/red.tif", "held")

        def end() -> jobs.Result:
            self.files.go.set()
            return run.result()

        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.run, out, scheduler)
            while not jobs.items(out) and not run.done():
                time.sleep(0.01)
            assert not run.done()
            yield end

    def assert_whole(self, out: Path) -> None:
        found = {name: jobs.mask_of(out, name) for name in SCENES}
        for name, mask in self.expected.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=name)
        assert list(check.check(Out.at(out))) == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("network")
    made = [
        jobs.make_scene(folder / "files", name, f"2024-06-{name[1:]}T10:15:59Z", seed=int(name[1:])) for name in SCENES
    ]
    checkpoint = jobs.random_checkpoint(folder / "net.safetensors")
    with (
        file_server(folder / "files") as files,
        jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, scheduler),
        jobs.worker_of(scheduler),
        forking() as forks,
    ):
        items = [served(each, folder / "files", files.url) for each in made]
        expected: dict[str, np.ndarray] = {}
        shared = World(files, jobs.write_catalog(folder / "items.json", items), checkpoint, scheduler, expected, forks)
        undisturbed = shared.run(folder / "out", scheduler)
        assert undisturbed.code == 0, undisturbed.stderr
        expected |= {name: jobs.mask_of(folder / "out", name) for name in SCENES}
        files.slowness, files.scarce = 0.04, ("slow", 1.0)
        yield shared


@pytest.fixture
def link(world: World) -> Iterator[Link]:
    with slow_link(world.scheduler) as between:
        yield between


def test_a_client_whose_network_is_late_and_stands_still(world: World, link: Link, tmp_path: Path) -> None:
    link.delay = 0.05
    with world.running(tmp_path / "out", link.address) as end:
        link.pause()
        time.sleep(SILENCE)
        link.resume()
        assert end().code == 0, end().stderr
    world.assert_whole(tmp_path / "out")


def test_a_client_whose_network_is_cut_ends_with_4_and_the_next_run_does_the_rest(
    world: World, link: Link, tmp_path: Path
) -> None:
    with world.running(tmp_path / "out", link.address) as end:
        link.cut()
        assert end().code == 4
    assert "error: the Dask scheduler is lost\n" in end().stderr
    assert "Traceback" not in end().stderr
    again = world.run(tmp_path / "out", world.scheduler)
    assert again.code == 0, again.stderr
    world.assert_whole(tmp_path / "out")


@pytest.mark.parametrize("cut", [Link.cut, Link.cut_far])
def test_a_worker_whose_network_is_late_stands_still_and_is_cut_costs_no_scene(
    world: World, link: Link, tmp_path: Path, cut: Callable[[Link], None]
) -> None:
    """The other one does its scene. What gives a silent worker up, after minutes, is Dask's.

    Which end breaks first is the network's: the scheduler may have forgotten the worker before that one knows.
    """
    log = tmp_path / "worker.log"
    with jobs.worker_of(link.address, log=log) as starved, Client(world.scheduler) as watching:
        watching.wait_for_workers(2, timeout=jobs.PATIENCE)
        link.delay = 0.02
        with world.running(tmp_path / "out", world.scheduler) as end:
            link.pause()
            time.sleep(SILENCE)
            link.resume()
            cut(link)
            assert end().code == 0, end().stderr
        assert starved.wait(jobs.PATIENCE) == 4
    assert "is lost\nhint: start the worker again\n" in log.read_text()
    world.assert_whole(tmp_path / "out")
