"""What a person sees on a terminal: progress, and the tables of `plan`, `status` and `model`."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import click
from tqdm import tqdm

from cloudjob import logs
from cloudjob.errors import DONE, SOME_FAILED
from cloudjob.model.contract import Contract
from cloudjob.plan.plan import Cost
from cloudjob.plan.survey import Survey
from cloudjob.store import ledger
from cloudjob.store.check import Fault
from cloudjob.store.out import Out
from cloudjob.store.receipt import SceneResult

BAR = "{n_fmt}/{total_fmt} scenes |{bar:24}| {elapsed} gone, {remaining} left{postfix}"


def progress(events: Iterable[Survey | SceneResult], *, as_json: bool) -> int:
    """Follow a run: a bar on a terminal, one line per scene elsewhere; JSON lines on stdout if wanted.

    Returns:
        The exit code.
    """
    count: Counter[str] = Counter()
    pixels, started = 0, time.monotonic()
    bar = tqdm(disable=True)
    for event in events:
        if isinstance(event, Survey):
            _say_survey(event)
            hidden = True if logs.is_json() or not event.plan.to_do else None
            bar = tqdm(total=len(event.plan.to_do), bar_format=BAR, disable=hidden)
            continue
        count[event.state] += 1
        if event.receipt:
            pixels += event.receipt.valid + event.receipt.no_data
        if event.state != "done" or bar.disable:
            _say(event)
        for warning in event.receipt.warnings if event.receipt else ():
            logs.say(f"{event.id}: {warning}", "warning", level=logging.WARNING, scene=event.id)
        if as_json:
            click.echo(json.dumps({key: value for key, value in asdict(event).items() if value not in ("", None)}))
        rate = pixels / 1e6 / max(time.monotonic() - started, 1e-9)
        bar.set_postfix_str(f", {rate:.1f} Mpx/s" + (f", {count['failed']} failed" if count["failed"] else ""))
        bar.update(event.state != "abandoned" and event.group != "")
    bar.close()
    if count:
        seconds = time.monotonic() - started
        told = ", ".join(f"{count[state]} {state}" for state in ("done", "failed", "abandoned") if count[state])
        summary = f"{told} in {seconds:.0f} s ({pixels / 1e6:.1f} Mpx)"
        logs.say(summary, "summary", **count, seconds=round(seconds, 1), pixels=pixels)
    return SOME_FAILED if count["failed"] else DONE


def _say_survey(view: Survey) -> None:
    logs.say(_sentence(view), "survey", scenes=view.plan.counts, refused=len(view.refused))


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
        click.echo(json.dumps(view.plan.to_json() | {"refused": view.refused, "cost": asdict(cost)}, indent=1))
        return
    for planned in view.plan.scenes:
        click.echo(f"{planned.state:14} {planned.scene.id}  {planned.scene.group}  {len(planned.tiles)} tiles")
    for name, reason in view.refused.items():
        click.echo(f"{'refused':14} {name}  {reason}")
    _say_survey(view)
    if cost.pixels:
        how = "measured in the last run" if cost.measured else "assumed"
        logs.say(
            f"to do: {cost.pixels / 1e6:.1f} Mpx and {cost.seen / cost.pixels - 1:.0%} of them again as halo, "
            f"{cost.bytes / 1e6:.0f} MB of pixels to read, about {_duration(cost.hours)} on {cost.lanes} lanes "
            f"at {cost.speed:.1f} Mpx/s each ({how})",
            "cost",
            **asdict(cost),
        )


def status(out: Out, *, as_json: bool) -> None:
    """Print what an OUT holds."""
    found = ledger.summary(out)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
        return
    for line in _status_lines(found):
        click.echo(line)


def check(found: Iterable[tuple[Fault, str]], *, as_json: bool) -> int:
    """Print what is wrong with an OUT, and what has become of it.

    Returns:
        The exit code.
    """
    left = mended = 0
    for fault, done in found:
        mended += bool(done)
        left += not done
        if as_json:
            click.echo(json.dumps(asdict(fault) | {"done": done or None}))
        else:
            scene = f" (scene {fault.scene})" if fault.scene else ""
            click.echo(f"{fault.path}{scene}: {fault.what}" + (f": {done}" if done else ""))
    if not left and not mended:
        logs.say("all is as it was written", "check", faults=0)
        return DONE
    told = f"{left + mended} {'fault' if left + mended == 1 else 'faults'}"
    rest = f"{mended} mended or marked, {left} for you to look at" if mended else "--repair mends what can be mended"
    logs.say(f"{told}: {rest}", "check", faults=left + mended, mended=mended)
    return SOME_FAILED if left else DONE


def model(contract: Contract, sha256: str, parameters: int) -> None:
    """Print a checkpoint's contract."""
    rows = {
        "model": f"{contract.name} {contract.version}",
        "sha256": sha256,
        "bands": ", ".join(contract.bands),
        "resolution": f"{contract.resolution:g} m",
        "threshold": f"{contract.threshold:g}",
        "buffer": f"{contract.buffer:g} m",
        "tile": f"{contract.tile} px, read with {contract.padding(contract.buffer / contract.resolution)} px around",
        "network": f"SimpleUNet({len(contract.bands)}, widths={contract.widths}, stem={contract.stem}, "
        f"dilation={contract.dilation}), {parameters:,} parameters",
        "trained on": "\n              ".join(contract.training_data),
        "measured": "\n              ".join(f"{name}: {value:g}" for name, value in contract.metrics.items()),
    }
    for name, value in rows.items():
        if value:
            click.echo(f"{name:13} {value}")


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def _sentence(view: Survey) -> str:
    """Such as "14 scenes: 5 new, 9 done"."""
    states = Counter[str](planned.state for planned in view.plan.scenes)
    states |= {"refused": len(view.refused), "older versions": len(view.plan.superseded)}
    found = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    if not found:
        return "no scenes found for this area and these dates: nothing to do"
    return f"{sum(states.values())} scenes: {found}"


def _line(result: SceneResult) -> str:
    if result.receipt is None:
        reason = result.reason.removeprefix(f"scene {result.id}").lstrip(":, ")  # It need not be named twice
        return f"{result.state:9} {result.id}: {reason}"
    cover = result.receipt.cloud_cover
    share = "no valid pixel" if cover is None else f"cloud {cover:5.1f} %"
    return f"{result.state:9} {result.id}  {result.group}  {share}"


def _status_lines(found: ledger.Summary) -> Iterator[str]:
    if not found.groups and not found.last_run:
        yield "0 scenes done: no run has written here yet"
        return
    yield f"{found.done} scenes done in {len(found.groups)} groups"
    if found.first:
        yield f"from {found.first} to {found.last}"
    if found.cloud_cover:
        low, mean, high = found.cloud_cover
        yield f"cloud cover {low:.1f} to {high:.1f} %, {mean:.1f} % on average"
    for word, scenes in (("failed", found.failed), ("abandoned", found.abandoned)):
        for name, reason in scenes.items():
            yield f"{word}: {name}: {reason}"
    if found.incomplete:
        yield f"incomplete (a run was interrupted; run again): {', '.join(found.incomplete)}"
    for path, fault in found.damaged.items():
        yield f"damaged: {path}: {fault} (see `cloudjob check`)"
    if found.last_run:
        yield f"last run: {_last_run(found.last_run)}"


def _last_run(told: dict[str, Any]) -> str:
    """Such as "2024-06-02T01:00:00+00:00, complete, nothing to do, 3 s"."""
    if told["how"] == "unfinished":
        return f"{told['started']}, begun and not ended: it was killed, or is still at work"
    nothing = ", nothing to do" if told["how"] == "complete" and not told.get("scenes") else ""
    why = f" by: {told['why']}" if told.get("why") else ""
    return f"{told['started']}, {told['how']}{nothing}, {told['seconds']:.0f} s{why}"
