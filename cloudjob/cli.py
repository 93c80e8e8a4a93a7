"""The command line: parses, calls one function, prints, and picks the exit code."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
from distributed import Client

from cloudjob import checkpoint, cluster, demo_job, errors, export, job, logs, metrics, report, show, survey
from cloudjob.errors import CloudjobError, UsageError
from cloudjob.out import Out
from cloudjob.request import Job, request
from cloudjob.worker import serve

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes:
  0    all done, or nothing new
  1    some scenes failed; the rest is written, the next run tries them again
  2    wrong usage
  3    contract broken: checkpoint, the catalog's assets, or an OUT made with other settings
  4    catalog, store or cluster unreachable, or another run is at work
  130  interrupted; everything finished is kept (143 when terminated)
"""


KEPT = "everything finished is kept; run the same command again for the rest"


class Terminated(BaseException):
    """SIGTERM, as Kubernetes, systemd and SLURM send it."""

    exit_code = errors.TERMINATED


def main() -> None:
    """Entry point: run a command and exit with DESIGN's codes."""
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


def _option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """An option that can also be set as CLOUDJOB_NAME."""
    variable = "CLOUDJOB_" + names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, envvar=variable, **settings)


def _address(_: click.Context, __: click.Parameter, where: str | None) -> str | None:
    if where not in (None, "local"):
        cluster.check_address(where)
    return where


def _what(command: Command) -> Command:
    """The options of `run` and `plan`: what to mask, with what, and where to."""
    for option in reversed(
        [
            _option("--bbox", nargs=4, type=float, metavar="W S E N", help="Area in degrees: west south east north."),
            _option("--geometry", type=click.Path(), metavar="FILE", help="GeoJSON area; masks are clipped to it."),
            _option("--dates", required=True, help="2024-06-01/2024-06-30, 2024-06, 2024-06-01/.. or 10d (last 10)."),
            _option("--out", required=True, metavar="OUT", help="A folder, or an s3://, gs:// or az:// prefix."),
            _option(
                "--catalog",
                default="earth-search",
                show_default=True,
                help="earth-search, planetary-computer, a STAC API's address, or an item-collection file.",
            ),
            _option("--collection", help="Of the catalog. [default: the preset's]"),
            _option(
                "--asset",
                "assets",
                multiple=True,
                metavar="BAND=KEY",
                help="Name of a band's asset, as red=B04. Repeat.",
            ),
            _option("--max-cloud-cover", type=click.FloatRange(0, 100), help="Skip scenes above this percentage."),
            _option("--limit", type=click.IntRange(min=1), help="At most so many scenes, the newest."),
            _option("--checkpoint", type=click.Path(), metavar="FILE", help="A network. [default: the one that ships]"),
            _option("--threshold", type=float, help="Probability from which a pixel is cloud. [default: checkpoint's]"),
            _option("--buffer", type=float, metavar="METRES", help="Widen clouds by this. [default: checkpoint's]"),
            _option("--resolution", type=float, metavar="METRES", help="Of the masks. [default: checkpoint's]"),
            _option("--probability", is_flag=True, help="Also write cloud_probability, in percent."),
            _option("--redo", is_flag=True, help="Replace an OUT that was made with other settings."),
            _option(
                "--cluster",
                "where",
                default="local",
                show_default=True,
                callback=_address,
                help="local, or a Dask scheduler's tcp://…",
            ),
            _option("--workers", type=click.IntRange(min=1), help="Local processes. [default: one per GPU or core]"),
            _option("--json", "as_json", is_flag=True, help="Print JSON on stdout."),
        ]
    ):
        command = option(command)
    return command


@cli.command(epilog=EXIT_CODES)
@_what
@_option(
    "--listen",
    callback=_address,
    metavar="tcp://HOST:PORT",
    help="Also take workers of other machines here: `cloudjob worker`. [default: none]",
)
@_option(
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
    if listen and where != "local":
        raise UsageError(
            f"--listen is for a scheduler of this run's own, not for the one at {where}", hint="leave one out"
        )
    with (
        metrics.Watch(Out.at(options["out"]), Path(metrics_file) if metrics_file else None) as watch,
        # Ctrl-C may strike outside of it: then, too, it gives back its lock and its cluster before anything else ends.
        contextlib.closing(job.run(_job(options), lambda: _connect(where, workers, listen, watch))) as events,
    ):
        watch.code = show.progress(watch.follow(events), as_json=as_json)
    return watch.code


@cli.command()
@_what
def plan(*, where: str, workers: int | None, as_json: bool, **options: Any) -> None:
    """Say what `run` would do, without doing it.

    \b
    Per scene: new, changed (another version is in the catalog), grown (more tiles are asked for),
    failed before, abandoned (failed three times for one reason) or done.
    """
    asked = _job(options)
    view = survey.make(asked)
    if where == "local":
        lanes = len(cluster.lanes(workers))
    else:
        with cluster.connect(where) as client:
            lanes = cluster.lane_count(client)
    show.plan(view, survey.estimate(asked, view, lanes), as_json=as_json)


@cli.command()
@click.argument("out")
@_option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def status(*, out: str, as_json: bool) -> None:
    """Say what OUT holds: scenes done, failed and abandoned, and the last run."""
    show.status(Out.at(out), as_json=as_json)


@cli.command("export")
@click.argument("out")
@click.argument("what", metavar="SCENE|DAY")
@click.argument("path", type=click.Path(dir_okay=False))
@_option("--group", metavar="NAME", help="Whose day, where several groups have scenes of it.")
def export_(*, out: str, what: str, path: str, group: str | None) -> None:
    """Write one scene's or one day's mask as a Cloud-Optimized GeoTIFF, for QGIS.

    \b
    Examples:
      cloudjob export masks S2A_33UUP_20240601_0_L2A mask.tif
      cloudjob export masks 2024-06-01 day.tif --group 33UUP
    """
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
    click.echo(report.write(Out.at(out)))


@cli.command()
@click.argument("path", required=False, type=click.Path())
@_option("--json", "as_json", is_flag=True, help="Print the STAC MLM item.")
def model(*, path: str | None, as_json: bool) -> None:
    """Print a checkpoint's contract; that of the one that ships if no PATH is given."""
    show.model(checkpoint.load(path), as_json=as_json)


@cli.command()
@_option("--out", default="demo", show_default=True, help="The folder to fill.")
@_option("--workers", type=click.IntRange(min=1), help="Local processes. [default: one per GPU or core]")
def demo(*, out: str, workers: int | None) -> int:
    """Mask a small simulated catalog and compare the masks with the truth.

    Makes the catalog in OUT/catalog and the masks in OUT/masks. Needs no network.
    """
    return demo_job.run(Path(out), lambda: _connect("local", workers))


@cli.command()
@click.argument("address")
@_option("--workers", type=click.IntRange(min=1), help="Processes. [default: one per GPU or core]")
def worker(*, address: str, workers: int | None) -> int:
    """Work for a Dask scheduler at ADDRESS (tcp://host:8786) until it lets go.

    Exits with 0 when the scheduler closed it, with 4 when the scheduler was lost.
    """
    return errors.DONE if asyncio.run(serve(address, workers)) else errors.UNREACHABLE


def _job(options: dict[str, Any]) -> Job:
    """The job that the options of `run` and `plan` describe."""
    assets = {}
    for text in options.pop("assets"):
        band, equals, key = text.partition("=")
        if not (band and equals and key):
            raise UsageError(f"--asset is {text!r}; expected BAND=KEY", hint="for example --asset red=B04")
        assets[band] = key
    return request(**options, assets=assets)


@contextlib.contextmanager
def _connect(
    where: str, workers: int | None, listen: str | None = None, watch: metrics.Watch | None = None
) -> Iterator[Client]:
    """Open the cluster and say where it can be watched."""
    with cluster.connect(where, workers, listen) as client:
        logs.say(f"dashboard: {client.dashboard_link}", "dashboard", address=client.dashboard_link)
        if watch:
            watch.client = client
        yield client
