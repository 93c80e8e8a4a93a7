"""A worker process: quiet, deaf to Ctrl-C, and with the network loaded once, also where it comes late."""

import logging
import re
import signal
from typing import Any

import torch
from distributed import Client, WorkerPlugin, get_worker
from distributed.comm.core import CommClosedError

from cloudjob import __version__, logs
from cloudjob.catalog.answers import within
from cloudjob.errors import CloudjobError, UnreachableError
from cloudjob.model import checkpoint, predict

PATIENCE = 600.0
"""Seconds for which a run waits until all workers have the network: Dask itself would wait for ever."""


def dask_setup(worker: Any) -> None:
    """Called by Dask in a worker process: Ctrl-C on a terminal reaches it too, but it is the client that stops it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.inherit()
    logging.getLogger("distributed.worker").addFilter(_is_news)
    logging.getLogger("distributed.batched").setLevel(logging.WARNING)  # A page for every connection that ends


def dask_teardown(worker: Any) -> None:
    """Called by Dask when a worker ends: what its threads and queues tell of that is no news."""
    del worker
    logs.hush_dask()


def _is_news(record: logging.LogRecord) -> bool:
    """False for what Dask tells in a page of traceback though nobody needs it.

    An error of ours, which the run tells in a line; a sign of life that met the scheduler's end, or comes from a worker
    that it has let go, which the worker sees by itself: at the end of a run it happens.
    """
    if record.getMessage().startswith("Scheduler was unaware of this worker"):
        return False
    if record.exc_info and isinstance(record.exc_info[1], CommClosedError):
        return "heartbeat" not in record.getMessage()
    found = re.search(r"Exception: ['\"](\w+)\(", record.getMessage())
    return found is None or found[1] not in _names(CloudjobError)


def _names(kind: type[CloudjobError]) -> set[str]:
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


class ModelPlugin(WorkerPlugin):
    """Loads the network once per worker process."""

    model: predict.Model

    def __init__(self, path: str, data: bytes, sha256: str) -> None:
        """Carry the checkpoint's bytes, so that a worker on another machine needs no file."""
        self.path, self.data, self.sha256 = path, data, sha256
        self.name = plugin_name(sha256)
        self.version = __version__

    def setup(self, worker: Any) -> None:
        """Called by Dask when the worker starts or the plugin is registered."""
        if self.version != __version__:  # Its masks would be another's, and nothing would tell
            raise UnreachableError(f"{worker.address} has cloudjob {__version__}, the run has {self.version}")
        torch.set_num_threads(1)
        self.model = predict.prepare(checkpoint.parse(self.data, self.path))


def plugin_name(sha256: str) -> str:
    """Name under which a worker keeps the model of a checkpoint."""
    return f"cloudjob-model-{sha256[:16]}"


def worker_model(sha256: str) -> predict.Model:
    """The model of the worker that this task runs on.

    Raises:
        UnreachableError: the worker could not load it. Dask only logs that of a worker that comes late, and would let
            it fail one scene after the other.
    """
    worker = get_worker()
    plugin = worker.plugins.get(plugin_name(sha256))
    if not isinstance(plugin, ModelPlugin) or not hasattr(plugin, "model"):
        raise UnreachableError(f"the worker {worker.address} could not load the network", hint="its log says why")
    return plugin.model


def load(client: Client, path: str, data: bytes, sha256: str) -> None:
    """Have every worker, also those that come later, load the network.

    A scheduler keeps it when the run has ended: another run may use the same one, and a count of those that do would be
    wrong after the first that is killed.

    Raises:
        UnreachableError: one cannot, or the scheduler is lost.
    """
    try:
        within(PATIENCE, lambda: client.register_plugin(ModelPlugin(path, data, sha256)))
    except TimeoutError:
        raise UnreachableError(
            f"the Dask scheduler, or a worker that is to load the network, says nothing for {PATIENCE:g} s",
            hint="run again",
        ) from None
    except Exception as error:  # noqa: BLE001 -- Dask raises a bare one, whatever happened there
        if client.status != "running":
            raise UnreachableError("the Dask scheduler is lost", hint="run again") from None
        raise UnreachableError(
            f"a worker cannot load the network: {error}",
            hint="cloudjob must be installed where workers run, in this version: start them with `cloudjob worker`",
        ) from None
