"""The command line: parses, calls one function, prints, and picks the exit code."""

import contextlib
import json
import logging
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloudjob import errors, logs
from cloudjob.errors import CloudjobError, UsageError
from cloudjob.options import address, option, what

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from cloudjob.plan.request import Job
    from cloudjob.watch.metrics import Watch

# What a command needs is imported by the command: help and `status` need neither torch nor Dask, which take seconds.

EXIT_CODES = """\b
Exit codes:
  0    all done, or nothing new
  1    some scenes failed; the rest is written, the next run tries them again
  2    wrong usage
  3    contract broken: checkpoint, the catalog's assets, or an OUT made with other settings
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
    try:
        code = cli.main(prog_name="cloudjob", standalone_mode=False) or errors.DONE
    except click.ClickException as error:
        if logs.is_json():
            _say_error(error.format_message(), error.exit_code)
        else:
            error.show()
        code = error.exit_code
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
        code = errors.CRASHED
        logs.crashed(error)
    sys.exit(code)


def _say_error(message: str, code: int, hint: str | None = None) -> None:
    logs.say(message, "error", level=logging.ERROR, hint=hint, exit_code=code)


def _terminate(*_: object) -> None:
    raise Terminated


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
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

    \b
    Masks: 0 clear, 1 cloud, 254 no data in the source, 255 not computed.
    Every option can also be set in the environment: --out as CLOUDJOB_OUT, and so on.
    There is no class for cloud shadows.
    """
    logs.setup(form, verbose=verbose)


@cli.command(epilog=EXIT_CODES)
@what
@option(
    "--listen",
    callback=address,
    metavar="tcp://HOST:PORT",
    help="Also take workers of other machines here: `cloudjob worker`. [default: none]",
)
@option(
    "--metrics-file",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Also write the run's Prometheus series here, every minute and at the end: a .prom for node_exporter.",
)
def run(
    *,
    where: str,
    workers: int | None,
    listen: str | None,
    metrics_file: str | None,
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
    from cloudjob import job
    from cloudjob.store.out import Out
    from cloudjob.watch import metrics, terminal

    if listen and where != "local":
        raise UsageError(
            f"--listen is for a scheduler of this run's own, not for the one at {where}", hint="leave one out"
        )
    with (
        metrics.Watch(Out.at(options["out"]), Path(metrics_file) if metrics_file else None) as watch,
        # Ctrl-C may strike outside of it: then, too, it gives back its lock and its cluster before anything else ends.
        contextlib.closing(job.run(_job(options), lambda: _connect(where, workers, listen, watch))) as events,
    ):
        watch.code = terminal.progress(watch.follow(events), as_json=as_json)
    return watch.code


@cli.command()
@what
def plan(*, where: str, workers: int | None, as_json: bool, **options: Any) -> None:
    """Say what `run` would do, without doing it.

    \b
    Per scene: new, changed (another version is in the catalog), grown (more tiles are asked for),
    failed before, abandoned (failed on three nights for one reason) or done.
    """
    from cloudjob.plan import survey
    from cloudjob.watch import terminal

    asked = _job(options)
    view = survey.make(asked)
    terminal.plan(view, survey.estimate(asked, view, _lanes(where, workers)), as_json=as_json)


@cli.command()
@click.argument("out")
@option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def status(*, out: str, as_json: bool) -> None:
    """Say what OUT holds: scenes done, failed and abandoned, and the last run."""
    from cloudjob.store.out import Out
    from cloudjob.watch import terminal

    terminal.status(Out.at(out), as_json=as_json)


@cli.command("check")
@click.argument("out")
@option("--repair", is_flag=True, help="Mend what can be mended; have the next run mask the rest again.")
@option("--json", "as_json", is_flag=True, help="Print JSON on stdout, a line for every fault.")
def check_(*, out: str, repair: bool, as_json: bool) -> int:
    """Compare all that lies in OUT: items, masks down to every pixel, and what binds them.

    Exits with 0 when all is well, or (with --repair) was mended or marked for the next run; with 1 when something is
    wrong. Reads every mask: about a second for each full Sentinel-2 tile.
    """
    from cloudjob.store import check
    from cloudjob.store.lock import Lock
    from cloudjob.store.out import Out
    from cloudjob.store.repair import repair as repaired
    from cloudjob.watch import terminal

    place = Out.at(out)
    if not repair:
        return terminal.check(((fault, "") for fault in check.check(place)), as_json=as_json)
    faults = list(check.check(place))
    with Lock(place) if faults else contextlib.nullcontext() as lock:
        return terminal.check(repaired(lock, faults) if lock else (), as_json=as_json)


@cli.command("export")
@click.argument("out")
@click.argument("what", metavar="SCENE|DAY")
@click.argument("path", type=click.Path(dir_okay=False))
@option("--group", metavar="NAME", help="Whose day, where several groups have scenes of it.")
def export_(*, out: str, what: str, path: str, group: str | None) -> None:
    """Write one scene's or one day's mask as a Cloud-Optimized GeoTIFF, for QGIS.

    \b
    Examples:
      cloudjob export masks S2A_33UUP_20240601_0_L2A mask.tif
      cloudjob export masks 2024-06-01 day.tif --group 33UUP
    """
    from cloudjob.store import export
    from cloudjob.store.out import Out

    for scene in export.export(Out.at(out), what, path, group=group):
        click.echo(scene)


@cli.command("report")
@click.argument("out")
def report_(*, out: str) -> None:
    """Write OUT/report/index.html: runs, scenes with pictures, cloud over time, and what to look at.

    \b
    One page that needs no network. Every night:
      cloudjob run --geometry basin.geojson --dates 10d --out masks; cloudjob report masks
    """
    from cloudjob.report import page
    from cloudjob.store.out import Out

    click.echo(page.write(Out.at(out)))


@cli.command()
@click.argument("path", required=False, type=click.Path())
@option("--json", "as_json", is_flag=True, help="Print the STAC MLM item.")
def model(*, path: str | None, as_json: bool) -> None:
    """Print a checkpoint's contract; that of the one that ships if no PATH is given."""
    from cloudjob.model import checkpoint
    from cloudjob.watch import terminal

    loaded = checkpoint.load(path)
    if as_json:
        click.echo(json.dumps(checkpoint.record(loaded.contract), indent=1))
    else:
        terminal.model(loaded.contract, loaded.sha256, sum(p.numel() for p in loaded.network.parameters()))


@cli.command()
@option("--out", default="demo", show_default=True, help="The folder to fill.")
@option("--workers", type=click.IntRange(min=1), help="Local processes. [default: one per core]")
def demo(*, out: str, workers: int | None) -> int:
    """Mask a small simulated catalog and compare the masks with the truth.

    Makes the catalog in OUT/catalog and the masks in OUT/masks. Needs no network.
    """
    from cloudjob import job
    from cloudjob.demo import collection, fit
    from cloudjob.plan.request import request
    from cloudjob.store.masks import open_masks
    from cloudjob.watch import terminal

    catalog, masks = Path(out) / "catalog" / "items.json", Path(out) / "masks"
    if not catalog.exists():
        logs.say(f"simulating scenes in {catalog.parent}", "demo")
        collection.collection(catalog.parent)
    items = json.loads(catalog.read_text(encoding="utf-8"))["features"]
    asked = request(bbox=collection.bounds(items), dates="2000/..", out=masks, catalog=catalog)
    code = terminal.progress(job.run(asked, lambda: _connect("local", workers)), as_json=False)
    if code == errors.DONE:  # Scenes that failed have been named
        made = open_masks(asked.out)
        for line in fit.table(items, catalog.parent, made):
            click.echo(line)
        group, scene = next(iter(made.children)), items[0]["id"]
        logs.say(NEXT.format(bin=_folder(), masks=asked.out, scene=scene, group=group), "demo")
    return code


@cli.command()
@click.argument("address")
@option("--workers", type=click.IntRange(min=1), help="Processes. [default: one per core]")
def worker(*, address: str, workers: int | None) -> None:
    """Work for a Dask scheduler at ADDRESS (tcp://host:8786) until it lets go.

    Exits with 0 when the scheduler closed it, with 4 when the scheduler was lost.
    """
    import asyncio

    from cloudjob.cluster.worker import serve

    asyncio.run(serve(address, workers))


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
