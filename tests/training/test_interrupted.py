"""What ends a training early costs no more than an epoch, leaves whole files, and is said without a traceback."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import click
import pytest
import torch
from click.testing import CliRunner
from experiment import ROOT, TINY, refused

from cloudjob.errors import ContractError
from cloudjob.model import checkpoint
from training import settings
from training.errors import told
from training.state import State


def test_ctrl_c_while_processes_prepare_samples(tmp_path):
    """A terminal sends it to all of them; it waited for hundreds of simulated skies, and helpers wrote tracebacks."""
    (tmp_path / "long.toml").write_text(TINY.replace("simulated = 4", "simulated = 4000"))
    command = [sys.executable, "-m", "training", str(tmp_path / "long.toml"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--workers", "2"], cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert "patches" in process.stderr.readline()
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 4, "hint: free some space, then run the same command again"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), 1, "fewer --workers"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, "fewer --workers"),
    ],
)
def test_a_full_disk_and_a_helper_killed_for_its_memory_are_told(error, code, said):
    @click.command
    def command():
        with told():
            raise error

    result = CliRunner().invoke(command)
    assert result.exit_code == code
    assert said in result.stderr


HOLDS = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"


def test_two_trainings_in_one_folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(out / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        code, errors = refused(tmp_path, out)
        holder.kill()
    assert code == 4
    assert f"another training is at work in {out}" in errors


@pytest.fixture
def state(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return State(settings.read(tmp_path / "tiny.toml"), torch.device("cpu"), "one")


def test_a_state_that_is_broken_is_told(state, tmp_path):
    state.save(tmp_path / "last")
    path = tmp_path / "last" / "state.safetensors"
    whole = path.read_bytes()
    for part in (b"", whole[:100], whole[:-10]):
        path.write_bytes(part)
        with pytest.raises(ContractError, match="cannot be read"):
            state.resume(tmp_path / "last")


def test_the_best_checkpoint_survives_a_full_disk(state, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    state.keep(path, {})
    best = path.read_bytes()

    def full(network, contract, path):
        path.write_bytes(best[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="No space"):
        state.keep(path, {})
    assert path.read_bytes() == best
