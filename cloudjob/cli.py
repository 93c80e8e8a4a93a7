"""The command line: parses, calls one function, prints, and picks the exit code."""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloudjob import errors, logs
from cloudjob.errors import CloudjobError, UsageError
from cloudjob.options import Command, Ordered, address, misspelt, option, what
from cloudjob.shown import attach, check_, export_, list_, report_, rethreshold_, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from cloudjob.plan.plan import Cost
    from cloudjob.plan.request import Job
    from cloudjob.plan.survey import Survey
    from cloudjob.watch.metrics import Watch

# What a command needs is imported by the command: help and `status` need neither torch nor Dask, which take seconds.

EXIT_CODES = """\b
Exit codes:
  0    all done, or nothing new
  1    some scenes failed; the rest is written, the next run tries them again
  2    wrong usage
  3    contract broken: checkpoint, assets, or OUT made with other settings;
       or a bucket of scenes wants keys and there are none: give them
  4    catalog, store or cluster unreachable, or another run is at work
  70   a crash: a bug of cloudjob; please report it
  130  interrupted; everything finished is kept (143 when terminated)
"""


NEXT = """
Now try
  {bin}cloudjob status {masks}
  {bin}cloudjob report {masks}
  {bin}cloudjob export {masks} {scene} mask.tif
  {bin}python -c "import xarray; print(xarray.open_zarr('{masks}/masks.zarr/{group}'))"
"""

KEPT = "everything finished is kept; run the same command again for the rest"


class Terminated(BaseException):
    """SIGTERM, as Kubernetes, systemd and SLURM send it."""

    exit_code = errors.TERMINATED


def main() -> None:
    """Entry point: run a command and exit with the codes of `errors`."""
    signal.signal(signal.SIGTERM, _terminate)
    _open_streams()
    logs.begin()
    try:
        code = cli.main(prog_name="cloudjob", standalone_mode=False) or errors.DONE
    except click.ClickException as error:
        told = _placed(error)
        if logs.is_json():
            _say_error(told.format_message(), told.exit_code)
        else:
            told.show()
        code = told.exit_code
    except CloudjobError as error:
        code = error.exit_code
        _say_error(str(error), code, error.hint)
    except (KeyboardInterrupt, click.Abort):
        code = errors.INTERRUPTED
        logs.say("interrupted: " + KEPT, "interrupted", exit_code=code)
    except Terminated:
        code = errors.TERMINATED
        logs.say("terminated: " + KEPT, "terminated", exit_code=code)
    except Exception as error:  # noqa: BLE001 -- the outermost: told from "some scenes failed" by its code
        if getattr(error, "errno", None) in errors.FULL:  # Whose, as that of stdout, its own words tell
            code = errors.UNREACHABLE
            _say_error(str(error), code, errors.SPACE)
        else:
            code = errors.CRASHED
            logs.crashed(error)
    sys.exit(code)


def _open_streams() -> None:
    """Have stdin, stdout and stderr where they were closed: else the next files that are opened get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 -- as long as the process
            os.set_inheritable(stream.fileno(), True)  # noqa: FBT003
            setattr(sys, name, stream)


def _say_error(message: str, code: int, hint: str | None = None) -> None:
    logs.say(message, "error", level=logging.ERROR, hint=hint, exit_code=code)


def _placed(error: click.ClickException) -> click.ClickException:
    """An error that says where an option goes, if it is one of another place: before the command, or after."""
    context = getattr(error, "ctx", None)
    if not isinstance(error, click.NoSuchOption) or context is None:
        return error
    name = error.option_name
    if context.parent and name in _names(cli):
        return click.UsageError(f"{name} goes before the command: cloudjob {name} … {context.info_name}", context)
    having = [each for each in cli.list_commands(context) if name in _names(cli.commands[each])]
    if not context.parent and having:
        return click.UsageError(f"{name} goes after the command: cloudjob {having[0]} {name} …", context)
    return error


def _names(command: click.Command) -> set[str]:
    return {opt for option in command.params for opt in option.opts}


def _terminate(*_: object) -> None:
    raise Terminated


@click.group(
    cls=Ordered, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES
)
@click.version_option(package_name="cloudjob")
@click.option("-v", "--verbose", is_flag=True, envvar="CLOUDJOB_VERBOSE", help="Say more on stderr.")
@click.option(
    "--log-format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar=logs.FORMAT,
    help="Of stderr: lines for people, or one JSON object a line.",
)
def cli(*, verbose: bool, form: logs.Format) -> None:
    """From a bounding box and a date range to cloud masks in Zarr.

    Masks: 0 clear, 1 cloud, 254 no data in the source, 255 not computed. Some networks also tell 2 thin cloud and
    3 cloud shadow; the one that ships does not.

    Options of `run`, `plan`, `worker` and `demo` can also be set in the environment: --out as CLOUDJOB_OUT, and so on.
    """
    logs.setup(form, verbose=verbose)
    for name, meant in misspelt(os.environ, (cli, *cli.commands.values())).items():
        told = f"{name} is set, and no option goes by it: did you mean {meant}?"
        logs.say(told, "warning", level=logging.WARNING)
    try:
        Path.cwd()
    except FileNotFoundError:  # torch would end the process in words of its own. Help needs none
        if not {"-h", "--help"} & set(sys.argv):
            hint = "change to another one, as with `cd`"
            raise UsageError("the folder that you are in was deleted", hint=hint) from None


for each in (status, list_, check_, export_, rethreshold_, report_):
    cli.add_command(each)


@cli.command(cls=Command, epilog=EXIT_CODES)
@what
@option(
    "--listen",
    callback=address,
    metavar="ADDRESS",
    help="Also take workers of other machines here, at tcp://HOST:PORT or tls://…: `cloudjob worker`. [default: none]",
)
@option("--cog", is_flag=True, help="Then write each mask as a COG, too: an asset of its STAC item.")
@option(
    "--metrics-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Also write the run's Prometheus series here, every minute and at the end: a .prom for node_exporter.",
)
@option("--json", "as_json", is_flag=True, help="Print a JSON object per scene on stdout.")
def run(
    *,
    where: str,
    workers: int | None,
    listen: str | None,
    metrics_file: str | None,
    cog: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Find scenes, mask their clouds and write the masks to Zarr.

    What is done is left alone and failed scenes are tried again: run the same command every night.

    \b
    Examples:
      cloudjob run --bbox 11.2 46.4 11.5 46.6 --dates 2024-06 --out masks
      cloudjob run --geometry basin.geojson --dates 10d --out s3://bucket/masks
      cloudjob run --bbox 11.2 46.4 11.5 46.6 --dates 2024 --out masks --catalog planetary-computer
    """
    from cloudjob.plan import survey
    from cloudjob.store.out import Out
    from cloudjob.watch import metrics, terminal

    if listen and where != "local":
        raise UsageError(
            f"--listen is for a scheduler of this run's own, not for the one at {where}", hint="leave one out"
        )
    with metrics.Watch(Out.at(options["out"]), Path(metrics_file) if metrics_file else None) as watch:
        asked = _job(options)  # What is wrong with them is told before torch and Dask are loaded, which takes seconds
        from cloudjob import job

        def estimate(view: "Survey") -> "Cost | None":
            from cloudjob.cluster.stream import lane_count

            _say_where(asked, view, options["bbox"])
            if not view.plan.to_do:
                return None
            return survey.estimate(asked, view, lane_count(watch.client) if watch.client else _lanes(where, workers))

        # Ctrl-C may strike outside of it: then, too, it gives back its lock and its cluster before anything else ends.
        with contextlib.closing(job.run(asked, lambda: _connect(where, workers, listen, watch))) as events:
            code = terminal.progress(watch.follow(events), as_json=as_json, estimate=estimate)
        if cog:
            attach(asked.out, quiet=as_json)
        watch.code = code
    return code


@cli.command(cls=Command)
@what
@option("--json", "as_json", is_flag=True, help="Print the plan as JSON on stdout.")
def plan(*, where: str, workers: int | None, as_json: bool, **options: Any) -> None:
    """Say what `run` would do, without doing it.

    Per scene: new, changed (another version is in the catalog), larger area (than was masked before), failed before,
    abandoned (failed on three nights for one reason), unusable (its item is) or done.
    """
    from cloudjob.plan import survey
    from cloudjob.watch import terminal

    asked = _job(options)
    view = survey.make(asked)
    terminal.plan(view, survey.estimate(asked, view, _lanes(where, workers)), as_json=as_json)
    _say_where(asked, view, options["bbox"])


@cli.command(short_help="Check a network, and print what it was made for.")
@click.argument("network", required=False)
@option("--json", "as_json", is_flag=True, help="Print the STAC MLM item.")
@option("--like", metavar="NETWORK", help="Draft a record for an .onnx file: its own shapes, all else as in this one.")
def model(*, network: str | None, as_json: bool, like: str | None) -> None:
    """Check a network and print its contract; that of the one that ships if no NETWORK is given.

    A .safetensors or .onnx file, a record, or a name. A record for an .onnx file, to be gone over:

    \b
      cloudjob model mine.onnx --like ukis-csmask-l2a > mine.json
    """
    from cloudjob.model import checkpoint
    from cloudjob.watch import terminal

    if like:
        from cloudjob.model import draft

        if network is None:
            raise UsageError("--like drafts a record; expected the .onnx file that it is for, too")
        terminal.tell(json.dumps(draft.draft(Path(network), like), indent=1))
        return
    loaded = checkpoint.load(network)
    if as_json:
        terminal.tell(json.dumps(checkpoint.record(loaded.contract), indent=1))
    else:
        terminal.model(loaded.contract, loaded.sha256, loaded.parameters)


@cli.command(short_help="Mask a small simulated catalog; compare with its truth.")
@option("--out", metavar="FOLDER", default="demo", show_default=True, help="The folder to fill.")
@option("--workers", type=click.IntRange(min=1), metavar="N", help="Local processes. [default: one per core]")
def demo(*, out: str, workers: int | None) -> int:
    """Mask a small simulated catalog and compare the masks with the truth.

    Makes the catalog in FOLDER/catalog and the masks in FOLDER/masks. Needs no network.
    """
    from cloudjob import job
    from cloudjob.demo import collection, fit
    from cloudjob.plan.request import request
    from cloudjob.store.masks import open_masks
    from cloudjob.watch import terminal

    if "://" in out:  # As CLOUDJOB_OUT may be, set for the nights
        raise UsageError(f"the demo lies in a folder, and --out is {out}", hint="--out FOLDER")
    catalog, masks = Path(out) / "catalog" / "items.json", Path(out) / "masks"
    try:
        if not catalog.exists():
            catalog.parent.mkdir(parents=True, exist_ok=True)  # Before a scene is made that could not be written
            logs.say(f"simulating scenes in {catalog.parent}", "demo")
            collection.collection(catalog.parent)
        items = json.loads(catalog.read_text(encoding="utf-8"))["features"]
    except OSError as error:
        raise errors.unwritten("the demo's catalog cannot be written or read", error, "--out FOLDER") from None
    asked = request(bbox=collection.bounds(items), dates="2000/..", out=masks, catalog=catalog)
    code = terminal.progress(job.run(asked, lambda: _connect("local", workers)), as_json=False)
    if code == errors.DONE:  # Scenes that failed have been named
        made = open_masks(asked.out)
        for line in fit.table(items, catalog.parent, made):
            terminal.tell(line)
        group, scene = next(iter(made.children)), items[0]["id"]
        logs.say(NEXT.format(bin=_folder(), masks=asked.out, scene=scene, group=group), "demo")
    return code


@cli.command(short_help="Work for a Dask scheduler until it lets go.")
@click.argument("address")
@option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes. [default: one per core]")
def worker(*, address: str, workers: int | None) -> None:
    """Work for a Dask scheduler at ADDRESS (tcp://host:8786, or tls://) until it lets go.

    Exits with 0 when the scheduler closed it, with 4 when the scheduler was lost.
    """
    import asyncio

    from cloudjob.cluster.worker import serve

    async def until_terminated() -> None:
        serving = asyncio.create_task(serve(address, workers))
        # What a handler raises strikes whichever callback is at work, and asyncio would only log it
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        await asyncio.wait([serving])
        if serving.cancelled():
            raise Terminated
        serving.result()

    asyncio.run(until_terminated())


def _job(options: dict[str, Any]) -> "Job":
    """The job that the options of `run` and `plan` describe."""
    from cloudjob.plan.request import request

    assets = {}
    for text in options.pop("assets"):
        band, equals, key = text.partition("=")
        if not (band and equals and key):
            raise UsageError(f"--asset is {text!r}; expected BAND=KEY", hint="for example --asset red=B04")
        assets[band] = key
    return request(**options, assets=assets)


def _say_where(asked: "Job", view: "Survey", bbox: tuple[float, float, float, float] | None) -> None:
    """Where nothing was found, say where and when that is: latitude and longitude may have been swapped."""
    if view.plan.scenes or view.refused:
        return
    west, south, east, north = bbox or asked.area.bounds  # As typed: bounds across the antimeridian go round the world
    start, end = asked.dates.start, asked.dates.end
    days = f"{start:%Y-%m-%d}/" + (f"{end - timedelta(days=1):%Y-%m-%d}" if end else "..")
    most, hint = asked.max_cloud_cover, None
    if start > datetime.now(UTC):
        hint = "these dates are still to come"
    elif most is not None:
        hint = f"is --max-cloud-cover too low? It is in percent, {most:g} of 100"
    elif max(abs(west), abs(east)) <= 90:
        hint = f"if latitude and longitude are swapped, try --bbox {south:.15g} {west:.15g} {north:.15g} {east:.15g}"
    place = f"{south:g} to {north:g} degrees north, {west:g} to {east:g} east"
    least = "" if most is None else f", for at most {most:g} % of cloud by the catalog"
    logs.say(f"looked at {place}, {days}{least}", "area", hint=hint)


def _lanes(where: str, workers: int | None) -> int:
    """How many worker processes a run would have."""
    if where == "local":
        from cloudjob.cluster.lanes import lanes

        return len(lanes(workers))
    from cloudjob.cluster.scheduler import connect
    from cloudjob.cluster.stream import lane_count

    with connect(where) as client:
        return lane_count(client)


def _folder() -> str:
    """What stands before `cloudjob` where the shell would not find it, such as ".venv/bin/"."""
    own = Path(sys.argv[0])
    return "" if own.name != "cloudjob" or shutil.which("cloudjob") == str(own.absolute()) else f"{own.parent}/"


@contextlib.contextmanager
def _connect(
    where: str, workers: int | None, listen: str | None = None, watch: "Watch | None" = None
) -> "Iterator[Client]":
    """Open the cluster and say where it can be watched."""
    from cloudjob.cluster import scheduler

    with scheduler.connect(where, workers, listen) as client:
        logs.say(f"dashboard: {client.dashboard_link}", "dashboard", address=client.dashboard_link)
        if watch:
            watch.client = client
        yield client
