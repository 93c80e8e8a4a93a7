"""TLS between client, scheduler and workers by Dask's own settings, with the script and the settings that ship."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jobs
import psutil
import pytest
from conftest import ROOT
from distributed import Client, Security
from distributed.comm import CommClosedError

TLS = ROOT / "deploy" / "tls"
LISTENS = r"tls://127\.0\.0\.1:\d+"
SCHEDULER = (
    *jobs.SCHEDULER[:2],
    "--host",
    "tls://127.0.0.1",
    *jobs.SCHEDULER[4:],
    "--dashboard-address",
    "127.0.0.1:0",
)


@dataclass(frozen=True)
class World:
    """A cluster that talks TLS only.

    Attributes:
        folder: with a catalog, a checkpoint, the certificates and a local run's masks.
        address: of the scheduler.
        settings: Dask's, as environment.
        worker: its process.
    """

    folder: Path
    address: str
    settings: dict[str, str]
    worker: int


def certificates(folder: Path) -> dict[str, str]:
    """Make an authority and a certificate, and the settings that name them; as environment."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    subprocess.run([TLS / "certificates.sh", folder], check=True, capture_output=True)
    settings = (TLS / "dask.yaml").read_text()
    assert settings.count("/etc/cloudjob/tls/") == 7
    (folder / "dask.yaml").write_text(settings.replace("/etc/cloudjob/tls", str(folder)))
    return {"DASK_CONFIG": str(folder / "dask.yaml")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tls")
    made = [jobs.make_scene(folder, f"S{n}", f"2024-06-0{n}T10:15:59Z", seed=n) for n in (1, 2)]
    jobs.write_catalog(folder / "items.json", made)
    jobs.random_checkpoint(folder / "net.safetensors")
    settings = certificates(folder / "certificates")
    with (
        jobs.started(*SCHEDULER, until=LISTENS, **settings) as (_, address),
        jobs.worker_of(address, **settings) as worker,
    ):
        local = run(folder, folder / "local", "--workers", "1")
        assert local.code == 0, local.stderr
        yield World(folder, address, settings, worker.pid)


def run(folder: Path, out: Path, *more: str, **environment: str) -> jobs.Result:
    return jobs.run_job(folder / "items.json", folder / "net.safetensors", out, *more, **environment)


def refused(result: jobs.Result) -> str:
    """What a run was told that ended with code 4 and without a traceback."""
    assert result.code == 4, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_same_masks_over_tls(world: World, tmp_path: Path) -> None:
    done = run(world.folder, tmp_path / "out", "--cluster", world.address, **world.settings)
    assert done.code == 0, done.stderr
    jobs.assert_same(tmp_path / "out", world.folder / "local")


def test_workers_speak_tls_on_loopback_only(world: World) -> None:
    folder = world.folder / "certificates"
    files = {f"tls_client_{part}": str(folder / f"{part}.pem") for part in ("cert", "key")}
    security = Security(tls_ca_file=str(folder / "ca.pem"), **files, require_encryption=True)
    with Client(world.address, security=security, timeout=60) as client:
        client.wait_for_workers(1, timeout=jobs.PATIENCE)
        (worker,) = client.scheduler_info()["workers"].values()
    assert worker["id"].startswith("tls://127.0.0.1:")
    assert worker["nanny"].startswith("tls://127.0.0.1:")


def test_a_client_without_a_certificate(world: World, tmp_path: Path) -> None:
    told = refused(run(world.folder, tmp_path / "out", "--cluster", world.address))
    assert told.startswith(f"error: {world.address} needs a certificate of this client: Dask's settings")
    assert "hint: see TLS in deploy/README.md" in told
    told = refused(jobs.cloudjob("worker", world.address))
    assert "needs a certificate of this worker" in told
    assert not (tmp_path / "out").exists()


def test_a_client_with_a_certificate_of_somebody_else(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = certificates(tmp_path / "others")
    told = refused(run(world.folder, tmp_path / "out", "--cluster", world.address, **settings))
    assert told.startswith(f"error: no Dask scheduler answers at {world.address}")
    # Nor if it takes the scheduler's word for who it is
    folder = world.folder / "certificates"
    files = {f"tls_client_{part}": str(tmp_path / "others" / f"{part}.pem") for part in ("cert", "key")}
    with pytest.raises((OSError, TimeoutError, CommClosedError)):
        Client(world.address, security=Security(tls_ca_file=str(folder / "ca.pem"), **files), timeout=3)


def test_a_client_without_encryption(world: World, tmp_path: Path) -> None:
    plain = world.address.replace("tls://", "tcp://")
    told = refused(run(world.folder, tmp_path / "out", "--cluster", plain))
    assert f"no Dask scheduler answers at {plain}" in told
    for told in (
        refused(run(world.folder, tmp_path / "out", "--cluster", plain, **world.settings)),
        refused(jobs.cloudjob("worker", plain, **world.settings)),
    ):
        assert f"{plain} is not encrypted, and Dask's settings require it" in told
        assert "hint: tls://" in told


@pytest.mark.parametrize("harm", ["missing", "broken"])
def test_a_certificate_that_cannot_be_read(world: World, tmp_path: Path, harm: str) -> None:
    settings = certificates(tmp_path / "own")
    if harm == "missing":
        (tmp_path / "own" / "cert.pem").unlink()
    else:
        (tmp_path / "own" / "cert.pem").write_text("no certificate")
    for more in (("--cluster", world.address), ("--listen", "tls://127.0.0.1:0"), ("--workers", "1")):
        told = refused(run(world.folder, tmp_path / "out", *more, **settings))
        assert "needs a certificate of this" in told
        assert str(tmp_path / "own" / "cert.pem") in told
        assert "PRIVATE KEY" not in told


def test_a_local_run_where_encryption_is_required(world: World, tmp_path: Path) -> None:
    """A machine of the cluster can also do a run of its own."""
    done = run(world.folder, tmp_path / "out", "--workers", "1", **world.settings)
    assert done.code == 0, done.stderr
    jobs.assert_same(tmp_path / "out", world.folder / "local")


def test_a_run_that_listens_for_workers_over_tls(world: World, tmp_path: Path) -> None:
    done = run(world.folder, tmp_path / "out", "--workers", "1", "--listen", "tls://127.0.0.1:0", **world.settings)
    assert done.code == 0, done.stderr
    jobs.assert_same(tmp_path / "out", world.folder / "local")


def test_certificates_are_renewed_by_the_same_authority_and_never_by_another(tmp_path: Path) -> None:
    """Whoever ran the script twice had an authority that no other machine knew."""
    certificates(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    certificates(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == after.keys()
    same = {name for name in before if before[name] == after[name]}
    assert same >= {"ca.pem", "ca-key.pem"}
    assert not same & {"cert.pem", "key.pem"}
    subprocess.run(["openssl", "verify", "-CAfile", tmp_path / "ca.pem", tmp_path / "cert.pem"], check=True)
    (tmp_path / "ca-key.pem").unlink()  # Kept elsewhere, as the page says
    refused = subprocess.run([TLS / "certificates.sh", tmp_path], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "has an authority, but not all of it" in refused.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        name: data for name, data in after.items() if name != "ca-key.pem"
    }


def test_the_keys_are_for_their_owner_only(world: World) -> None:
    for name in ("key.pem", "ca-key.pem"):
        assert (world.folder / "certificates" / name).stat().st_mode & 0o077 == 0


def test_every_socket_of_the_cluster_is_on_loopback(world: World) -> None:
    worker = psutil.Process(world.worker)
    processes = [worker, *worker.children(recursive=True)]
    found = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert found == {"127.0.0.1"}
