"""`--out s3://…` on a real S3 server: everything that is promised of a folder holds of a bucket."""

import json
import os
import signal
import subprocess
import time
import uuid
from contextlib import contextmanager, nullcontext

import jobs
import numpy as np
import obstore
import pytest
import rasterio

from .servers import S3_KEYS, VENV, s3, s3_environment, s3_ports, s3_store

pytestmark = pytest.mark.deploy

SCENES = 4


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a catalog and a checkpoint, and what a run into a folder makes of them."""
    folder = tmp_path_factory.mktemp("s3-work")
    days = range(1, SCENES + 1)
    scenes = [jobs.make_scene(folder, f"S2A_33UUP_2024060{n}_0_L2A", f"2024-06-0{n}T10:15:59Z", seed=n) for n in days]
    jobs.write_catalog(folder / "items.json", scenes)
    jobs.random_checkpoint(folder / "net.safetensors")
    done = run(folder, folder / "reference")
    assert done.code == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The environment in which an S3 server is found."""
    ports = s3_ports()
    with s3(tmp_path_factory.mktemp("s3"), ports):
        yield s3_environment(ports)


@pytest.fixture(scope="module")
def run_on(work, server):
    """Runs into the server on a cluster that has been started: a function of the output, and more options."""
    with jobs.dask_cluster(**server) as cluster:
        what = work / "items.json", work / "net.safetensors"
        yield lambda out, *more: jobs.run_job(*what, out, "--cluster", cluster, *more, **server)


@pytest.fixture
def out(request):
    """An address that no other test uses."""
    return f"s3://masks/{request.node.name.partition('[')[0]}-{uuid.uuid4().hex[:8]}"


def run(work, out, *more, **how):
    return jobs.run_job(work / "items.json", work / "net.safetensors", out, "--workers", 2, *more, **how)


def written(place):
    """Every object: its tag and when it was written."""
    return {each["path"]: (each["e_tag"], each["last_modified"]) for batch in obstore.list(place) for each in batch}


def masks_and_items(place):
    """What is written, but for the records of the runs themselves."""
    return {path: tag for path, tag in written(place).items() if path.split("/")[0] not in ("lock", "runs")}


def copied(place, folder):
    """The same objects as files."""
    for path in written(place):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(bytes(obstore.get(place, path).bytes()))
    return folder


def wait_for(marker, process):
    """Until the sabotage has happened."""
    deadline = time.monotonic() + 120
    while True:
        over = process.poll() is not None  # Asked first: the sabotage may be what ends it
        if marker.exists():
            return
        assert not over, process.communicate()
        assert time.monotonic() < deadline, "no sabotage"
        time.sleep(0.05)


@contextmanager
def sabotaged(work, out, plan, **environment):
    """A run in the background that is sabotaged."""
    command = [*jobs.SABOTAGED, "run", "--catalog", work / "items.json", "--checkpoint", work / "net.safetensors"]
    process = subprocess.Popen(
        [*map(str, command), "--out", out, *jobs.EVERYWHERE, "--workers", "2"],
        env=jobs.environment(CLOUDJOB_TEST_SABOTAGE=plan, **environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_run_rerun_and_read(work, server, run_on, out, tmp_path):
    done = run(work, out, **server)
    assert done.code == 0, done.stderr
    place = s3_store(server, out)
    jobs.assert_same(copied(place, tmp_path / "copy"), work / "reference")
    for path in (tmp_path / "copy").rglob("*"):
        assert path.is_dir() or not any(key.encode() in path.read_bytes() for key in S3_KEYS.values()), path

    before = masks_and_items(place)
    again = run_on(out)
    assert again.code == 0, again.stderr
    assert again.stderr.startswith(f"{SCENES} scenes: {SCENES} done")
    assert masks_and_items(place) == before, "nothing to do, so only the run itself is recorded"
    assert sum(path.startswith("runs/") for path in written(place)) == 2


def test_other_commands(work, server, run_on, out, tmp_path):
    assert run_on(out, "--dates", "2024-06-01/2024-06-02").code == 0
    status = jobs.cloudjob("status", out, "--json", **server)
    assert json.loads(status.stdout)["done"] == 2
    plan = jobs.cloudjob(
        "plan", "--catalog", work / "items.json", "--checkpoint", work / "net.safetensors",
        "--out", out, "--json", *jobs.EVERYWHERE, **server,
    )  # fmt: skip
    assert plan.code == 0, plan.stderr
    assert sorted(scene["state"] for scene in json.loads(plan.stdout)["scenes"]) == ["done", "done", "new", "new"]
    scene = "S2A_33UUP_20240602_0_L2A"
    exported = jobs.cloudjob("export", out, scene, tmp_path / "mask.tif", **server)
    assert exported.code == 0, exported.stderr
    with rasterio.open(tmp_path / "mask.tif") as file:
        np.testing.assert_array_equal(file.read(1), jobs.mask_of(work / "reference", scene))
    place, before = s3_store(server, out), {}
    for _ in range(2):
        report = jobs.cloudjob("report", out, **server)
        assert report.code == 0, report.stderr
        assert report.stdout == f"{out}/report/index.html\n"
        page = bytes(obstore.get(place, "report/index.html").bytes()).decode()
        assert page.count("data:image/webp;base64,") == 4
        assert not any(key in page for key in S3_KEYS.values())
        pictures = {path: tag for path, tag in written(place).items() if path.startswith("report/pictures/")}
        assert len(pictures) == 2
        assert pictures == (before or pictures)  # The second time they are kept
        before = pictures


READ = """
import sys
import numpy as np, xarray as xr
np.save(sys.argv[2], xr.open_zarr(sys.argv[1])["cloud"].values)
"""


def test_others_read_it(work, server, run_on, out, tmp_path):
    """By xarray and s3fs in an environment without cloudjob, and by xarray on an obstore store."""
    import xarray as xr
    import zarr.storage

    assert run_on(out).code == 0
    ((group, expected),) = jobs.masks(work / "reference").items()
    (tmp_path / "read.py").write_text(READ)
    command = [VENV / "python", tmp_path / "read.py", f"{out}/masks.zarr/{group}", tmp_path / "values.npy"]
    done = subprocess.run(command, env={**os.environ, **server}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = np.load(tmp_path / "values.npy")
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, expected["cloud"])
    place = zarr.storage.ObjectStore(s3_store(server, f"{out}/masks.zarr/{group}"), read_only=True)
    np.testing.assert_array_equal(xr.open_zarr(place)["cloud"].values, expected["cloud"])


@pytest.mark.parametrize(
    ("event", "nth", "victim"),
    [("after shard", 7, "client"), ("before item", 2, "self"), ("after lock", 1, "self")],
)
def test_kill_and_rerun(work, server, run_on, out, tmp_path, event, nth, victim):
    plan = jobs.sabotage(tmp_path / "struck", event, nth, victim=victim)
    killed = run(work, out, command=jobs.SABOTAGED, CLOUDJOB_TEST_SABOTAGE=plan, **server)
    assert killed.code == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "struck").exists()
    again = run_on(out)
    assert again.code == 0, again.stderr
    jobs.assert_same(copied(s3_store(server, out), tmp_path / "copy"), work / "reference")


def test_two_at_once(work, server, run_on, out, tmp_path):
    """The first is held while the second tries: a bucket's exclusive create tells them apart."""
    plan = jobs.sabotage(tmp_path / "held", "after shard", 3, victim="client", number=signal.SIGSTOP)
    with sabotaged(work, out, plan, **server) as first:
        wait_for(tmp_path / "held", first)
        second = run_on(out)
        first.send_signal(signal.SIGCONT)
        assert first.wait(120) == 0
    assert second.code == 4, second.stderr
    assert "another run is at work" in second.stderr
    jobs.assert_same(copied(s3_store(server, out), tmp_path / "copy"), work / "reference")


@pytest.mark.parametrize("wrong", S3_KEYS)
def test_a_wrong_key(work, server, out, tmp_path, wrong):
    """Exit code 4: once somebody has mended it, the same command works. The key is told nobody."""
    secret = "WRONGKEYWRONGKEYWRONG"
    environment = {**server, wrong: secret}
    for done in (
        run(work, out, "--json", **environment),
        jobs.cloudjob("-v", "status", out, **environment),
        jobs.cloudjob("export", out, "2024-06-01", tmp_path / "mask.tif", **environment),
    ):
        assert done.code == 4, done.stderr
        assert f"error: {out}: access denied" in done.stderr
        assert "hint: check the credentials" in done.stderr
        assert "Traceback" not in done.stderr
        for key in (secret, *S3_KEYS.values()):
            assert key not in done.stdout + done.stderr


def test_no_such_bucket(server):
    done = jobs.cloudjob("status", "s3://nowhere/masks", **server)
    assert done.code == 4
    assert done.stderr == "error: s3://nowhere/masks: there is no such bucket\nhint: create it, or correct --out\n"


def test_a_profile(work, server, out, tmp_path):
    """As the AWS tools write it; variables win, and a profile that is none is told."""
    id_, secret = S3_KEYS.values()
    (tmp_path / "credentials").write_text(f"[nightly]\naws_access_key_id = {id_}\naws_secret_access_key = {secret}\n")
    found = {name: value for name, value in server.items() if name not in S3_KEYS}
    found |= {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_EC2_METADATA_DISABLED": "true"}
    assert run(work, out, **found, AWS_PROFILE="nightly").code == 0
    assert jobs.cloudjob("status", out, **found, AWS_PROFILE="nightly").code == 0
    assert jobs.cloudjob("status", out, **found, **S3_KEYS, AWS_PROFILE="daily").code == 0
    done = jobs.cloudjob("status", out, **found, AWS_PROFILE="daily")
    assert done.code == 2
    assert "AWS_PROFILE names, 'daily', cannot be read: The config profile (daily) could not be found" in done.stderr


@pytest.mark.parametrize("comes_back", [True, False])
def test_the_server_is_killed_in_the_middle(work, out, tmp_path, comes_back):
    """A store that is back soon costs nothing; one that stays away ends the run, and the next one finishes."""
    ports = s3_ports()
    environment = s3_environment(ports)
    patience = {} if comes_back else {"CLOUDJOB_TEST_PATIENCE": "5"}
    with (
        s3(tmp_path / "s3", ports) as store,
        sabotaged(
            work,
            out,
            jobs.sabotage(tmp_path / "struck", "after shard", 9, victim=str(store.pid)),
            **environment,
            **patience,
        ) as process,
    ):
        wait_for(tmp_path / "struck", process)
        assert store.wait(10) == -signal.SIGKILL
        started = time.monotonic()
        with s3(tmp_path / "s3", ports) if comes_back else nullcontext():
            stderr = process.communicate(timeout=240)[1]
            print(f"ended after {time.monotonic() - started:.0f} s:\n{stderr}")
            if comes_back:
                assert process.returncode == 0, stderr
            else:
                assert process.returncode == 4, stderr
                assert f"error: {out}" in stderr
                assert "Traceback" not in stderr
    with s3(tmp_path / "s3", ports):
        again = run(work, out, **environment)
        assert again.code == 0, again.stderr
        jobs.assert_same(copied(s3_store(environment, out), tmp_path / "copy"), work / "reference")
