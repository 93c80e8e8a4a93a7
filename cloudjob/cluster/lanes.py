"""This machine's lanes: how many worker processes it runs, and what each is started with."""

import os
from pathlib import Path
from typing import Any

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
}
"""Dask's settings for scheduler and workers."""

DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""What NVIDIA's driver shows on Linux, and on Linux under Windows (WSL)."""

WORKER: dict[str, Any] = {"nthreads": 1, "memory_limit": "auto", "preload": ["cloudjob.cluster.network"]}
"""What every worker process is started with; `preload` has it call `network.dask_setup`."""


def lanes(workers: int | None = None) -> list[dict[str, str]]:
    """One environment per worker process of this machine: one per GPU, else one per core.

    Args:
        workers: how many instead.
    """
    if count := gpus():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
        return [{"CUDA_VISIBLE_DEVICES": visible[n % count]} for n in range(workers or count)]
    return [{} for _ in range(workers or len(os.sched_getaffinity(0)))]


def listen_at(host: str, dashboard: int = 0) -> dict[str, str]:
    """Where a worker listens: on one address of this machine. Dask's own choice is all of them."""
    return {"host": host, "dashboard_address": f"{host}:{dashboard}"}


def gpus() -> int:
    """CUDA devices of this machine. Torch, which takes seconds to load, is asked only where there is a driver."""
    if not any(Path(driver).exists() for driver in DRIVERS):
        return 0
    import torch  # noqa: PLC0415

    return torch.cuda.device_count()
