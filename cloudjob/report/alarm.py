"""When somebody should look: where our clouds and the provider's disagree, and what went wrong, by stated rules."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cloudjob.logs import many
from cloudjob.report.overview import Row, Run
from cloudjob.store.ledger import Ledger

DIFFERENCE = 15.0
"""Points of percent between our cloud cover and the provider's from which a scene disagrees. Sen2Cor's own figure is
often wrong by 5 to 10 points, so less than this says nothing."""

WHOLE = 0.9
"""Share of a scene that must be computed for that: the provider's figure is of the whole scene."""

AGREEMENT = 85.0
"""Percent of compared pixels that must say the same as the provider's classification."""

COMPARED = 1000
"""Pixels that must be compared for that."""

TREND = 10.0
"""Points of percent that the median difference may be off zero."""

TREND_SCENES = 20
"""The newest scenes that this median is of; of less than a quarter of them it is not taken."""

FAILED = 20.0
"""Percent of a run's scenes that may fail before it is an alarm."""

Level = Literal["alarm", "notice"]


@dataclass(frozen=True)
class Alarm:
    """Something to look at.

    Attributes:
        level: "alarm": look today; "notice": known, look when there is time.
        title: what is the matter, with figures.
        rule: when this is said, and what to do.
        scenes: the rows it is about, the newest first.
    """

    level: Level
    title: str
    rule: str
    scenes: tuple[Row, ...] = ()


def disagreement(row: Row) -> list[str]:
    """In which ways a scene disagrees with its provider: one short phrase each."""
    found = []
    if row.difference is not None and row.computed >= WHOLE and abs(row.difference) > DIFFERENCE:
        points = f"{row.difference:+.0f}".replace("-", "−")
        found.append(f"{points} points of cloud against the provider")
    if row.agreement is not None and row.compared >= COMPARED and row.agreement < AGREEMENT:
        found.append(f"{row.agreement:.0f} % agreement with SCL")
    return found


def comparable(row: Row) -> bool:
    """Whether there is anything of its provider's that a scene can be compared with."""
    return (row.difference is not None and row.computed >= WHOLE) or (
        row.agreement is not None and row.compared >= COMPARED
    )


def alarms(rows: Sequence[Row], runs: Sequence[Run], ledger: Ledger, incomplete: Sequence[str]) -> list[Alarm]:
    """Everything to look at, alarms first.

    Args:
        rows: scenes, the newest first.
        runs: the newest first.
        ledger: for the failures.
        incomplete: ids of scenes that were begun and are neither done nor failed.
    """
    found = [*_last_run(runs), *_trend(rows), *_disagreements(rows, runs)]
    if ledger.damaged:
        title = f"{many(len(ledger.damaged), 'file')} of this OUT cannot be used, such as {min(ledger.damaged)}"
        rule = "`cloudjob check OUT` says what is wrong; with --repair it mends it, or has the next run do it again."
        found.append(Alarm("alarm", title, rule))
    failed = ledger.to_retry()
    if failed:
        rule = "The next run tries again. Reasons: below."
        found.append(Alarm("notice", f"{many(len(failed), 'scene')} failed", rule))
    abandoned = len(ledger.failures) - len(failed)
    if abandoned:
        rule = "They failed on three nights for one reason; no longer tried until their source changes or --retry asks."
        found.append(Alarm("notice", f"{many(abandoned, 'scene')} abandoned", rule))
    if incomplete:
        rule = (
            "A run was interrupted, or is at work. One that asks for their dates (`cloudjob list OUT`) finishes them."
        )
        found.append(Alarm("notice", f"{many(len(incomplete), 'scene')} incomplete", rule))
    warned = tuple(row for row in rows if row.warnings)
    if warned:
        rule = "Something about their pixels or files does not fit what their metadata says: see the table."
        found.append(Alarm("notice", f"{many(len(warned), 'scene')} with a warning", rule, warned))
    return sorted(found, key=lambda alarm: alarm.level != "alarm")


def _last_run(runs: Sequence[Run]) -> list[Alarm]:
    if not runs:
        return []
    last, found = runs[0], []
    if last.how != "complete":
        rule = "Everything it finished is kept: run the same command again for the rest."
        found.append(Alarm("alarm", f"The last run was {last.how}", rule))
    count = len(last.done) + last.failed
    if count and 100 * last.failed / count > FAILED:
        title = f"{last.failed} of {count} scenes of the last run failed"
        found.append(Alarm("alarm", title, f"Said above {FAILED:g} %. Look at the reasons below."))
    return found


def _trend(rows: Sequence[Row]) -> list[Alarm]:
    """A model, or an offset, that has gone wrong moves every scene a little."""
    newest = [row.difference for row in rows if row.difference is not None and row.computed >= WHOLE][:TREND_SCENES]
    if len(newest) < TREND_SCENES // 4 or abs(statistics.median(newest)) <= TREND:
        return []
    middle = statistics.median(newest)
    title = f"Masks hold {abs(middle):.0f} points {'more' if middle > 0 else 'less'} cloud than the provider says"
    rule = (
        f"Said when the median over the newest {TREND_SCENES} whole scenes (here {len(newest)}) is beyond "
        f"±{TREND:g} points. Look at the checkpoint, the threshold and the reflectance offset."
    )
    return [Alarm("alarm", title, rule)]


def _disagreements(rows: Sequence[Row], runs: Sequence[Run]) -> list[Alarm]:
    new = runs[0].done if runs else frozenset()
    odd = [row for row in rows if disagreement(row)]
    rule = (
        f"Said when our cloud cover and the provider's differ by more than {DIFFERENCE:g} points (scenes of which "
        f"{100 * WHOLE:g} % are computed), or fewer than {AGREEMENT:g} % of the pixels agree with the provider's scene "
        f"classification (of {COMPARED:,} at least). Compare image and mask: snow and bright roofs are the usual cause."
    )
    recent = tuple(row for row in odd if row.id in new)
    older = tuple(row for row in odd if row.id not in new)
    found = []
    if recent:
        found.append(Alarm("alarm", _disagree(recent, "of the last run"), rule, recent))
    if older:
        rule = "By the same limits; known from earlier reports." if recent else rule
        found.append(Alarm("notice", _disagree(older, "of earlier runs"), rule, older))
    return found


def _disagree(rows: Sequence[Row], which: str) -> str:
    return f"{many(len(rows), 'scene')} {which} {'disagrees' if len(rows) == 1 else 'disagree'} with the provider"
