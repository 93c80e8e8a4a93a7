"""What a person sees on a terminal: one bar, and above it only what deserves a look."""

import contextlib
import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from jobs import (
    CLOUDJOB,
    EVERYWHERE,
    brightness_checkpoint,
    environment,
    make_scene,
    random_checkpoint,
    run_here,
    write_catalog,
)

from cloudjob import logs
from cloudjob.store import ledger
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt, SceneResult
from cloudjob.watch import terminal


def on_a_terminal(*command: str | Path, columns: int = 110) -> tuple[int, str]:
    """(exit code, everything written to a terminal of that width) of a command."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(list(map(str, command)), env=environment(), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # Linux says so when nobody holds the other end any more
        while data := os.read(ours, 65_536):
            written += data
    os.close(ours)
    return process.wait(30), written.decode()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.2, "less than a second"),
        (1, "1 s"),
        (99, "99 s"),
        (100, "2 min"),
        (5369, "89 min"),
        (5371, "1 h 30 min"),
        (7200, "2 h 00 min"),
    ],
)
def test_durations(seconds, told):
    assert terminal.duration(seconds) == told


def test_many_pixels_are_told_by_the_thousand(caplog):
    result = SceneResult("A", "33UUP", "done", Receipt(clear=1_234_560_000))
    with caplog.at_level(logging.INFO):
        assert terminal.progress([result], as_json=False) == 0
    assert "(1,234.6 Mpx)" in caplog.text


def test_one_is_singular():
    assert [logs.many(number, "scene") for number in (0, 1, 2, 1000)] == [
        "0 scenes",
        "1 scene",
        "2 scenes",
        "1,000 scenes",
    ]


def test_one_scene_is_no_range(tmp_path):
    scenes = [make_scene(tmp_path, f"scene-{n}", f"2024-06-0{n}T10:00:00Z", seed=n) for n in (1, 2)]
    checkpoint = random_checkpoint(tmp_path / "checkpoint.safetensors")
    told = []
    for found in (scenes[:1], scenes):
        run_here(write_catalog(tmp_path / "items.json", found), checkpoint, tmp_path / "out")
        lines = terminal._status_lines(ledger.summary(Out.at(tmp_path / "out")))
        told += [line for line in lines if line.startswith("cloud cover")]
    number = r"[0-9.]+"
    assert re.fullmatch(rf"cloud cover {number} %", told[0])
    assert re.fullmatch(rf"cloud cover {number} to {number} %, {number} % on average", told[1])


@pytest.mark.parametrize("columns", [110, 0])
def test_a_bar_counts_scenes_and_failures_are_told_above_it(tmp_path, columns):
    """Also on a terminal that tells no size, as those of some containers."""
    scenes = [make_scene(tmp_path, f"scene-{n}", f"2024-06-0{n}T10:00:00Z") for n in (1, 2, 3)]
    Path(scenes[1]["assets"]["red"]["href"]).unlink()
    catalog = write_catalog(tmp_path / "items.json", scenes)
    checkpoint = brightness_checkpoint(tmp_path / "checkpoint.safetensors")
    code, seen = on_a_terminal(
        *(*CLOUDJOB, "run", "--catalog", catalog, "--checkpoint", checkpoint, "--out", tmp_path / "out", *EVERYWHERE),
        columns=columns,
    )
    assert code == 1
    lines = [line.rpartition("\r")[2] for line in seen.replace("\r\n", "\n").split("\n")]
    bars = [part for part in re.split(r"[\r\n]", seen) if " scenes |" in part]
    assert "0/3 scenes" in bars[0]
    assert "3/3 scenes" in bars[-1]
    assert re.search(r" left, [0-9.]+ Mpx/s, 1 failed$", bars[-1].rstrip())
    assert all(len(bar) <= (columns or 80) for bar in bars)
    (failed,) = (line for line in lines if "scene-2" in line)
    assert "red" in failed, "whole lines of their own, not drawn into the bar"
    assert " scenes |" not in failed
    assert "scene-1" not in seen, "the bar counts what went well"
    assert "2 done, 1 failed" in lines[-2]
