"""One run per OUT: a lock that survives SIGKILL, held machines and two runs that take over at the same time.

The lock is a folder of numbered files; the highest number holds it. A file is made by exclusive create, so of two runs
that want to follow number 7 one gets number 8 and the other looks again. Numbers are never used twice: a run that was
held (a laptop asleep) and comes back finds a higher number and knows that it has lost. That needs nothing but what
folders and object stores have alike; replacing a file only if it is unchanged is not to be had in a folder.
"""

import logging
import os
import re
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cloudjob.errors import ContractError, UnreachableError
from cloudjob.store.document import dump, parse
from cloudjob.store.out import Out

HEARTBEAT = 15.0
"""Seconds between two signs of life."""

LONGEST = 3600
"""Seconds between two signs of life that a lock may promise; whoever wants to take it over waits for two of them."""

FOLDER = "lock"

NEWEST = f"{FOLDER}/newest"
"""Where the last number stands in an object store, some of which list less than they hold."""

_held: set[str] = set()
"""Ids of what this process holds, or is about to hold. What else bears its number is over: a full disk may have kept it
from being released."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Token:
    """Who holds the lock.

    Attributes:
        number: of the lock file; never used twice in an OUT.
        id: of this holding, random.
        host: name of the machine.
        boot: of the machine since it was started, with the namespace its process numbers belong to; "" if unknown.
        pid: the process.
        started: when the process started, in the kernel's own count; "" if unknown.
        since: when the lock was taken (ISO 8601, UTC).
        renewed: last sign of life.
        heartbeat: seconds between two of them.
        released: whether the run has ended in good order.
    """

    number: int
    id: str
    host: str
    boot: str
    pid: int
    started: str
    since: str
    renewed: str
    heartbeat: float
    released: bool = False

    def __str__(self) -> str:
        if not self.id:
            return f"a run that begins at this moment, or whose machine went down while it wrote {self.path}"
        return f"process {self.pid} on {self.host}, at work since {self.since}"

    @property
    def path(self) -> str:
        """Of the lock file."""
        return _path(self.number)


class LockLostError(UnreachableError):
    """Another run has taken over this one's lock, or somebody removed it."""


def check(out: Out, token: Token) -> None:
    """Make sure that `token` still holds the lock of `out`: one listing.

    Raises:
        LockLostError: another run has taken over, or the lock was removed.
        UnreachableError: the store does not answer.
    """
    newest = max(_numbers(out), default=0)
    if newest < token.number and out.get(token.path) is not None:
        return  # Some object stores list less than they hold
    if newest != token.number:
        taken = newest > token.number
        hint = "it was held up for too long and another run took over" if taken else "somebody has moved or deleted it"
        raise LockLostError(
            f"this run ({token}) has lost the lock of {out}{f' to number {newest}' if taken else ': its file is gone'}",
            hint=hint + "; everything finished is kept",
        )


class Lock:
    """The lock of an OUT, held while in the `with` block and renewed by a thread.

    Args:
        out: what to lock.
        heartbeat: seconds between two signs of life.

    Raises:
        UnreachableError: when entered: another run is at work there.
    """

    def __init__(self, out: Out, heartbeat: float = HEARTBEAT) -> None:
        self.out = out
        self.heartbeat = heartbeat
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.token = _acquire(self.out, self.heartbeat)
        self._ended.clear()
        self._thread = threading.Thread(target=self._renew, name="cloudjob-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            check(self.out, self.token)
            self.out.put(self.token.path, dump(asdict(replace(self.token, renewed=_now(), released=True))))
        except UnreachableError as failure:
            # The work is done, and this process will soon be seen to be dead, or to hold it no more.
            log.warning("the lock could not be released: %s", failure)
        finally:
            _held.discard(self.token.id)

    def check(self) -> None:
        """Make sure that this run still holds the lock; see `check`."""
        check(self.out, self.token)

    def _renew(self) -> None:
        while not self._ended.wait(self.heartbeat):
            try:
                check(self.out, self.token)
                self.out.put(self.token.path, dump(asdict(replace(self.token, renewed=_now()))))
            except LockLostError as failure:
                log.warning("%s", failure)  # The run's own check() raises
                return
            except UnreachableError as failure:
                # A store that is back soon costs nothing.
                log.warning("no sign of life could be given: %s", failure)


def _acquire(out: Out, heartbeat: float) -> Token:
    while True:
        holder, data = _newest(out)
        if holder and not holder.released and not _dead_here(holder):
            _wait_for_silence(out, holder, data)
            log.warning("taking over the lock of %s, which has given no sign of life since %s", holder, holder.renewed)
        now = _now()
        token = Token(
            number=holder.number + 1 if holder else 1,
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            boot=_boot(),
            pid=os.getpid(),
            started=_process_start(os.getpid()),
            since=now,
            renewed=now,
            heartbeat=heartbeat,
        )
        _held.add(token.id)  # Before another thread can see it
        try:
            taken = _take(out, token)
        except BaseException:
            _held.discard(token.id)
            raise
        if taken:
            return token
        _held.discard(token.id)


def _take(out: Out, token: Token) -> bool:
    """Put a token in the place after its predecessor's; False where another run was faster."""
    if not out.create(token.path, dump(asdict(token))):
        return False
    numbers = _numbers(out)
    if max(numbers, default=0) > token.number:
        # This run was held between looking and creating, and others have come and gone meanwhile.
        out.delete([token.path])
        return False
    if not out.folder:
        out.put(NEWEST, str(token.number).encode())
    out.delete(_path(number) for number in {*numbers, token.number - 1} if number < token.number)
    out.sweep(FOLDER)
    return True


def _wait_for_silence(out: Out, holder: Token, data: bytes) -> None:
    """Return once the holder has missed two heartbeats.

    Clocks of two machines may differ, so a lock that looks old, or comes from the future, is watched for that long
    before it is taken over.

    Raises:
        UnreachableError: the holder is alive, or may well be.
    """

    def refusal(holder: Token) -> UnreachableError:
        return UnreachableError(f"another run is at work in {out}: {holder}", hint="run the same command again later")

    patience = 2 * holder.heartbeat
    age = (datetime.now(UTC) - datetime.fromisoformat(holder.renewed)).total_seconds()
    if (_is_here(holder) and holder.started) or abs(age) < patience:
        raise refusal(holder)
    log.warning("%s holds the lock of %s; watching for %.0f s whether it is alive", holder, out, patience)
    time.sleep(patience)
    now, written = _newest(out)
    if written != data:
        raise refusal(now or holder)


def _newest(out: Out) -> tuple[Token | None, bytes]:
    """The lock file with the highest number, parsed and as it is."""
    known = b"" if out.folder else out.get(NEWEST) or b"1"
    for listed in sorted(_numbers(out) | ({int(known)} if re.fullmatch(rb"\d{1,8}", known) else set()), reverse=True):
        number, data = listed, out.get(_path(listed))
        if data is None:
            continue  # Deleted meanwhile
        while (later := out.get(_path(number + 1))) is not None:  # Not listed yet
            number, data = number + 1, later
        try:
            return _parsed(number, data), data
        except (ValueError, TypeError, OverflowError):
            raise ContractError(
                f"{out}/{_path(number)} is not a lock that this version wrote",
                hint="did a newer cloudjob write it? If no run is at work there, move it away; or another --out",
            ) from None
    return None, b""


def _parsed(number: int, data: bytes) -> Token:
    """A lock file's holder; its number is that of the file's name. Nobody is known of an empty one.

    Raises:
        ValueError, TypeError: no run of cloudjob wrote it.
    """
    if not data.strip(b"\0"):  # What file systems leave of a file that was young when the power failed
        return Token(number, "", "", "", 0, "", "", "1970-01-01T00:00:00Z", HEARTBEAT)
    token = Token(**(parse(data) | {"number": number}))
    texts = (token.id, token.host, token.boot, token.started, token.since, token.renewed)
    if not all(isinstance(text, str) for text in texts) or type(token.pid) is not int:
        raise TypeError("its texts or its process are of other types")
    if type(token.released) is not bool or type(token.heartbeat) not in (int, float):
        raise TypeError("its heartbeat or its end are of other types")
    if not 0 < token.heartbeat <= LONGEST or datetime.fromisoformat(token.renewed).tzinfo is None:
        raise ValueError(f"its heartbeat is no time of up to {LONGEST} s, or its sign of life has no zone")
    return token


def _path(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _numbers(out: Out) -> set[int]:
    return {int(name[:8]) for name in out.names(FOLDER) if re.fullmatch(r"\d{8}\.json", name)}


def _dead_here(holder: Token) -> bool:
    """Whether the holder was a process of this machine that is no more, or this one, which holds it no more."""
    if not (_is_here(holder) and holder.started):
        return False
    now = _process_start(holder.pid)
    return now != holder.started or (holder.pid == os.getpid() and holder.id not in _held)


def _is_here(holder: Token) -> bool:
    """Whether the holder's process number means something here: machines and containers may share a name."""
    return holder.host == socket.gethostname() and holder.boot == _boot() != "" and not _hidden(holder.pid)


def _hidden(pid: int) -> bool:
    """Whether there is a process of which nothing is told: of another user, where /proc is mounted with `hidepid`."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not os.access(f"/proc/{pid}/stat", os.R_OK)
    except (OSError, OverflowError):  # There is none, or can be none
        return False
    return False


def _boot() -> str:
    """Which start of which machine this is, and whose process numbers count; "" where the kernel does not tell."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{machine} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" if there is none, or only what its parent left of it."""
    try:
        # The second field is a name that may hold blanks and brackets: https://man7.org/linux/man-pages/man5/proc.5.html
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
