"""Nights at random: files, sources, stores and catalogs that fail, runs that are killed, and what must hold after each.

Whatever happened: what is done has its scene's values and no others; what was done of a day stays, as that version or a
newer one, and as large; no day has two masks. Where nothing but single files failed, all others are done. When all is
mended, one more run makes everything, the next finds nothing to do, and nothing is wrong with the OUT.
"""

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jobs
import mutate
import numpy as np
import pytest
from faulty import served
from file_server import FileServer, file_server

from cloudjob import job
from cloudjob.cluster import task
from cloudjob.errors import CloudjobError, UnreachableError
from cloudjob.plan.request import request
from cloudjob.scene import opened, outside
from cloudjob.store import check, failures, ledger
from cloudjob.store.out import Out
from cloudjob.store.receipt import SceneResult
from cloudjob.store.writer import Writer

QUICK = 2
NIGHTS = 12
DAYS = tuple(f"S2A_33UUP_202406{day:02}_0_L2A" for day in (1, 4, 9))
OUTAGES = (503, 500, 403, 404, 429, "hang up", "html", "json", "empty", "short")
EVERYWHERE = (-180.0, -90.0, 180.0, 90.0)


class KilledError(BaseException):
    """As by SIGKILL: nothing that is cleaned up on the way out is written, either."""


@dataclass
class Trouble:
    """What the next run meets when it asks its store for something.

    Attributes:
        left: what it still may ask for, or the tiles that it may write (`tiles`), before it is killed; None for all.
        share: of what is asked for that is not answered.
        met: whether anything of this has happened.
    """

    rng: random.Random
    left: int | None = None
    tiles: bool = False
    share: float = 0.0
    met: bool = False

    def meet(self, *, tile: bool) -> None:
        if self.left is not None:
            self.left -= tile or not self.tiles
            if self.left < 0:  # From then on for good
                self.met = True
                raise KilledError
        if self.share and self.rng.random() < self.share:
            self.met = True
            raise UnreachableError("the store does not answer")

    def before(self, function: Callable[..., Any], *, tile: bool = False) -> Callable[..., Any]:
        def met(*arguments: Any, **named: Any) -> Any:
            self.meet(tile=tile)
            return function(*arguments, **named)

        return met


@dataclass
class World:
    """A catalog, its files on a server, and an OUT.

    Attributes:
        versions: of each day, items, the oldest first.
        right: mask of each product.
        broken: how to mend the file of a day's newest version that is broken.
        done: of each day that was done: when its version was made, and how many pixels are masked.
        told: what happened, for whoever has to look into a failure.
    """

    folder: Path
    server: FileServer
    checkpoint: Path
    rng: random.Random
    trouble: Trouble
    now: datetime = datetime(2024, 7, 1, 1, tzinfo=UTC)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {day: [] for day in DAYS})
    right: dict[str, np.ndarray] = field(default_factory=dict)
    broken: dict[str, Callable[[], object]] = field(default_factory=dict)
    done: dict[str, tuple[str, int]] = field(default_factory=dict)
    told: list[object] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def process(self, day: str, *, renamed: bool = False) -> None:
        """Have a day processed (anew), under the same id or another one."""
        number = len(self.versions[day])
        values = jobs.pattern(10 * int(day[16:18]) + number)
        item = jobs.make_scene(
            self.server.folder / str(number),
            day.replace("_0_", f"_{number}_") if renamed else day,
            f"2024-06-{day[16:18]}T10:15:59Z",
            baseline=f"02.{number:02}",
            generated=f"2024-06-{day[16:18]}T{12 + number}:00:00Z",
            values=values,
        )
        self.versions[day].append(served(item, self.server.folder, self.server.url))
        self.right[item["properties"]["s2:product_uri"]] = jobs.mask_of_pattern(values)

    def damage(self, day: str) -> None:
        """Break one file of a day's newest version."""
        href = self.versions[day][-1]["assets"][self.rng.choice(("red", "green", "nir"))]["href"]
        path = self.server.folder / href.removeprefix(f"{self.server.url}/")
        whole = path.read_bytes()
        kind = self.rng.choice(("cut", "gone", "noise", "empty"))
        path.unlink()
        if kind != "gone":
            left = {"cut": whole[: len(whole) // 2], "noise": self.rng.randbytes(len(whole)), "empty": b""}
            path.write_bytes(left[kind])
        self.broken[day] = lambda: path.write_bytes(whole)
        self.told.append((kind, href))

    def change(self) -> bool:
        """What happens to catalog and source before a night; whether the source fails as a whole, or here and there."""
        rng = self.rng
        for day in DAYS:
            if len(self.versions[day]) < 12 and day not in self.broken and rng.random() < 0.5:
                self.process(day, renamed=rng.random() < 0.5)
            if day in self.broken and rng.random() < 0.4:
                self.broken.pop(day)()
            elif day not in self.broken and rng.random() < 0.15:
                self.damage(day)
        self.server.calm()
        chance = rng.random()
        if chance < 0.2:
            self.server.disturb(".", lasting=rng.choice(OUTAGES))
        elif chance < 0.3:
            self.server.scarce = rng.choice((503, "cut", "hang up")), 0.1
        return chance < 0.3

    def offered(self) -> list[dict[str, Any]]:
        """What the catalog lists this night: not every day, and of some days older versions, too, in any order."""
        found: dict[str, dict[str, Any]] = {}
        for day in DAYS:
            if self.rng.random() < 0.9:
                of = self.versions[day]
                found |= {item["id"]: item for item in (of if self.rng.random() < 0.3 else of[-1:])}
        items = copy.deepcopy([*found.values()])
        self.rng.shuffle(items)
        return items

    def run(self, items: list[dict[str, Any]], **how: Any) -> int:
        """A night; its exit code, 0 for one that is killed."""
        self.now += timedelta(hours=24)
        outside._keys.cache_clear()
        catalog = jobs.write_catalog(self.folder / "items.json", items)
        asked = request(
            **{"bbox": EVERYWHERE, **how}, dates="2000/..", catalog=catalog, checkpoint=self.checkpoint, out=self.out
        )
        results = {}
        try:
            for event in job.run(asked, lambda: nullcontext(None)):  # type: ignore[arg-type]
                if isinstance(event, SceneResult):
                    assert event.id not in results, "no scene has two results"
                    results[event.id] = event
        except CloudjobError as error:
            self.told.append((error.exit_code, str(error)))
            return error.exit_code
        except KilledError:
            return 0
        finally:
            self.trouble.left, self.trouble.share = None, 0.0
            self.told.append({each.id: (each.state, each.reason) for each in results.values()})
        return int(any(result.state == "failed" for result in results.values()))

    def look(self) -> None:
        """Make sure that what is done is right, and that nothing is lost of what was done before."""
        found: dict[str, tuple[str, int]] = {}
        for entry in ledger.read(Out.at(self.out)).done.values() if self.out.exists() else ():
            day, item = _day(entry.id), json.loads((self.out / entry.path).read_text())
            generated = item["properties"]["s2:generation_time"]
            (made,) = (one for one in self.versions[day] if one["properties"]["s2:generation_time"] == generated)
            mask, right = jobs.mask_of(self.out, entry.id), self.right[made["properties"]["s2:product_uri"]]
            computed = mask != 255
            assert computed.any()
            np.testing.assert_array_equal(mask[computed], right[computed])
            assert day not in found, "a day has one mask"
            found[day] = generated, int(computed.sum())
        for day, (generated, size) in self.done.items():
            assert day in found, "what is good is not lost"
            assert found[day][0] >= generated
            assert found[day][1] >= size
        self.done = found

    def night(self) -> None:
        """What a night may bring, and a look at what it leaves."""
        rng, disturbed, items = self.rng, self.change(), self.offered()
        chance, how = rng.random(), dict[str, Any]()
        if chance < 0.35:
            self.trouble.tiles = rng.random() < 0.7
            self.trouble.left = rng.randrange(12 if self.trouble.tiles else 100)
        elif chance < 0.45:
            self.trouble.share = rng.choice((0.01, 0.03, 0.1, 0.5, 1))
        self.trouble.met = False
        if rng.random() < 0.2 and items:
            west, south, east, north = items[0]["bbox"]
            how["bbox"] = west, (south + north) / 2, (west + east) / 2, north
        if rng.random() < 0.1:
            how["limit"] = 2
        if rng.random() < 0.1:
            how["retry"] = ["all"]
        self.told.append((self.now, disturbed, sorted(self.broken), [item["id"] for item in items], how))
        code = self.run(items, **how)
        self.look()
        if self.trouble.met or disturbed:
            return
        assert code in (0, 1) or self.broken
        if how.keys() <= {"retry"}:
            given_up = {_day(each.id) for each in ledger.read(Out.at(self.out)).failures.values() if each.abandoned}
            for item in items:
                day = _day(item["id"])
                if day not in self.broken and day not in given_up:
                    generated = item["properties"]["s2:generation_time"]
                    assert self.done[day][0] >= generated
                    assert self.done[day][1] == np.prod(jobs.SHAPE)

    def end(self) -> None:
        """When all is mended all is done."""
        for mend in self.broken.values():
            mend()
        self.server.calm()
        newest = [self.versions[day][-1] for day in DAYS]
        assert self.run(copy.deepcopy(newest), retry=["all"]) == 0
        self.look()
        assert self.done == {
            day: (self.versions[day][-1]["properties"]["s2:generation_time"], np.prod(jobs.SHAPE)) for day in DAYS
        }
        assert self.run(copy.deepcopy(newest)) == 0
        assert self.told[-1] == {}, "nothing is left to do"
        assert not ledger.read(Out.at(self.out)).failures
        assert list(check.check(Out.at(self.out))) == []


def _day(id_: str) -> str:
    """The day of a scene, by whatever id."""
    return next(day for day in DAYS if day[:18] == id_[:18])


@pytest.fixture
def worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], World]]:
    checkpoint = jobs.brightness_checkpoint(tmp_path / "net.safetensors")
    trouble = Trouble(random.Random())
    with file_server(tmp_path / "files") as server:

        def make(seed: int) -> World:
            rng = trouble.rng = random.Random(seed)
            jobs.tasks_here(monkeypatch, checkpoint, lanes=rng.choice((1, 1, 3)))
            server.folder = tmp_path / str(seed) / "files"
            world = World(tmp_path / str(seed), server, checkpoint, rng, trouble)
            monkeypatch.setattr(failures, "_now", lambda: f"{world.now.isoformat()}")
            return world

        monkeypatch.setattr(opened, "ATTEMPTS", 2)
        monkeypatch.setattr(opened, "PAUSE", 0.0)
        monkeypatch.setattr(task, "PAUSE", 0.0)
        monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
        for name in ("put", "create", "delete", "delete_under", "_get", "names", "tags", "sweep"):
            monkeypatch.setattr(Out, name, trouble.before(getattr(Out, name)))
        monkeypatch.setattr(Writer, "write", trouble.before(Writer.write, tile=True))
        yield make


@pytest.mark.timeout(mutate.LIMIT)
def test_nights_of_any_kind(worlds: Callable[[int], World]) -> None:
    for seed in itertools.islice(itertools.count(mutate.SEED), mutate.TRIES or QUICK):
        world = worlds(seed)
        try:
            for day in DAYS:
                world.process(day)
            for _ in range(NIGHTS):
                world.night()
            world.end()
        except BaseException:
            print(f"CLOUDJOB_FUZZ_SEED={seed}", *world.told, sep="\n")
            raise
