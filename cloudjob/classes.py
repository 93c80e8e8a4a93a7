"""What the values of a mask mean, and how each is coloured: one list for arrays, items, reports and exports."""

from typing import NamedTuple

CLEAR = 0
CLOUD = 1
NO_DATA = 254
NOT_COMPUTED = 255


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


CLASSES = (
    Class(CLEAR, "clear", "no cloud; cloud shadow is not told apart"),
    Class(CLOUD, "cloud", "cloud, thick or thin"),
    Class(NO_DATA, "no_data", "no data in the source"),
    Class(NOT_COMPUTED, "not_computed", "not computed, or outside of what was asked for"),
)

COLOURS = {
    CLEAR: (84, 146, 100, 255),
    CLOUD: (255, 255, 255, 255),
    NO_DATA: (40, 40, 46, 255),
    NOT_COMPUTED: (0, 0, 0, 0),
}
"""RGBA of each class: clear green, clouds white, no data nearly black; not computed lets the map below shine through.
Told apart by lightness alone, too: each is at least three times as light as the next."""
