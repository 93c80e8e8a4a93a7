import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import pytest
from bucket import bucket

from cloudjob.errors import UNREACHABLE, ContractError, UnreachableError
from cloudjob.store import lock as locks
from cloudjob.store.document import dump
from cloudjob.store.lock import Lock, LockLostError, Token, _acquire, _boot, _process_start, check
from cloudjob.store.out import Out


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out.at(tmp_path / "out")


def held(out: Out) -> dict[str, object]:
    (path,) = (Path(out.address) / "lock").glob("*.json")  # Not what a sign of life is written to before it is renamed
    return json.loads(path.read_text())


def leave(out: Out, number: int = 1, **changes: object) -> Token:
    """A lock as somebody left it: by default a process of this machine that is no more."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    started = _process_start(dead.pid)
    dead.wait()
    token = Token(
        number=number,
        id="x",
        host=socket.gethostname(),
        boot=_boot(),
        pid=dead.pid,
        started=started,
        since="2024-06-01T02:00:00Z",
        renewed="2024-06-01T02:00:00Z",
        heartbeat=0.2,
    )
    token = replace(token, **changes)  # type: ignore[arg-type]
    out.put(token.path, dump(asdict(token)))
    return token


def now(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> list[float]:
    """What happens while a lock is watched, in place of the wait; gives for how long that would have been."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        happens()

    monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=sleep))
    return waited


def test_the_second_run_is_refused_and_told_who_is_at_work(out: Out):
    with Lock(out):
        with (
            pytest.raises(UnreachableError, match=f"process {os.getpid()} on {socket.gethostname()}") as refused,
            Lock(out),
        ):
            pass
        assert refused.value.exit_code == UNREACHABLE
        assert str(held(out)["since"]) in str(refused.value)
    with Lock(out):
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_is_released_whatever_ends_the_run(out: Out, error: type[BaseException]):
    with pytest.raises(error), Lock(out):
        raise error
    assert held(out)["released"] is True
    with Lock(out) as lock:
        lock.check()
        assert held(out)["released"] is False


def test_numbers_are_never_used_twice(out: Out):
    for number in (1, 2, 3):
        with Lock(out) as lock:
            assert lock.token.number == number
            assert held(out)["number"] == number  # the only file left


def test_a_dead_process_of_this_machine_is_replaced_at_once(out: Out):
    leave(out, renewed=now(), heartbeat=1000.0)
    with Lock(out) as lock:
        assert lock.token.number == 2


def test_a_process_of_a_number_that_none_can_have_is_dead(out: Out):
    leave(out, pid=10**30, renewed=now(), heartbeat=1000.0)
    with Lock(out) as lock:
        assert lock.token.number == 2


def test_another_process_with_the_number_of_the_dead_does_not_count(out: Out):
    leave(out, pid=os.getpid(), started="1", renewed=now(), heartbeat=1000.0)
    with Lock(out) as lock:
        assert lock.token.number == 2


def test_a_zombie_is_dead(out: Out):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = _process_start(child.pid)
    assert started
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and nobody has asked how
    assert _process_start(child.pid) == ""
    leave(out, pid=child.pid, started=started, renewed=now(), heartbeat=1000.0)
    with Lock(out):
        child.communicate()


def test_a_run_elsewhere_that_has_ended_is_followed_at_once(out: Out):
    leave(out, host="elsewhere", renewed=now(), heartbeat=1000.0, released=True)
    with Lock(out) as lock:
        assert lock.token.number == 2


def test_a_process_of_this_machine_that_lives_is_never_taken_for_dead(out: Out):
    """It is stopped, or the machine was asleep: it gives no sign of life, and goes on."""
    alive = os.getppid()
    leave(out, pid=alive, started=_process_start(alive), renewed=now(hours=1))
    with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
        pass


HOLD = """
import sys, time
from cloudjob.errors import CloudjobError
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
sys.stdin.readline()
try:
    with Lock(Out.at(sys.argv[1])):
        print("holds", flush=True)
        sys.stdin.readline()
except CloudjobError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""

HIDING = [
    *("unshare", "--mount", "--propagation", "private"),
    *("sh", "-c", 'mount -t proc -o hidepid=$0 proc /proc && exec "$@"'),
]
WITHOUT_RIGHTS = [
    # A user who sees nothing of anybody else's processes, and may write here all the same
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=+dac_override"),
]


@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_another_users_process_that_is_hidden_is_not_taken_for_dead(out: Out, hidepid: str):
    """Where many share a machine, each may look at its own processes only: a run that lived lost its lock to another's.

    With 1 it is seen that there are others, but nothing of them.
    """
    as_another = [*HIDING, hidepid, *WITHOUT_RIGHTS]
    if os.getuid() or subprocess.run([*as_another, "true"], check=False).returncode:
        pytest.skip("needs root, to hide processes from another user")
    with Lock(out) as lock:
        command = [*as_another, sys.executable, "-c", HOLD, out.address]
        other = subprocess.run(command, input="\n\n", capture_output=True, text=True, check=False)
        lock.check()
    assert (other.returncode, other.stdout) == (UNREACHABLE, "")
    assert "another run is at work" in other.stderr


def test_where_the_kernel_does_not_tell_machines_apart_their_processes_are_not_told_apart_either(
    out: Out, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(locks, "_boot", lambda: "")
    leave(out, boot="", renewed=now(), heartbeat=1000.0)
    with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
        pass


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"boot": "another container"}])
def test_elsewhere_two_heartbeats_must_have_been_missed(out: Out, elsewhere: dict[str, str]):
    leave(out, **elsewhere, renewed=now(), heartbeat=100.0)
    with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
        pass
    leave(out, **elsewhere, renewed=now(hours=1))
    began = time.monotonic()
    with Lock(out):
        assert time.monotonic() - began >= 0.4


def test_a_clock_that_is_slow_does_not_make_a_live_run_look_dead(out: Out, monkeypatch: pytest.MonkeyPatch):
    token = leave(out, host="elsewhere", renewed=now(hours=3), heartbeat=1.0)
    renewed = replace(token, renewed=now(hours=2.9))
    waited = meanwhile(monkeypatch, lambda: out.put(token.path, dump(asdict(renewed))))
    with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
        pass
    assert waited == [2.0]


@pytest.mark.parametrize("ahead", [0.2, 3600])
def test_a_clock_that_is_fast_does_not_either(out: Out, ahead: float, monkeypatch: pytest.MonkeyPatch):
    token = leave(out, host="elsewhere", renewed=now(seconds=-ahead), heartbeat=1.0)
    renewed = replace(token, renewed=now(seconds=-ahead - 0.5))
    meanwhile(monkeypatch, lambda: out.put(token.path, dump(asdict(renewed))))
    with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
        pass


def test_a_dead_run_whose_clock_was_fast_locks_nobody_out_until_then(out: Out):
    leave(out, host="elsewhere", renewed=now(days=-1))
    began = time.monotonic()
    with Lock(out):
        assert time.monotonic() - began >= 0.4


def test_the_heartbeat_gives_signs_of_life(out: Out):
    with Lock(out, heartbeat=0.05) as lock:
        first = held(out)["renewed"]
        for _ in range(100):
            time.sleep(0.05)
            if held(out)["renewed"] != first:
                break
        assert held(out)["renewed"] != first
        lock.check()


def test_a_run_that_was_held_up_notices_that_it_lost(out: Out, caplog: pytest.LogCaptureFixture):
    with Lock(out, heartbeat=0.05) as lock:
        (Path(out.address) / "lock" / "00000001.json").unlink()
        mine = leave(out, 2, renewed=now(), heartbeat=1000.0)
        with pytest.raises(LockLostError, match="lost the lock") as lost:
            lock.check()
        assert lost.value.exit_code == UNREACHABLE
        lock._thread.join(5)
        assert not lock._thread.is_alive()  # and it gives no more signs of life
    # The other's is left alone; a sign of life that was on its way may have made the own file again
    assert json.loads(out.get(mine.path) or b"") == asdict(mine)
    assert "lost the lock" in caplog.text


def test_a_removed_lock_is_lost(out: Out):
    with Lock(out) as lock:
        (Path(out.address) / "lock" / "00000001.json").unlink()
        with pytest.raises(LockLostError, match="gone"):
            lock.check()
    assert out.names("lock") == set(), "nothing is written any more where it lay"


@pytest.mark.parametrize("error", [UnreachableError("the disk is full"), KeyboardInterrupt()])
def test_this_process_is_not_refused_by_what_it_could_not_release(
    error: BaseException, out: Out, monkeypatch: pytest.MonkeyPatch
):
    """The disk is full when a run ends; whoever embeds it makes room and runs it again, in the same process."""

    def full(*_: object) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt), Lock(out) as first:
        patch.setattr(Out, "put", full)
    assert not held(out)["released"]
    with Lock(out) as second:
        assert second.token.number == first.token.number + 1
        with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
            pass
    assert held(out)["released"]


def test_of_two_threads_of_one_process_one_holds_it(out: Out):
    """Also at the moment at which the file is there and the other thread has not yet been told."""
    leave(out)
    seen: list[str] = []
    original = Out.create

    def and_look(self: Out, path: str, data: bytes) -> bool:
        made = original(self, path, data)
        if not seen:
            seen.append(path)
            with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
                pass
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Out, "create", and_look)
        with Lock(out):
            pass
    assert seen


def test_a_run_whose_first_attempt_to_lock_was_not_answered_is_not_its_own_rival(out: Out):
    """The file was made, the answer lost, the store asked again: there is one already."""
    original = obstore.put

    def twice(*arguments: Any, **named: Any) -> Any:
        original(*arguments, **named)
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put", twice)
        with Lock(out) as lock:
            lock.check()
            assert held(out)["id"] == lock.token.id


@pytest.mark.parametrize("before", [0, 2])
def test_a_lock_that_its_store_does_not_list_is_asked_for_by_name(before: int, monkeypatch: pytest.MonkeyPatch):
    """Two runs were at work; where it was the first of its OUT, the second one asked for ever."""
    with bucket(monkeypatch) as store:
        out = Out.at("s3://bucket/out")
        for _ in range(before):
            with Lock(out):
                pass
        with Lock(out) as first:
            store.hidden = "^out/lock/"
            with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
                pass
            first.check()
        for _ in range(2):
            with Lock(out) as lock:
                lock.check()
        assert lock.token.number == before + 3
        assert {path for path in store.objects if path.endswith(".json")} == {f"out/{lock.token.path}"}


@pytest.mark.parametrize("told", [b"9" * 5000, b"99999999", b"0", b"two", b"\xff"])
def test_what_is_told_wrong_of_the_newest_lock_stops_no_run(told: bytes, monkeypatch: pytest.MonkeyPatch):
    """A number of 5,000 digits was a crash."""
    with bucket(monkeypatch) as store:
        out = Out.at("s3://bucket/out")
        with Lock(out):
            pass
        store.objects[f"out/{locks.NEWEST}"] = told
        with Lock(out) as lock:
            with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
                pass
            lock.check()
        assert (lock.token.number, store.objects[f"out/{locks.NEWEST}"]) == (2, b"2")


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_want_it_at_once_one_gets_it(out: Out, stale: bool):
    for number in range(20):
        place = Out.at(f"{out}/{number}")
        if stale:
            leave(place)
        barrier, won, refused = threading.Barrier(6), [], []

        def want(place: Out = place, barrier: threading.Barrier = barrier, won: list = won, refused: list = refused):
            barrier.wait()
            try:
                won.append(_acquire(place, 1000.0))
            except UnreachableError as error:
                refused.append(error)

        threads = [threading.Thread(target=want) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(refused)) == (1, 5)
        check(place, won[0])


def test_one_that_was_held_between_looking_and_creating_backs_off(out: Out, monkeypatch: pytest.MonkeyPatch):
    leave(out, 1)
    original = Out.create

    def late(self: Out, path: str, data: bytes) -> bool:
        if path == "lock/00000002.json":  # Number 2 has come and gone meanwhile, and 3 is at work
            out.delete(["lock/00000001.json"])
            leave(out, 3, pid=os.getppid(), started=_process_start(os.getppid()), renewed=now())
        return original(self, path, data)

    monkeypatch.setattr(Out, "create", late)
    with pytest.raises(UnreachableError, match="another run is at work"), Lock(out):
        pass
    assert held(out)["number"] == 3


def start(out: Out) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, out.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_race_and_a_killed_one_is_followed(out: Out):
    racing = [start(out), start(out)]
    for process in racing:
        tell(process)
    said = [process.stdout.readline() for process in racing if process.stdout]
    assert sorted(said) == ["", "holds\n"]
    winner, loser = racing if said[0] else racing[::-1]
    assert loser.wait(30) == UNREACHABLE
    winner.send_signal(signal.SIGKILL)
    winner.wait(30)
    with Lock(out) as lock:
        assert lock.token.number == 2
    for process in racing:
        process.communicate()


def test_ctrl_c_releases_it(out: Out):
    process = start(out)
    tell(process)
    assert process.stdout
    assert process.stdout.readline() == "holds\n"
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert held(out)["released"] is True


@pytest.mark.parametrize("left", [b"", b"\0" * 400])
def test_what_a_power_cut_left_of_a_lock_locks_nobody_out(
    out: Out, left: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It was said to be no lock of cloudjob's, to every later run, and to `check --repair`."""
    monkeypatch.setattr(locks, "HEARTBEAT", 0.2)
    out.put("lock/00000007.json", left)
    began = time.monotonic()
    with Lock(out) as lock:
        assert time.monotonic() - began >= 0.4
        assert lock.token.number == 8
    assert "whose machine went down while it wrote lock/00000007.json" in caplog.text
    assert out.names("lock") == {"00000008.json"}


def test_an_empty_lock_whose_run_is_alive_after_all_is_respected(
    out: Out, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """On a disk without hard links a lock is empty for a moment: of two runs the loser told of a machine gone down."""
    monkeypatch.setattr(locks, "HEARTBEAT", 0.5)
    token = leave(out, host="elsewhere", renewed=now())
    out.put(token.path, b"")
    waited = meanwhile(monkeypatch, lambda: out.put(token.path, dump(asdict(token))))
    with (
        pytest.raises(UnreachableError, match=f"another run is at work.*: process {token.pid} on elsewhere"),
        Lock(out),
    ):
        pass
    assert waited == [1.0]
    assert "a run that begins at this moment, or whose machine went down" in caplog.text


def test_something_else_in_its_place_is_an_error(out: Out):
    out.put("lock/00000001.json", b"{}")
    with pytest.raises(ContractError, match="not a lock"), Lock(out):
        pass


@pytest.mark.parametrize(
    "odd",
    [
        *({"heartbeat": value} for value in ("15", True, 0, -1.0, 1e9, 10**400, float("nan"), float("inf"))),
        *({"renewed": value} for value in ("yesterday", "2024-06-01T00:00:00", 7, None)),
        {"pid": "1"},
        {"host": 1},
        {"released": "no"},
        {"more": 1},
    ],
)
def test_a_lock_of_other_types_is_an_error(out: Out, odd: dict[str, object]):
    token = leave(out, host="elsewhere", renewed=now(), heartbeat=1.0)
    out.put(token.path, json.dumps(asdict(token) | odd).encode())
    with pytest.raises(ContractError, match="not a lock"), Lock(out):
        pass


@pytest.mark.parametrize("number", ["1", None, [], 10**30, 1, 7])
def test_the_number_of_a_lock_is_that_of_its_file(out: Out, number: object):
    token = leave(out, 3, renewed=now(), heartbeat=1.0, released=True)
    out.put(token.path, json.dumps(asdict(token) | {"number": number}).encode())
    with Lock(out) as lock:
        assert lock.token.number == 4
