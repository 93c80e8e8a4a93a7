"""Scenes that failed: kept so that every later run tries them again, whatever its dates, until that makes no sense."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

from cloudjob.errors import redact, redact_all
from cloudjob.grid import Tile
from cloudjob.scene.identity import Identity
from cloudjob.scene.scene import Scene
from cloudjob.store import group as groups
from cloudjob.store import item as stac
from cloudjob.store.document import dump, parse
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out

FOLDER = "failures"

ATTEMPTS = 3
"""After so many nights on which it failed for the same reason of its own, a scene is abandoned."""

NIGHT = timedelta(hours=20)
"""Two failures are of two nights if so much time lies between them: a nightly job starts a bit earlier or later."""

REASONS = 10
"""Others that are kept, the latest: a text that names what is new every time would make a record grow for ever."""

LARGEST = 200_000
"""Characters of JSON up to which an item that describes no scene is kept, to be tried again."""


@dataclass(frozen=True)
class Failure:
    """A scene that failed when it was last tried.

    Attributes:
        id: of the scene.
        group: of the store; "" where nothing tells where the scene lies.
        fingerprint: of the source when it failed.
        tiles: that were asked for.
        reason: the error's message, without secrets.
        runs: on how many nights it failed for the reason `counted`.
        first: when the first of them was (ISO 8601, UTC).
        last: when it was last tried.
        identity: `Identity.to_json`, or {} where the item describes no scene.
        item: the source item, unsigned, so that a later run can try again whatever its dates; {} if it is not kept.
        assets: its bands' common names → asset keys; the later run may use another catalog.
        signing: how its hrefs are signed when opened, or "".
        counted: the last reason that was the scene's own; "" if there was none yet.
        night: when the last of the nights that count was.
        version: of the cloudjob that last tried and found a reason of the scene's own; "" where it has not yet been
            tried without the band that this is about.
        others: of reasons of its own other than `counted`, for they may take turns: each, without its numbers → `runs`,
            `first` and `night`.
    """

    id: str
    group: str
    fingerprint: str
    tiles: frozenset[Tile]
    reason: str
    runs: int
    first: str
    last: str
    identity: dict[str, Any]
    item: dict[str, Any]
    assets: dict[str, str]
    signing: str
    counted: str = ""
    night: str = ""
    version: str = ""
    others: dict[str, tuple[int, str, str]] = field(default_factory=dict)

    @property
    def abandoned(self) -> bool:
        """Whether it is no longer tried, unless its source or cloudjob changes, or somebody asks for it."""
        return self.runs >= ATTEMPTS and self.version == _version()

    @property
    def kind(self) -> str:
        """Its reason without what is this scene's own: its name, where its files lie, what they are called, numbers."""
        text = re.sub(r"(?<![:/])/[^\s/]\S*|[\w.-]+\.(?:tiff?|jp2)\b", "#", self.reason.replace(self.id, "#"))
        return _kind(text)

    @property
    def path(self) -> str:
        """Of its record."""
        return path(self.id)


@dataclass(frozen=True)
class Refusal:
    """An item that no mask can be made of, or not where it says it lies.

    Attributes:
        id: of the item.
        item: unsigned, as the catalog has it.
        assets: common band name → asset key.
        signing: how its hrefs are signed when opened, or "".
        reason: why.
        outside: whether the reason lies outside the item.
        hint: what to do about it.
    """

    id: str
    item: dict[str, Any]
    assets: dict[str, str]
    signing: str
    reason: str
    outside: bool = False
    hint: str | None = None

    @property
    def told(self) -> str:
        """In one line why, and what to do about it."""
        return f"{self.reason}; {self.hint}" if self.hint else self.reason

    @cached_property
    def kept(self) -> dict[str, Any]:
        """The item without secrets and without what no job reads; {} if it is no JSON or too long."""
        assets, links = self.item.get("assets"), self.item.get("links")
        wanted = {key: assets[key] for key in self.assets.values() if key in assets} if isinstance(assets, dict) else {}
        links = links if isinstance(links, list) else []
        own = [link for link in links if isinstance(link, dict) and link.get("rel") == "self"]
        try:
            text = json.dumps(redact_all({**self.item, "links": own, "assets": wanted}), allow_nan=False)
            found: dict[str, Any] = json.loads(text) if len(text) <= LARGEST else {}
            json.dumps(found, ensure_ascii=False).encode()  # Half a pair of surrogates is no text
        except (ValueError, TypeError, RecursionError):
            return {}
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the item does, but not when a catalog only ingests it again."""
        told = self.kept.get("properties")
        if isinstance(told, dict):
            told = {name: value for name, value in told.items() if name not in ("updated", "created")}
        return hashlib.sha256(json.dumps({**self.kept, "properties": told}, sort_keys=True).encode()).hexdigest()


_MEMBERS = frozenset(each.name for each in fields(Failure))


def path(scene_id: str) -> str:
    """Where a scene's failure is recorded."""
    return f"{FOLDER}/{stac.file_name(scene_id)}"


def read_all(out: Out, damaged: dict[str, str], also: Iterable[str] = ()) -> list[Failure]:
    """Every scene that failed when it was last tried.

    Args:
        damaged: as in `Out.documents`.
        also: ids of scenes whose records are asked for even if they are not listed.
    """
    paths = {name for name in out.tags(FOLDER) if name.endswith(".json")}.union(map(path, also))
    return [*out.documents("a record of a failure", sorted(paths), _parsed, damaged).values()]


def record(
    lock: Lock,
    before: Failure | None,
    what: Scene | Refusal,
    tiles: Iterable[Tile],
    reason: str,
    *,
    outside: bool = False,
    spare: Scene | None = None,
) -> Failure:
    """Write down that a scene failed in this run.

    Args:
        before: what is known of earlier failures of the scene.
        what: the scene, or the item that describes none.
        tiles: that were asked for.
        reason: why; secrets are taken out.
        outside: whether the reason lies outside the scene (its source is out): then this night does not count.
        spare: the scene without the band that the reason is about: tried in its place where it would be abandoned.
    """
    now = _now()
    known = before if before and before.fingerprint == what.fingerprint else None
    failure = Failure(
        id=what.id,
        fingerprint=what.fingerprint,
        reason=redact(reason),
        last=now,
        assets=what.assets,
        signing=what.signing,
        **_about(what, tiles, before),
        **_counted(known, redact(reason), now, outside=outside),
    )
    if spare and failure.abandoned and not outside:
        told = f"{failure.reason}; the next run masks it without {spare.left_out[-1].name}"
        failure = replace(failure, fingerprint=spare.fingerprint, reason=told, version="")  # No version has tried that
    lock.check()
    lock.out.put(failure.path, dump(asdict(failure) | {"tiles": sorted(failure.tiles)}))
    return failure


def _about(what: Scene | Refusal, tiles: Iterable[Tile], before: Failure | None) -> dict[str, Any]:
    if isinstance(what, Scene):
        about = {"group": what.group, "tiles": frozenset(tiles), "identity": Identity.of(what).to_json()}
        return about | {"item": what.item}
    # What was known of it while it could be described
    known = {name: getattr(before, name) for name in ("group", "tiles", "identity")} if before else {}
    return {"group": "", "tiles": frozenset(), "identity": {}} | known | {"item": what.kept}


def _counted(before: Failure | None, reason: str, now: str, *, outside: bool) -> dict[str, Any]:
    """On how many nights it has failed for one reason of its own, this one included."""
    if outside:
        same = ("runs", "first", "counted", "night", "version", "others")
        return {name: getattr(before, name) for name in same} if before else {"runs": 0, "first": now}
    others = {**before.others} if before else {}
    if before and before.counted:
        others[_kind(before.counted)] = before.runs, before.first, before.night
    runs, first, night = others.pop(_kind(reason), (0, now, ""))
    if not night or abs(_moment(now) - _moment(night)) >= NIGHT:  # The clock may have been ahead then
        runs, night = runs + 1, now
    counted = {"runs": runs, "first": first, "counted": reason, "night": night}
    return {**counted, "version": _version(), "others": dict([*others.items()][-REASONS:])}


@cache
def _version() -> str:
    return version("cloudjob")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _kind(reason: str) -> str:
    """A reason without its numbers: "timed out after 30.1 s" is the same as after 30.2 s; nor places in memory.

    The numbers of names stay: B04 is another asset than B11.
    """
    return re.sub(r"0x[0-9a-fA-F]+|(?<![A-Za-z0-9])[0-9]+", "#", reason)


def _parsed(path: str, data: bytes) -> Failure:
    found = parse(data)
    known = {name: value for name, value in found.items() if name in _MEMBERS}  # A newer version may tell more
    failure = Failure(**{**known, "tiles": tiles(found["tiles"])})
    texts = [getattr(failure, name) for name in _MEMBERS - {"tiles", "runs", "identity", "item", "assets", "others"}]
    if not all(isinstance(text, str) for text in texts) or type(failure.runs) is not int or failure.path != path:
        raise ValueError("it has other types, or another name")
    counts = [*failure.others.values(), *([(failure.runs, failure.first, failure.night)] if failure.counted else [])]
    if not all(type(runs) is int and isinstance(first, str) and _moment(night).tzinfo for runs, first, night in counts):
        raise ValueError(f"its nights {counts} are none, or have no zone")
    if failure.identity and Identity.from_json(failure.identity).sensing.tzinfo is None:
        raise ValueError("its sensing time has no zone")
    _check_item(failure)
    return failure


def _check_item(failure: Failure) -> None:
    """Make sure that an item that is kept can be described once more.

    Raises:
        ValueError: it is none, or not that of the scene.
    """
    item, assets = failure.item, failure.assets
    if not isinstance(item, dict) or (item and item.get("id") != failure.id):
        raise ValueError("its item is none, or another scene's")
    if not isinstance(assets, dict) or not all(isinstance(text, str) for text in (*assets, *assets.values())):
        raise ValueError("its assets are no names")
    if failure.signing:
        from cloudjob.catalog.signing import PLANETARY_COMPUTER  # noqa: PLC0415 -- `status` opens nothing

        if failure.signing != PLANETARY_COMPUTER:
            raise ValueError(f"its addresses are signed by {failure.signing!r}, which this version cannot do")


def tiles(pairs: Iterable[Iterable[int]]) -> frozenset[Tile]:
    """Rows and columns of tiles.

    Raises:
        ValueError, TypeError: some are none.
    """
    found = frozenset((row, column) for row, column in pairs)
    if not all(type(number) is int and 0 <= number < groups.LARGEST for tile in found for number in tile):
        raise ValueError("its tiles are none")
    return found
