"""This machine's lanes: how many worker processes it runs, and what each is started with."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloudjob.errors import UsageError
from cloudjob.model.share import SHARE

ENVIRON = {
    # Dask's nanny lets malloc give memory back at once; with tiles of some MB a third of the time is then spent
    # on page faults. Measured: the network is 1.35 to 1.7 times as fast with these.
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    # Threads but the first get heaps of 64 MB, which are given back whatever the thresholds: one heap for all.
    # Measured: the network's 20,000 page faults a tile are gone, it is 1.17 times as fast.
    "MALLOC_ARENA_MAX": "1",
    # One thread per lane: one and two threads differ in the last bit of a sum.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # MB; GDAL's default is 5 % of the machine's memory for every process. A row of four bands' blocks of 1024 needs 90.
    "GDAL_CACHEMAX": "96",
}
"""Environment of a worker process, set before it starts; variables that are already set win."""

CONFIG = {
    "distributed.nanny.pre-spawn-environ": ENVIRON,
    # Dask's housekeeping costs 5 % of a core while a task runs for a minute; at these intervals 2 %.
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.memory.monitor-interval": "500ms",
    "distributed.worker.profile.interval": "100ms",
    # Of a killed worker whose successor needs longer than this to come (torch on a slow disk) Dask closes the lane for
    # good; its default is 15 s. Measured: with a successor after 20 s one scene of six was done, now six.
    "distributed.deploy.lost-worker-timeout": "600s",
    # One task in a lane and no more: when a worker dies, all it holds is suspected.
    "distributed.scheduler.worker-saturation": 1.0,
    # After two workers have died of it a task is left for the end, when it is alone (see `stream`).
    "distributed.scheduler.allowed-failures": 1,
    # A paused worker takes no task before its memory is free, which with the thresholds above it never is.
    "distributed.worker.memory.pause": False,
}
"""Dask's settings for scheduler and workers."""

DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")
"""What NVIDIA's driver shows on Linux, where its devices may come with their first use; and under Windows (WSL)."""

WORKER: dict[str, Any] = {"nthreads": 1, "memory_limit": "auto", "preload": ["cloudjob.cluster.network"]}
"""What every worker process is started with; `preload` has it call `network.dask_setup`."""


LANE_MEMORY = 3 << 30
"""Bytes of a GPU that a lane needs: CUDA's context (0.6 GiB), a padded tile in the largest network we know (1.1 GiB in
float32; 0.6 in the one that ships), and as much again for cuDNN's workspace."""

LEAST_MEMORY = 256 << 20
"""Bytes that a worker takes before it has read anything, at the least: so many too many would stop the machine."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def lanes(workers: int | None = None) -> list[dict[str, str]]:
    """One environment per worker process of this machine: one per core or so many, several of which share each GPU.

    A core reads, prepares and writes 5 to 8 million pixels a second (measured beside an H200, which computes 275
    million): so there are as many lanes as a GPU's memory has room for. Each does one tile at a time: how many share a
    GPU changes no value.

    Raises:
        UsageError: there is no memory for so many.
    """
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if workers and workers * LEAST_MEMORY > own:
        raise UsageError(
            f"workers is {workers}, for which this machine has no memory ({own >> 30} GiB)",
            hint=f"leave --workers out for one per core ({cores()}); a full scene takes 3 GiB in each",
        )
    if not (memory := gpus()):
        return [{} for _ in range(workers or cores())]
    count = len(memory)
    room = sum(max(1, size // LANE_MEMORY) for size in memory)
    number = workers or max(count, min(cores(), room))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return [
        {"CUDA_VISIBLE_DEVICES": visible[n % count], SHARE: str(math.ceil((number - n % count) / count))}
        for n in range(number)
    ]


def cores() -> int:
    """Cores that this process may use: of its machine, its affinity and its container's quota the fewest.

    As `dask.system.CPU_COUNT`, which `cloudjob plan` would have to load all of Dask for.
    """
    known = hasattr(os, "sched_getaffinity")  # Not on macOS
    own = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, min([own, *_quotas()]))


def _quotas() -> Iterator[int]:
    """Whole cores that control groups allow this process, those of version 2 by every group above it too."""
    lines: list[str] = []
    with contextlib.suppress(OSError):  # Not on macOS
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))
        if not controllers:
            for folder in (group, *group.parents):
                yield from _quota(CGROUPS / folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for folder in (CGROUPS / controllers / group, CGROUPS / controllers):  # A container shows the last alone
                yield from _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _quota(*files: Path) -> Iterator[int]:
    """Of a control group that has one: microseconds of work in a period of so many."""
    with contextlib.suppress(OSError, ValueError):  # Neither such a file, nor "max" or -1 for no quota
        quota, period = map(int, " ".join(file.read_text(encoding="utf-8") for file in files).split())
        if quota > 0:
            yield math.ceil(quota / period)


def listen_at(host: str, dashboard: int = 0) -> dict[str, str]:
    """Where a worker listens: on one address of this machine. Dask's own choice is all of them."""
    return {"host": host, "dashboard_address": f"{host}:{dashboard}"}


def gpus() -> list[int]:
    """Bytes of each CUDA device of this machine. Torch, which takes seconds to load, is asked only with a driver."""
    if not any(Path(driver).exists() for driver in DRIVERS):
        return []
    import torch  # noqa: PLC0415

    return [torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())]
