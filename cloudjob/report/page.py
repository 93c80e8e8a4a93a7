"""`cloudjob report`: one HTML page that says what an OUT holds and where somebody should look.

The page needs nothing but itself: no address outside it is loaded, and its content security policy forbids any.
"""

import base64
import hashlib
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import groupby
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cloudjob import classes
from cloudjob.classes import BINARY
from cloudjob.errors import UsageError, redact
from cloudjob.report import overview, plot
from cloudjob.report.alarm import alarms, comparable, disagreement
from cloudjob.report.map import where
from cloudjob.report.overview import Row
from cloudjob.report.thumbnail import Album, Pictures
from cloudjob.store import group as groups
from cloudjob.store import ledger as ledgers
from cloudjob.store import settings
from cloudjob.store.failures import Failure
from cloudjob.store.ledger import Ledger
from cloudjob.store.out import Out
from cloudjob.watch.terminal import duration

log = logging.getLogger(__name__)

PATH = "report/index.html"

PICTURED = 1000
"""The newest scenes that are shown with pictures."""


def write(out: Out) -> str:
    """Write the page, and keep the pictures that it needed.

    Pictures are made of scenes that are new or changed; of all others they are kept from the last report.

    Returns:
        Where the page lies.

    Raises:
        UsageError: there is no such OUT.
        ContractError: it was made by something else.
        UnreachableError: the store does not answer.
    """
    contract = settings.read(out)
    if contract is None:
        settings.check_ours(out)
        if out.folder and not out.folder.is_dir():
            raise UsageError(f"there is no OUT at {out}", hint="`cloudjob run --out` makes it")
    ledger = ledgers.read(out)
    rows, runs = overview.rows(out, ledger), overview.runs(out, ledger)
    page = _template().render(
        out=redact(str(out)),
        made=datetime.now(UTC),
        contract=contract,
        rows=rows,
        runs=runs,
        mean=_mean(rows),
        failures=_failures(ledger),
        incomplete=(incomplete := sorted(ledger.begun)),
        alarms=alarms(rows, runs, ledger, incomplete),
        compared=sum(comparable(row) for row in rows),
        plots=_plots(rows),
        map=where(rows, {row.id: ledger.done[row.id].identity["footprint"] for row in rows}),
        pictures=_pictures(out, ledger, rows),
        number={row.id: index for index, row in enumerate(rows)},
        disagreement=disagreement,
        classes=classes.of(contract.classes if contract else BINARY),
    )
    out.put(PATH, page.encode(errors="backslashreplace"))  # Half a pair of surrogates has no UTF-8
    return f"{out}/{PATH}"


def _failures(ledger: Ledger) -> list[list[Failure]]:
    """Scenes that failed, those of one kind together: abandoned ones first, then what failed last."""
    ordered = sorted(ledger.failures.values(), key=lambda failure: (failure.abandoned, failure.last), reverse=True)
    alike: dict[tuple[bool, int, str], list[Failure]] = {}
    for failure in ordered:
        alike.setdefault((failure.abandoned, failure.runs, failure.kind), []).append(failure)
    return [*alike.values()]


def _template() -> Any:
    texts = {
        name: (files("cloudjob.report") / "template" / f"report.{name}").read_text("utf-8")
        for name in ("html", "css", "js")
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "percent": _percent, "clean": redact, "code": _code, "days": _days}
    environment.globals["speed"] = _speed
    # Styles and scripts of our own, known by their sums: nothing that came from outside can run.
    for name in ("css", "js"):
        digest = hashlib.sha256(texts[name].encode()).digest()
        environment.globals[name] = Markup(texts[name])  # noqa: S704  # Our own file
        environment.globals[f"{name}_sum"] = f"sha256-{base64.b64encode(digest).decode()}"
    return environment.from_string(texts["html"])


def _pictures(out: Out, ledger: Ledger, rows: Sequence[Row]) -> dict[str, Pictures]:
    """Scene id → its pictures, of the newest scenes."""
    sides = {name: groups.tile(metadata) for name, metadata in ledger.groups.items()}
    album = Album(out, sides)
    keys = {row.id: row.key for row in rows[:PICTURED]}
    found = dict(zip(keys, out.each(lambda id_: album.get(ledger.done[id_], keys[id_]), keys), strict=True))
    album.prune([ledger.done[id_] for id_ in found])
    missing = [f"scene {id_}: {pictures.why}" for id_, pictures in found.items() if pictures.why]
    if missing:
        log.warning("%d of %d scenes lack a picture; %s", len(missing), len(found), missing[0])
    return found


def _plots(rows: Sequence[Row]) -> list[tuple[str, str, int, float | None, Markup]]:
    """(tile, group, number of scenes, mean cloud cover, drawing) of every group."""
    if not rows:
        return []
    first, last = rows[-1].time, rows[0].time
    ordered = sorted(rows, key=lambda row: (row.tile, row.group))  # Stable: the newest stays first
    drawn = []
    for (tile, group), members in groupby(ordered, key=lambda row: (row.tile, row.group)):
        own = list(members)
        drawn.append((tile, group, len(own), _mean(own), plot.cloud_share(own, first, last)))
    return drawn


def _mean(rows: Sequence[Row]) -> float | None:
    shares = [row.cloud for row in rows if row.cloud is not None]
    return sum(shares) / len(shares) if shares else None


def _code(text: str) -> Markup:
    """A text of ours, with the commands that stand between backticks set as code."""
    parts = enumerate(text.split("`"))
    return Markup().join(Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in parts)


def _days(dates: str) -> str:
    """A run's stretch of time as people asked for it: "2024-06-01/2024-06-30"."""
    return re.sub(r"T00:00:00Z|T23:59:59\.999Z", "", redact(dates))


def _speed(megapixels: float) -> str:
    """Of slow runs two digits: 0.0 Mpx/s would be none."""
    return f"{megapixels:,.1f} Mpx/s" if megapixels >= 1 else f"{megapixels:.2g} Mpx/s"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"
