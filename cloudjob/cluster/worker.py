"""This machine's lanes as workers of a scheduler elsewhere: `cloudjob worker`."""

import asyncio
import time
from typing import Any, Literal

import dask
from distributed import Nanny, Worker
from distributed.comm.addressing import get_address_host
from distributed.utils import get_ip

from cloudjob import logs
from cloudjob.cluster.address import check_address
from cloudjob.cluster.lanes import CONFIG, WORKER, lanes, listen_at
from cloudjob.cluster.scheduler import DASHBOARD_PORT, check_encryption, greet
from cloudjob.errors import UnreachableError, redact

ARRIVAL = 600
"""Seconds for which a worker waits for its scheduler: a run searches its catalog before it starts one."""

GREETING = 5
"""Seconds of one try to reach it: Dask's own pauses between its tries grow with the time that it is given."""

AGAIN = "start the worker again"
LET_GO = ("scheduler-close", "scheduler-close-worker", "scheduler-remove-worker", "nanny-close")
"""Why a worker closes that has nothing left to do; `distributed.scheduler` and `distributed.nanny` name them.

Others are faults: a connection that broke, a scheduler that no longer knows the worker, a process that cannot start.
"""

FORGOTTEN = "worker-heartbeat-missing"
"""The scheduler answers, and does not know the worker: its end broke first, or it has just let the worker go."""

LAST_WORD = 5
"""Seconds for which a worker that is forgotten waits for the word that it is let go: the scheduler forgets first."""


class _Worker(Worker):
    """A worker that takes itself for forgotten only if it was not let go."""

    async def close(self, *args: Any, **options: Any) -> Any:
        """Called by Dask with its reason; of several the first counts."""
        if options.get("reason") == FORGOTTEN:
            await asyncio.sleep(LAST_WORD)
        return await super().close(*args, **options)


class _Lane(Nanny):
    """A nanny that remembers why it, or its worker, was closed."""

    reason = ""

    def close_gracefully(self, reason: str = "") -> None:
        """Called by the worker before it closes for good."""
        self.reason = self.reason or reason
        logs.hush_dask()
        super().close_gracefully(reason)

    async def close(  # type: ignore[override]  # As Dask does to its Server
        self,
        timeout: float = 5,  # noqa: ASYNC109
        reason: str = "nanny-close",
    ) -> Literal["OK"]:
        """Called when the worker has closed, or cannot be started anew."""
        self.reason = self.reason or reason
        return await super().close(timeout, reason)


async def serve(address: str, workers: int | None = None) -> None:
    """Run this machine's lanes as workers of a scheduler elsewhere, until it closes them or retires them.

    Raises:
        UsageError: no address of a scheduler.
        UnreachableError: no scheduler answers, or it is lost; or no process can be started.
    """
    logs.tame_dask()
    check_address(address)
    check_encryption(address, "worker")
    protocol = address.partition(":")[0]  # Or workers would talk among themselves without encryption
    with dask.config.set(CONFIG):
        await _arrival(address)
        host = get_ip(get_address_host(address))
        nannies = [
            # The first has the port at which a health check asks
            _Lane(
                address,
                protocol=protocol,
                worker_class=_Worker,
                env=env,
                **WORKER,
                **listen_at(host, 0 if n else DASHBOARD_PORT),
            )
            for n, env in enumerate(lanes(workers))
        ]
        try:
            # A crowded machine takes its time to load torch
            await asyncio.gather(*(asyncio.wait_for(nanny.start(), ARRIVAL) for nanny in nannies))
        except (OSError, TimeoutError, RuntimeError) as error:  # Dask's own word for a failed start is the last
            why = error.__cause__ or error
            raise UnreachableError(f"could not join the Dask scheduler at {redact(address)}: {why}") from None
        await asyncio.gather(*(nanny.finished() for nanny in nannies))
    faults = [nanny.reason for nanny in nannies if nanny.reason not in LET_GO]
    if any(fault.startswith("nanny") for fault in faults):
        raise UnreachableError("the worker's process ended, and none can be started anew", hint=AGAIN)
    if faults:
        raise UnreachableError(f"the Dask scheduler at {redact(address)} is lost", hint=AGAIN)
    logs.say(f"let go by the scheduler at {redact(address)}: nothing is left to do", "released")


async def _arrival(address: str) -> None:
    """Return when a scheduler answers: its machine may not even have a name yet."""
    deadline, told = time.monotonic() + ARRIVAL, False
    while True:
        try:
            return await greet(address, "worker", GREETING)
        except (OSError, TimeoutError) as error:
            if time.monotonic() > deadline:
                raise UnreachableError(f"no Dask scheduler answers at {redact(address)}: {error}") from None
            if not told:  # Or who mistyped the address looks at nothing for all that time
                logs.say(f"no Dask scheduler at {redact(address)} yet: waiting for up to {ARRIVAL} s", "waiting")
                told = True
            await asyncio.sleep(1)
