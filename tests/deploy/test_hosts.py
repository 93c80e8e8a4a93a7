"""Three machines, each a network namespace on one bridge: links are cut in the middle of a run."""

import jobs
import pytest

from cloudjob import errors

from .simulated import assert_same_masks

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

PORT = 8786


def run(simulated, out, *more):
    catalog = simulated / "catalog" / "items.json"
    return (*jobs.CLOUDJOB, "run", *jobs.EVERYWHERE, "--catalog", catalog, "--out", out, *more)


def worker(address):
    return (*jobs.CLOUDJOB, "worker", address, "--workers", 1)


def test_a_workers_link_is_cut(hosts, simulated, tmp_path):
    """The others do its work: all scenes are done, with the masks of an undisturbed run."""
    first, second, third = hosts
    address = f"tcp://{first.address}:{PORT}"
    workers = [host.start(*worker(address)) for host in (second, third)]
    job = first.start(*run(simulated, tmp_path / "out", "--listen", address, "--workers", 1))
    workers[0].said("plugin cloudjob-model")
    job.said("done  ")
    second.cut()
    assert "6 done" not in job.log
    assert job.ended() == errors.DONE, job.log
    assert workers[1].ended() == errors.DONE, workers[1].log
    assert workers[0].ended() == errors.UNREACHABLE, workers[0].log
    assert_same_masks(tmp_path / "out", simulated / "reference")


def test_the_schedulers_link_is_cut(hosts, simulated, tmp_path):
    """Client and workers end with "try again", and when they do the rest is done."""
    first, second, third = hosts
    address = f"tcp://{first.address}:{PORT}"
    first.start(jobs.BIN / "dask", "scheduler", "--host", first.address, "--port", PORT, "--no-dashboard")
    workers = [host.start(*worker(address)) for host in (second, third)]
    for each in workers:
        each.said("Registered to")
    command = run(simulated, tmp_path / "out", "--cluster", address)
    job = third.start(*command)
    job.said("done  ")
    first.cut()
    assert job.ended() == errors.UNREACHABLE, job.log
    assert "Traceback" not in job.log
    assert [each.ended() for each in workers] == [errors.UNREACHABLE] * 2
    done = len(jobs.items(tmp_path / "out"))
    assert 0 < done < 6

    first.mend()
    workers = [host.start(*worker(address)) for host in (second, third)]
    again = third.start(*command)
    assert again.ended() == errors.DONE, again.log
    assert f"{done} done" in again.log, "what was finished is left alone"
    assert f"{6 - done} done in" in again.log
    assert_same_masks(tmp_path / "out", simulated / "reference")
