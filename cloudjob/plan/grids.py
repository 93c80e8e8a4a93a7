"""On which grid the masks of a tile lie, so that one wrong item never decides it for all that come after."""

from collections import Counter
from collections.abc import Iterable, Sequence

from cloudjob.errors import OutsideError, PassingError, SceneError
from cloudjob.grid import Grid
from cloudjob.plan.sources import Sources
from cloudjob.scene import product
from cloudjob.scene.mgrs import corner
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.outside import source
from cloudjob.scene.scene import Scene
from cloudjob.store.failures import Refusal
from cloudjob.store.group import grid_of
from cloudjob.store.group import path as group_path
from cloudjob.store.ledger import Ledger

DAMAGED = "{} of the output cannot be used; `cloudjob check OUT --repair` mends what can be mended"


def on_one(scenes: Iterable[Scene], known: Ledger, sources: Sources | None = None) -> tuple[list[Scene], list[Refusal]]:
    """The scenes that lie on the grid of their group, and those that do not: one odd item must not cost the rest.

    A group that is new gets the grid that its name tells (an MGRS tile's), else the one that most of its scenes have.

    Args:
        scenes: that items describe.
        known: the OUT's state.
        sources: given by a run, before anything is made: then a file is asked whether it lies where its item says,
            if it lies off the grid of the tile that the item names. Outages are put down here.
    """
    found, refused = list(scenes), []
    grids = {name: grid_of(metadata) for name, metadata in known.groups.items()}
    new: dict[str, list[Scene]] = {}
    for scene in found:
        if scene.group not in grids:
            new.setdefault(scene.group, []).append(scene)
    lying: set[str] = set()
    for name, members in new.items():
        grid, wrong = _elected(name, members, sources)
        refused += wrong
        lying |= {refusal.id for refusal in wrong}
        if grid:
            grids[name] = grid
    fitting = []
    for scene in found:
        if group_path(scene.group) in known.damaged:
            refused.append(_refusal(scene, DAMAGED.format(group_path(scene.group)), outside=True))
        elif scene.id in lying:
            continue
        elif scene.mask_grid == grids[scene.group]:
            fitting.append(scene)
        else:
            others = f"it lies on {scene.mask_grid}, but others of {scene.group} on {grids[scene.group]}"
            refused.append(_refusal(scene, others))
    return fitting, refused


def _elected(name: str, scenes: Sequence[Scene], sources: Sources | None) -> tuple[Grid | None, list[Refusal]]:
    """The grid of a new group, and those of its scenes that say wrong where their files lie, or whose files are out."""
    place, left = corner(name), list(scenes)
    refused: list[Refusal] = []
    while left:
        votes = [grid for grid, _ in Counter(scene.mask_grid for scene in left).most_common()]
        right = next((grid for grid in votes if place == (grid.epsg, grid.x0, grid.y0)), None)
        first = next(scene for scene in left if scene.mask_grid == votes[0])
        contradicts = not name.startswith(product.tile(first.item))  # Its grid may be wrong as well as its tile's name
        if right or not sources or not (place or contradicts):
            return right or votes[0], refused
        try:
            with SceneFiles(first) as files:
                files.check(first.bands[:1])
        except OutsideError as error:  # Of a source, not of a scene: nothing is made before a file was seen
            sources.failed(first.href, error)
            out = source(first.href)
            refused += [_refusal(scene, str(error), outside=True) for scene in left if source(scene.href) == out]
            left = [scene for scene in left if source(scene.href) != out]
        except SceneError as error:
            refused.append(_refusal(first, str(error), outside=isinstance(error, PassingError)))
            left.remove(first)
        else:
            return votes[0], refused
    return None, refused


def _refusal(scene: Scene, reason: str, *, outside: bool = False) -> Refusal:
    named = reason if scene.id in reason else f"scene {scene.id}: {reason}"
    return Refusal(scene.id, scene.item, scene.assets, scene.signing, named, outside)
