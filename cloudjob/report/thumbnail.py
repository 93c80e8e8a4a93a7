"""Small pictures of a scene and of its mask for the report: made once, then kept in the OUT.

The image comes from the overviews of the source's own files, some 100 kB of them; where they cannot be read, that is
said in its place. A cell of the mask's picture stands for many pixels: its colour is mixed of those of their classes,
by their shares, so that a small cloud is a pale spot and not a pixel that is hit or missed.
"""

import base64
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.windows import from_bounds

from cloudjob.catalog import signing
from cloudjob.classes import COLOURS, NO_DATA, NOT_COMPUTED
from cloudjob.errors import SceneError, redact
from cloudjob.grid import Grid, Window
from cloudjob.scene.files import env, open_file
from cloudjob.scene.scene import NO_DATA as EMPTY
from cloudjob.store import check
from cloudjob.store import group as groups
from cloudjob.store.document import parse
from cloudjob.store.item import file_name
from cloudjob.store.ledger import Done
from cloudjob.store.out import Out

FOLDER = "report/pictures"
_OURS = re.compile(rf"{FOLDER}/[^/]+/[^/]+\.json")
SIDE = 224
"""Pixels of a picture's longer side, at most. Shown at half that, until somebody enlarges it."""

FORM = 2
"""Counted up when pictures are made in another way: those that are kept are then made anew."""

WHITE, GAMMA = 0.9, 2.2
"""Reflectance shown as white, and how much dark ground is lifted: both can be seen, thick clouds and the ground. The
same in every picture, so that they can be compared."""

QUALITY = 45
MOST = 5e8
"""Pixels of an image; a whole tile of Sentinel-2 has 1.2e8."""

PREFIX = "data:image/webp;base64,"
PATIENCE = 10
"""After so many images in a row that cannot be read, others are not tried in this report."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Two pictures of one scene, as data URIs.

    Attributes:
        key: of the item they were made of.
        mask: WebP without loss, in the colours of `classes.COLOURS`; "" if it cannot be read.
        image: WebP, true colour; "" if it cannot be read.
        why: what could not be read, without secrets.
        width: of both, pixels.
        height: of both, pixels.
    """

    key: str
    mask: str = ""
    image: str = ""
    why: str = ""
    width: int = SIDE
    height: int = SIDE


class Album:
    """The pictures of an OUT's scenes; `sides` are those of its groups' tiles, in pixels."""

    def __init__(self, out: Out, sides: Mapping[str, int]) -> None:
        self.out, self.sides = out, sides
        self._misses = 0
        self._array = functools.cache(lambda group: groups.open_array(out, group, "cloud"))

    def get(self, entry: Done, key: str) -> Pictures:
        """The pictures of a scene, from the OUT where they are kept and still those of its item."""
        path, key = _path(entry), f"{key} {FORM}"
        kept = found = _parsed(self.out.get(path), key)
        item = parse(self.out.get(entry.path) or b"{}") if not (found.mask and found.image) else {}
        if item and not found.mask:
            found = self._with_mask(found, entry, item)
        if item and not found.image:
            found = self._with_image(found, entry, item)
        if (found.mask, found.image) != (kept.mask, kept.image):
            self.out.put_json(path, asdict(replace(found, why="")))
        return found

    def prune(self, entries: Sequence[Done]) -> None:
        """Delete the pictures of all other scenes, and nothing that has not a picture's name."""
        wanted = {_path(entry) for entry in entries}
        self.out.delete(path for path in self.out.tags(FOLDER) if _OURS.fullmatch(path) and path not in wanted)

    def _with_mask(self, found: Pictures, entry: Done, item: Mapping[str, Any]) -> Pictures:
        try:
            window = _window(entry, item, self.sides[entry.group])
            with self.out.reached():
                pixels = _shares(self._array(entry.group), entry.slot, window)
        except check.WRONG as error:
            return replace(found, why=f"the mask cannot be read: {redact(str(error))}")
        height, width = pixels.shape[1:]
        return replace(found, mask=_webp(pixels, LOSSLESS="YES"), height=height, width=width)

    def _with_image(self, found: Pictures, entry: Done, item: Mapping[str, Any]) -> Pictures:
        if self._misses >= PATIENCE:
            return replace(found, why=f"not tried: {PATIENCE} others before could not be read")
        try:
            pixels = self._image(entry, item, (found.height, found.width))
        except (rasterio.errors.RasterioError, SceneError, OSError, *check.WRONG) as error:
            self._misses += 1
            told = re.sub(r"[^\s'\"]*/", "", redact(str(error)))  # Where the file lies stands in the item
            return replace(found, why=f"the image cannot be read: {told or type(error).__name__}")
        self._misses = 0
        return replace(found, image=_webp(pixels, QUALITY=QUALITY))

    def _image(self, entry: Done, item: Mapping[str, Any], shape: tuple[int, int]) -> Pixels:
        """True colour (3, y, x) of the part of the scene that was computed, from the files' overviews."""
        told = item["properties"]
        sources = told["cloudjob:reflectance"]
        grid = _grid(told)
        bounds = grid.crop(_window(entry, item, self.sides[entry.group])).bounds
        names = [name for name in ("red", "green", "blue") if name in sources]
        layers, empty = [], np.zeros(shape, np.bool_)
        with env(GDAL_HTTP_MAX_RETRY="1"):  # A picture is not worth a minute: the next report tries again
            for name in names if len(names) == 3 else list(sources)[:1] * 3:
                source = sources[name]
                if "href" not in source:
                    raise LookupError("its item does not say where it lies")
                with open_file(signing.open_href("", source["href"])) as file:
                    if not np.allclose(file.bounds, grid.bounds, rtol=0, atol=max(grid.dx, grid.dy)):
                        raise SceneError("it no longer lies where its item says")
                    window = from_bounds(*bounds, transform=file.transform)
                    if window.height * window.width > MOST:  # Without overviews all of them would be read
                        raise SceneError(f"it has {file.height} × {file.width} pixels")
                    numbers = file.read(1, window=window, out_shape=shape, resampling=Resampling.average, masked=True)
                numbers = np.ma.masked_invalid(numbers)
                empty |= np.ma.getmaskarray(numbers) | (numbers.data == EMPTY)
                layers.append(numbers.filled(EMPTY) * source["scale"] + source["offset"])
        shown = np.clip(np.array(layers) / WHITE, 0, 1) ** (1 / GAMMA)
        pixels = np.rint(255 * shown).astype(np.uint8)
        pixels[:, empty] = np.array(COLOURS[NO_DATA][:3])[:, None]
        return pixels


def _path(entry: Done) -> str:
    return f"{FOLDER}/{entry.group}/{file_name(entry.id)}"


def _parsed(data: bytes | None, key: str) -> Pictures:
    try:
        found = Pictures(**parse(data or b"{}"))
    except (ValueError, TypeError):
        return Pictures(key)  # It is only a cache
    whole = all(isinstance(text, str) and (not text or text.startswith(PREFIX)) for text in (found.mask, found.image))
    sizes = all(type(side) is int and 0 < side <= SIDE for side in (found.width, found.height))
    return found if found.key == key and whole and sizes else Pictures(key)


def _grid(told: Mapping[str, Any]) -> Grid:
    a, _, c, _, e, f = told["proj:transform"][:6]
    return Grid(int(told["proj:code"].removeprefix("EPSG:")), c, f, a, -e, *told["proj:shape"])


def _window(entry: Done, item: Mapping[str, Any], side: int) -> Window:
    """What was computed: the tiles and all that lies between them."""
    height, width = item["properties"]["proj:shape"]
    rows, columns = zip(*entry.tiles, strict=True)
    return Window(
        min(rows) * side,
        min((max(rows) + 1) * side, height),
        min(columns) * side,
        min((max(columns) + 1) * side, width),
    )


def _shares(array: Any, slot: int, window: Window) -> Pixels:
    """A Zarr array's window as RGBA (4, y, x) of cells of n × n pixels, of which each has the colours by their share.

    A cell that is not computed for the greater part is transparent; one that has no data for the greater part of the
    rest has that colour.
    """
    step = -(-max(window.shape) // SIDE)
    deep = max(1, 1024 // step) * step  # Pixels in memory at once: a megapixel or ten
    tops = range(window.top, window.bottom, deep)
    stripes = [(top, min(top + deep, window.bottom)) for top in tops]
    return np.concatenate(
        [_cells(np.asarray(array[slot, top:end, window.left : window.right], np.uint8), step) for top, end in stripes],
        axis=1,
    )


def _cells(values: Pixels, step: int) -> Pixels:
    rows, columns = (np.arange(0, length, step) for length in values.shape)

    def count(which: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        by_row = np.add.reduceat(which, rows, axis=0, dtype=np.int32)
        return np.asarray(np.add.reduceat(by_row, columns, axis=1, dtype=np.int32))

    counts = {value: count(values == value) for value in COLOURS}
    labels = [value for value in COLOURS if value not in (NO_DATA, NOT_COMPUTED)]
    labelled = np.sum([counts[value] for value in labels], axis=0)
    mixed = np.sum([np.multiply.outer(COLOURS[value][:3], counts[value]) for value in labels], axis=0)
    cells = np.zeros((4, *labelled.shape), np.uint8)
    cells[:3] = np.rint(mixed / np.maximum(labelled, 1))
    none = counts[NO_DATA] > labelled
    cells[:3, none] = np.array(COLOURS[NO_DATA][:3])[:, None]
    cells[3] = np.where(counts[NOT_COMPUTED] > labelled + counts[NO_DATA], 0, 255)
    return cells


def _webp(pixels: Pixels, **how: Any) -> str:
    count, height, width = pixels.shape
    # Any transform that is not the identity, of which rasterio would warn
    shape = {"width": width, "height": height, "count": count, "dtype": "uint8", "transform": Affine.scale(2, -2)}
    with MemoryFile() as memory:
        with memory.open(driver="WEBP", **shape, **how) as file:
            file.write(pixels)
        return PREFIX + base64.b64encode(memory.read()).decode()
