"""Cloud share over time of one tile, as an SVG drawing that stands in a page."""

from collections.abc import Callable, Sequence
from datetime import datetime

from markupsafe import Markup

from cloudjob.report.alarm import disagreement
from cloudjob.report.overview import Row

WIDTH, HEIGHT = 340, 140
LEFT, RIGHT, TOP, BOTTOM = 44, 330, 10, 114
"""Edges of the drawing's field; its unit is about a CSS pixel."""

CROWD = 150
"""Of more scenes than these the dots are smaller and the lines to the provider's figures left out."""


def cloud_share(rows: Sequence[Row], first: datetime, last: datetime) -> Markup:
    """Draw our cloud cover as dots, each with a line to the provider's figure.

    Args:
        rows: scenes of one tile.
        first: left end of the time axis; the same for all tiles of a page.
        last: its right end.

    Returns:
        An <svg> element. It has no colours of its own: classes `dot`, `odd` (a scene that disagrees), `theirs`, `axis`.
    """
    span = last - first

    def x(moment: datetime) -> float:
        return round(LEFT + 6 + (RIGHT - LEFT - 12) * ((moment - first) / span if span else 0.5), 1)

    def y(percent: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * percent / 100, 1)

    shown = [row for row in reversed(rows) if row.cloud is not None]
    parts = [_axes(first, last, x, y)]
    radius = 3.5 if len(shown) <= CROWD else 2
    if len(shown) <= CROWD:
        told = [(x(row.time), y(row.provider), y(row.cloud or 0)) for row in shown if row.provider is not None]
        lines = "".join(f"M{at} {theirs}V{ours}M{at - 3:g} {theirs}h6" for at, theirs, ours in told)
        parts.append(Markup('<path class="theirs" d="{}"/>').format(lines))
    parts += [_dot(row, x(row.time), y(row.cloud or 0), radius) for row in shown]
    label = f"Cloud share of {rows[0].tile}, {len(shown)} scenes from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup().join(parts)
    )


def _dot(row: Row, x: float, y: float, radius: float) -> Markup:
    theirs = "" if row.provider is None else f", provider {row.provider:.1f} %"
    told = f"{row.time:%Y-%m-%d}: {row.cloud:.1f} %{theirs}, {row.id}"
    if disagreement(row):  # Another shape, too: nothing is told by colour alone
        diamond = f"M{x} {y - 5.5:g}l5.5 5.5-5.5 5.5-5.5-5.5z"
        return Markup('<path class="odd" d="{}"><title>{}, disagrees</title></path>').format(diamond, told)
    return Markup('<circle class="dot" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(x, y, radius, told)


def _axes(first: datetime, last: datetime, x: Callable[[datetime], float], y: Callable[[float], float]) -> Markup:
    lines = Markup('<path class="axis" d="{}"/>').format("".join(f"M{LEFT} {y(p)}H{RIGHT}" for p in (0, 50, 100)))
    sides = [
        Markup('<text x="{}" y="{}" text-anchor="end">{} %</text>').format(LEFT - 5, y(p) + 4, p) for p in (0, 50, 100)
    ]
    ticks = [first, first + (last - first) / 2, last] if last.date() > first.date() else [first]
    anchors = ["start", "middle", "end"] if len(ticks) == 3 else ["middle"]
    at = [LEFT, x(ticks[1]), RIGHT] if len(ticks) == 3 else [x(first)]
    dates = [
        Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(place, HEIGHT - 8, anchor, f"{tick:%d %b %Y}")
        for place, anchor, tick in zip(at, anchors, ticks, strict=True)
    ]
    return lines + Markup().join([*sides, *dates])
