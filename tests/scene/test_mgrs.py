"""Names of tiles against the corners of real ones, as their publishers tell them."""

import pytest
from pyproj import Transformer

from cloudjob.scene.mgrs import _BANDS, _COLUMNS, _ROWS, corner


@pytest.mark.parametrize(
    ("tile", "expected"),
    [
        ("34VEL", (32634, 499_980, 6_600_000)),
        ("60CWS", (32760, 499_980, 1_200_040)),
        ("01VCG", (32601, 300_000, 6_700_020)),
        ("34LBP", (32734, 199_980, 8_900_020)),
        ("10SDG", (32610, 399_960, 4_200_000)),
        ("01KAB", (32701, 99_960, 8_200_000)),
        ("33XWJ", (32633, 499_980, 8_900_040)),
    ],
)
def test_corners_of_real_tiles(tile: str, expected: tuple[int, int, int]) -> None:
    assert corner(tile) == expected


@pytest.mark.parametrize("name", ["", "33UUP ", "1KAB", "33UIP", "33AUP", "33ZUP", "61UUP", "00UUP", "33UAP", "33UUW"])
def test_what_is_no_name_of_a_tile(name: str) -> None:
    assert corner(name) is None


def test_every_square_lies_in_its_band() -> None:
    """Its own degrees of latitude, or a square's height beside them: no other row of the same letter is meant."""
    for zone, column in ((1, "D"), (2, "M"), (3, "V")):
        to_degrees = Transformer.from_crs(32600 + zone, 4326, always_xy=True)
        for number, band in enumerate(_BANDS):
            lowest = 8 * number - 80
            found = []
            for row in _ROWS:
                place = corner(f"{zone:02}{band}{column}{row}")
                assert place
                epsg, left, top = place
                north = top - (10_000_000 if epsg > 32700 else 0)
                if -8_900_000 < north < 9_400_000:
                    found.append(to_degrees.transform(left + 50_000, north - 50_000)[1])
            inside = [degrees for degrees in found if lowest <= degrees <= lowest + (12 if band == "X" else 8)]
            assert len(inside) >= 8, (zone, band)
    assert len(_COLUMNS) == 24
