"""Damage as it happens and as it is made: to JSON documents and to bytes. Everything from a seed."""

import copy
import os
import random
from collections.abc import Iterator
from typing import Any

TRIES = int(os.environ.get("CLOUDJOB_FUZZ", "0"))
SEED = int(os.environ.get("CLOUDJOB_FUZZ_SEED", "0"))

LIMIT = 0 if TRIES else 600
"""Seconds for all tries of a test, ten times those of a machine that does nothing else: one of them may never end."""

DEEP: list[Any] = []
for _ in range(40):
    DEEP = [DEEP]

NUMBERS = [
    0,
    1,
    -1,
    2,
    255,
    2**31,
    2**62,
    -(2**62),
    10**30,
    10**400,
    1e308,
    -1e308,
    1e-320,
    *map(float, ("nan", "inf", "-inf")),
]
TEXTS = [
    *("", "x", "0", "NaN", "null", "../../x", "/etc/passwd", "\x1b[31m", "\ud800", "\0", "🛰" * 50, "a" * 10_000),
    *(
        "<script>alert(1)</script>",
        "2024-06-01T00:00:00Z",
        "0000-00-00",
        "99999-01-01T00:00:00Z",
        "http://[::1",
        "file:///x",
    ),
]
BOXES = [[], [None], [[]], [1, 2], {}, {"": ""}, {"type": "Polygon", "coordinates": []}, DEEP, [10**9] * 2, [1e300] * 6]
VALUES: list[Any] = [None, True, False, *NUMBERS, *TEXTS, *BOXES]


def generators(quick: int) -> Iterator[random.Random]:
    """A generator of random numbers for each try: `quick` of them in the gate."""
    for number in range(TRIES or quick):
        yield random.Random(f"{SEED} {number}")


def document(rng: random.Random, told: Any, times: int | None = None) -> Any:
    """A copy of a JSON document with some of its members replaced, deleted, doubled or moved."""
    changed = copy.deepcopy(told)
    for _ in range(times or rng.choice((1, 1, 1, 2, 3, 8))):
        places = list(_places(changed))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        match rng.randrange(6):
            case 0 if isinstance(parent, dict):
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case 2:
                other, name = rng.choice(places)
                parent[key] = copy.deepcopy(other[name])
            case 3 if type(parent[key]) in (int, float) and abs(parent[key]) < 10**300:
                parent[key] = rng.choice((-parent[key], parent[key] * 10**9, str(parent[key]), float(parent[key])))
            case _:
                parent[key] = copy.deepcopy(rng.choice(VALUES))
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    if isinstance(value, dict):
        members: Any = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    else:
        return
    for key, each in members:
        yield value, key
        yield from _places(each)


def data(rng: random.Random, good: bytes) -> bytes:
    """Some bytes, cut, flipped, filled, doubled or replaced."""
    at = rng.randrange(max(len(good), 1))
    end = rng.randrange(at, len(good) + 1)
    flipped = bytes([good[at] ^ (1 << rng.randrange(8))]) if good else b""
    return rng.choice(
        [
            b"",
            good[:at],
            good[:at] + flipped + good[at + 1 :],
            good[:at] + rng.randbytes(end - at) + good[end:],
            good[:at] + bytes(rng.randrange(1, 5000)) + good[at:],
            good + good[at:],
            rng.randbytes(rng.randrange(1, 200)),
        ]
    )
