"""`cloudjob`, sabotaged: at the nth time that something happens, a process gets a signal.

The environment variable CLOUDJOB_TEST_SABOTAGE holds JSON (`sabotage` writes it): the `event`, such as "after shard",
its number `nth`, the `victim` ("self", "client", "group" for all that Ctrl-C reaches, or a process number), the
`signal`, and a `marker`, a file that is made when, and only when, the signal is sent. Events are counted by process;
of several that come to the nth one the first strikes. Local workers are spawned from this file: they are sabotaged too.
CLOUDJOB_TEST_PATIENCE is for how many seconds a store that does not answer is asked again.
"""

import json
import os
import resource
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import zarr

from cloudjob.store import bucket, folder, writer
from cloudjob.store.out import Out

PLAN = json.loads(os.environ["CLOUDJOB_TEST_SABOTAGE"])

_count = 0
_counting = threading.Lock()


def happened(event: str) -> None:
    """Count one more of an event, and strike if it is the one."""
    global _count  # noqa: PLW0603
    if event != PLAN["event"]:
        return
    with _counting:
        _count += 1
        if _count != PLAN["nth"]:
            return
    try:
        with Path(PLAN["marker"]).open("x", encoding="utf-8") as file:
            file.write(event)
    except FileExistsError:
        return
    strike(PLAN["victim"], PLAN["signal"])


def strike(victim: str, number: int) -> None:
    """Send the signal."""
    if number == signal.SIGXFSZ:
        # The kernel kills this process in the middle of the next file it writes, after so many bytes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
    elif victim == "group":
        os.killpg(0, number)
    else:
        own = {"self": str(os.getpid()), "client": os.environ["CLOUDJOB_TEST_CLIENT"]}
        os.kill(int(own.get(victim, victim)), number)


def around(owner: Any, name: str, what: Callable[..., str]) -> None:
    """Report "before X" and "after X" of every call of a function; `what` makes X of its arguments."""
    original = getattr(owner, name)

    def reported(*arguments: Any, **named: Any) -> Any:
        about = what(*arguments, **named)
        happened(f"before {about}")
        answer = original(*arguments, **named)
        happened(f"after {about}")
        return answer

    setattr(owner, name, reported)


def kind(path: str) -> str:
    """What a file of an OUT is."""
    top, _, rest = path.partition("/")
    if top == "items":
        return "index" if rest.endswith("/index.json") else "item"
    if top == "masks.zarr":
        return "list of slots" if rest.count("/") == 1 else "root"
    return {"job.json": "contract", "lock": "lock", "runs": "record", "failures": "failure"}.get(top, "catalog")


around(Out, "put", lambda out, path, data: kind(path))
around(Out, "create", lambda out, path, data: kind(path))
around(obstore, "delete", lambda place, path: f"deletion of {kind(path)}")
around(folder, "delete", lambda place, path: f"deletion of {kind(path)}")
around(writer.Writer, "write", lambda *_: "shard")
around(zarr.Array, "resize", lambda *_: "resize")
around(zarr, "create_array", lambda *_, **__: "array")

if seconds := os.environ.get("CLOUDJOB_TEST_PATIENCE"):
    bucket.RETRY["retry_timeout"] = timedelta(seconds=float(seconds))

if PLAN["signal"] == signal.SIGXFSZ:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; and only here, in the main thread, may it be set
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

if __name__ == "__main__":
    from cloudjob.cli import main

    os.environ["CLOUDJOB_TEST_CLIENT"] = str(os.getpid())
    main()
