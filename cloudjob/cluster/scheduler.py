"""Where the work runs: a cluster of this machine's lanes, or a scheduler elsewhere."""

import asyncio
import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster
from distributed.comm.addressing import get_address_host_port
from distributed.comm.core import connect as comm_connect
from distributed.utils import LoopRunner

from cloudjob import logs
from cloudjob.cluster.address import check_address
from cloudjob.cluster.lanes import CONFIG, WORKER, lanes, listen_at
from cloudjob.errors import UnreachableError, redact

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
DASHBOARD_PORT = 8787

PATIENCE = 20
"""Seconds in which a scheduler must answer."""


@contextlib.contextmanager
def connect(where: str = "local", workers: int | None = None, listen: str | None = None) -> Iterator[Client]:
    """Start workers on this machine, or connect to a running scheduler.

    Args:
        where: "local" or a scheduler's address (tcp://host:port or tls://host:port).
        workers: how many local worker processes; by default one per core (`lanes`).
        listen: where the scheduler of a local cluster takes workers of other machines, such as tls://0.0.0.0:8786;
            by default it listens on loopback only, and takes nobody but its own: other users of this machine reach
            loopback too, and whoever a scheduler takes can have it run anything.

    Raises:
        UsageError: `where` is neither.
        UnreachableError: no scheduler answers there, it cannot listen where it should, or workers do not start.
    """
    logs.tame_dask()
    if where == "local":
        with _local(workers, listen) as cluster, Client(cluster) as client:
            yield client
            assert cluster.scheduler
            cluster.scheduler.in_order = True
        return
    check_address(where)
    check_encryption(where, "client")
    try:
        LoopRunner().run_sync(greet, where, "client", PATIENCE)
        client = Client(where, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnreachableError(
            f"no Dask scheduler answers at {redact(where)}: {error}",
            hint="start one with `dask scheduler`, and workers with `cloudjob worker ADDRESS`",
        ) from None
    with client:
        yield client


async def greet(address: str, role: str, patience: float) -> None:
    """Return when a scheduler answers. For its greeting Dask itself would wait for ever, once something listens there.

    Its greeting may take `patience` seconds, and so may the connection; `role` is as in `check_encryption`.

    Raises:
        OSError, TimeoutError: none answers.
    """
    arguments = Security().get_connection_args(role)
    try:
        comm = await asyncio.wait_for(comm_connect(address, timeout=patience, **arguments), 2 * patience)
    except TimeoutError:
        raise TimeoutError(f"who listens there says nothing for {patience:g} s") from None
    comm.abort()


class _Scheduler(Scheduler):
    """A scheduler of a run, which tells workers of other machines whether it ended in good order.

    If so they are let go. If not they see it vanish, as if it had been killed: whoever started them starts them anew,
    and the run that is started anew finds them.
    """

    in_order = False

    async def close(self, *args: Any, **options: Any) -> None:
        """Called when the workers of this machine have ended."""
        if not self.in_order:
            for comm in list(self.stream_comms.values()):
                comm.abort()
        await super().close(*args, **options)


@contextlib.contextmanager
def _local(workers: int | None, listen: str | None) -> Iterator[SpecCluster]:
    door, security = _door(listen)
    options = {**WORKER, **listen_at(LOOPBACK), "security": security, "silence_logs": logging.ERROR}
    specs = {number: {"cls": Nanny, "options": {**options, "env": env}} for number, env in enumerate(lanes(workers))}
    scheduler = {
        "cls": _Scheduler,
        "options": {**door, "security": security, "dashboard_address": f"{LOOPBACK}:{DASHBOARD_PORT}"},
    }
    link = f"http://{LOOPBACK}:{{port}}/status"  # Dask's own names the address that the scheduler listens on
    with dask.config.set({**CONFIG, "distributed.dashboard.link": link}), warnings.catch_warnings():
        # Another job's dashboard may hold the port; ours then takes a free one, and its address is printed.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        try:
            cluster = SpecCluster(
                workers=specs, scheduler=scheduler, security=security, silence_logs=logging.ERROR, name="cloudjob"
            )
        except (RuntimeError, OSError, TimeoutError) as error:
            raise _not_started(error, listen) from None
        with cluster:
            yield cluster


def _not_started(error: BaseException, listen: str | None) -> UnreachableError:
    while error.__cause__:
        error = error.__cause__
    if listen and isinstance(error, OSError):
        return UnreachableError(f"cannot listen at {redact(listen)}: {error}")
    return UnreachableError(
        f"the workers of this machine do not start: {error}", hint="is there memory for them? try fewer: --workers"
    )


def _door(listen: str | None) -> tuple[dict[str, str | int], Security]:
    """Where the scheduler of a local cluster listens, where this machine's workers find it, and whom it takes."""
    security, own = Security(), False
    if not listen and not security.require_encryption:
        try:
            security, own = Security.temporary(), True  # For this run alone; its key never leaves its processes' memory
        except ImportError as error:  # An installation without all that cloudjob depends on
            log.warning("%s", error)
    listen = listen or f"{'tls' if security.require_encryption else 'tcp'}://{LOOPBACK}:0"
    check_address(listen)
    if not own:
        check_encryption(listen, "scheduler")
        if listen.startswith("tcp://"):
            log.warning("%s is not encrypted: whoever reaches it can run anything here", redact(listen))
    host, port = get_address_host_port(listen)
    protocol = listen.partition(":")[0]
    everywhere = {"contact_address": f"{protocol}://{LOOPBACK}:{port}"} if host == "0.0.0.0" else {}  # noqa: S104
    return {"protocol": protocol, "host": host, "port": port, **everywhere}, security


def check_encryption(address: str, role: str) -> None:
    """Make sure that there is a certificate if the address asks for one. Dask's own words for that are obscure.

    `role` is client, worker or scheduler, as in Dask's settings `distributed.comm.tls`.

    Raises:
        UnreachableError: there is none that can be read, or the address is not encrypted where settings require it.
    """
    if not address.startswith("tls://"):
        if dask.config.get("distributed.comm.require-encryption"):
            raise UnreachableError(
                f"{redact(address)} is not encrypted, and Dask's settings require it", hint="tls:// in place of tcp://"
            )
        return
    security = Security()
    files = [getattr(security, name) for name in ("tls_ca_file", f"tls_{role}_cert", f"tls_{role}_key")]
    fault = "" if all(files) else "Dask's settings distributed.comm.tls name none"
    try:
        security.get_connection_args(role)
    except OSError as error:  # It does not say which file
        fault = f"{error}: {', '.join(filter(None, files))}"
    if fault:
        raise UnreachableError(
            f"{redact(address)} needs a certificate of this {role}: {fault}", hint="see TLS in deploy/README.md"
        )
