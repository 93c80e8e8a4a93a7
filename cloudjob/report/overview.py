"""What the report tells of an OUT: a row for every scene, and what each of the last runs did."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cloudjob.classes import NAMES
from cloudjob.errors import ContractError
from cloudjob.store import group as groups
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
        path: of its item.
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
        software: version of cloudjob.
        warnings: what the job noticed about the scene.
        thin: thin cloud alone, in percent like `cloud`; None, too, where the model does not know it.
        shadow: cloud shadow, likewise.
    """

    id: str
    group: str
    tile: str
    path: str
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
    software: str
    warnings: tuple[str, ...]
    thin: float | None = None
    shadow: float | None = None

    @property
    def difference(self) -> float | None:
        """Our cloud cover less the provider's, in points of percent; None where one is missing."""
        return None if self.cloud is None or self.provider is None else self.cloud - self.provider


@dataclass(frozen=True)
class Run:
    """What a run did.

    Attributes:
        started: UTC.
        how: "complete" or "interrupted".
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

    Raises:
        ContractError: an item was not written by cloudjob.
        UnreachableError: the store does not answer.
    """
    entries = sorted(ledger.done.values(), key=lambda entry: (entry.time, entry.id), reverse=True)
    sides = {name: groups.tile(metadata) for name, metadata in ledger.groups.items()}

    def row(entry: Done) -> Row | None:
        data = out.get(entry.path)  # None: a run has just begun to compute it anew
        return None if data is None else _row(out, entry, data, sides[entry.group])

    found = out.each(lambda id_: row(ledger.done[id_]), [entry.id for entry in entries])
    return [row for row in found if row]


def runs(out: Out) -> list[Run]:
    """The last `RUNS` runs, the newest first.

    Raises:
        ContractError: a record was not written by cloudjob.
        UnreachableError: the store does not answer.
    """
    names = sorted((name for name in out.names("runs") if name.endswith(".json")), reverse=True)
    return out.each(lambda name: _run(out, f"runs/{name}"), names[:RUNS])


def _row(out: Out, entry: Done, data: bytes, side: int) -> Row:
    try:
        told: dict[str, Any] = json.loads(data)["properties"]
        height, width = told["proj:shape"]
        pixels, agreement, model = told["cloudjob:pixels"], told.get("cloudjob:scl_agreement"), told["cloudjob:model"]
        valid = sum(pixels.get(name, 0) for name in NAMES)
        computed = valid + pixels["no_data"]
        tile = _TILE.search(told.get("grid:code", entry.group))
        return Row(
            id=entry.id,
            group=entry.group,
            tile=tile[0] if tile else entry.group,
            path=entry.path,
            key=hashlib.sha256(data).hexdigest()[:16],
            time=datetime.fromisoformat(entry.time),
            cloud=entry.cloud_cover,
            thin=100 * pixels["thin_cloud"] / valid if valid and "thin_cloud" in pixels else None,
            shadow=100 * pixels["cloud_shadow"] / valid if valid and "cloud_shadow" in pixels else None,
            provider=entry.provider_cloud_cover,
            agreement=None if agreement is None else 100 * agreement,
            compared=told.get("cloudjob:scl_pixels", 0),
            no_data=100 * pixels["no_data"] / max(computed, 1),
            computed=computed / (height * width),
            tiles=len(entry.tiles),
            all_tiles=-(-height // side) * -(-width // side),
            version=model["version"],
            checkpoint=model["sha256"],
            software=told["processing:software"]["cloudjob"],
            warnings=tuple(told.get("cloudjob:warnings", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(
            f"{out}/{entry.path} is not an item that cloudjob wrote: {error!r}",
            hint="move it away: its scene is then redone",
        ) from None


def _run(out: Out, path: str) -> Run:
    try:
        told = out.get_json(path)
        receipts = [scene["receipt"] for scene in told["scenes"] if "receipt" in scene]

        def total(*names: str) -> Any:
            return sum(receipt.get(name, 0) for receipt in receipts for name in names)

        return Run(
            started=datetime.fromisoformat(told["started"]),
            how=told["how"],
            seconds=told["seconds"],
            done=frozenset(scene["id"] for scene in told["scenes"] if scene["state"] == "done"),
            failed=sum(scene["state"] == "failed" for scene in told["scenes"]),
            pixels=total(*NAMES, "no_data"),
            bytes=total("bytes_read"),
            spent={what: total(f"{what}_seconds") for what in ("read", "network", "write")},
            catalog=told["catalog"],
            dates=told["dates"],
            software=told["cloudjob"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{out}/{path} is not a run's record: {error!r}", hint="move it away") from None
