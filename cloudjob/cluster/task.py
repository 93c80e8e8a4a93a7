"""What a worker does to one scene, or to some of its rows of tiles: read, predict, write, and hand back a receipt."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rasterio.windows
import shapely
from affine import Affine
from distributed import get_worker
from distributed.metrics import context_meter
from rasterio.enums import Resampling
from rasterio.features import geometry_mask

from cloudjob import __version__
from cloudjob.classes import NOT_COMPUTED
from cloudjob.cluster import agreement
from cloudjob.cluster.network import worker_model
from cloudjob.cluster.tally import tally
from cloudjob.errors import CloudjobError, PassingError
from cloudjob.grid import Grid, Tile, Tiling, Window
from cloudjob.model import predict
from cloudjob.model.coarse import coarsen, coarsen_percent
from cloudjob.model.contract import buffer_pixels
from cloudjob.model.labels import Mask, classify, percent
from cloudjob.scene import read
from cloudjob.scene.opened import SceneFiles
from cloudjob.scene.reflectance import reflectance
from cloudjob.scene.scene import Scene
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt, merge, tile_sum
from cloudjob.store.settings import Settings
from cloudjob.store.writer import Slot, Writer

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Of a whole scene. Each window of it has been tried several times before (`scene.opened`)."""

PAUSE = 5.0
"""Seconds between them."""


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
    slot: Slot
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
        receipt = mask_tiles(task, worker_model(task.settings.checkpoint))
    except CloudjobError as error:
        # What caused it stays here: it quotes signed addresses, and Dask cannot unpickle rasterio's errors.
        error.__cause__ = error.__context__ = None
        error.worker = get_worker().address
        raise
    for stage in ("read", "network", "write"):  # For the dashboard's "Fine Performance Metrics"
        context_meter.digest_metric(stage, getattr(receipt, f"{stage}_seconds"), "seconds")
    return receipt


def ask(scene: Scene) -> None:
    """Read the last block of a file that was read before, to learn whether its source answers.

    Raises:
        SceneError: it cannot be read.
    """
    band = scene.bands[0]
    with SceneFiles(scene) as files:
        last = rasterio.windows.Window(0, band.grid.height - 1, 1, 1)
        files.read(band.name, last, band.grid, np.dtype(np.float32), Resampling.nearest)


def mask_tiles(task: Task, model: predict.Model) -> Receipt:
    """Compute and write the tiles of a task, row by row; again from the start after a fault that may pass."""
    with SceneFiles(task.scene) as files:
        for attempt in range(1, ATTEMPTS):
            try:
                return _mask_tiles(task, model, files)
            except PassingError as error:
                if files.late:
                    raise
                log.warning("%s; attempt %d of %d in %g s", error, attempt + 1, ATTEMPTS, PAUSE)
                time.sleep(PAUSE)
        return _mask_tiles(task, model, files)


def _mask_tiles(task: Task, model: predict.Model, files: SceneFiles) -> Receipt:
    scene = task.scene
    tiling = model.contract.tiling_of(scene.grid, task.settings.buffer, scene.coarser)
    doubts = files.check(scene.bands)
    provider = agreement.Agreement(files, tiling, task.tiles)
    writer = Writer(task.out, task.slot, task.settings)
    receipts = [Receipt(device=model.device_name, software=(f"cloudjob {__version__}", model.software))]
    started = time.perf_counter()
    for row in read.rows(files, tiling, task.tiles):
        labels = provider.labels(_cores(tiling, row))
        receipts.append(Receipt(bytes_read=row.raw.nbytes, read_seconds=time.perf_counter() - started))
        started = time.perf_counter()
        for tile, mask, likely in _label(row, task, model, tiling):
            core = tiling.core(tile).coarsen(scene.coarser)
            if task.clip:
                outside = _outside(task.clip, scene.mask_grid.crop(core))
                mask[outside] = likely[outside] = NOT_COMPUTED
            computed = time.perf_counter()
            kept = (mask, likely) if task.settings.probability else (mask,)
            writer.write(core, *kept)
            written = time.perf_counter()
            receipts += [
                Receipt(network_seconds=computed - started, write_seconds=written - computed),
                Receipt(checksum=tile_sum(tile, *kept)),
                tally(mask, row.crop(tiling.core(tile)), scene, math.prod(tiling.padded(tile).shape)),
            ]
            if labels is not None:
                receipts.append(agreement.compare(mask, scene.mask_grid.crop(core), labels))
            started = time.perf_counter()
    return merge([*receipts, Receipt(warnings=(*doubts, *provider.warnings))])


def _label(row: read.RowOfTiles, task: Task, model: predict.Model, tiling: Tiling) -> Iterator[tuple[Tile, Mask, Mask]]:
    """Give (tile, mask, probability in percent) for the tiles of a row."""
    reach = buffer_pixels(task.settings.buffer, task.scene.grid.metres)
    for tile in ((row.row, column) for column in row.columns):
        core, padded = tiling.core(tile), tiling.padded(tile)
        likely, valid = predict.probability(
            model,
            reflectance(row.crop(padded), task.scene.bands, model.contract.bands, model.contract.optional_bands),
        )
        mask = classify(likely, valid, task.settings.threshold, reach, model.contract.classes)
        kept = percent(likely, valid, model.contract.classes) if task.settings.probability else mask.copy()
        joined = coarsen(predict.trim(mask, padded, core), task.scene.coarser)
        yield tile, joined, coarsen_percent(predict.trim(kept, padded, core), joined, task.scene.coarser)


def _cores(tiling: Tiling, row: read.RowOfTiles) -> Window:
    """The row's tiles without halo."""
    first, last = tiling.core((row.row, row.columns[0])), tiling.core((row.row, row.columns[-1]))
    return Window(first.top, first.bottom, first.left, last.right)


def _outside(clip: bytes, grid: Grid) -> npt.NDArray[np.bool_]:
    """True for pixels (y, x) whose centre lies outside the geometry."""
    area = grid.project(shapely.from_wkb(clip))
    return np.asarray(geometry_mask([area], out_shape=grid.shape, transform=Affine(*grid.transform)))
