"""For tests of what goes wrong: the command line called in this process, and a cluster that loses no time waiting."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jobs
import pytest
from distributed import Client

from cloudjob import cli
from cloudjob.cluster import task
from cloudjob.scene import opened


def call(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> jobs.Result:
    """`cloudjob` with these arguments, in this process: what starts no cluster needs no two seconds of imports."""
    capfd.readouterr()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cloudjob", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            signal.signal(signal.SIGTERM, before)
    told = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return jobs.Result(ended.value.code, told.out, told.err)


@contextmanager
def impatient_cluster(log: Path, **extra: str) -> Iterator[str]:
    """A scheduler and one `cloudjob worker` whose pauses before a retry are short: yields the scheduler's address.

    Args:
        log: a file for all that the worker says.
        extra: its environment.
    """
    with jobs.started(*jobs.SCHEDULER, until=jobs.LISTENS) as (_, address), log.open("wb") as told:
        worker = subprocess.Popen(
            [*jobs.CLOUDJOB, "-v", "worker", address, "--workers", "1"],
            env=jobs.environment(GDAL_HTTP_RETRY_DELAY="0.005", **extra),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
        try:
            with Client(address) as client:
                client.wait_for_workers(1, timeout=jobs.PATIENCE)
                client.run(setattr, task, "PAUSE", 0.05)
                client.run(setattr, opened, "PAUSE", 0.01)
            yield address
        finally:
            worker.terminate()
            worker.wait(jobs.PATIENCE)


def served(item: Mapping[str, Any], folder: Path, url: str, query: str = "") -> dict[str, Any]:
    """The item with its files' addresses on a server of `folder`."""
    assets = {
        key: {**asset, "href": f"{url}/{Path(asset['href']).relative_to(folder)}{query}"}
        for key, asset in item["assets"].items()
    }
    return {**item, "assets": assets}
