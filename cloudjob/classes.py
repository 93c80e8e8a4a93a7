"""What the values of a mask mean, and how each is coloured: one list for arrays, items, reports and exports."""

from collections.abc import Iterable
from typing import NamedTuple

CLEAR = 0
CLOUD = 1
THIN_CLOUD = 2
SHADOW = 3
NO_DATA = 254
NOT_COMPUTED = 255

BINARY = (CLEAR, CLOUD)
"""The classes of a network that tells cloud from all else."""


class Class(NamedTuple):
    """One value of a mask.

    Attributes:
        value: uint8.
        name: as in `flag_meanings`.
        description: one line.
    """

    value: int
    name: str
    description: str


_LABELS = (
    Class(CLEAR, "clear", "neither cloud nor cloud shadow"),
    Class(CLOUD, "cloud", "thick cloud"),
    Class(THIN_CLOUD, "thin_cloud", "thin cloud, through which the ground can be seen"),
    Class(SHADOW, "cloud_shadow", "shadow of a cloud"),
)
_OTHERS = (
    Class(NO_DATA, "no_data", "no data in the source"),
    Class(NOT_COMPUTED, "not_computed", "not computed, or outside of what was asked for"),
)

NAMES = {label.name: label.value for label in _LABELS}
"""The classes that a network may know, by name."""

COLOURS = {
    CLEAR: (84, 146, 100, 255),
    CLOUD: (255, 255, 255, 255),
    THIN_CLOUD: (160, 205, 240, 255),
    SHADOW: (52, 66, 140, 255),
    NO_DATA: (40, 40, 46, 255),
    NOT_COMPUTED: (0, 0, 0, 0),
}
"""RGBA of each class: clear green, clouds white, thin ones pale blue, shadows deep blue, no data nearly black; not
computed lets the map below shine through. Told apart by lightness alone, too: no data, shadow, clear, thin cloud and
cloud, each at least 1.6 times as light as the one before (relative luminance, WCAG 2)."""


def of(labels: Iterable[int]) -> tuple[Class, ...]:
    """Every value of a mask whose network knows the classes `labels`."""
    known = set(labels)
    wider = {}
    if SHADOW not in known:
        wider[CLEAR] = "no cloud; cloud shadow is not told apart"
    if THIN_CLOUD not in known:
        wider[CLOUD] = "cloud, thick or thin"
    told = (Class(value, name, wider.get(value, text)) for value, name, text in _LABELS if value in known)
    return (*told, *_OTHERS)
