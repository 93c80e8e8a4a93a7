"""The rule on skips, tried on a folder of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no server")

@pytest.mark.skip(reason="marked")
def test_marked():
    pass

@pytest.fixture
def server():
    pytest.skip("no server")

def test_fixture_skips(server):
    pass

@pytest.mark.xfail(reason="known", strict=True)
def test_known():
    assert False
"""


@pytest.fixture
def run(tmp_path):
    folder = Path(__file__).parent
    shutil.copy(folder / "skips.py", tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").touch()

    def run(tests, allowed):
        (tmp_path / "test_it.py").write_text(tests)
        (tmp_path / "allowed_skips.txt").write_text(allowed)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def test_a_skip_fails_and_says_why(run):
    done = run(TESTS, "test_it.py::test_marked # this machine has none\n")
    assert done.returncode == 1
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in done.stdout
    assert "FAILED test_it.py::test_skips" in done.stdout
    assert "test_it.py::test_fixture_skips" in done.stdout
    assert "no server" in done.stdout
    assert "unless allowed_skips.txt names" in done.stdout


def test_what_the_list_allows_passes(run):
    names = ("test_skips", "test_marked", "test_fixture_skips")
    done = run(TESTS, "# why\n" + "".join(f"test_it.py::{name} # a reason\n" for name in names))
    assert done.returncode == 0
    assert "1 passed, 3 skipped, 1 xfailed" in done.stdout


def test_a_file_that_skips_itself_fails(run):
    done = run('import pytest\npytest.importorskip("no_such_module")\n', "")
    assert done.returncode != 0
    assert "no_such_module" in done.stdout


def test_no_reason_no_leave(run):
    done = run(TESTS, "test_it.py::test_skips\n")
    assert done.returncode != 0
    assert "has no reason" in done.stdout + done.stderr
