"""The contract of an OUT: what its masks were made with, so that one store never mixes two kinds of mask."""

import os
from dataclasses import asdict, dataclass
from typing import Any

from cloudjob.classes import BINARY, NAMES
from cloudjob.errors import ContractError, redact
from cloudjob.store.document import dump
from cloudjob.store.lock import FOLDER as LOCK
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

FILE = "job.json"
LARGEST = 1e6
"""Metres of a buffer or of a pixel; no mask has them so wide."""


@dataclass(frozen=True)
class Settings:
    """What decides the values of a mask, beside the scene.

    Attributes:
        checkpoint: SHA-256 of the checkpoint's file, hexadecimal.
        name: of the model.
        version: of the model.
        bands: common names in the network's order.
        threshold: probability from which a pixel is cloud.
        buffer: metres by which clouds are widened.
        resolution: of the masks, metres.
        probability: whether probabilities are kept beside the mask.
        geometry: SHA-256 of the geometry (normalised, as WKB) that masks are clipped to, or None.
        algorithm: `Contract.algorithm` of the network, in the version that made them.
        classes: that the masks can hold (`classes.NAMES`), in order.
    """

    checkpoint: str
    name: str
    version: str
    bands: tuple[str, ...]
    threshold: float
    buffer: float
    resolution: float
    probability: bool = False
    geometry: str | None = None
    algorithm: int = 1
    classes: tuple[int, ...] = BINARY

    def to_json(self) -> dict[str, Any]:
        """As it stands in an OUT; of a network that tells only cloud, without its classes, as ever."""
        told = asdict(self)
        if self.classes == BINARY:
            del told["classes"]
        return told

    @classmethod
    def from_json(cls, record: Any) -> "Settings":
        """What `to_json` gave.

        Raises:
            TypeError, ValueError: it is something else.
        """
        if not isinstance(record, dict):
            raise TypeError(f"a contract is an object, not {type(record).__name__}")
        lists = {name: tuple(value) for name, value in record.items() if name in ("bands", "classes")}
        found = cls(**(record | lists))
        geometry = () if found.geometry is None else (found.geometry,)
        texts = (found.checkpoint, found.name, found.version, *found.bands, *geometry)
        numbers = (found.threshold, found.buffer, found.resolution)
        if not all(isinstance(text, str) for text in texts) or not all(type(each) in (int, float) for each in numbers):
            raise TypeError("a text or a number of a contract is of another type")
        if type(found.probability) is not bool or type(found.algorithm) is not int:
            raise TypeError("a contract's probability or algorithm is of another type")
        if not (0 <= found.threshold <= 1 and 0 <= found.buffer < LARGEST and 0 < found.resolution < LARGEST):
            raise ValueError(f"a contract's threshold, buffer or resolution is out of range: {numbers}")
        if not {*found.classes} <= {*NAMES.values()}:
            raise ValueError(f"a contract's classes are {found.classes}")
        return found


def read(out: Out) -> Settings | None:
    """The contract of an OUT, or None where there is none yet.

    Raises:
        ContractError: it was not written by cloudjob.
    """
    try:
        record = out.get_json(FILE)
        return None if record is None else Settings.from_json(record)
    except (ValueError, TypeError, KeyError):
        raise _foreign(out, f"its {FILE} is not one that this version of cloudjob wrote") from None


def check(out: Out, settings: Settings, *, redo: bool = False) -> None:
    """Make sure that masks made with `settings` may be written to `out`; with `redo` over others (`claim`), too.

    Raises:
        ContractError: the OUT has other settings, or was made by something else.
    """
    known = read(out)
    if known is None:
        check_ours(out)
    elif known != settings and not redo:
        differing = "; ".join(
            f"{field} was {_short(old)}, now {_short(asdict(settings)[field])}"
            for field, old in asdict(known).items()
            if old != asdict(settings)[field]
        )
        raise ContractError(
            f"{out} was made with other settings: {differing}",
            hint="--redo deletes its masks and makes those asked for anew; or choose another --out",
        )


def check_ours(out: Out) -> None:
    """Make sure that an OUT without a contract holds nothing of somebody else's.

    Raises:
        ContractError: it does.
    """
    others = sorted(out.names() - {LOCK, "report"})  # Either may be there before the first run has claimed the OUT
    if others:
        raise _foreign(out, f"it holds {', '.join(others[:3])} but no {FILE}")


def claim(lock: Lock, settings: Settings, *, redo: bool = False) -> None:
    """Write the contract to a fresh OUT, or make sure that it is this one.

    With `redo` and other settings everything made with the old ones is deleted, of all scenes: an OUT has one
    contract. Items go first and the contract changes last, so that a kill on the way leaves nothing that looks done.

    Raises:
        ContractError: see `check`.
    """
    out = lock.out
    check(out, settings, redo=redo)
    known = read(out)
    if known == settings:
        return
    lock.check()
    if known is None:
        out.create(FILE, dump(settings.to_json()))
        return
    out.delete(["catalog.json", "collection.json", "again.json"])
    for prefix in ("items", "failures", "masks.zarr", "cogs"):
        out.delete_under(prefix, lock.check)
    lock.check()
    out.put(FILE, dump(settings.to_json()))


def meant(out: Out, otherwise: str) -> str:
    """A hint: the OUT that a folder lies in, or that lies right in it, was probably meant; else what else to do."""
    if out.folder:
        for each in (*out.folder.parents, *sorted(path.parent for path in out.folder.glob(f"*/{FILE}"))):
            if os.path.isfile(each / FILE) and os.path.isdir(each / "runs"):  # noqa: PTH112, PTH113 -- never raise
                return f"did you mean {each}?"
    return otherwise


def _foreign(out: Out, why: str) -> ContractError:
    hint = meant(out, "choose another OUT: nothing was written")
    return ContractError(f"{out} was not made by cloudjob: {why}", hint=hint)


def _short(value: Any) -> str:
    text = "none" if value is None else redact(f"{value}")
    if isinstance(value, float):
        text = text.removesuffix(".0")  # All other figures stay: they may be what differs
    return f"{text[:12]}…" if len(text) > 40 else text
