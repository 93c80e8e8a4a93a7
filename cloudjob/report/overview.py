"""What the report tells of an OUT: a row for every scene, and what each of the last runs did."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloudjob.classes import NAMES
from cloudjob.store import group as groups
from cloudjob.store import runs as records
from cloudjob.store.document import parse
from cloudjob.store.ledger import Done, Ledger
from cloudjob.store.out import Out

RUNS = 30
"""How many runs are told of, the newest: a month of nights."""

_TILE = re.compile(r"\d{1,2}[C-X][A-Z]{2}")


@dataclass(frozen=True)
class Row:
    """One scene that is done.

    Attributes:
        id: of the scene.
        group: of the store.
        tile: the MGRS tile, or the group's name where the scene is in none.
        key: changes whenever the item does.
        time: of the scene, UTC.
        cloud: of both kinds, percent of the pixels with a label; None where none has data.
        provider: `eo:cloud_cover` of the source item, percent, or None.
        agreement: percent of `compared` pixels on which the provider's classification says the same, or None.
        compared: pixels compared with the provider's classification.
        no_data: percent of the pixels computed that have no data.
        computed: share of the scene's pixels that were computed, 0 to 1.
        tiles: how many of them were computed.
        all_tiles: how many the scene has.
        version: of the model.
        checkpoint: SHA-256, hexadecimal.
        warnings: what the job noticed about the scene.
        thin: thin cloud alone, in percent like `cloud`; None, too, where the model does not know it.
        shadow: cloud shadow, likewise.
        replaces: id of the older version that it took the place of, or "".
    """

    id: str
    group: str
    tile: str
    key: str
    time: datetime
    cloud: float | None
    provider: float | None
    agreement: float | None
    compared: int
    no_data: float
    computed: float
    tiles: int
    all_tiles: int
    version: str
    checkpoint: str
    warnings: tuple[str, ...]
    thin: float | None = None
    shadow: float | None = None
    replaces: str = ""

    @property
    def difference(self) -> float | None:
        """Our cloud cover less the provider's, in points of percent; None where one is missing."""
        return None if self.cloud is None or self.provider is None else self.cloud - self.provider


@dataclass(frozen=True)
class Run:
    """What a run did.

    Attributes:
        started: UTC.
        how: "complete", "stopped" (by an error), "interrupted", or "unfinished" (killed, or still at work).
        seconds: by the clock.
        done: ids of the scenes it finished.
        failed: how many scenes failed.
        pixels: written.
        bytes: of decoded pixels read.
        spent: seconds of all workers by what they did: reading, network, writing.
        catalog: its address, without secrets.
        dates: that were asked for.
        software: version of cloudjob.
    """

    started: datetime
    how: str
    seconds: float
    done: frozenset[str]
    failed: int
    pixels: int
    bytes: int
    spent: dict[str, float]
    catalog: str
    dates: str
    software: str


def rows(out: Out, ledger: Ledger) -> list[Row]:
    """A row for every scene that is done, the newest first.

    What cannot be read is put down in the ledger's `damaged`, and costs its own row.
    """
    sides = {name: groups.tile(metadata) for name, metadata in ledger.groups.items()}
    entries = {entry.path: entry for entry in ledger.by_time[::-1]}

    def row(path: str, data: bytes) -> Row:
        return _row(entries[path], data, sides[entries[path].group])

    return [*out.documents("an item", entries, row, ledger.damaged).values()]


def runs(out: Out, ledger: Ledger) -> list[Run]:
    """The last `RUNS` runs, the newest first.

    A record that cannot be read is put down in the ledger's `damaged`.
    """
    paths = records.paths(out)[::-1][:RUNS]
    return [*out.documents("a run's record", paths, lambda _, data: _run(parse(data)), ledger.damaged).values()]


def _row(entry: Done, data: bytes, side: int) -> Row:
    told: dict[str, Any] = parse(data)["properties"]
    height, width = (_number(side) for side in told["proj:shape"])
    pixels, agreement, model = told["cloudjob:pixels"], told.get("cloudjob:scl_agreement"), told["cloudjob:model"]
    none = _number(pixels["no_data"])
    shares = {name: _number(pixels[name]) for name in NAMES if name in pixels}
    valid = sum(shares.values())
    computed = valid + none
    tile = _TILE.search(told.get("grid:code", entry.group))
    return Row(
        id=entry.id,
        group=entry.group,
        tile=tile[0] if tile else entry.group,
        key=hashlib.sha256(data).hexdigest()[:16],
        time=datetime.fromisoformat(entry.time),
        cloud=entry.cloud_cover,
        provider=entry.provider_cloud_cover,
        agreement=None if agreement is None else 100 * _number(agreement),
        compared=int(_number(told.get("cloudjob:scl_pixels", 0))),
        no_data=100 * none / max(computed, 1),
        computed=computed / (height * width),
        tiles=len(entry.tiles),
        all_tiles=-int(-height // side) * -int(-width // side),
        version=str(model["version"]),
        checkpoint=str(model["sha256"]),
        warnings=tuple(map(str, told.get("cloudjob:warnings", ()))),
        thin=100 * shares["thin_cloud"] / valid if valid and "thin_cloud" in shares else None,
        shadow=100 * shares["cloud_shadow"] / valid if valid and "cloud_shadow" in shares else None,
        replaces=str(told.get("cloudjob:replaces", ("", ""))[1]),
    )


def _run(told: dict[str, Any]) -> Run:
    receipts = [scene["receipt"] for scene in told["scenes"] if "receipt" in scene]

    def total(*names: str) -> Any:
        return sum(_number(receipt.get(name, 0)) for receipt in receipts for name in names)

    started = datetime.fromisoformat(told["started"])
    return Run(
        started=started if started.tzinfo else started.replace(tzinfo=UTC),
        how=str(told["how"]),
        seconds=_number(told["seconds"]),
        done=frozenset(scene["id"] for scene in told["scenes"] if scene["state"] == "done"),
        failed=sum(scene["state"] == "failed" for scene in told["scenes"]),
        pixels=total(*NAMES, "no_data"),
        bytes=total("bytes_read"),
        spent={what: total(f"{what}_seconds") for what in ("read", "network", "write")},
        catalog=str(told["catalog"]),
        dates=str(told["dates"]),
        software=str(told["cloudjob"]),
    )


def _number(value: Any) -> float:
    """A number that is none below 0.

    Raises:
        TypeError, ValueError: it is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not 0 <= value < 1e18:
        raise ValueError(f"{value} is out of range")
    return value
