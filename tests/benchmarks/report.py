"""The report of many scenes: `python tests/benchmarks/report.py [SCENES]` (1,000): its size, time to make and to open.

20 groups of scenes of 512 × 512 simulated pixels; what stands in the store is written by the store's own functions,
without a network: the mask is the simulated cloud. Three scenes in four share their files with others. Beside them one
whole tile of 10980 × 10980, because pictures of small scenes cost little. Opened in Chromium by Playwright.
"""

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bench
import numpy as np
import rasterio
from playwright.sync_api import sync_playwright
from scheduling import spent

from cloudjob.demo import simulate
from cloudjob.grid import Grid, Tiling
from cloudjob.report import page as report
from cloudjob.scene.describe import describe
from cloudjob.scene.scene import Scene
from cloudjob.store import ledger, runs, settings, slots
from cloudjob.store.lock import Lock
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt
from cloudjob.store.writer import Writer

GROUPS = 20
SIDE = 512
VARIANTS = 12
"""Different scenes per group."""

SETTINGS = settings.Settings("a" * 64, "cloudjob-s2", "0", bench.BANDS, 0.5, 0.0, 10.0)
KEYS = {name: name for name in (*bench.BANDS, "scl")}
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


def main() -> None:
    """Make, make again, make with a new scene, open."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    figures: dict[str, Any] = {"scenes": count}
    with bench.fresh("report") as folder:
        made, masks = scenes(bench.SCRATCH / "report", count)
        new, full = made[-1], whole_tile(bench.SCRATCH / "report-full")
        out = Out.at(folder)
        fill(out, made[:-1], masks)
        page = f"{out}/{report.PATH}"
        cold, again = (spent(lambda: report.write(out)) for _ in range(2))
        figures |= {"cold: seconds": cold["wall"], "cold: CPU seconds": cold["cpu"]}
        figures["cold: growth of memory at the peak, MiB"] = cold["peak"]
        figures["again, nothing new: seconds"] = again["wall"]
        fill(out, [new], masks)
        figures["with one new scene: seconds"] = spent(lambda: report.write(out))["wall"]
        figures["page, MB"] = Path(page).stat().st_size / 1e6
        figures |= opened(page)
        other = Out.at(folder.with_name("full"))
        fill(other, [full[0]], full[1])
        figures["one whole tile of 10980 × 10980, cold: seconds"] = spent(lambda: report.write(other))["wall"]
    bench.report("report", figures)


def scenes(folder: Path, count: int) -> tuple[list[Scene], dict[str, np.ndarray]]:
    """Scenes five days apart in each group, and their masks by id."""
    made, masks = [], {}
    variants = {}
    for group in range(GROUPS):
        grid = Grid(32633, 300_000 + 10_000 * group, 5_300_040, 10, 10, SIDE, SIDE)
        for variant in range(VARIANTS):
            variants[group, variant] = files(folder / f"{group}-{variant}", grid, group * VARIANTS + variant), grid
    for number in range(count):
        group, index = number % GROUPS, number // GROUPS
        (cloud, place), grid = variants[group, index % VARIANTS]
        moment = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=5 * index, seconds=group)
        letter = "CDEFGHJKLMNPQRSTUVWX"[group]
        item = bench.item(f"S2A_33U{letter}P_{moment:%Y%m%d}_{group}_L2A", grid, place, moment.isoformat())
        share = 100 * float((cloud == 1).mean())
        told = {"eo:cloud_cover": min(100.0, max(0.0, share + number * 7 % 33 - 16)), "grid:code": f"MGRS-33U{letter}P"}
        item["properties"] |= told
        made.append(describe(item, KEYS, bench.BANDS, 10))
        masks[made[-1].id] = cloud
    return made, masks


def files(folder: Path, grid: Grid, seed: int) -> tuple[np.ndarray, Path]:
    """Simulate a scene into COGs, once; its mask."""
    if (folder / "mask.npy").exists():
        return np.load(folder / "mask.npy"), folder
    rng = np.random.default_rng(seed)
    land, _ = simulate.ground(rng, grid.shape)
    clouds = simulate.sky(rng, grid.shape, cover=float(rng.uniform(0, 0.8)), kinds=("cumulus", "cirrus"))
    seen, cloudy = simulate.overlay(land, clouds)
    for band, values in zip(bench.BANDS, seen, strict=True):
        bench.write_cog(folder / f"{band}.tif", np.clip(values * 1e4 + 1000, 1, 65535).astype(np.uint16), grid, 512)
    np.save(folder / "mask.npy", cloudy.astype(np.uint8))
    return cloudy.astype(np.uint8), folder


def whole_tile(folder: Path) -> tuple[Scene, dict[str, np.ndarray]]:
    """A tile of 10980 × 10980: a simulated eighteenth of it, repeated."""
    side = bench.FULL.height // 18
    small, place = files(folder / "part", Grid(32633, 300_000, 5_300_040, 10, 10, side, side), 99)
    for band in bench.BANDS[:3]:
        if not (folder / f"{band}.tif").exists():
            with rasterio.open(place / f"{band}.tif") as file:
                bench.write_cog(folder / f"{band}.tif", np.tile(file.read(1), (18, 18)), bench.FULL)
    item = bench.item("S2A_33TUN_20240601_0_L2A", bench.FULL, folder, "2024-06-01T10:15:59.024000Z")
    scene = describe(item, KEYS, bench.BANDS, 10)
    return scene, {scene.id: np.tile(small, (18, 18))}


def fill(out: Out, made: list[Scene], masks: dict[str, np.ndarray]) -> None:
    """Write scenes as a run does."""
    started = datetime.now(UTC)
    with Lock(out) as lock:
        settings.claim(lock, SETTINGS)
        tile = SIDE if made[0].grid.height == SIDE else 1024
        known = ledger.read(out)
        places = slots.prepare(lock, SETTINGS, known, made, tile_of=lambda _: tile)
        for scene in made:
            mask, tiling = masks[scene.id], Tiling(*scene.grid.shape, tile, 16, 16)
            writer = Writer(out, places[scene.id], SETTINGS)
            for each in tiling.all():
                writer.write(tiling.core(each), mask[tiling.core(each).slices])
            cloud = int(mask.sum())
            receipt = Receipt(
                clear=mask.size - cloud, cloud=cloud, scl_compared=mask.size // 4, scl_agreed=mask.size * 24 // 100
            )
            slots.complete(lock, SETTINGS, known, scene, slot=places[scene.id], receipt=receipt, tiles=tiling.all())
        ledger.refresh(out)
    done = [{"id": scene.id, "state": "done", "receipt": asdict(receipt)} for scene in made]
    times = {"started": started.isoformat(), "how": "complete", "seconds": 60.0}
    told = {"catalog": "earth-search", "dates": "2023/..", "cloudjob": "0.1.0", "scenes": done}
    runs.write(out, runs.path_of(out, started), times | told)


def opened(page: str) -> dict[str, float]:
    """Seconds until Chromium has drawn the page, and to sort it; the middle of three."""
    loads, sorts = [], []
    with sync_playwright() as playwright:
        for _ in range(3):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            drawn = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
            started = time.perf_counter()
            tab.goto(f"file://{page}")
            tab.evaluate(drawn)
            loads.append(time.perf_counter() - started)
            started = time.perf_counter()
            tab.get_by_role("button", name="Cloud", exact=True).click()
            tab.evaluate(drawn)
            sorts.append(time.perf_counter() - started)
            browser.close()
    return {"opening in Chromium, seconds": sorted(loads)[1], "sorting by a click, seconds": sorted(sorts)[1]}


if __name__ == "__main__":
    main()
