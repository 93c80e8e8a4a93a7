"""A run as it is watched: series for Prometheus, and a sign of life every minute."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from prometheus_client import REGISTRY, CollectorRegistry, write_to_textfile
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from cloudjob import logs
from cloudjob.classes import NAMES
from cloudjob.errors import FULL, SOME_FAILED, UsageError, exit_code
from cloudjob.plan.survey import Survey
from cloudjob.store.out import Out
from cloudjob.store.receipt import Receipt, SceneResult, merge

if TYPE_CHECKING:
    from distributed import Client

HEARTBEAT = 60.0
"""Seconds between two signs of life."""

SUCCESS = "cloudjob_last_success_timestamp_seconds"

log = logging.getLogger(__name__)


class Watch(Collector):
    """What is known of a run, while in the `with` block.

    The series stand in the registry of this process, so a scheduler in it serves them on its dashboard's /metrics
    beside Dask's own. All carry the label `out`. Nothing counts across runs but the time of the last success, which
    the file hands on.

    Args:
        out: the output.
        file: where the series are written too, every minute and at the end, for node_exporter's textfile collector.

    Raises:
        UsageError: when entered: the file cannot be written, and not because its disk is full.
    """

    def __init__(self, out: Out, file: Path | None = None) -> None:
        self.out = str(out)
        self.file = file
        self.client: Client | None = None
        self.code: int | None = None
        self.started = self.ended = self.beaten = self.progress = 0.0
        self._news = 0.0  # By a clock that nobody sets
        self.planned: int | None = None  # Until the catalog has answered
        self.scenes: Counter[str] = Counter()
        self.sum = Receipt()
        self.times: dict[str, float] = {}
        self.newest = 0.0
        self.success = _last_success(file)
        self._over = threading.Event()
        self._registry = CollectorRegistry()

    def __enter__(self) -> Self:
        self.started = self.beaten = self.progress = time.time()
        self._news = time.monotonic()
        self._registry.register(self)
        try:
            self._write()
        except OSError as error:
            if error.errno not in FULL:
                raise UsageError(
                    f"--metrics-file {self.file} cannot be written: {error.strerror}",
                    hint="create its folder, or choose one that you may write to",
                ) from None
            self._warn(error)
        REGISTRY.register(self)
        self._thread = threading.Thread(target=self._beat, name="cloudjob-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        REGISTRY.unregister(self)
        if error is not None:
            self.code = exit_code(error)
        self.ended = self.beaten = time.time()
        if self.code is not None and self.code <= SOME_FAILED:
            self.success = self.ended
        self._try_to_write()

    def follow(self, events: Iterable[Survey | SceneResult]) -> Iterator[Survey | SceneResult]:
        """Pass a run's events on, having taken note of them."""
        for event in events:
            if isinstance(event, Survey):
                self.planned = len(event.plan.to_do)
                self.times = {planned.scene.id: planned.scene.time.timestamp() for planned in event.plan.to_do}
                done = (datetime.fromisoformat(one.time).timestamp() for one in event.ledger.done.values())
                self.newest = max(done, default=0.0)
            else:
                self._add(event)
            self.progress, self._news = time.time(), time.monotonic()
            yield event

    def _add(self, result: SceneResult) -> None:
        self.scenes[result.state] += 1
        time_ = self.times.pop(result.id, 0.0)
        if result.receipt:
            self.sum = merge([self.sum, replace(result.receipt, warnings=())])
            self.newest = max(self.newest, time_)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called by Prometheus's client whenever somebody asks for the series."""
        yield self._family("run_started_timestamp_seconds", "When the run started", self.started)
        yield self._family("run_heartbeat_timestamp_seconds", "The run's last sign of life", self.beaten)
        yield self._family("run_progress_timestamp_seconds", "When the run last ended a scene", self.progress)
        if self.code is not None:
            yield self._family("run_ended_timestamp_seconds", "When the run ended", self.ended)
            yield self._family("run_exit_code", "The run's exit code; none while it is at work", self.code)
        states = {state: self.scenes[state] for state in ("done", "failed", "abandoned")}
        yield self._family(
            "run_scenes", "Scenes of the run by what became of them", states | {"remaining": len(self.times)}, "state"
        )
        yield self._family("run_scenes_planned", "Scenes that the run is to do", self.planned or 0)
        counts = {label: getattr(self.sum, label) for label in (*NAMES, "no_data")}
        rare = ("thin_cloud", "cloud_shadow")  # Most networks know neither
        labels = {label: count for label, count in counts.items() if count or label not in rare}
        yield self._family("run_pixels", "Pixels that the run has written by their label", labels, "label")
        if self.sum.cloud_cover is not None:
            yield self._family("run_cloud_ratio", "Cloud among the run's valid pixels", self.sum.cloud_cover / 100)
        yield self._family("run_read_bytes", "Decoded pixels that the run has read", self.sum.bytes_read)
        stages = {stage: getattr(self.sum, f"{stage}_seconds") for stage in ("read", "network", "write")}
        yield self._family("run_stage_seconds", "Seconds of all workers by what they did", stages, "stage")
        if self.newest:
            yield self._family("newest_scene_timestamp_seconds", "When the newest scene done was taken", self.newest)
        if self.success:
            yield self._family("last_success_timestamp_seconds", "When a run last ended with 0 or 1", self.success)

    def _family(self, name: str, about: str, values: float | Mapping[str, float], label: str = "") -> GaugeMetricFamily:
        if not isinstance(values, Mapping):
            values = {"": values}
        family = GaugeMetricFamily(f"cloudjob_{name}", about, labels=["out", label] if label else ["out"])
        for key, value in values.items():
            family.add_metric([self.out, key] if label else [self.out], value)
        return family

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT):
            self.beaten = time.time()
            self._try_to_write()
            if time.monotonic() - self._news >= HEARTBEAT and (logs.is_json() or not sys.stderr.isatty()):
                self._say()

    def _say(self) -> None:
        """Tell that the run lives, and what it is at."""
        silent = round(time.monotonic() - self._news)
        if self.planned is None:
            logs.say(f"looking for scenes for {silent} s", "heartbeat", silent_seconds=silent)
            return
        ended, under_way = self.planned - len(self.times), _under_way(self.client)
        at = f"; under way: {', '.join(under_way)}" if under_way else ""
        logs.say(
            f"{ended} of {self.planned} scenes, nothing new for {silent} s{at}",
            "heartbeat",
            ended=ended,
            planned=self.planned,
            silent_seconds=silent,
            under_way=under_way,
        )

    def _write(self) -> None:
        if self.file:
            write_to_textfile(os.fspath(self.file), self._registry)

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:  # Of a disk that is full, say: no reason to end the run
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        log.warning("--metrics-file %s cannot be written: %s", self.file, error)


def _under_way(client: "Client | None") -> list[str]:
    """Names of the scenes, or parts of them, that are at a worker."""
    if client is None or (scheduler := client.scheduler) is None:  # Read once: it may be closed meanwhile
        return []
    with contextlib.suppress(OSError, TimeoutError, RuntimeError):  # The run itself will tell of a lost scheduler
        workers = client.sync(scheduler.processing, workers=None, callback_timeout=10)
        keys = {str(key) for held in workers.values() for key in held}
        return sorted(key.removeprefix("mask-").rpartition("-")[0] for key in keys if key.startswith("mask-"))
    return []


def _last_success(file: Path | None) -> float:
    """What the file of an earlier run hands on; 0 if there is none."""
    if file is None or not file.is_file():
        return 0.0
    with contextlib.suppress(OSError, ValueError):  # It is not worth a run
        families = text_string_to_metric_families(file.read_text(encoding="utf-8"))
        told = [sample.value for family in families for sample in family.samples if sample.name == SUCCESS]
        return max((value for value in told if value <= time.time()), default=0)  # None of a clock that was ahead
    return 0.0
