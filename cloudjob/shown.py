"""The commands that work on what an OUT holds: `status`, `list`, `check`, `export`, `rethreshold` and `report`."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from cloudjob import logs
from cloudjob.errors import UsageError
from cloudjob.options import option

if TYPE_CHECKING:
    from cloudjob.store.out import Out


@click.command(short_help="Say what OUT holds, what failed and why.")
@click.argument("out")
@option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def status(*, out: str, as_json: bool) -> None:
    """Say what OUT holds: scenes done, failed and abandoned, and the last run.

    With --json also a record for every scene, as `cloudjob list --json` prints them.
    """
    from cloudjob.watch import terminal

    terminal.status(existing(out), as_json=as_json)


@click.command("list", short_help="List the scenes of OUT: date, state, cloud, share of data.")
@click.argument("out")
@option("--json", "as_json", is_flag=True, help="Print a JSON object per scene and line.")
@option("--dates", metavar="DATES", help="Only scenes of 2024-06, 2024-06-01/2024-06-30, 10d and so on.")
@option("--group", metavar="NAME", help="Only this group, or all windows of this tile: 33TUN.")
def list_(*, out: str, as_json: bool, dates: str | None, group: str | None) -> None:
    """List the scenes of OUT: date, state, group, id, cloud cover, and the share of pixels with data.

    States: done, failed (the next run tries again), abandoned (failed on three nights for one reason), incomplete (a
    run was interrupted).
    """
    from datetime import UTC, datetime

    from cloudjob.catalog.dates import parse_dates
    from cloudjob.store import listing
    from cloudjob.watch import terminal

    interval = parse_dates(dates, datetime.now(UTC).date()) if dates else None
    terminal.scenes(listing.scenes(existing(out), group=group, dates=interval), as_json=as_json)


@click.command("check", short_help="Compare all that lies in OUT, down to every pixel; mend it.")
@click.argument("out")
@option("--repair", is_flag=True, help="Mend what can be mended; have the next run mask the rest again.")
@option("--json", "as_json", is_flag=True, help="Print JSON on stdout, a line for every fault.")
def check_(*, out: str, repair: bool, as_json: bool) -> int:
    """Compare all that lies in OUT: items, masks and COGs down to every pixel, and what binds them.

    Exits with 0 when all is well, or (with --repair) was mended or marked for the next run; with 1 when something is
    wrong. Reads every mask: about a second for each full Sentinel-2 tile.
    """
    from cloudjob.store import check, cog
    from cloudjob.store.lock import Lock
    from cloudjob.store.out import Out
    from cloudjob.store.repair import repair as repaired
    from cloudjob.watch import terminal

    def found() -> Iterator[check.Fault]:
        told = set()
        for fault in check.check(place):
            told |= {fault.path, fault.scene}
            yield fault
        # The COG of a mask that is made again is made after it
        yield from (fault for fault in cog.faults(place) if not {fault.path, fault.scene} & told)

    place = Out.at(out)
    if not repair:
        return terminal.check(((fault, "") for fault in found()), as_json=as_json)
    if next(found(), None) is None:  # Not even a lock is written
        return terminal.check((), as_json=as_json)
    with Lock(place) as lock:  # Checked again: a run may have ended meanwhile, and what it wrote is good
        return terminal.check(repaired(lock, list(found())), as_json=as_json)


@click.command("export", short_help="Write masks as Cloud-Optimized GeoTIFFs, for QGIS.")
@click.argument("out")
@click.argument("what", metavar="[SCENE|DATES]", required=False)
@click.argument("path", required=False, type=click.Path())
@option(
    "--group",
    metavar="NAME",
    multiple=True,
    help="Only of this group, or of all windows of this tile: 33TUN. Repeat.",
)
@option("--all", "everything", is_flag=True, help="Every scene: into OUT itself, or into the folder PATH.")
def export_(*, out: str, what: str | None, path: str | None, group: tuple[str, ...], everything: bool) -> None:
    """Write masks as Cloud-Optimized GeoTIFFs, for QGIS: of a scene, or of each day and group.

    Prints the path of each file. Beside it lies PATH.aux.xml with the classes' names. With --all and no PATH each
    scene's file goes into OUT/cogs and becomes the asset `mask` of its STAC item.

    \b
    Examples:
      cloudjob export masks S2A_33UUP_20240601_0_L2A mask.tif
      cloudjob export masks 2024-06-01 day.tif --group 33UUP
      cloudjob export masks 2024-06 folder
      cloudjob export masks --all
    """
    from cloudjob.store import export
    from cloudjob.watch import terminal

    masks = existing(out)
    if everything and what is None:
        if group:
            raise UsageError("--group with --all needs a folder PATH: into OUT itself go the masks of all groups")
        attach(masks)
        return
    if everything:
        what, path = None, what if path is None else path
    if path is None:
        raise UsageError("expected what to export, and the PATH to write", hint="or --all, into OUT itself")
    for number, written in enumerate(export.export(masks, what, path, group=group)):
        terminal.tell(str(written.path))
        names = "" if number else f"; the classes' names are in {written.path.name}.aux.xml"
        logs.say(", ".join(written.scenes) + names, "export", scenes=written.scenes)


@click.command("rethreshold", short_help="Make masks again with another threshold or buffer, in minutes.")
@click.argument("out")
@click.argument("new")
@option(
    "--threshold",
    type=float,
    metavar="SHARE",
    help="Probability from which a pixel is cloud, as 0.35. [default: that of OUT]",
)
@option("--buffer", type=float, metavar="METRES", help="Widen clouds by this. [default: that of OUT]")
@option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def rethreshold_(*, out: str, new: str, threshold: float | None, buffer: float | None, as_json: bool) -> int:
    """Make the masks of OUT again, in NEW, with another threshold or buffer: minutes, and no image is read.

    OUT must keep probabilities (`run --probability`); it is left as it is. Killed, the same command goes on where it
    was. `run --out NEW` with the same settings then adds what is new.

    \b
    Example:
      cloudjob rethreshold masks stricter --threshold 0.3 --buffer 40
    """
    from cloudjob.rethreshold import rethreshold
    from cloudjob.store.out import Out
    from cloudjob.watch import terminal

    events = rethreshold(existing(out), Out.at(new), threshold=threshold, buffer=buffer)
    with contextlib.closing(events):
        return terminal.progress(events, as_json=as_json)


@click.command("report", short_help="Write a page to look at: scenes with pictures, alarms, runs.")
@click.argument("out")
def report_(*, out: str) -> None:
    """Write OUT/report/index.html: runs, scenes with pictures, cloud over time, and what to look at.

    \b
    One page that needs no network. Every night:
      cloudjob run --geometry basin.geojson --dates 10d --out masks; cloudjob report masks
    """
    from cloudjob.report import page
    from cloudjob.store.out import Out
    from cloudjob.watch import terminal

    terminal.tell(page.write(Out.at(out)))


def attach(out: "Out", *, quiet: bool = False) -> None:
    """Give every finished scene its COG, and print the paths of those that are new."""
    from cloudjob.store import cog
    from cloudjob.store.lock import Lock
    from cloudjob.watch import terminal

    with Lock(out) as lock:
        for path in cog.attach(lock):
            if not quiet:
                terminal.tell(f"{out}/{path}")


def existing(address: str) -> "Out":
    """An OUT that a run has written to.

    Raises:
        UsageError: there is nothing, or something else.
    """
    from cloudjob.store import settings
    from cloudjob.store.out import Out

    out = Out.at(address)
    if settings.read(out) is None:
        settings.check_ours(out)
        raise UsageError(
            f"{out} holds no masks: no run has written there", hint="is it spelt right? `cloudjob run --out` makes one"
        )
    return out
