"""The package as others get it: a wheel outside of its checkout, and an OUT that the version before has begun."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jobs
import pytest

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
BEFORE = "44a8b5a"
"""The last commit of version 0.1 in one flat folder."""

CLI = "import sys; from cloudjob.cli import main; sys.exit(main())"
CHECKPOINT = """
import sys
from conftest import make_checkpoint
from cloudjob.checkpoint import save
one = make_checkpoint(tile=64)
save(one.network, one.contract, sys.argv[1])
"""


def of(folder, *arguments, **how):
    """Run the `cloudjob` that lies in `folder`, from nowhere near the checkout."""
    return jobs.cloudjob(*arguments, command=(sys.executable, "-P", "-c", CLI), PYTHONPATH=str(folder), **how)


SMALL = """
import sys
from pathlib import Path
from cloudjob.demo.collection import collection
collection(Path(sys.argv[1]), shrink=4)
"""
"""The demo's catalog, a sixteenth as large, which `cloudjob demo` takes if it is there."""


def test_a_wheel_runs_the_demo(tmp_path):
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path / "there", ROOT)
    subprocess.run(list(map(str, pip)), check=True, cwd=tmp_path)
    where = (sys.executable, "-P", "-c", "import cloudjob; print(cloudjob.__file__)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "there")}
    done = subprocess.run(where, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert Path(done.stdout.strip()) == tmp_path / "there/cloudjob/__init__.py"
    made = (sys.executable, "-P", "-c", SMALL, tmp_path / "demo/catalog")
    subprocess.run(list(map(str, made)), check=True, cwd=tmp_path, env=environment)
    done = of(tmp_path / "there", "demo", "--out", tmp_path / "demo")
    assert done.code == 0, done.stderr
    assert len(done.stdout.splitlines()) > 6, "it is compared with the truth"
    assert len(jobs.items(tmp_path / "demo/masks")) == 6


def test_an_out_of_the_version_before_is_continued(tmp_path):
    """Not a byte of its finished masks and items changes."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", BEFORE, "cloudjob", "tests/conftest.py"], capture_output=True, check=False
    )
    assert archive.returncode == 0, f"needs the whole history: {archive.stderr.decode()}"
    before = tmp_path / "before"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(before, filter="data")
    maker = (sys.executable, "-P", "-c", CHECKPOINT, str(tmp_path / "net.safetensors"))
    path = os.pathsep.join([str(before), str(before / "tests")])
    subprocess.run(maker, check=True, env={**os.environ, "PYTHONPATH": path})
    days = (1, 2, 3, 4)
    scenes = [jobs.make_scene(tmp_path, f"S2A_33UUP_2024060{n}_0_L2A", f"2024-06-0{n}T10:15:59Z", seed=n) for n in days]
    jobs.write_catalog(tmp_path / "first.json", scenes[:3])
    jobs.write_catalog(tmp_path / "items.json", scenes)
    job = ("run", "--checkpoint", tmp_path / "net.safetensors", *jobs.EVERYWHERE, "--workers", 1)

    done = of(before, *job, "--catalog", tmp_path / "first.json", "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    kept = {
        name: told
        for name, told in jobs.kept(tmp_path / "out").items()
        if name.startswith("items/") or ("/cloud/c/" in name and name.startswith("masks.zarr/"))
    }
    assert len(kept) == 3 + 3 * 12  # Items, and shards of three scenes

    done = jobs.cloudjob(*job, "--catalog", tmp_path / "items.json", "--out", tmp_path / "out")
    assert done.code == 0, done.stderr
    assert "4 scenes: 3 done, 1 new" in done.stderr
    assert kept.items() <= jobs.kept(tmp_path / "out").items()
    status = jobs.cloudjob("status", tmp_path / "out", "--json")
    assert json.loads(status.stdout)["done"] == 4
    assert jobs.cloudjob("check", tmp_path / "out").code == 0

    jobs.run_here(tmp_path / "items.json", tmp_path / "net.safetensors", tmp_path / "whole")
    for scene in (item["id"] for item in scenes):
        assert (jobs.mask_of(tmp_path / "out", scene) == jobs.mask_of(tmp_path / "whole", scene)).all()
