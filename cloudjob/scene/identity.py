"""When two products are one scene: the same acquisition, processed anew."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from cloudjob.catalog.area import footprint
from cloudjob.catalog.values import MAX_TEXT, spelt
from cloudjob.scene import product
from cloudjob.scene.scene import Scene

# Reprocessing may move a datastrip's sensing time by a second or two; a platform is back over a tile after 100 minutes.
TOLERANCE = timedelta(seconds=10)
# Share of the larger footprint. The two halves that a tile is split into between two datastrips stay far below.
OVERLAP = 0.9


@dataclass(frozen=True)
class Identity:
    """What tells a scene from others, small enough to be kept for every scene of the ledger.

    Attributes:
        platform: such as "sentinel-2a".
        group: name of its grid: the MGRS tile, or tile (or EPSG code), origin and shape.
        sensing: the datastrip's sensing time, UTC.
        baseline: of the processing, such as "05.10", or "".
        generated: when the product was made (ISO 8601), or "".
        footprint: in longitude, latitude.
        product: ESA's name of the product, or "".
        collection: where it is listed, or "".
    """

    platform: str
    group: str
    sensing: datetime
    baseline: str
    generated: str
    footprint: BaseGeometry
    product: str = ""
    collection: str = ""

    @classmethod
    def of(cls, scene: Scene) -> Self:
        """The identity of a scene."""
        return cls(
            scene.platform.lower(),
            scene.group,
            scene.sensing,
            scene.baseline,
            scene.generated,
            footprint(scene.item),
            scene.product,
            scene.collection,
        )

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """The identity that `to_json` made `record` of.

        Raises:
            TypeError, ValueError, KeyError: it made nothing of the kind.
        """
        given: dict[str, Any] = {
            "sensing": datetime.fromisoformat(record["sensing"]),
            "footprint": shape(record["footprint"]),
        }
        texts: dict[str, Any] = {name: value for name, value in record.items() if name not in given}
        if not all(isinstance(value, str) and len(value) <= MAX_TEXT for value in texts.values()):
            raise TypeError("a text of an identity is of another type, or too long")
        return cls(**texts, **given)

    def to_json(self) -> dict[str, Any]:
        """The identity as JSON types; the footprint is GeoJSON."""
        return {**vars(self), "sensing": self.sensing.isoformat(), "footprint": mapping(self.footprint)}

    @property
    def version(self) -> tuple[tuple[int, ...], datetime]:
        """(baseline, generation time): of two versions of a scene, the larger one counts."""
        try:
            generated = datetime.fromisoformat(spelt(self.generated))
        except ValueError:
            generated = datetime.min.replace(tzinfo=UTC)
        if generated.tzinfo is None:
            generated = generated.replace(tzinfo=UTC)
        return product.release(self.baseline), generated


def same_scene(a: Identity, b: Identity) -> bool:
    """Whether two items show one acquisition of one tile, and differ only in who publishes it or how it was processed.

    They do if platform and grid are the same and they are one product by its name. Else their sensing times (give or
    take some seconds) must be the same, their footprints overlap by more than 90 % of the larger one, and baseline,
    generation time or collection differ. All else, such as the halves of a tile that lies across two datastrips, are
    scenes of their own.
    """
    if (a.platform, a.group) != (b.platform, b.group):
        return False
    if a.product and a.product == b.product:
        return True
    return (
        abs(a.sensing - b.sensing) <= TOLERANCE
        and (a.version != b.version or a.collection != b.collection)
        and a.footprint.intersection(b.footprint).area > OVERLAP * max(a.footprint.area, b.footprint.area)
    )


def said(item: dict[str, Any]) -> tuple[Any, ...]:
    """What an item that `item.parse` has read says of itself, but for its id: two that say the same show one scene."""
    version = product.baseline(item), product.generated(item), product.name(item)
    when = map(item["properties"].get, ("datetime", "start_datetime", "end_datetime"))
    where = product.tile(item), json.dumps(item["geometry"])  # Some catalogs draw one outline around all that they hold
    return item["collection"], product.platform(item), *when, *where, *version


def merge(scenes: Iterable[Scene], listed: Collection[str] = ()) -> tuple[list[Scene], list[tuple[Scene, Scene]]]:
    """Keep one product of each scene: the newest version. Ids listed twice in a collection collapse likewise.

    Args:
        scenes: as described.
        listed: ids of those that the catalog has now; of two that are as new they come first.

    Returns:
        The scenes kept, in the order given, and for each other one (it, the one kept in its favour).
    """
    identified = [(Identity.of(scene), scene) for scene in scenes]

    def order(pair: tuple[Identity, Scene]) -> tuple[Any, ...]:
        identity, scene = pair
        return identity.version, scene.id in listed, scene.id, scene.collection

    newest_first = sorted(identified, key=order, reverse=True)
    kept: dict[tuple[Any, ...], list[tuple[Identity, Scene]]] = {}
    named: dict[tuple[str, str], Scene] = {}
    dropped: dict[int, Scene] = {}
    for identity, scene in newest_first:
        # Scenes within the tolerance lie in the same or a neighbouring slot of time: few are compared with each other.
        place = identity.platform, identity.group
        slot = int(identity.sensing.timestamp() // TOLERANCE.total_seconds())
        rivals = [rival for near in (slot - 1, slot, slot + 1) for rival in kept.get((*place, near), ())]
        rivals += kept.get((*place, identity.product), ()) if identity.product else ()
        winner = named.get((scene.collection, scene.id)) or next(
            (rival for other, rival in rivals if same_scene(identity, other)), None
        )
        if winner is None:
            for key in (slot, identity.product):
                kept.setdefault((*place, key), []).append((identity, scene))
            named[scene.collection, scene.id] = scene
        else:
            dropped[id(scene)] = winner
    return (
        [scene for _, scene in identified if id(scene) not in dropped],
        [(scene, dropped[id(scene)]) for _, scene in identified if id(scene) in dropped],
    )
