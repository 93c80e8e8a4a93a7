"""What a worker does to one scene, or to some of its rows of tiles: read, predict, write, and hand back a receipt."""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from affine import Affine
from distributed.metrics import context_meter
from rasterio.features import geometry_mask

from cloudjob import cluster, predict, read, signing, store
from cloudjob.checkpoint import Contract
from cloudjob.errors import CloudjobError, PassingError, SceneError
from cloudjob.grid import Grid, Tile, Tiling, Window
from cloudjob.metadata import OFFSET, adds_offset
from cloudjob.out import Out
from cloudjob.receipt import Receipt, merge
from cloudjob.scene import Band, Scene, reflectance
from cloudjob.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS = 3
PAUSE = 2.0
"""Seconds before the second attempt; four times as many before each further one."""

SCL_CLEAR = (2, 3, 4, 5, 6, 11)
SCL_CLOUD = (8, 9, 10)
"""Sen2Cor's scene classification (https://sentiwiki.copernicus.eu/web/s2-processing): dark, shadow, vegetation, bare,
water, snow; medium and high probability of cloud, thin cirrus. Not compared: no data, defective, unclassified."""

_SCL_LABEL = np.full(256, predict.NOT_COMPUTED, np.uint8)
_SCL_LABEL[list(SCL_CLEAR)] = predict.CLEAR
_SCL_LABEL[list(SCL_CLOUD)] = predict.CLOUD


@dataclass(frozen=True)
class Task:
    """Everything a worker needs for some tiles of one scene.

    Attributes:
        scene: what to read.
        tiles: (row, column) of the tiles to compute.
        parts: in how many tasks the scene was cut.
        out: where the store lies.
        slot: where in the store the scene goes.
        settings: threshold, buffer and the like.
        clip: pixels outside this geometry (longitude, latitude; WKB) stay "not computed", or None.
    """

    scene: Scene
    tiles: tuple[Tile, ...]
    parts: int
    out: Out
    slot: store.Slot
    settings: Settings
    clip: bytes | None = None


def process(task: Task) -> Receipt:
    """Do a task on a worker that holds the model; passing faults are tried again.

    Raises:
        SceneError: the scene cannot be read; a retry would not help.
        PassingError: it could not be read in several attempts.
        UnreachableError: the store does not answer.
    """
    try:
        receipt = _patiently(task, cluster.worker_model(task.settings.checkpoint))
    except CloudjobError as error:
        # What caused it stays here: it quotes signed addresses, and Dask cannot unpickle rasterio's errors.
        error.__cause__ = error.__context__ = None
        raise
    for stage in ("read", "network", "write"):  # For the dashboard's "Fine Performance Metrics"
        context_meter.digest_metric(stage, getattr(receipt, f"{stage}_seconds"), "seconds")
    return receipt


def _patiently(task: Task, model: predict.Model) -> Receipt:
    for attempt in range(1, ATTEMPTS):
        try:
            return mask_tiles(task, model, patient=True)
        except PassingError as error:
            pause = PAUSE * 4 ** (attempt - 1)
            log.warning("%s; attempt %d of %d in %g s", error, attempt + 1, ATTEMPTS, pause)
            for band in task.scene.bands:
                signing.forget(task.scene.signing, band.href)
            time.sleep(pause)
    return mask_tiles(task, model)


def mask_tiles(task: Task, model: predict.Model, *, patient: bool = False) -> Receipt:
    """Compute and write the tiles of a task, row by row; `patient` if there will be another attempt."""
    scene = task.scene
    hrefs = {band.name: signing.open_href(scene.signing, band.href) for band in (*scene.bands, scene.scl) if band}
    tiling = tiling_of(scene.grid, model.contract, task.settings.buffer)
    read.check_files(scene, scene.bands, hrefs)
    scl, doubts = _readable_scl(scene, hrefs, patient=patient)
    writer = store.Writer(task.out, task.slot, task.settings)
    receipts = [Receipt(device=model.device_name, precision=model.precision, warnings=doubts)]
    started = time.perf_counter()
    for row in read.rows(scene, tiling, task.tiles, hrefs):
        labels, doubts = _labels(scene, scl, _cores(tiling, row), hrefs, patient=patient)
        seconds = time.perf_counter() - started
        receipts.append(Receipt(bytes_read=row.raw.nbytes, read_seconds=seconds, warnings=doubts))
        started = time.perf_counter()
        for tile, mask, likely in _label(row, task, model, tiling):
            core = tiling.core(tile)
            if task.clip:
                outside = _outside(task.clip, scene.grid.crop(core))
                mask[outside] = likely[outside] = predict.NOT_COMPUTED
            computed = time.perf_counter()
            writer.write(core, mask, likely if task.settings.probability else None)
            written = time.perf_counter()
            receipts += [
                Receipt(network_seconds=computed - started, write_seconds=written - computed),
                _tally(mask, row.crop(core), scene, math.prod(tiling.padded(tile).shape)),
            ]
            if labels is not None:
                receipts.append(_compare(mask, scene.grid.crop(core), labels))
            started = time.perf_counter()
    return merge(receipts)


def tiling_of(grid: Grid, contract: Contract, buffer: float) -> Tiling:
    """How a scene is cut: a pure function of its grid, the contract and the buffer in metres."""
    reach = max(predict.buffer_pixels(buffer, grid.metres))
    return contract.tiling(*grid.shape, reach)


def _label(
    row: read.RowOfTiles, task: Task, model: predict.Model, tiling: Tiling
) -> Iterator[tuple[Tile, predict.Mask, predict.Mask]]:
    """Give (tile, mask, probability in percent) for the tiles of a row, in batches of one shape."""
    tiles = [(row.row, column) for column in row.columns]
    reach = predict.buffer_pixels(task.settings.buffer, task.scene.grid.metres)
    for _, same in itertools.groupby(tiles, key=lambda tile: tiling.padded(tile).shape):
        for batch in _batches(list(same), model.batch):
            windows = [reflectance(row.crop(tiling.padded(tile)), task.scene.bands) for tile in batch]
            data = [~np.isnan(window[0]) for window in windows]
            found = predict.probability(model, windows)
            del windows
            for tile, valid, likely in zip(batch, data, found, strict=True):
                core, padded = tiling.core(tile), tiling.padded(tile)
                mask = predict.classify(likely, valid, task.settings.threshold, reach)
                percent = predict.percent(likely, valid) if task.settings.probability else mask.copy()
                yield tile, predict.trim(mask, padded, core), predict.trim(percent, padded, core)


def _batches(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def _cores(tiling: Tiling, row: read.RowOfTiles) -> Window:
    """The row's tiles without halo."""
    first, last = tiling.core((row.row, row.columns[0])), tiling.core((row.row, row.columns[-1]))
    return Window(first.top, first.bottom, first.left, last.right)


def _outside(clip: bytes, grid: Grid) -> npt.NDArray[np.bool_]:
    """True for pixels (y, x) whose centre lies outside the geometry."""
    area = grid.project(shapely.from_wkb(clip))
    return np.asarray(geometry_mask([area], out_shape=grid.shape, transform=Affine(*grid.transform)))


def _tally(mask: predict.Mask, raw: npt.NDArray[np.uint16], scene: Scene, seen: int) -> Receipt:
    """Count a tile's pixels, and the dark ones that tell whether the offset fits."""
    dark_all = dark_any = 0
    offset = scene.bands[0].offset
    if offset < 0 or adds_offset(scene.baseline):
        limit = round((-offset or OFFSET) / scene.bands[0].scale)
        visible = [index for index, band in enumerate(scene.bands) if band.name in ("red", "green", "blue")]
        dark = [raw[index] < limit for index in visible]
        labelled = mask <= predict.CLOUD
        dark_all = int(np.count_nonzero(np.logical_and.reduce([*dark, labelled])))
        dark_any = int(np.count_nonzero(np.logical_or.reduce(dark) & labelled))
    return Receipt(
        clear=int(np.count_nonzero(mask == predict.CLEAR)),
        cloud=int(np.count_nonzero(mask == predict.CLOUD)),
        no_data=int(np.count_nonzero(mask == predict.NO_DATA)),
        outside=int(np.count_nonzero(mask == predict.NOT_COMPUTED)),
        dark_all=dark_all,
        dark_any=dark_any,
        seen=seen,
    )


def _readable_scl(scene: Scene, hrefs: Mapping[str, str], *, patient: bool) -> tuple[Band | None, tuple[str, ...]]:
    """The scene classification if it can be opened. It is only compared with: a scene is not failed for it."""
    if scene.scl is None:
        return None, ()
    try:
        read.check_files(scene, [scene.scl], hrefs)
    except SceneError as error:
        if patient and isinstance(error, PassingError):
            raise
        return None, (f"its scene classification is not compared: {error}",)
    return scene.scl, ()


def _labels(
    scene: Scene, scl: Band | None, window: Window, hrefs: Mapping[str, str], *, patient: bool
) -> tuple[xr.DataArray | None, tuple[str, ...]]:
    """The scene classification of a row of tiles, if it can be read."""
    if scl is None:
        return None, ()
    try:
        return read.classification(scene, scl, window, hrefs), ()
    except SceneError as error:
        if patient and isinstance(error, PassingError):
            raise
        log.warning("%s", error)
        return None, ("its scene classification is not compared everywhere: a part of it cannot be read",)


def _compare(mask: predict.Mask, grid: Grid, scl: xr.DataArray) -> Receipt:
    """Compare a tile with the provider's classes at the centres of the classification's own, larger, pixels."""
    row = np.floor((grid.y0 - scl.y.values) / grid.dy).astype(int)
    column = np.floor((scl.x.values - grid.x0) / grid.dx).astype(int)
    rows, columns = (row >= 0) & (row < grid.height), (column >= 0) & (column < grid.width)
    ours = mask[row[rows]][:, column[columns]]
    theirs = _SCL_LABEL[scl.values[rows][:, columns].astype(np.uint8)]
    both = (ours <= predict.CLOUD) & (theirs <= predict.CLOUD)
    return Receipt(
        scl_compared=int(both.sum()),
        scl_agreed=int((both & (ours == theirs)).sum()),
        scl_cloud=int((both & (theirs == predict.CLOUD)).sum()),
    )
