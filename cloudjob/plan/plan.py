"""What would be done, and what it costs: the scenes found against the ledger."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from cloudjob.errors import ContractError
from cloudjob.grid import Tile, Tiling
from cloudjob.plan.versions import Versions
from cloudjob.scene.identity import Identity
from cloudjob.scene.scene import Scene
from cloudjob.store import group as groups
from cloudjob.store.again import Marked
from cloudjob.store.failures import ATTEMPTS, Refusal
from cloudjob.store.item import iso
from cloudjob.store.ledger import Ledger
from cloudjob.store.ledger import wanted as asked

State = Literal["new", "changed", "grown", "failed before", "done", "abandoned"]


@dataclass(frozen=True)
class Planned:
    """One scene, and what is to be done about it.

    Attributes:
        scene: as the catalog has it.
        state: new; changed (its pixels may have, or it is a newer version); grown (more tiles are wanted than were
            computed); failed before; done; abandoned (failed on too many nights for one reason).
        tiles: to compute: those that are missing where the mask that is there still holds; else all that are wanted
            and all that there were. None for scenes done or abandoned.
        replaces: id of the older version that it takes the place of, or None.
    """

    scene: Scene
    state: State
    tiles: frozenset[Tile]
    replaces: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done about every scene.

    Attributes:
        scenes: by time, then id.
        superseded: id of a version that was found → id of the finished one, as new or newer, that the ledger has.
        outside: ids of scenes none of whose tiles is wanted.
        settled: ids of scenes that are done, by themselves or as another version, or not wanted, about which the
            ledger has a failure that is over; and of those that a run left unfinished and that are done as another one.
    """

    scenes: tuple[Planned, ...]
    superseded: dict[str, str]
    outside: tuple[str, ...]
    settled: tuple[str, ...] = ()

    @property
    def to_do(self) -> list[Planned]:
        """Scenes to compute, in the order in which they are given slots."""
        return [planned for planned in self.scenes if planned.tiles]

    @property
    def abandoned(self) -> list[Planned]:
        """Scenes that are no longer tried."""
        return [planned for planned in self.scenes if planned.state == "abandoned"]

    @property
    def replaces(self) -> dict[str, str]:
        """Id of a newer version → id of the one whose slot it takes over."""
        return {planned.scene.id: planned.replaces for planned in self.scenes if planned.replaces}

    @property
    def counts(self) -> dict[State, int]:
        """How many scenes are in each state that there are some of."""
        states = [planned.state for planned in self.scenes]
        return {state: states.count(state) for state in dict.fromkeys(sorted(states))}

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON types: a record per scene, and the counts."""
        return {
            "scenes": [
                {
                    "id": planned.scene.id,
                    "group": planned.scene.group,
                    "datetime": iso(planned.scene.time),
                    "state": planned.state,
                    "tiles": len(planned.tiles),
                    "replaces": planned.replaces,
                    "without": lacking(planned.scene),
                }
                for planned in self.scenes
            ],
            "counts": self.counts,
            "superseded": self.superseded,
            "outside": list(self.outside),
        }


@dataclass(frozen=True)
class Cost:
    """What a plan costs.

    Attributes:
        pixels: of the masks.
        seen: pixels the network computes: the masks' and the halo around each tile.
        bytes: to read, decoded; files are compressed, so fewer travel.
        hours: on so many lanes at such a speed.
        speed: network and reading, million pixels (`seen`) per second and lane.
        lanes: worker processes, or GPUs.
        measured: whether the speed was measured; assumed otherwise.
    """

    pixels: int
    seen: int
    bytes: int
    hours: float
    speed: float
    lanes: int
    measured: bool


def make(
    scenes: Iterable[Scene],
    ledger: Ledger,
    tiles_for: Callable[[Scene], Iterable[Tile]],
    again: Collection[str] = (),
    marked: Iterable[Marked] = (),
) -> Plan:
    """Compare the scenes found with the ledger.

    Args:
        scenes: one version of each (`identity.merge`).
        ledger: state of the OUT.
        tiles_for: the tiles of a scene that are wanted.
        again: ids of abandoned scenes that are tried all the same, or "all".
        marked: scenes whose masks were found damaged.

    Raises:
        ContractError: two collections have different scenes of one id.
    """
    known = Versions(ledger, marked)
    planned: dict[str, Planned] = {}
    superseded: dict[str, str] = {}
    outside: list[str] = []
    for scene in sorted(scenes, key=lambda scene: (scene.time, scene.id)):
        if scene.id in planned:
            raise ContractError(f"two collections have a scene {scene.id}", hint="choose one of them with --collection")
        other = None if scene.id in ledger.done else known.other(Identity.of(scene), scene.id)
        wanted = frozenset(tiles_for(scene))
        if other and other.instead_of(wanted | _still_asked(scene, ledger)):
            superseded[scene.id] = other.id
            continue
        # A newer one that fails is tried beside this one, and takes its place when it can be read again.
        replaces = other.id if other and (other.done or not other.newer) else None
        found = _plan(scene, ledger, wanted, replaces, again)
        if found.state in ("new", "failed before") and not found.tiles:
            outside.append(scene.id)
        else:
            planned[scene.id] = found
    over = [*outside, *(id_ for id_, one in planned.items() if one.state == "done")]
    over += [id_ for id_ in ledger.failures if id_ not in planned and known.over(id_)]
    settled = [id_ for id_ in dict.fromkeys(over) if id_ in ledger.failures]
    settled += [id_ for id_ in superseded if id_ in ledger.begun]
    return Plan(tuple(planned.values()), superseded, tuple(outside), tuple(settled))


def cost(plan: Plan, tiling_of: Callable[[Scene], Tiling], *, speed: float, lanes: int, measured: bool) -> Cost:
    """What the scenes to do will cost.

    Args:
        plan: of which the scenes to do count.
        tiling_of: how a scene is cut into tiles.
        speed: million pixels per second and lane, those of the halo counted.
        lanes: worker processes, or GPUs.
        measured: whether the speed was measured.
    """
    pixels = seen = read = 0
    for planned in plan.to_do:
        core, padded, inside = _areas(tiling_of(planned.scene), planned.tiles)
        pixels += core
        seen += padded
        read += round(inside * _pixel_bytes(planned.scene))
    return Cost(pixels, seen, read, seen / (speed * 1e6 * lanes) / 3600, speed, lanes, measured)


def lacking(scene: Scene) -> dict[str, str]:
    """Names of the optional bands that a scene is masked without, though its item has them, and why."""
    nights = f"its file was at fault on {ATTEMPTS} nights"
    return {band.name: band.fault or nights for band in scene.left_out}


def hopeless(one: Scene | Refusal, ledger: Ledger, again: Collection[str]) -> bool:
    """Whether it failed on too many nights, has not changed since, and nobody asks for it."""
    failure = ledger.failures.get(one.id)
    same = failure is not None and failure.abandoned and failure.fingerprint == one.fingerprint
    return same and not asked(one.id, again)


def _still_asked(scene: Scene, ledger: Ledger) -> frozenset[Tile]:
    """Tiles that an earlier run asked for, and that every run tries again."""
    failure = ledger.failures.get(scene.id)
    return failure.tiles if failure and not failure.abandoned and failure.group == scene.group else frozenset()


def _plan(
    scene: Scene, ledger: Ledger, wanted: frozenset[Tile], replaces: str | None, again: Collection[str]
) -> Planned:
    mask, failure = ledger.holding(scene), ledger.failures.get(scene.id)
    if failure and (failure.group, failure.fingerprint) == (scene.group, scene.fingerprint):
        wanted |= _inside(ledger, scene, failure.tiles)
    if mask:
        wanted -= mask.tiles
        if not wanted:
            return Planned(scene, "done", wanted)
    if hopeless(scene, ledger, again):
        return Planned(scene, "abandoned", frozenset())
    if not mask:
        for id_ in (scene.id, replaces or scene.id):
            wanted |= _inside(ledger, scene, _tiles_of(ledger, id_, scene.group))
    state: State = "grown" if mask else "changed" if scene.id in ledger.done or replaces else "new"
    return Planned(scene, "failed before" if failure else state, wanted, replaces)


def _inside(ledger: Ledger, scene: Scene, tiles: frozenset[Tile]) -> frozenset[Tile]:
    """Those tiles that the scene has: a record that somebody else wrote may name others."""
    if scene.group not in ledger.groups:
        return tiles
    side = groups.tile(ledger.groups[scene.group])
    height, width = scene.mask_grid.shape
    return frozenset((row, column) for row, column in tiles if row * side < height and column * side < width)


def _tiles_of(ledger: Ledger, id_: str, group: str) -> frozenset[Tile]:
    """Tiles of a scene on a group's grid that hold values, or were asked for."""
    known = (ledger.done.get(id_), ledger.failures.get(id_))
    return frozenset().union(*(entry.tiles for entry in known if entry and entry.group == group))


@cache
def _areas(tiling: Tiling, tiles: frozenset[Tile]) -> tuple[int, int, int]:
    """Pixels of the tiles, of their padded windows, and of what of these lies in the scene: no other can be read."""
    core = padded = inside = 0
    for tile in tiles:
        window = tiling.padded(tile)
        core += math.prod(tiling.core(tile).shape)
        padded += math.prod(window.shape)
        inside += math.prod(window.inside(tiling.height, tiling.width).shape)
    return core, padded, inside


def _pixel_bytes(scene: Scene) -> float:
    """For one pixel of the scene's grid; a band of larger pixels has fewer of them."""
    own = scene.grid.dx * scene.grid.dy
    shares = ((band, min(1.0, own / (band.grid.dx * band.grid.dy))) for band in scene.bands)
    return sum(np.dtype(band.dtype).itemsize * share for band, share in shares)
