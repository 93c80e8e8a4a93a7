"""Where the work runs: a cluster of this machine's lanes, or a scheduler elsewhere."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, Security, SpecCluster
from distributed.comm.addressing import get_address_host_port

from cloudjob import logs
from cloudjob.cluster.address import check_address
from cloudjob.cluster.lanes import CONFIG, WORKER, lanes, listen_at
from cloudjob.errors import UnreachableError, redact

LOOPBACK = "127.0.0.1"


DASHBOARD_PORT = 8787


PATIENCE = 20


"""Seconds in which a scheduler must answer."""


@contextlib.contextmanager
def connect(where: str = "local", workers: int | None = None, listen: str | None = None) -> Iterator[Client]:
    """Start workers on this machine, or connect to a running scheduler.

    Args:
        where: "local" or a scheduler's address (tcp://host:port or tls://host:port).
        workers: how many local worker processes; by default one per GPU, else one per core.
        listen: where the scheduler of a local cluster takes workers of other machines, such as tcp://0.0.0.0:8786;
            by default it listens on loopback only.

    Raises:
        UsageError: `where` is neither.
        UnreachableError: no scheduler answers there, or it cannot listen where it should.
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
        client = Client(where, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnreachableError(
            f"no Dask scheduler answers at {redact(where)}: {error}",
            hint="start one with `dask scheduler`, and workers with `cloudjob worker ADDRESS`",
        ) from None
    with client:
        yield client


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
    options = {**WORKER, **listen_at(LOOPBACK), "local_directory": None, "silence_logs": logging.ERROR}
    specs = {number: {"cls": Nanny, "options": {**options, "env": env}} for number, env in enumerate(lanes(workers))}
    scheduler = {
        "cls": _Scheduler,
        "options": {**_door(listen), "dashboard_address": f"{LOOPBACK}:{DASHBOARD_PORT}"},
    }
    link = f"http://{LOOPBACK}:{{port}}/status"  # Dask's own names the address that the scheduler listens on
    with dask.config.set({**CONFIG, "distributed.dashboard.link": link}), warnings.catch_warnings():
        # Another job's dashboard may hold the port; ours then takes a free one, and its address is printed.
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        try:
            cluster = SpecCluster(workers=specs, scheduler=scheduler, silence_logs=logging.ERROR, name="cloudjob")
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            if listen and isinstance(cause, OSError):
                raise UnreachableError(f"cannot listen at {redact(listen)}: {cause}") from None
            raise
        with cluster:
            yield cluster


def _door(listen: str | None) -> dict[str, str | int]:
    """Where the scheduler of a local cluster listens, and where the workers of this machine find it."""
    if not listen:
        encrypted = dask.config.get("distributed.comm.require-encryption")
        listen = f"{'tls' if encrypted else 'tcp'}://{LOOPBACK}:0"
    check_address(listen)
    check_encryption(listen, "scheduler")
    host, port = get_address_host_port(listen)
    protocol = listen.partition(":")[0]
    everywhere = {"contact_address": f"{protocol}://{LOOPBACK}:{port}"} if host == "0.0.0.0" else {}  # noqa: S104
    return {"protocol": protocol, "host": host, "port": port, **everywhere}


def check_encryption(address: str, role: str) -> None:
    """Make sure that there is a certificate if the address asks for one. Dask's own words for that are obscure.

    Args:
        address: of a scheduler.
        role: client, worker or scheduler, as in Dask's settings `distributed.comm.tls`.

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
