"""Real servers for deployment tests: PostgreSQL, a STAC API on it, nginx, S3. All end with their test."""

import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import obstore
import pytest
from obstore.store import S3Store

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-deploy" / "bin"
POSTGRES = Path("/usr/lib/postgresql/15/bin")


def require(*programs):
    """Skip the test where a program is not installed (in CI a skip is a failure: see skips.py)."""
    for program in programs:
        if not shutil.which(str(program)):
            pytest.skip(f"{program} is not installed: run tests/deploy/install.sh")


def free_ports():
    """Free ports in any order.

    Not of those that the system gives to connections: one of another part's took one before it was listened on.
    """
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # Each has a thousand of its own
    return filter(_is_free, random.sample(range(20_000 + 1000 * lane, 21_000 + 1000 * lane), 100))


def free_port():
    return next(free_ports())


def _is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def answers(url):
    """Whether a server answers at an address, whatever it says but that it is not ready (5xx)."""
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError as error:  # Reset while it starts
        return getattr(error, "code", 500) < 500


@contextmanager
def running(command, log, ready, *, seconds=180, end=signal.SIGTERM, **options):
    """Run a server from when `ready()` until the block ends; its output goes to the file `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(end)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def postgres():
    """An empty PostgreSQL cluster; yields the environment with which clients find it."""
    require(POSTGRES / "initdb", POSTGRES / "postgres")
    # The server refuses to run as root, and pytest's own folders are closed to others.
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="cloudjob-postgres-"))
    try:
        if user:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        data, port = folder / "data", free_port()
        initdb = [POSTGRES / "initdb", "--pgdata", data, "--auth", "trust", "--username", "postgres", "--no-sync"]
        subprocess.run([*initdb, "--encoding", "UTF8"], check=True, capture_output=True, cwd="/", **user)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        server = [POSTGRES / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
        environment = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": "postgres",
            "PGPASSWORD": "unused",
            "PGDATABASE": "postgres",
        }

        def ready():
            command = [POSTGRES / "pg_isready", "--quiet"]
            return subprocess.run(command, env=environment, check=False).returncode == 0

        with running(server, folder / "log", ready, cwd="/", **user):
            yield environment
    finally:
        shutil.rmtree(folder)


@contextmanager
def stac_api(folder, database):
    """A STAC API (stac-fastapi-pgstac) on a fresh pgstac schema; yields its address and its log."""
    require(VENV / "pypgstac", VENV / "uvicorn")
    pypgstac("migrate", database=database)
    port = free_port()
    # Without the transactions extension: items come in by pypgstac, as in production.
    environment = {**os.environ, **database, "ENABLED_EXTENSIONS": "query,sort,fields,filter,pagination"}
    command = [VENV / "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app", "--port", port]
    url = f"http://127.0.0.1:{port}"
    log = folder / "stac-api.log"
    with running(command, log, lambda: answers(f"{url}/_mgmt/ping"), env=environment, cwd=folder):
        yield url, log


def pypgstac(*arguments, database):
    """Run pgstac's own loader."""
    command = [VENV / "pypgstac", *arguments]
    done = subprocess.run(command, env={**os.environ, **database}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def nginx(folder, root):
    """Nginx serving the files below `root`; yields its address and its access log (status, range, path)."""
    require("nginx")
    port = free_port()
    temporary = "\n".join(f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    config = folder / "nginx.conf"
    config.write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
{temporary}
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  types {{ image/tiff tif; }}
  log_format ranges '$status "$http_range" $request_uri';
  access_log {folder}/access.log ranges;
  server {{
    listen 127.0.0.1:{port};
    root {root};
  }}
}}
""")
    url = f"http://127.0.0.1:{port}"
    command = ["nginx", "-c", config, "-p", folder, "-e", "stderr"]
    with running(command, folder / "nginx.log", lambda: answers(url)):
        yield url, folder / "access.log"


S3_KEYS = {"AWS_ACCESS_KEY_ID": "AKIACLOUDJOBTEST", "AWS_SECRET_ACCESS_KEY": "word-of-the-test-store"}
_S3_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")


def s3_ports():
    """A free port for each part of the S3 server."""
    return dict(zip(_S3_PORTS, free_ports(), strict=False))


def s3_environment(ports, host="127.0.0.1"):
    """How clients find the S3 server, as environment variables."""
    return {**S3_KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{ports['s3']}", "AWS_REGION": "us-east-1"}


@contextmanager
def s3(folder, ports, host="127.0.0.1"):
    """An S3 server (SeaweedFS) with a bucket, "masks", and one key; what it holds stays in `folder`.

    Yields its process.
    """
    require(VENV / "weed")
    credentials = [{"accessKey": S3_KEYS["AWS_ACCESS_KEY_ID"], "secretKey": S3_KEYS["AWS_SECRET_ACCESS_KEY"]}]
    identity = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    flags = {
        "ip": host,
        "ip.bind": host,
        "dir": folder / "data",
        "s3.config": folder / "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "true",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 20,
    }
    for name, port in ports.items():
        flags[name.replace("grpc", "port.grpc") if "." in name else f"{name}.port"] = port
    command = [VENV / "weed", "server", "-s3", *(f"-{name}={value}" for name, value in flags.items())]
    health = f"http://{host}:{ports['s3']}/healthz"
    # Asked to end it takes more than 20 s
    with running(command, folder / "weed.log", lambda: answers(health), end=signal.SIGKILL, cwd=folder) as server:
        obstore.put(s3_store(s3_environment(ports, host), "s3://masks"), "made", b"")
        yield server


def s3_store(environment, address):
    """A place in the S3 server as obstore sees it, without cloudjob."""
    parts = urlsplit(address)
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
