"""One Zarr group: the masks of one grid. Its form, and the axis of its slots.

The truth about a group is its attribute `cloudjob:scenes`: which scene owns which slot of the time axis. It lies in one
file with the consolidated metadata, so the axis changes by one atomic write, made after everything else is in place.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from pyproj import CRS
from zarr.codecs import BloscCodec, ZstdCodec

from cloudjob.classes import NOT_COMPUTED
from cloudjob.errors import ContractError, UnreachableError
from cloudjob.grid import Grid
from cloudjob.store import conventions
from cloudjob.store.conventions import EPOCH
from cloudjob.store.document import ODD, dump, parse
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.settings import Settings

MASKS = "masks.zarr"
SCENES = "cloudjob:scenes"
"""Attribute of a group: ids of the scenes that own its slots, in order."""

ALONG_TIME = {"cloud", "cloud_probability", "time", "status"}
ARRAYS = {*ALONG_TIME, "y", "x", "spatial_ref"}
TIMES = 4096  # Values per chunk of `time` and `status`: a decade of a tile in one small file
PIXELS = 65536  # Values per chunk of `y` and `x`: all of them
LARGEST = 10**6  # Pixels along a side, or slots; an MGRS tile at 10 m has 10,980 pixels
WIDEST = 8192  # Pixels along a side of a tile, as a network's contract may have it
INNER = 552  # Largest side of the pieces of a shard that a reader of a small window fetches
MANY = 16  # Pieces along a shard's side, at most

# One mask tile of 1024²: 18 kB so, 39 kB by zstd alone; noisy probabilities: 549 kB so, 358 kB by zstd alone.
MASK_CODEC = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle", typesize=1)
PERCENT_CODEC = ZstdCodec(level=3)

_COMMENT = "a group for each grid: name one, or cloudjob.open(OUT) for all, sorted by time, complete scenes only"
"""Else who opens masks.zarr itself sees an empty dataset."""

MEND = "`cloudjob check OUT --repair` mends what can be mended"

Metadata = dict[str, Any]
Mask = npt.NDArray[np.uint8]


def read_all(out: Out, damaged: dict[str, str], also: Iterable[str] = ()) -> dict[str, Metadata]:
    """Every group's metadata document by its name. One whose making was interrupted has none, and is left out.

    Args:
        damaged: as in `Out.documents`.
        also: groups that are asked for even if they are not listed.
    """
    paths = {path(name): name for name in sorted(out.names(MASKS).union(also) - {"zarr.json"})}
    found = out.documents("a group", paths, lambda _, data: parsed(data), damaged)
    return {paths[path]: metadata for path, metadata in found.items()}


def path(group: str) -> str:
    """Of a group's metadata document."""
    return f"{MASKS}/{group}/zarr.json"


def scenes(metadata: Metadata) -> tuple[str, ...]:
    """The scenes that own a group's slots."""
    return tuple(metadata["attributes"][SCENES])


def tile(metadata: Metadata) -> int:
    """Side in pixels of a group's tiles: one is a shard."""
    side: int = member(metadata, "cloud")["chunk_grid"]["configuration"]["chunk_shape"][1]
    return side


def grid_of(metadata: Metadata) -> Grid:
    """The grid of a group's masks."""
    attributes = metadata["attributes"]
    dx, _, x0, _, dy, y0 = attributes["spatial:transform"]
    height, width = member(metadata, "cloud")["shape"][1:]
    return Grid(int(attributes["proj:code"].removeprefix("EPSG:")), x0, y0, dx, -dy, height, width)


def open_array(out: Out, group: str, name: str) -> zarr.Array[Any]:
    """Open one array for writing; never by consolidated metadata, which may be behind.

    Raises:
        ContractError: it is not there, or damaged.
    """
    path = f"{MASKS}/{group}/{name}"
    with out.reached():
        try:
            if out.folder and not Path(out.folder, path).is_dir():  # Else it would be made
                raise FileNotFoundError("there is no such folder")  # noqa: TRY301
            array = zarr.open_array(out.zarr(path), mode="r+", zarr_format=3)
            if not _as_made(name, array.shape, array.shards or array.chunks, array.chunks):
                raise ValueError(f"it has {array.shape} values in pieces of {array.shards or array.chunks}")
            return array  # noqa: TRY300
        except (*ODD, FileNotFoundError, RecursionError) as error:
            raise ContractError(f"{out}/{path} cannot be opened: {type(error).__name__}: {error}", hint=MEND) from None


def axis(out: Out, group: str, name: str, array: zarr.Array[Any] | None = None) -> npt.NDArray[Any]:
    """The values of an array with one dimension, such as `time`; `array` if it has been opened already.

    Raises:
        ContractError: it is not there, or damaged.
    """
    array = array or open_array(out, group, name)
    with out.reached():
        try:
            return np.array(array[:])
        except (ValueError, RuntimeError, SystemError) as error:  # What codecs say
            raise ContractError(
                f"{out}/{MASKS}/{group}/{name} cannot be read: {type(error).__name__}: {error}", hint=MEND
            ) from None


def times(out: Out, group: str) -> dict[int, datetime]:
    """Slot → the moment of its scene, as far as the axis tells: it may be damaged, or emptied (`mend_axes`)."""
    try:
        told = enumerate(axis(out, group, "time").tolist())
        return {slot: EPOCH + timedelta(microseconds=value) for slot, value in told if value}
    except (ContractError, OverflowError):
        return {}


def create(lock: Lock, group: str, grid: Grid, side: int, settings: Settings, coarser: int = 1) -> None:
    """Make a group's arrays with an empty time axis. It is no group before `commit`: killed here, it is made anew.

    Raises:
        UnreachableError: there is such a group, which the store does not list; or it does not answer.
    """
    out = lock.out
    if out.get(path(group)) is not None:  # All its masks would be deleted
        raise UnreachableError(
            f"{out}/{path(group)} is there, and was not listed", hint="run again: nothing was changed"
        )
    out.delete_under(f"{MASKS}/{group}", lock.check)
    if out.get(f"{MASKS}/zarr.json") is None:
        root = {"zarr_format": 3, "node_type": "group", "attributes": {"comment": _COMMENT}}
        out.put(f"{MASKS}/zarr.json", dump(root))
    made = _masks(grid, side, settings, conventions.rounding(coarser)) | _axes(grid)
    for name, arguments in made.items():
        _create(out, group, name, arguments)


def _masks(grid: Grid, side: int, settings: Settings, rounding: Mapping[str, str]) -> dict[str, Metadata]:
    """A group's masks, and their probabilities where they are kept: arguments of Zarr's, their time axis empty."""
    inner = side
    while inner > INNER and inner % 2 == 0:
        inner //= 2
    shards = {"shards": (1, side, side), "chunks": (1, inner, inner), "fill_value": NOT_COMPUTED}
    cube = {"shape": (0, *grid.shape), "dtype": "uint8", "dimension_names": ("time", "y", "x"), **shards}
    mask = {**cube, "compressors": MASK_CODEC, "attributes": conventions.cloud(grid, settings.classes)}
    if not settings.probability:
        return {"cloud": mask}
    likely = {**cube, "compressors": PERCENT_CODEC, "attributes": conventions.probability(grid, rounding)}
    return {"cloud": mask, "cloud_probability": likely}


def _axes(grid: Grid) -> dict[str, Metadata]:
    """What a group has beside its masks, which its grid alone tells: arguments of Zarr's, its time axis empty."""
    axis = {"shape": (0,), "chunks": (TIMES,), "fill_value": 0, "dimension_names": ("time",)}
    arrays: dict[str, Metadata] = {
        "time": {**axis, "dtype": "int64", "attributes": conventions.TIME},
        "status": {**axis, "dtype": "uint8", "attributes": conventions.STATUS},
        "spatial_ref": {"shape": (), "dtype": "int64", "fill_value": 0, "attributes": conventions.grid_mapping(grid)},
    }
    for name, (values, attributes) in conventions.coordinates(grid).items():
        chunks = (min(PIXELS, values.size),)
        arrays[name] = {"data": values, "chunks": chunks, "dimension_names": (name,), "attributes": attributes}
    return arrays


def _create(out: Out, group: str, name: str, made: Metadata) -> None:
    with out.reached():  # A store for each array, because Zarr makes groups of all folders above that it can see
        zarr.create_array(out.zarr(f"{MASKS}/{group}/{name}"), **made)


def commit(
    out: Out,
    group: str,
    order: Sequence[str],
    *,
    times: Mapping[int, int],
    statuses: Sequence[int],
    grid: Grid | None = None,
    clear: Callable[[], None] = lambda: None,
) -> None:
    """Bring a group's time axis to `order`: the lengths of its arrays, times, statuses, and last, at once, the list.

    Writes nothing where everything is as it should be.

    Args:
        order: ids of the scenes that own the slots, "" for slots that are free.
        times: slot → microseconds since 1970; those of others stay.
        statuses: one per slot.
        grid: of a group that is new; others keep their attributes.
        clear: makes room, when all of the group has been looked at: nothing is changed in one that is damaged.

    Raises:
        ContractError: it is damaged.
    """
    before = out.get(path(group))
    if grid:
        told, there = conventions.attributes(grid), out.names(f"{MASKS}/{group}") & ARRAYS
    else:
        known = parsed(before or b"{}")
        told, there = known["attributes"], known["consolidated_metadata"]["metadata"].keys() & ARRAYS
    names = sorted(there | {"time", "status"})
    arrays = {name: open_array(out, group, name) for name in names}
    old = {name: axis(out, group, name, arrays[name]) for name in ("time", "status")}
    moments = dict(enumerate(old["time"].tolist())) | dict(times)
    clear()
    with out.reached():
        for name in sorted(arrays.keys() & ALONG_TIME):
            if arrays[name].shape[0] != len(order):
                arrays[name].resize((len(order), *arrays[name].shape[1:]))
        _write(arrays["time"], old["time"], [moments.get(slot, 0) for slot in range(len(order))])
        _write(arrays["status"], old["status"], statuses)
    members = out.each(out.get_json, [f"{MASKS}/{group}/{name}/zarr.json" for name in names])
    data = dump(document(dict(zip(names, members, strict=True)), told, order))
    if data != before:
        out.put(path(group), data)


def document(members: Metadata, attributes: Metadata, order: Sequence[str]) -> Metadata:
    """A group's metadata: of its arrays, consolidated, and its own with the scenes that own its slots."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**attributes, SCENES: list(order)},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": members},
    }


def mend_mask(
    out: Out, group: str, name: str, metadata: Metadata, settings: Settings, rounding: Mapping[str, str]
) -> None:
    """Make anew what a group's masks, or their probabilities, say of themselves; their shards stay.

    Args:
        name: of the array.
        metadata: of the group, in which one array of this form is called "cloud".
        rounding: of the probabilities, as far as that is known.
    """
    out.delete([f"{MASKS}/{group}/{name}/zarr.json"])
    made = _masks(grid_of(metadata), tile(metadata), settings, rounding)[name]
    pieces = member(metadata, "cloud")["codecs"][0]["configuration"]["chunk_shape"]  # Of shards that are there
    _create(out, group, name, {**made, "chunks": tuple(pieces)})


def mend_axes(out: Out, group: str, grid: Grid) -> None:
    """Make a group's coordinates anew, and its times and statuses, empty, where they cannot be read."""
    for name, made in _axes(grid).items():
        with contextlib.suppress(ContractError):
            if name in ALONG_TIME:
                axis(out, group, name)
                continue
        out.delete_under(f"{MASKS}/{group}/{name}")
        _create(out, group, name, made)


def check_grid(out: Out, group: str, metadata: Metadata, grid: Grid, side: int) -> None:
    """Make sure that a group has a scene's grid.

    Raises:
        ContractError: it has another one, or other tiles.
    """
    known, asked = (grid_of(metadata), tile(metadata)), (grid, side)
    if known != asked:
        raise ContractError(
            f"{out}: group {group} has (grid, tile) {known}, but its scenes now have {asked}",
            hint="choose another --out",
        )


def rounds_down(metadata: Metadata) -> bool:
    """Whether a group keeps the network's own probabilities, rounded down, of which masks can be made again."""
    arrays = metadata["consolidated_metadata"]["metadata"]
    return bool(arrays.get("cloud_probability", {}).get("attributes", {}).get("rounding") == "down")


def member(metadata: Metadata, array: str) -> Metadata:
    """The metadata of one of a group's arrays."""
    found: Metadata = metadata["consolidated_metadata"]["metadata"][array]
    return found


def _as_made(name: str, shape: Sequence[Any], pieces: Sequence[Any], inner: Sequence[Any]) -> bool:
    """Whether an array has the form that `create` gives it.

    Else a few bytes of metadata, damaged or hostile, could have millions of pieces listed, or a terabyte allocated.
    """
    if not all(type(length) is int and 0 <= length <= LARGEST for length in shape):
        return False
    shape, pieces, inner = tuple(shape), tuple(pieces), tuple(inner)
    if name in ("cloud", "cloud_probability"):
        side = pieces[-1] if pieces else 0
        if len(shape) != 3 or type(side) is not int or not 0 < side <= WIDEST or pieces != (1, side, side):
            return False
        return inner in {(1, side // count, side // count) for count in range(1, MANY + 1) if side % count == 0}
    if name == "spatial_ref":
        return shape == pieces == ()
    return len(shape) == 1 and pieces == inner == ((TIMES,) if name in ALONG_TIME else (min(PIXELS, shape[0]),))


def _write(array: zarr.Array[Any], old: Any, new: Sequence[int]) -> None:
    if not np.array_equal(old, new):
        array[:] = np.asarray(new, array.dtype)


def parsed(data: bytes) -> Metadata:
    """A group's metadata document, in which all that is used has been looked at.

    Raises:
        ContractError: cloudjob did not write it so.
    """
    try:
        document: Metadata = parse(data)
        owners, grid, side = document["attributes"][SCENES], grid_of(document), tile(document)
        if not (isinstance(owners, list) and all(isinstance(id_, str) for id_ in owners)):
            raise ValueError(f"{SCENES} are no ids")
        for name, told in document["consolidated_metadata"]["metadata"].items():
            pieces = told["chunk_grid"]["configuration"]["chunk_shape"]
            sharded = told["codecs"][0] if told["codecs"][0]["name"] == "sharding_indexed" else told["chunk_grid"]
            if not _as_made(name, told["shape"], pieces, sharded["configuration"]["chunk_shape"]):
                raise ValueError(f"{name} has {told['shape']} values in pieces of {pieces}")
        if not (0 < side <= WIDEST and 0 < grid.height <= LARGEST and 0 < grid.width <= LARGEST):
            raise ValueError(f"its tiles have {side} pixels and its grid {grid.shape}")
        if not np.isfinite(grid.transform).all() or grid.dx <= 0 or grid.dy <= 0:
            raise ValueError(f"its transform is {grid.transform}")
        CRS.from_epsg(grid.epsg)
    except (*ODD, RuntimeError) as error:
        raise ContractError(f"it is no group that cloudjob made: {type(error).__name__}: {error}") from None
    return document
