"""The options of `run` and `plan`: what to mask, with what, and where to; and the order of commands."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from cloudjob.cluster.address import check_address

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

PREFIX = "CLOUDJOB_"
"""Of the variables that are options, too."""

_BBOX = "--bbox 11.2 46.4 11.5 46.6 (west south east north)"


class Ordered(click.Group):
    """Its help lists the commands as people come to need them, not by the alphabet."""

    ORDER = ("run", "plan", "status", "list", "report", "export", "rethreshold", "check", "model", "worker", "demo")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands in order."""
        return sorted(super().list_commands(ctx), key=self.ORDER.index)


class Side(click.ParamType):  # type: ignore[type-arg]  # Generic from click 8.4 on only
    """One of the four numbers of a bbox."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, a comma after it or not."""
        try:
            return float(str(value).removesuffix(","))
        except ValueError:
            self.fail(f"{value!r} is no number; expected four, as {_BBOX}", param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        """The four of CLOUDJOB_BBOX."""
        sides = [each for word in _sides(rv) for each in word.split()]
        if len(sides) != 4:
            raise click.BadParameter(f"CLOUDJOB_BBOX is {rv!r}; it takes four numbers, as {_BBOX}")
        return sides


class Option(click.Option):
    """An option that is also a variable, by which it is named where its value stands there."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """What is wrong with, in errors."""
        hint = super().get_error_hint(ctx)
        by_variable = ctx and ctx.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT
        return f"{hint} ({self.envvar})" if by_variable else hint


class Command(click.Command):
    """A command whose --bbox may have commas: as one word it is taken for four.

    An area that is typed goes before one that is set in the environment, whichever kind it is.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what was typed."""
        typed: list[str] = []
        for arg in args:
            name, equals, value = arg.partition("=")
            if name == "--bbox" and equals:
                typed += [name, *_sides(value)]
            else:
                typed += _sides(arg) if typed[-1:] == ["--bbox"] else [arg]
        try:
            rest = super().parse_args(ctx, typed)
        except click.BadOptionUsage as error:
            if error.option_name == "--bbox":
                raise click.BadOptionUsage("--bbox", f"--bbox takes four numbers, as {_BBOX}", ctx) from None
            raise
        areas = {name: ctx.get_parameter_source(name) for name in ("bbox", "geometry")}
        if ParameterSource.COMMANDLINE in areas.values():
            ctx.params |= {name: None for name, source in areas.items() if source is ParameterSource.ENVIRONMENT}
        return rest


def _sides(text: str) -> list[str]:
    """The four of one word, such as "11.2,46.4,11.5,46.6" or "[11.2, 46.4, 11.5, 46.6]"; else the word."""
    sides = re.split(r"[\s,]+", text.strip(" []()"))
    return sides if len(sides) == 4 else [text]


def option(*names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """An option that can also be set as CLOUDJOB_NAME."""
    variable = PREFIX + names[0].removeprefix("--").replace("-", "_").upper()
    return click.option(*names, cls=Option, envvar=variable, **settings)


def misspelt(variables: Iterable[str], commands: Iterable[click.Command]) -> dict[str, str]:
    """Variables of the environment that no option goes by, and the one that was probably meant."""
    known = {option.envvar for command in commands for option in command.params if isinstance(option.envvar, str)}
    names = {name.removeprefix(PREFIX): name for name in known}
    found = {}
    for each in sorted(set(variables) - known):
        near = difflib.get_close_matches(each.removeprefix(PREFIX), names, n=1, cutoff=0.7)
        if each.startswith(PREFIX) and near:
            found[each] = names[near[0]]
    return found


def address(_: click.Context, __: click.Parameter, where: str | None) -> str | None:
    """A callback: what is no scheduler's address ends with a `UsageError`."""
    if where not in (None, "local"):
        check_address(where)
    return where


_WHAT = (
    option("--bbox", nargs=4, type=Side(), metavar="W S E N", help="Area in degrees: west south east north."),
    option("--geometry", type=click.Path(), metavar="FILE", help="GeoJSON area; masks are clipped to it."),
    option(
        "--dates",
        required=True,
        metavar="DATES",
        help="A day, month, year or interval: 2024-06-01/2024-06-30, 2024-06-01/..; or 10d, the last ten.",
    ),
    option("--out", required=True, metavar="OUT", help="A folder, or an s3://, gs:// or az:// prefix."),
    option(
        "--catalog",
        metavar="NAME|URL|FILE",
        default="earth-search",
        show_default=True,
        help="A preset (earth-search, planetary-computer, cdse, digital-earth-africa, "
        "digital-earth-australia), a STAC API's address, or an item-collection file.",
    ),
    option("--collection", metavar="NAME", help="Of the catalog; several with commas between. [default: the preset's]"),
    option("--asset", "assets", multiple=True, metavar="BAND=KEY", help="Name of a band's asset, as red=B04. Repeat."),
    option(
        "--offset",
        type=float,
        metavar="REFLECTANCE",
        help="Added to number × scale, as -0.1 or 0, where what items say is wrong. [default: what they say]",
    ),
    option(
        "--max-cloud-cover",
        type=click.FloatRange(0, 100),
        metavar="PERCENT",
        help="Skip scenes that are cloudier, by the catalog.",
    ),
    option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many scenes, the newest."),
    option(
        "--checkpoint",
        metavar="NETWORK",
        help="A .safetensors or .onnx file, a record, or a name as ukis-csmask-l2a. [default: ours]",
    ),
    option(
        "--threshold",
        type=float,
        metavar="SHARE",
        help="Probability from which a pixel is cloud, as 0.35. [default: checkpoint's]",
    ),
    option("--buffer", type=float, metavar="METRES", help="Widen clouds by this. [default: checkpoint's]"),
    option(
        "--resolution", type=float, metavar="METRES", help="Make masks coarser, by majority. [default: checkpoint's]"
    ),
    option("--probability", is_flag=True, help="Also keep cloud_probability, in percent; `rethreshold` needs it."),
    option("--redo", is_flag=True, help="Replace an OUT that was made with other settings."),
    option("--retry", multiple=True, metavar="ID|all", help="Try abandoned scenes again. Repeat."),
    option(
        "--cluster",
        "where",
        metavar="ADDRESS",
        default="local",
        show_default=True,
        callback=address,
        help="local, or a Dask scheduler's tcp://… or tls://…",
    ),
    option("--workers", type=click.IntRange(min=1), metavar="N", help="Local processes. [default: one per core]"),
)


def what(command: Decorated) -> Decorated:
    """The options of `run` and `plan`: what to mask, with what, and where to."""
    for each in reversed(_WHAT):
        command = each(command)
    return command
