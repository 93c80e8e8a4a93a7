"""For tests from outside: small catalogs and checkpoints on disk, the command line as a process, and its output."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
import zarr
from conftest import make_checkpoint
from scenes import BANDS, make_item

from cloudjob.model.checkpoint import save, untrained
from cloudjob.model.contract import Contract

if TYPE_CHECKING:
    from cloudjob.store.receipt import SceneResult

BIN = Path(sys.executable).parent
CLOUDJOB = (str(BIN / "cloudjob"),)
SABOTAGED = (sys.executable, str(Path(__file__).with_name("saboteur.py")))
"""The same command line, with the sabotage that CLOUDJOB_TEST_SABOTAGE describes."""

TILE = 64
SHAPE = (200, 170)
"""Of a scene: four by three tiles of 64, ragged at both edges."""

GRID = (10.0, 0.0, 600_000.0, 0.0, -10.0, 5_200_020.0)
EVERYWHERE = ("--bbox", "-180", "-90", "180", "90", "--dates", "2000/..")


PATIENCE = 200
"""Seconds for which a process is waited for that comes or goes at once, but loads torch first: below a test's own."""


@dataclass(frozen=True)
class Result:
    """What a process left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """Each line of stdout, which must be JSON."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def make_scene(
    folder: Path,
    name: str,
    when: str = "2024-06-01T10:15:59.024000Z",
    *,
    baseline: str = "03.01",
    generated: str | None = None,
    platform: str = "sentinel-2a",
    properties: Mapping[str, Any] | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Write a scene of `SHAPE` and return its item, dated and versioned as Earth Search does it."""
    day = when[:10].replace("-", "")
    told = {
        "datetime": when,
        "platform": platform,
        "grid:code": "MGRS-33UUP",
        "s2:processing_baseline": baseline,
        "s2:generation_time": generated or when,
        "s2:datastrip_id": f"S2A_OPER_MSI_L2A_DS_X_{day}T120000_S{day}T{when[11:19].replace(':', '')}_N{baseline}",
        "s2:product_uri": f"{name}_N{baseline}.SAFE",
        "eo:cloud_cover": 12.5,
        "updated": "2024-07-01T00:00:00Z",
    }
    return make_item(
        folder, name, **{"shape": SHAPE, "transform": GRID, **how}, properties={**told, **(properties or {})}
    )


def write_catalog(path: Path, items: Sequence[Mapping[str, Any]]) -> Path:
    """Write an item-collection file."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}), encoding="utf-8")
    return path


def random_checkpoint(path: Path, **changes: object) -> Path:
    """A network with fixed random weights, whose pixels depend on all that lies within its halo."""
    checkpoint = make_checkpoint(tile=TILE, **changes)
    save(checkpoint.network, checkpoint.contract, path)
    return path


def brightness_checkpoint(path: Path) -> Path:
    """A network that looks at one pixel only: its probability is sigmoid(20 × (red − 0.5)), red as reflectance.

    So a mask can be told beforehand, pixel by pixel.
    """
    contract = Contract(
        "brightness", "1", BANDS, mean=(0.0,) * 4, std=(1.0,) * 4, tile=TILE, halo=8, widths=(2, 2), threshold=0.5
    )
    network = untrained(contract).eval()
    with torch.no_grad():
        for block in (network.enc1, network.bottleneck, network.up1, network.dec1, network.final):
            for name, tensor in block.named_parameters():
                if tensor.dim() == 4 or name.endswith("bias"):
                    tensor.zero_()
        for block in (network.enc1, network.dec1):  # Red, the first channel, goes straight through the skip
            block.conv[0].weight[0, 0, 1, 1] = block.conv[3].weight[0, 0, 1, 1] = 1
        network.final.weight[0, 0] = 20
        network.final.bias[0] = -10
    save(network, contract, path)
    return path


def environment(**extra: str) -> dict[str, str]:
    """The environment of a process: this one's, without settings of cloudjob that somebody may have made."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDJOB_")}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **extra}


def cloudjob(*arguments: str | Path, command: Sequence[str] = CLOUDJOB, timeout: float = 400, **extra: str) -> Result:
    """Run a command to its end, in a process group of its own as a shell would.

    Args:
        arguments: of the command line.
        command: what to start.
        timeout: seconds.
        extra: environment variables.
    """
    process = subprocess.Popen(
        [*command, *map(str, arguments)],
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Result(process.returncode, stdout, stderr)


def run_job(catalog: Path, checkpoint: Path, out: Path, *more: str | Path, **how: Any) -> Result:
    """`cloudjob run` over the whole of a catalog, unless other dates and places are given."""
    what = ("--catalog", catalog, "--checkpoint", checkpoint, "--out", out)
    return cloudjob("run", *what, *whole(more), *more, **how)


def whole(more: Sequence[str | Path]) -> tuple[str, ...]:
    """Options for every place and date, unless there are such options among `more`."""
    where = () if "--bbox" in more or "--geometry" in more else EVERYWHERE[:5]
    return (*where, *(() if "--dates" in more else EVERYWHERE[5:]))


@contextmanager
def reserved() -> Iterator[int]:
    """A port of loopback at which nobody listens: whoever asks for it by number gets it, and nobody by chance."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def started(*command: str | Path, until: str, **extra: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in the background: yields the process and what `until` (a pattern) found on its stderr."""
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = []
    drain = None
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(until, line):
                break
        else:
            raise AssertionError(f"{command[0]} ended: {''.join(said)}")
        # Somebody has to go on reading, or the server stops when the pipe is full.
        drain = threading.Thread(target=lambda: list(process.stderr), daemon=True)
        drain.start()
        yield process, found[0]
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if drain is not None:
            drain.join(5)
        process.stderr.close()


SCHEDULER = (BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
LISTENS = r"tcp://127\.0\.0\.1:\d+"


@contextmanager
def worker_of(
    address: str,
    *,
    workers: int = 1,
    command: Sequence[str] = CLOUDJOB,
    log: str | Path = os.devnull,
    **extra: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """`cloudjob worker` in the background; what it says goes to a file."""
    with Path(log).open("wb") as told:
        process = subprocess.Popen(
            [*command, "worker", address, "--workers", str(workers)],
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def dask_cluster(**extra: str) -> Iterator[str]:
    """A Dask scheduler and a `cloudjob worker` of it (`extra`: its environment): yields the scheduler's address."""
    with started(*SCHEDULER, until=LISTENS) as (_, address), worker_of(address, **extra):
        yield address


def masks(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """Every array of every group, as the files hold it."""
    groups = {}
    for path in sorted((out / "masks.zarr").glob("*/zarr.json")):
        group = zarr.open_group(path.parent, mode="r", use_consolidated=False)
        groups[path.parent.name] = {name: array[...] for name, array in group.arrays()}
    return groups


def slots(out: Path) -> dict[str, list[str]]:
    """Group → the scenes that own its slots, in order."""
    documents = {path.parent.name: json.loads(path.read_text()) for path in (out / "masks.zarr").glob("*/zarr.json")}
    return {name: document["attributes"]["cloudjob:scenes"] for name, document in documents.items()}


def items(out: Path) -> dict[str, bytes]:
    """Every STAC item of an OUT by its path."""
    found = (path for path in (out / "items").rglob("*.json") if path.name != "index.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def item_of(out: Path, scene: str) -> dict[str, Any]:
    """A scene's STAC item."""
    (found,) = (out / "items").glob(f"*/{scene}.json")
    document: dict[str, Any] = json.loads(found.read_text())
    return document


def mask_of(out: Path, scene: str, array: str = "cloud") -> np.ndarray:
    """A scene's mask (y, x)."""
    properties = item_of(out, scene)["properties"]
    values: np.ndarray = masks(out)[properties["cloudjob:group"]][array][properties["cloudjob:slot"]]
    return values


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder: when it was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kept(out: Path) -> dict[str, tuple[int, str]]:
    """What an OUT holds beside what every run writes: its lock, the records of runs, and caches of a copied OUT."""
    return {
        path: told
        for path, told in tree(out).items()
        if not path.startswith(("lock/", "runs/")) and not path.endswith("/index.json")
    }


def a_day_passes(out: Path) -> None:
    """Make every failure a day older: what fails in the next run fails on another night."""
    for path in (out / "failures").glob("*.json"):
        record = json.loads(path.read_text())
        if record["night"]:  # None has counted yet where its source was out
            record["night"] = (datetime.fromisoformat(record["night"]) - timedelta(days=1)).isoformat()
        path.write_text(json.dumps(record))


def assert_same(out: Path, reference: Path) -> None:
    """Both hold the same values, slots and items, byte for byte, and nothing half written."""
    ours, theirs = masks(out), masks(reference)
    assert ours.keys() == theirs.keys()
    for group, arrays in theirs.items():
        assert ours[group].keys() == arrays.keys()
        for name, values in arrays.items():
            np.testing.assert_array_equal(ours[group][name], values, err_msg=f"{group}/{name}")
    assert slots(out) == slots(reference)
    assert items(out) == items(reference)
    assert not any((out / "failures").glob("*"))
    assert [str(path) for path in out.rglob("*") if re.search(r"#\d+$|\.partial|\.tmp", path.name)] == []


def assert_released(out: Path) -> None:
    """No other run is locked out."""
    (lock,) = (out / "lock").iterdir()
    assert json.loads(lock.read_text())["released"]


def sabotage(marker: Path, event: str, nth: int = 1, *, victim: str = "self", number: int = signal.SIGKILL) -> str:
    """For CLOUDJOB_TEST_SABOTAGE: what `saboteur.py` is to do."""
    plan = {"event": event, "nth": nth, "victim": victim, "signal": int(number), "marker": str(marker)}
    return json.dumps(plan)


def pattern(seed: int, shape: tuple[int, int] = SHAPE, addition: int = 0) -> dict[str, np.ndarray]:
    """Numbers of a scene whose mask can be told beforehand (`brightness_checkpoint`), in blocks of two by two pixels.

    Ground below 0.3, thin cloud of 0.57 and thick cloud of 0.9 in red; no data in a corner, as at a swath's edge, and
    in near infrared alone in a small patch.

    Args:
        seed: of the pattern.
        shape: (height, width), even.
        addition: to every number, as from baseline 04.00 on.
    """
    rng = np.random.default_rng(seed)
    height, width = shape[0] // 2, shape[1] // 2
    rows, columns = np.mgrid[:height, :width]
    values = {band: rng.integers(500, 3000, (height, width)) for band in BANDS}
    for level in (5700, 9000):
        for _ in range(6):
            y, x, radius = rng.integers(0, height), rng.integers(0, width), rng.integers(3, 12)
            values["red"][(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = level
    empty = rows + 2 * columns < 40 + seed
    for band in BANDS:
        values[band] += addition
        values[band][empty] = 0
    values["nir"][70:75, 30:37] = 0
    return {band: np.kron(pixels, np.ones((2, 2))).astype(np.uint16) for band, pixels in values.items()}


def mask_of_pattern(values: Mapping[str, np.ndarray], bright: float = 0.5, offset: float = 0.0) -> np.ndarray:
    """What `brightness_checkpoint` makes of a pattern: cloud where red is brighter, as reflectance."""
    cloud = values["red"] * 1e-4 + offset > bright
    empty = np.any([pixels == 0 for pixels in values.values()], axis=0)
    return np.where(empty, 254, cloud).astype(np.uint8)


def processes_with(text: str) -> list[psutil.Process]:
    """Processes, other than zombies, in whose environment a text occurs."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(text in value for value in process.environ().values()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def tasks_here(patch: pytest.MonkeyPatch, checkpoint: Path | str, lanes: int = 1) -> None:
    """Have the tasks of jobs, cut for so many lanes, run in this process, one after the other, without a cluster."""
    from cloudjob import job
    from cloudjob.cluster import network, task
    from cloudjob.model import predict
    from cloudjob.model.checkpoint import load

    model = predict.prepare(load(checkpoint), "cpu")

    def here(_: object, function: Callable[[Any], Any], work: Iterable[tuple[str, Any]]) -> Iterator[tuple[Any, Any]]:
        for _, part in work:
            try:
                yield part, task.mask_tiles(part, model) if function is task.process else function(part)
            except Exception as error:  # noqa: BLE001 -- as Dask hands it on
                yield part, error

    patch.setattr(network, "load", lambda *_: None)
    patch.setattr(job, "lane_count", lambda _: lanes)
    patch.setattr(job, "stream", here)


def run_here(
    catalog: Path, checkpoint: Path | str, out: Path | str, *, lanes: int = 1, **options: Any
) -> list["SceneResult"]:
    """A job over the whole of a catalog, unless told otherwise: what tests only its output needs no cluster."""
    from cloudjob import job
    from cloudjob.plan.request import request
    from cloudjob.store.receipt import SceneResult

    asked = request(
        **{"bbox": (-180, -90, 180, 90), "dates": "2000/..", "out": out, "catalog": catalog, **options},
        checkpoint=checkpoint,
    )
    with pytest.MonkeyPatch.context() as patch:
        tasks_here(patch, checkpoint, lanes)
        events = list(job.run(asked, lambda: nullcontext(None)))  # type: ignore[arg-type]
    return [event for event in events if isinstance(event, SceneResult)]
