"""What a person sees on a terminal: progress, and the tables of `plan`, `list`, `status` and `model`."""

import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from textwrap import fill
from typing import Any

import click
from tqdm import tqdm

from cloudjob import classes, logs
from cloudjob.errors import DONE, SOME_FAILED, UnreachableError
from cloudjob.logs import many
from cloudjob.model.contract import Contract
from cloudjob.plan.plan import Cost, lacking
from cloudjob.plan.survey import Survey
from cloudjob.store import ledger, listing
from cloudjob.store.check import Fault
from cloudjob.store.item import iso
from cloudjob.store.listing import Listed
from cloudjob.store.out import Out
from cloudjob.store.receipt import SceneResult

BAR = "{n_fmt}/{total_fmt} scenes |{bar:10}| {elapsed} gone, {remaining} left{postfix}"
"""Short enough for 80 columns with failures and hours; tqdm sets ", " before what is put after it."""

_NEVER = 16 * " "
"""As wide as a moment."""

_TIE = "\N{NO-BREAK SPACE}"
"""Stands for a space at which no line may end."""

WORDS = {"grown": "larger area", "refused": "unusable"}
"""What is shown for a state whose name in JSON people stumble on."""


def tell(line: str) -> None:
    """Print a line on stdout. Where nobody reads it any more (`| head`), the work goes on in silence.

    Raises:
        UnreachableError: it cannot be written, as to a full disk.
    """
    try:
        click.echo(line)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # What is left unwritten goes there at the end
        if not isinstance(error, BrokenPipeError):
            raise UnreachableError(f"stdout cannot be written: {error.strerror}") from None


def progress(
    events: Iterable[Survey | SceneResult], *, as_json: bool, estimate: Callable[[Survey], Cost | None] | None = None
) -> int:
    """Follow a run: a bar on a terminal, one line per scene elsewhere; JSON lines on stdout if wanted.

    Args:
        events: of `job.run`.
        as_json: whether to print a record per scene: id, group, datetime, state, cloud_cover, reason, receipt; and
            one that says so where there was nothing to do.
        estimate: what a survey's plan will cost, told before the work begins; None where there is nothing to do.

    Returns:
        The exit code.
    """
    count: Counter[str] = Counter()
    times: dict[str, str] = {}
    view: Survey | None = None
    pixels, started = 0, time.monotonic()
    bar = tqdm(disable=True)
    for event in events:
        if isinstance(event, Survey):
            view = event
            _say_survey(event)
            if cost := estimate and estimate(event):
                _say_cost(cost)
            times = {planned.scene.id: iso(planned.scene.time) for planned in event.plan.scenes}
            hidden = True if logs.is_json() or not event.plan.to_do else None
            bar = tqdm(total=len(event.plan.to_do), bar_format=BAR, disable=hidden, ncols=_columns())
            continue
        count[event.state] += 1
        if event.receipt:
            pixels += event.receipt.valid + event.receipt.no_data
        if event.state != "done" or bar.disable:
            _say(event)
        for warning in event.receipt.warnings if event.receipt else ():
            logs.say(f"{event.id}: {warning}", "warning", level=logging.WARNING, scene=event.id)
        if as_json:
            tell(json.dumps(_record(event, times.get(event.id))))
        rate = pixels / 1e6 / max(time.monotonic() - started, 1e-9)
        bar.set_postfix_str(f"{rate:.1f} Mpx/s" + (f", {count['failed']} failed" if count["failed"] else ""))
        bar.update(event.state != "abandoned" and event.group != "")
    bar.close()
    if as_json and view and not count:
        tell(json.dumps({"state": "nothing to do", "scenes": len(view.plan.scenes), "counts": view.plan.counts}))
    if count:
        seconds = time.monotonic() - started
        told = ", ".join(f"{count[state]} {state}" for state in ("done", "failed", "abandoned") if count[state])
        summary = f"{told} in {duration(seconds)} ({pixels / 1e6:,.1f} Mpx)"
        logs.say(summary, "summary", **count, seconds=round(seconds, 1), pixels=pixels)
    return SOME_FAILED if count["failed"] else DONE


def _columns() -> int:
    """Width of the terminal; some, such as those of containers, tell none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _record(result: SceneResult, time_: str | None) -> dict[str, Any]:
    """A scene's record for `run --json`, without what is not known."""
    cover = result.receipt.cloud_cover if result.receipt else None
    record = {**asdict(result), "datetime": time_, "cloud_cover": None if cover is None else round(cover, 4)}
    order = ("id", "group", "datetime", "state", "cloud_cover", "reason", "receipt")
    return {name: record[name] for name in order if record[name] not in ("", None)}


def _say_survey(view: Survey) -> None:
    logs.say(_sentence(view), "survey", scenes=view.plan.counts, refused=len(view.refused))
    view.ledger.say_damage()
    asked = {planned.scene.id for planned in view.plan.scenes} | {*view.plan.replaces.values(), *view.plan.settled}
    if left := sorted(view.ledger.begun.keys() - asked):
        told = f"{many(len(left), 'scene')} that an interrupted run began, such as {left[0]}"
        logs.say(f"{told}, not asked for now; `cloudjob list` tells the dates", "incomplete", scenes=left)


def _say_cost(cost: Cost) -> None:
    how = "as fast as in the last run" if cost.measured else "a guess: nothing was measured here yet"
    more = 100 * (cost.seen / max(cost.pixels, 1) - 1)
    overlap = f", and {more:.0f} % more where tiles overlap" if more > 0 else ""
    takes = ("about " if cost.hours * 3600 >= 1 else "") + duration(cost.hours * 3600)
    logs.say(
        f"to do: {cost.pixels / 1e6:,.1f} Mpx{overlap}; {cost.bytes / 1e6:,.0f} MB of pixels to read; "
        f"{takes} with {many(cost.lanes, 'worker')} at {cost.speed:.1f} Mpx/s each "
        f"({how})",
        "cost",
        **asdict(cost),
    )


def _say(result: SceneResult) -> None:
    """Tell what became of a scene."""
    fields = asdict(result.receipt) | {"cloud_cover": result.receipt.cloud_cover} if result.receipt else {}
    fields.pop("warnings", None)  # Each is told by itself
    level = logging.WARNING if result.state == "failed" else logging.INFO
    about = {"scene": result.id, "group": result.group or None, "state": result.state, "reason": result.reason or None}
    logs.say(_line(result), "scene", level=level, **about, **fields)


def plan(view: Survey, cost: Cost, *, as_json: bool) -> None:
    """Print what a run would do and what it would cost."""
    if as_json:
        tell(json.dumps(view.plan.to_json() | {"refused": view.refused, "cost": asdict(cost)}, indent=1))
        return
    wide = max((len(planned.scene.id) for planned in view.plan.scenes), default=0)
    for planned in view.plan.scenes:
        word = WORDS.get(planned.state, planned.state)
        tiles = f"  {many(len(planned.tiles), 'tile')}" if planned.tiles else ""
        tell(f"{word:14} {planned.scene.id:{wide}}  {planned.scene.group}{tiles}")
        for band, why in lacking(planned.scene).items() if planned.tiles else ():
            tell(f"{'':14} without {band}: {why}")
    for name, reason in view.refused.items():
        tell(f"{WORDS['refused']:14} {name}  {reason}")
    _say_survey(view)
    if cost.pixels:
        _say_cost(cost)


def status(out: Out, *, as_json: bool) -> None:
    """Print what an OUT holds; as JSON with a record for every scene."""
    found = ledger.summary(out)
    if as_json:
        tell(json.dumps(asdict(found) | {"scenes": [asdict(scene) for scene in listing.scenes(out)]}, indent=1))
        return
    for line in _status_lines(found):
        tell(line)


def scenes(found: list[Listed], *, as_json: bool) -> None:
    """Print a row for every scene, and what they come to; with `as_json` a JSON object per line.

    A terminal too narrow for the rows is spared the groups, whose names are long and begin as the scenes' do. Where it
    is too narrow without them, too, a row goes on in the next lines, broken between its columns only.
    """
    if as_json:
        for one in found:
            tell(json.dumps(asdict(one)))
        return
    state, group, id_ = (
        max((len(getattr(one, name)) for one in found), default=0) for name in ("state", "group", "id")
    )
    shares = f"{_percent(100)} cloud  {_percent(100)} valid"
    least = len(f"{_NEVER}  {' ':{state}} {' ':{id_}}  {shares}")
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for one in found:
        told = _reason(one.id, one.reason)
        if one.state == "done":
            told = f"{_percent(one.cloud_cover)} cloud  {_percent(one.valid)} valid"
        when = f"{_minute(one.datetime) or _NEVER}  {one.state:{state}}"
        if columns and columns < least:
            tell(_folded([when.strip(), one.id, told.strip()], columns, whole=not one.reason))
            continue
        where = "" if columns and columns < least + group + 2 else f"{one.group:{group}}  "
        tell(f"{when} {where}{one.id:{id_}}  {told}".rstrip())
    groups = Counter(one.group for one in found if one.group)  # An item that cannot be used is in none
    logs.say(f"{many(len(found), 'scene')} in {many(len(groups), 'group')}", "list", scenes=len(found), groups=groups)


def check(found: Iterable[tuple[Fault, str]], *, as_json: bool) -> int:
    """Print what is wrong with an OUT, and what has become of it; the exit code."""
    left = mended = 0
    for fault, done in found:
        mended += bool(done)
        left += not done
        if as_json:
            tell(json.dumps(asdict(fault) | {"done": done or None}))
        else:
            scene = f" (scene {fault.scene})" if fault.scene else ""
            tell(f"{fault.path}{scene}: {fault.what}" + (f": {done}" if done else ""))
    if not left and not mended:
        logs.say("all is as it was written", "check", faults=0)
        return DONE
    rest = f"{mended} mended or marked, {left} for you to look at" if mended else "--repair mends what can be mended"
    logs.say(f"{many(left + mended, 'fault')}: {rest}", "check", faults=left + mended, mended=mended)
    return SOME_FAILED if left else DONE


def model(contract: Contract, sha256: str, parameters: int) -> None:
    """Print a checkpoint's contract."""
    wide = max(shutil.get_terminal_size().columns - 14, 40)
    rows = {
        "model": f"{contract.name} {contract.version}",
        "sha256": sha256,
        "bands": ", ".join(f"{band}{' (optional)' * (band in contract.optional_bands)}" for band in contract.bands),
        "resolution": ", ".join(f"{metres:g} m" for metres in contract.measured),
        "threshold": f"{contract.threshold:g}" if len(contract.classes) == 1 else "the most likely class",
        "buffer": f"{contract.buffer:g} m",
        "tile": f"{contract.tile} px, read with {contract.padding(contract.buffer / contract.resolution)} px around",
        "network": f"{_network(contract)}, {parameters:,} parameters",
        "classes": ", ".join(name for value, name, _ in classes.of(contract.labels) if value in contract.labels),
        "trained on": "\n".join(
            fill(text, wide, subsequent_indent="  ", break_on_hyphens=False) for text in contract.training_data
        ),
        "measured": "\n".join(f"{name}: {value:g}" for name, value in contract.metrics.items()),
    }
    for name, value in rows.items():
        if value:
            tell(f"{name:13} " + value.replace("\n", "\n" + 14 * " "))


def duration(seconds: float) -> str:
    """Such as "less than a second", "12 s", "35 min" and "1 h 30 min"."""
    if seconds < 1:
        return "less than a second"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _minute(moment: str) -> str:
    """A moment (ISO 8601) as people read it, in UTC: "2024-06-01 10:15"."""
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M}" if moment else ""


def _percent(value: float | None) -> str:
    return f"{value:5.1f} %" if value is not None else "    - %"


def _folded(columns: list[str], width: int, *, whole: bool) -> str:
    """A row in lines of `width`, broken between its columns; with `whole` not within the last, either."""
    *first, last = columns
    kept = [each.replace(" ", _TIE) for each in first] + [last.replace(" ", _TIE) if whole else last]
    folded = fill("  ".join(kept), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return folded.replace(_TIE, " ")


def _reason(name: str, reason: str) -> str:
    """Why a scene failed, where its name has been told: it need not be named twice."""
    return reason.removeprefix(f"scene {name}").lstrip(":, ")


def _network(contract: Contract) -> str:
    if contract.graph is None:
        bands = len(contract.bands)
        smooth = ", smooth=True" if contract.smooth else ""
        return (
            f"SimpleUNet({bands}, widths={contract.widths}, stem={contract.stem}, dilation={contract.dilation}{smooth})"
        )
    size = f"windows of {contract.graph.window} px" if contract.graph.window else "windows of any size"
    return f"ONNX, {size}, {contract.graph.activation}"


def _sentence(view: Survey) -> str:
    """Such as "14 scenes: 5 new, 9 done"."""
    states = Counter[str](planned.state for planned in view.plan.scenes)
    states |= {"refused": len(view.refused), "older versions": len(view.plan.superseded)}
    found = ", ".join(f"{number} {WORDS.get(state, state)}" for state, number in states.items() if number)
    if not found:
        return "no scenes found for this area and these dates: nothing to do"
    return f"{many(sum(states.values()), 'scene')}: {found}"


def _line(result: SceneResult) -> str:
    if result.receipt is None:
        return f"{result.state:9} {result.id}: {_reason(result.id, result.reason)}"
    cover = result.receipt.cloud_cover
    share = "no valid pixel" if cover is None else f"cloud {cover:5.1f} %"
    return f"{result.state:9} {result.id}  {result.group}  {share}"


def _status_lines(found: ledger.Summary) -> Iterator[str]:
    if not found.groups and not found.last_run:
        yield "0 scenes done: no run has written here yet"
        return
    yield f"{many(found.done, 'scene')} done in {many(len(found.groups), 'group')}"
    if found.first:
        yield f"from {_minute(found.first)} to {_minute(found.last)} UTC"
    if found.cloud_cover:
        low, mean, high = found.cloud_cover
        spread = f"cloud cover {low:.1f} to {high:.1f} %, {mean:.1f} % on average"
        yield spread if low < high else f"cloud cover {mean:.1f} %"
    for word, scenes in (("failed", found.failed), ("abandoned", found.abandoned)):
        for name, reason in scenes.items():
            yield f"{word}: {name}: {_reason(name, reason)}"
    if found.incomplete:
        yield f"incomplete (a run was interrupted; run again, with their dates): {', '.join(found.incomplete)}"
    for path, fault in found.damaged.items():
        yield f"damaged: {path}: {fault} (see `cloudjob check`)"
    if found.last_run:
        yield f"last run: {_last_run(found.last_run)}"


def _last_run(told: dict[str, Any]) -> str:
    """Such as "2024-06-02 01:00 UTC, complete, nothing to do, 3 s"."""
    if told["how"] == "unfinished":
        return f"{_minute(told['started'])} UTC, begun and not ended: it was killed, or is still at work"
    nothing = ", nothing to do" if told["how"] == "complete" and not told.get("scenes") else ""
    why = f" by: {told['why']}" if told.get("why") else ""
    return f"{_minute(told['started'])} UTC, {told['how']}{nothing}, {duration(told['seconds'])}{why}"
