"""What people hand over in Python, as the command line takes it: dates, areas, items, and names that are misspelt.

What is nothing of the kind ends with a `UsageError`.
"""

import ast
import contextlib
import inspect
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from types import FrameType, UnionType
from typing import Any

from cloudjob.errors import UsageError, did_you_mean


def refuse_unknown(names: Iterable[str], function: Callable[..., Any]) -> None:
    """Refuse keyword arguments that a function does not know, with what was probably meant."""
    known = [name for name in inspect.signature(function).parameters if name != "unknown"]
    for name in names:
        raise UsageError(f"{function.__name__} has no option {name!r}", hint=did_you_mean(name, known))


def refuse_unguarded(frame: FrameType | None) -> None:
    """Refuse to start worker processes from a script without a main guard: each of them would run it anew.

    Raises:
        UsageError: the script of a caller's `frame` calls it outside of `if __name__ == "__main__":`.
    """
    while frame and (frame.f_code.co_name, frame.f_globals.get("__name__")) != ("<module>", "__main__"):
        frame = frame.f_back
    path = Path(frame.f_globals.get("__file__") or "") if frame else Path()
    if frame is None or not path.is_file():  # a notebook or a prompt, which no worker imports
        return
    try:
        statements = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    now = [each for each in statements if each.lineno <= frame.f_lineno <= (each.end_lineno or each.lineno)]
    if now and not (isinstance(now[0], ast.If) and "__name__" in ast.unparse(now[0].test)):
        raise UsageError(
            f"line {frame.f_lineno} of {path.name} starts worker processes, which import the script anew: it must "
            'stand below `if __name__ == "__main__":`',
            hint="or pass client=, of a Dask cluster",
        )


def interval(dates: object) -> str:
    """Dates as `--dates` takes them.

    Args:
        dates: a string, a date (or datetime), or a pair of these, None for an open end.
    """
    if isinstance(dates, str):
        return dates
    if isinstance(dates, date) and is_dates(dates):
        return _day(dates)
    if isinstance(dates, tuple | list) and is_dates(dates):
        first, last = dates
        return f"{'1970' if first is None else _day(first)}/{'..' if last is None else _day(last)}"
    raise UsageError(
        f"dates is {dates!r}; expected a string such as '2024-06', a date, or a pair of dates",
        hint='for example dates=("2024-06-01", "2024-06-30")',
    )


def is_dates(what: object) -> bool:
    """Whether something is a string, a date or a pair of these, of which one may be None."""
    if isinstance(what, tuple | list) and len(what) == 2:
        return all(end is None or _is_date(end) for end in what)
    return _is_date(what)


def _is_date(what: object) -> bool:
    return isinstance(what, str) or (isinstance(what, date) and math.isfinite(what.year))  # pandas' NaT is none


def _day(day: str | date) -> str:
    if isinstance(day, datetime) and day.tzinfo:  # Days are those of UTC
        day = day.astimezone(UTC)
    return day if isinstance(day, str) else f"{day:%Y-%m-%d}"


def box(bbox: object) -> tuple[float, float, float, float] | None:
    """A bounding box as four numbers, or None where none was given."""
    if bbox is None:
        return None
    try:
        sides = () if isinstance(bbox, str) else bbox  # Of four digits it would be a box
        west, south, east, north = (float(number) for number in sides)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        hint = "for example bbox=(11.2, 46.4, 11.5, 46.6); of a shapely geometry it is bbox=geometry.bounds"
        raise UsageError(f"bbox is {bbox!r}; expected west, south, east, north in degrees", hint=hint) from None
    return west, south, east, north


def number(name: str, value: Any, kind: Callable[[Any], Any] = float) -> Any:
    """A number as `kind` makes it (`operator.index`: whole ones only), or None where none was given."""
    try:
        return None if value is None else kind(value)
    except (TypeError, ValueError, OverflowError):
        what = "a number" if kind is float else "a whole number"
        raise UsageError(f"{name} is {value!r}; expected {what}") from None


def flag(name: str, value: object) -> bool:
    """True or False, also as 1 or 0, and as numpy's; "no" is true to Python, and would delete masks as `redo`."""
    if str(value) not in ("True", "False", "1", "0") or isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def keys(assets: object) -> Mapping[str, str] | None:
    """Asset keys by the names of bands, or None where none were given."""
    if assets is None or (isinstance(assets, Mapping) and all(isinstance(key, str) for key in assets.values())):
        return assets
    raise UsageError(f"assets is {assets!r}; expected a dict", hint='for example assets={"red": "B04"}')


def text(name: str, value: Any, kinds: type | UnionType = str) -> Any:
    """A name, or a path where `kinds` tells so, or None where none was given."""
    if value is None or isinstance(value, kinds):
        return value
    several = name == "collection" and isinstance(value, Iterable)
    hint = f"several with commas between: {','.join(map(str, value))!r}" if several else None
    raise UsageError(f"{name} is {value!r}; expected a {'name' if kinds is str else 'file or a name'}", hint=hint)


def ids(given: object) -> frozenset[str]:
    """Ids of scenes: one alone, whose letters are none, or some."""
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if wrong := [id_ for id_ in found if not isinstance(id_, str)]:
        raise UsageError(f"retry has {wrong[0]!r}; expected ids of scenes")
    return frozenset(map(str, found))


@contextlib.contextmanager
def files(geometry: object, catalog: Any) -> Iterator[tuple[str | Mapping[str, Any] | None, str]]:
    """An area, and a catalog as a file or an address, for as long as the block lasts.

    Args:
        geometry: None, a file, GeoJSON as a dict, or what has a `__geo_interface__` (shapely, geopandas).
        catalog: a preset's name, an address, a file, a `pystac_client.Client`, or items.
    """
    area = _area(geometry)
    if isinstance(catalog, str | Path):
        yield area, str(catalog)
    elif hasattr(catalog, "get_self_href") and hasattr(catalog, "search"):  # a pystac_client.Client
        yield area, str(catalog.get_self_href())
    else:
        items = items_of("catalog", catalog)
        with tempfile.TemporaryDirectory(prefix="cloudjob-") as folder:
            path = Path(folder, "items.json")
            path.write_text(json.dumps({"type": "FeatureCollection", "features": items}), encoding="utf-8")
            yield area, str(path)


def _area(geometry: Any) -> str | Mapping[str, Any] | None:
    if geometry is None or isinstance(geometry, str | Path):
        return None if geometry is None else str(geometry)
    document: Any = geometry if isinstance(geometry, Mapping) else getattr(geometry, "__geo_interface__", None)
    if document is None:
        raise UsageError(
            f"geometry is a {type(geometry).__name__}; expected a GeoJSON file or dict, or a shapely geometry",
            hint="four numbers are a bbox; several geometries are one by shapely.union_all",
        )
    crs = getattr(geometry, "crs", None)  # geopandas: its interface is in the frame's own system
    if crs is not None and hasattr(geometry, "to_crs"):
        document = geometry.to_crs(4326).__geo_interface__
    return dict(document)


def items_of(name: str, items: Any) -> list[dict[str, Any]]:
    """STAC items as plain dicts, whose addresses do not depend on where they are read.

    Args:
        name: what holds them, for errors.
        items: some of them, pystac's or dicts; or an item collection, or one item, as a dict.

    Raises:
        UsageError: it is something else, or nobody can tell where an item's files lie.
    """
    if isinstance(items, Mapping):
        items = items.get("features", [items])
    if not isinstance(items, Iterable):
        expected = "dates, or STAC items, pystac's or dicts" if name == "what" else "STAC items, pystac's or dicts"
        raise UsageError(f"{name} is {items!r}; expected {expected}", hint="one item alone as [item]")
    return [_item(each) for each in items]


def _item(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        if not hasattr(item, "to_dict") or not hasattr(item, "assets"):
            raise UsageError(f"a {type(item).__name__} is no STAC item", hint="expected pystac.Item, or a dict")
        whole = item.clone()
        if whole.get_self_href():
            whole.make_asset_hrefs_absolute()
        item = whole.to_dict(include_self_link=True, transform_hrefs=False)
    assets, links = item.get("assets"), item.get("links")  # What is no item at all is refused alone, by who reads it
    links = links if isinstance(links, list) else []
    selves = [link.get("href") for link in links if isinstance(link, Mapping) and link.get("rel") == "self"]
    assets = assets if isinstance(assets, Mapping) else {}
    hrefs = {key: one.get("href") for key, one in assets.items() if isinstance(one, Mapping)}
    hrefs = {key: href for key, href in hrefs.items() if isinstance(href, str)}
    placed = any(map(_is_absolute, selves))  # Else what is relative would count from a file of ours
    lost = {key: href for key, href in hrefs.items() if not placed and not _is_absolute(href)}
    if lost and len(lost) == len(hrefs):
        raise UsageError(
            f"item {item.get('id')} has a file at {next(iter(lost.values()))!r}, and does not say where it lies itself",
            hint="hand over the path of its file instead, or addresses that are absolute",
        )
    nowhere = "it lies at {:.200}, and its item does not say where it lies itself; expected an address that is absolute"
    told = {key: {**assets[key], "refused": nowhere.format(repr(href))} for key, href in lost.items()}
    return {**item, "assets": {**assets, **told}} if told else dict(item)


def _is_absolute(href: object) -> bool:
    return isinstance(href, str) and (":" in href or href.startswith("/"))
