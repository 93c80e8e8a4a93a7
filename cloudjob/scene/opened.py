"""A scene's files held open while it is read: each is opened once, and a window that fails is tried again."""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from affine import Affine
from rasterio.dtypes import in_dtype_range
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from cloudjob.catalog import signing
from cloudjob.errors import PassingError, SceneError
from cloudjob.grid import Grid
from cloudjob.scene.files import BYTES, FAULTS, KINDS, env, explained, failed, on_ground, open_file
from cloudjob.scene.scene import EMPTY, NO_DATA, Band, Numbers, Scene

log = logging.getLogger(__name__)

ATTEMPTS = 8
PAUSE = 0.25
"""Seconds before the second attempt at a window, doubled for each further one up to `LONGEST_PAUSE`."""

LONGEST_PAUSE = 4.0
PATIENCE = 30.0
"""No window is tried anew after so many seconds: GDAL has then been patient itself with what a server answers."""

DEADLINE = 3600.0
"""Seconds that reading one scene may take, all its files together: a server that drips must not hold a worker."""

LEAST = -0.5
"""Reflectance below which a number says no data, whether or not anybody tells so: no surface comes near it, and MAJA's
−10000 and the −9999 of others stand in files without a tag, beside items that tell nothing."""

FAR = 1e6
"""Numbers from which on they say no data, as 1e20 and the largest float do in files without a tag."""

T = TypeVar("T")


class SceneFiles:
    """The files of one scene; a context that closes them.

    Each may be used by one thread at a time.
    """

    def __init__(self, scene: Scene) -> None:
        """Nothing is opened yet."""
        self.scene = scene
        self._files = {band.name: _File(scene, band) for band in (*scene.bands, scene.scl) if band}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __dask_tokenize__(self) -> object:
        return self.scene.id, self.scene.fingerprint, id(self)

    def close(self) -> None:
        """Close all; what is read afterwards opens its file again."""
        for file in self._files.values():
            file.close()

    @property
    def late(self) -> bool:
        """Whether reading has taken as long as it may."""
        return sum(file.spent for file in self._files.values()) > DEADLINE

    def check(self, bands: Sequence[Band], *, place: bool = True) -> tuple[str, ...]:
        """Compare each file's header with what the item says.

        Args:
            bands: of which files.
            place: whether their grids and scaling are those that items tell; else only their kind is looked at.

        Returns:
            What a person should know: where both tell what their numbers mean, and not the same.

        Raises:
            SceneError: other pixels than the item describes, numbers that are none of `KINDS`, or such that, as only
                the file tells, have another scale or offset than is usual.
            PassingError: it could not be opened for a reason that may pass.
        """
        compare = _compare if place else _check_readable
        doubts = [self._ask(band.name, lambda file: compare(file.dataset, file.band)) for band in bands]
        return tuple(filter(None, doubts))[:1]  # Of one band: they are alike

    def dtype(self) -> np.dtype[Any]:
        """Of arrays that hold the numbers of all bands: uint16, int16 or float32."""
        kinds = [self._ask(band.name, lambda file: file.dataset.dtypes[0]) for band in self.scene.bands]
        kind = np.result_type(*kinds)
        if kind in (np.uint8, np.uint16):
            return np.dtype(np.uint16)
        return np.dtype(np.int16 if kind == np.int16 else np.float32)

    def block_rows(self, name: str) -> int:
        """Height of the blocks in which a file is packed."""
        return int(self._ask(name, lambda file: file.dataset.block_shapes[0][0]))

    def read(self, name: str, window: Any, grid: Grid, dtype: np.dtype[Any], resampling: Resampling) -> Numbers:
        """Read a window (rasterio's) of a file as it lies on `grid`.

        Returns:
            (y, x) of `dtype`, `EMPTY` where there are no data.

        Raises:
            SceneError, PassingError: it could not be read, in several attempts where the fault may pass.
        """
        return self._ask(name, lambda file: file.read(window, grid, dtype, resampling))

    def _ask(self, name: str, what: Callable[["_File"], T]) -> T:
        """Do something with an open file; after a fault that may pass it is signed and opened anew, and asked again."""
        file, attempts, patience = self._files[name], ATTEMPTS, {}
        if name == "scl":  # Only compared: where its host is down, no scene waits for it
            attempts, patience = 2, {"GDAL_HTTP_MAX_RETRY": "1"}
        begun, pause = time.monotonic(), PAUSE
        for attempt in itertools.count(1):
            if self.late:
                raise PassingError(f"scene {self.scene.id}: reading has taken longer than {DEADLINE:g} s")
            try:
                with file.timed(), env(**patience):
                    return what(file)
            except SceneError as error:
                told = f"scene {self.scene.id}, asset {file.band.key}: {error}"
                raise type(error)(told, hint=error.hint, asset=file.band.key) from None
            except FAULTS as error:
                file.close()
                fault = failed(error, self.scene, file.band)
            if not isinstance(fault, PassingError) or attempt == attempts or time.monotonic() - begun > PATIENCE:
                raise explained(fault, file.address)
            log.info("%s; attempt %d of %d", fault, attempt + 1, attempts)
            signing.forget(self.scene.signing, file.band.href)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError


class _File:
    """One file, open from its first use until it is closed."""

    def __init__(self, scene: Scene, band: Band) -> None:
        self.scene, self.band = scene, band
        self.spent = 0.0
        self.address = ""  # As it was opened, signed where it has to be: never told
        self._dataset: Any = None
        self._views: dict[tuple[Grid, Resampling], Any] = {}

    @property
    def dataset(self) -> Any:
        if self._dataset is None:
            self.address = signing.open_href(self.scene.signing, self.band.address or self.band.href)
            self._dataset = open_file(self.address)
        return self._dataset

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.spent += time.monotonic() - begun

    def close(self) -> None:
        opened = [*self._views.values(), *([self._dataset] if self._dataset else [])]
        self._views, self._dataset = {}, None
        for each in opened:
            each.close()

    @property
    def empty(self) -> float:
        """The file's own number for no data; what its item says, or what is usual, where it tells none."""
        kind = self.dataset.dtypes[0]
        for told in (self.dataset.nodata, self.band.nodata):
            if told is not None and in_dtype_range(told, kind):
                return float(told)
        return EMPTY.get(kind, NO_DATA)

    def view(self, grid: Grid, resampling: Resampling) -> Any:
        """The file as it lies on a grid: itself where that is its own."""
        if grid.epsg == self.band.grid.epsg and _lies_on(self.dataset, grid):
            return self.dataset
        if (grid, resampling) not in self._views:
            self._views[grid, resampling] = WarpedVRT(
                self.dataset,
                # Some files of the Planetary Computer tell none (its issue 491), and would be taken to lie here
                src_crs=on_ground(self.dataset.crs) or f"EPSG:{self.band.grid.epsg}",
                crs=f"EPSG:{grid.epsg}",
                transform=Affine(*grid.transform),
                height=grid.height,
                width=grid.width,
                resampling=resampling,
                # Also where the file does not say it: at the edge of a swath averages would mix data and none
                src_nodata=self.empty,
                add_alpha=False,
            )
        return self._views[grid, resampling]

    def read(self, window: Any, grid: Grid, dtype: np.dtype[Any], resampling: Resampling) -> Numbers:
        source, empty, nothing = self.view(grid, resampling), self.empty, EMPTY[dtype.name]
        masked = MaskFlags.per_dataset in source.mask_flag_enums[0]
        found = source.read(1, window=window, masked=masked)
        numbers = np.ma.getdata(found)
        values = numbers.astype(dtype, copy=False)
        if masked:
            values[np.ma.getmaskarray(found)] = nothing
        if empty != nothing:  # NaN always
            values[numbers == empty] = nothing
        if numbers.dtype.kind != "u":
            values[numbers < (LEAST - self.band.offset) / self.band.scale] = nothing
        if dtype == np.float32:
            values[~(np.abs(values) < FAR)] = nothing
        return values


def _lies_on(file: Any, grid: Grid) -> bool:
    """Whether a file's pixels are those of a grid, to a thousandth of a pixel."""
    tolerance = 1e-3 * min(grid.dx, grid.dy)
    said = tuple(file.transform)[:6]
    return file.shape == grid.shape and np.allclose(said, grid.transform, rtol=0, atol=tolerance)


def _compare(file: Any, band: Band) -> str:
    """Raise where a file's header does not say what its item does; what is to be told of its numbers, or ""."""
    if band.fault:
        raise SceneError(band.fault)
    _check_readable(file, band)
    grid = band.grid
    kind, transform, shape = file.dtypes[0], file.transform, file.shape
    crs = on_ground(file.crs)
    epsg = crs.to_epsg() if crs else None
    if kind == "int16" and band.unsigned:
        raise SceneError(
            f"its numbers are {kind}, which its item does not tell; "
            f"the offset {band.offset:g} is ESA's for unsigned ones",
            hint="say it yourself, for example --offset 0, and report it to whoever publishes the catalog",
        )
    if epsg not in (None, grid.epsg):
        raise SceneError(f"the file is in EPSG:{epsg}, its item says {grid.epsg}")
    if not _lies_on(file, grid):
        here, there = tuple(transform)[:6], grid.transform
        sizes = [f" of {size[0]:.10g} × {-size[4]:.10g}{', turned,' * any(size[1:4:2])}" for size in (here, there)]
        first, second = sizes if sizes[0] != sizes[1] else ("", "")
        raise SceneError(
            "the file does not tell where it lies; expected one that does, as its item"
            if transform.is_identity
            else f"the file has {shape[0]} × {shape[1]} pixels{first} from {transform.c:.10g}, {transform.f:.10g}; "
            f"its item says {grid.height} × {grid.width}{second} from {grid.x0:.10g}, {grid.y0:.10g}",
            hint="the catalog describes another file; report it to whoever publishes it",
        )
    return _other_scaling(file.scales[0], file.offsets[0], band)


def _check_readable(file: Any, band: Band) -> str:
    """Raise where a file holds several bands, or numbers of another kind than a band of a satellite has; else ""."""
    kind = file.dtypes[0]
    if file.count != 1:
        raise SceneError(f"it holds {file.count} bands; expected a file for each: export them one by one")
    if kind not in KINDS:
        raise SceneError(f"its numbers are {kind}; expected {', '.join(KINDS)}")
    if kind == "uint8" != band.dtype and band.name != "scl":
        raise SceneError(BYTES)
    return ""


def _other_scaling(scale: float, offset: float, band: Band) -> str:
    """What is to be told where a file's own scale and offset (GDAL's; 1 and 0 where it tells none) are others, or "".

    Raises:
        SceneError: its item does not tell them.
    """
    same = scale == 1 or math.isclose(scale, band.scale, rel_tol=1e-3)
    offset *= band.scale if abs(offset) >= 1 else 1  # Told of numbers, as ESA tells it
    known = band.settled or offset == 0 or abs(offset - band.offset) < 1e-3  # 0 is also what a scale alone leaves
    if band.name == "scl" or (same and known):
        return ""
    file, used = f"scale {scale:g} and offset {offset:g}", f"{band.scale:g} and {band.offset:g}"
    if band.assumed:
        raise SceneError(
            f"its file tells {file} of its numbers; its item does not, and usual are {used}",
            hint=f"write raster:scale and raster:offset into the item{f', or say --offset {offset:g}' * same}",
        )
    return f"the file of {band.key} tells {file} of its numbers, its item {used}: the item's were used"
