"""`cloudjob` without the seconds that Python takes to import it: one process has imported all, and forks for each run.

What is started is a process of its own as ever, which may be killed. It must start none itself (`--cluster`), nor have
its OUT in a bucket: obstore waits for ever in a fork. A line of stdin is a run (JSON: `arguments`, `environment`, and
whether it is `sabotaged`), a line of stdout what became of it.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from jobs import Result

LONGEST = 240
"""Seconds of a run."""


class Fork(Protocol):
    """Runs a command to its end, as `jobs.cloudjob` does."""

    def __call__(self, *arguments: str | Path, sabotaged: bool = False, **extra: str) -> "Result": ...


@contextmanager
def forking() -> Iterator[Fork]:
    """Yields what runs commands."""
    from jobs import Result, environment

    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin
    assert server.stdout

    def run(*arguments: str | Path, sabotaged: bool = False, **extra: str) -> Result:
        told = {"arguments": [*map(str, arguments)], "environment": environment(**extra), "sabotaged": sabotaged}
        server.stdin.write(json.dumps(told) + "\n")  # type: ignore[union-attr]
        server.stdin.flush()  # type: ignore[union-attr]
        return Result(**json.loads(server.stdout.readline()))  # type: ignore[union-attr]

    try:
        yield run
    finally:
        server.stdin.close()
        server.wait(LONGEST)
        server.stdout.close()


def serve() -> None:
    """Fork for each line; a child leaves by the exit of its run."""
    import cloudjob.job
    import cloudjob.model.checkpoint  # noqa: F401 -- with torch; the first with Dask and Zarr

    assert threading.active_count() == 1
    for line in sys.stdin:
        told = json.loads(line)
        pipes = [os.pipe() for _ in range(2)]
        pid = os.fork()
        if not pid:
            become(told, pipes)
        for _, end in pipes:
            os.close(end)
        stdout, stderr = read_all([end for end, _ in pipes])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": code, "stdout": stdout, "stderr": stderr}), flush=True)


def become(told: dict[str, Any], pipes: list[tuple[int, int]]) -> None:
    """The command line, in this process."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, end in enumerate([nothing, *(end for _, end in pipes)]):
        os.dup2(end, number)
    os.closerange(3, 3 + 2 * len(pipes) + 1)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.environ["CLOUDJOB_TEST_CLIENT"] = str(os.getpid())
    sys.argv = ["cloudjob", *told["arguments"]]
    if told["sabotaged"]:
        import saboteur  # noqa: F401 -- it acts by being imported
    from cloudjob.cli import main

    main()
    sys.exit()


def read_all(ends: list[int]) -> list[str]:
    """What comes from pipes until all are closed."""
    found = dict.fromkeys(ends, b"")
    with selectors.DefaultSelector() as waiting:
        for end in ends:
            waiting.register(end, selectors.EVENT_READ)
        while waiting.get_map():
            for key, _ in waiting.select(LONGEST):
                data = os.read(key.fd, 65536)
                found[key.fd] += data
                if not data:
                    waiting.unregister(key.fd)
                    os.close(key.fd)
    return [found[end].decode(errors="replace") for end in ends]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    serve()
