"""Workers of one run that are not alike: what one of them lacks is told of it, and never held against a scene."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jobs
import pytest

from cloudjob import __version__
from cloudjob.cluster import scheduler

HERE = "/proc/self/cwd"
"""Another folder for each process that was started in another: as a disk that one machine has, and another has not."""


def started_in(folder: Path) -> tuple[str, ...]:
    """The command line, as it is started in a folder."""
    return ("env", "-C", str(folder), *jobs.CLOUDJOB)


@contextmanager
def two_workers(folder: Path, elsewhere: Path, **extra: str) -> Iterator[str]:
    """A scheduler, and two workers that were started in different folders, the second with other variables, too."""
    with (
        jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address),
        jobs.worker_of(address, command=started_in(folder)),
        jobs.worker_of(address, command=started_in(elsewhere), **extra),
    ):
        with scheduler.connect(address) as client:
            client.wait_for_workers(2, timeout=jobs.PATIENCE)
        yield address


@pytest.mark.parametrize("client", ["here", "elsewhere"])
def test_what_a_worker_that_lacks_a_disk_does_not_see_is_done_by_others(client: str, tmp_path: Path) -> None:
    """It fails its scenes at once, and so takes most of them; after three nights they were given up."""
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    catalog, net = six_scenes(folder)
    with two_workers(folder, elsewhere) as address:
        run = jobs.run_job(catalog, net, folder / "out", "--cluster", address, command=started_in(tmp_path / client))
    assert run.code == 0, run.stderr
    assert len(jobs.items(folder / "out")) == 6
    assert not list((folder / "out" / "failures").glob("*"))
    told = re.findall("No such file or directory: not there for the worker tcp://[0-9.:]+; others do", run.stderr)
    assert len(told) == 1, run.stderr


def test_workers_that_lack_a_disk_are_told_and_no_scene_is_held_to_blame(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    catalog, net = six_scenes(folder)
    with two_workers(elsewhere, elsewhere) as address:
        run = jobs.run_job(catalog, net, folder / "out", "--cluster", address, command=started_in(folder))
    assert run.code == 4, run.stderr
    assert re.search("not there for the worker tcp://[0-9.:]+, but for this machine", run.stderr)
    records = [json.loads(path.read_text()) for path in (folder / "out" / "failures").glob("*")]
    assert records
    assert not sum(record["runs"] for record in records), "a good scene was held to blame"
    with two_workers(folder, folder) as address:
        run = jobs.run_job(catalog, net, folder / "out", "--cluster", address, command=started_in(folder))
    assert run.code == 0, run.stderr


def six_scenes(folder: Path) -> tuple[Path, Path]:
    """A catalog of scenes that lie in the folder in which a process was started, and a network."""
    scenes = [jobs.make_scene(folder, f"S{n}", f"2024-06-0{n}T10:15:59Z") for n in range(1, 7)]
    for asset in [asset for scene in scenes for asset in scene["assets"].values()]:
        asset["href"] = asset["href"].replace(str(folder), HERE)
    net = jobs.random_checkpoint(folder.parent / "net.safetensors")
    return jobs.write_catalog(folder.parent / "items.json", scenes), net


def test_a_worker_that_sees_another_out_ends_the_run(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    scenes = [jobs.make_scene(folder, f"S{n}", f"2024-06-0{n}T10:15:59Z") for n in (1, 2, 3)]
    catalog = jobs.write_catalog(tmp_path / "items.json", scenes)
    net = jobs.random_checkpoint(tmp_path / "net.safetensors")
    with two_workers(elsewhere, elsewhere) as address:
        run = jobs.run_job(catalog, net, f"{HERE}/out", "--cluster", address, command=started_in(folder))
    assert run.code == 4, run.stderr
    assert re.search("error: the worker tcp://[0-9.:]+ does not see this run's lock: ", run.stderr), run.stderr
    assert "hint: all machines need OUT by the same name" in run.stderr
    assert not list((folder / "out" / "failures").glob("*")), "a good scene was held to blame"


def test_a_file_that_no_machine_sees_is_its_scenes_own_fault(tmp_path: Path) -> None:
    scenes = [jobs.make_scene(tmp_path, f"S{n}", f"2024-06-0{n}T10:15:59Z") for n in (1, 2)]
    Path(scenes[0]["assets"]["red"]["href"]).unlink()
    catalog = jobs.write_catalog(tmp_path / "items.json", scenes)
    net = jobs.random_checkpoint(tmp_path / "net.safetensors")
    with jobs.dask_cluster() as address:
        run = jobs.run_job(catalog, net, tmp_path / "out", "--cluster", address)
    assert run.code == 1, run.stderr
    (record,) = (tmp_path / "out" / "failures").glob("*")
    assert json.loads(record.read_text())["runs"] == 1


def test_a_worker_of_another_version_ends_the_run(tmp_path: Path) -> None:
    """Its masks would be another's, and nothing would tell."""
    catalog = jobs.write_catalog(tmp_path / "items.json", [jobs.make_scene(tmp_path, "S1")])
    net = jobs.random_checkpoint(tmp_path / "net.safetensors")
    (tmp_path / "cloudjob-0.0.9.dist-info").mkdir()  # The first that a process finds says which version it has
    told = "Metadata-Version: 2.1\nName: cloudjob\nVersion: 0.0.9\n"
    (tmp_path / "cloudjob-0.0.9.dist-info" / "METADATA").write_text(told)
    with two_workers(tmp_path, tmp_path, PYTHONPATH=str(tmp_path)) as address:
        run = jobs.run_job(catalog, net, tmp_path / "out", "--cluster", address)
    assert run.code == 4, run.stderr
    says = rf"error: a worker cannot load the network: tcp://[0-9.:]+ has cloudjob 0\.0\.9, the run has {__version__}\n"
    assert re.search(says, run.stderr), run.stderr
    assert "hint: cloudjob must be installed where workers run, in this version" in run.stderr
