"""Draw one plot as inline SVG with its legend: points, lines, spans and guides on two axes.

Lengths are in units of a drawing that is 360 wide, about one CSS pixel each on a phone. The style sheet sets
the size of letters for wider screens. Colours are classes of the style sheet, which alone handles dark mode.
Every series has its own marker, so that they can be distinguished without colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sr_deploy.bench.report.axes import Axis, axis_of, compact
from sr_deploy.bench.report.markup import Child, Markup, number, tag

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 350, 26, 210  # of the area between the axes
_RIGHT_WITH_GUIDES = 310
"""Right end of the plot if the labels of guides need room beside it."""
COLOURS = 8
"""Number of series that look different; more series need another plot."""
_MARKER_RADIUS = 4.2  # in units of the drawing
_LETTER_WIDTH, _LINE_HEIGHT = 6.6, 12.0  # approximate width of a letter and height of a line on a phone


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a plot, with its tooltip."""

    x: float
    y: float
    tip: str
    """Text of the tooltip."""
    low: float | None = None
    """Lower end of a thin vertical line through the point."""
    high: float | None = None
    """Upper end of that line, such as the 95th percentile."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together, joined by a line in order of x unless `joined` is False."""

    name: str
    points: tuple[Point, ...]
    style: int
    """Colour and marker, from 0 to COLOURS - 1; larger values start again at 0."""
    joined: bool = True
    """True: the points are joined by a line in order of x."""
    trend: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Ends (x, y) of a dashed straight line."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A horizontal line with a label, such as a frame rate."""

    y: float
    """Value at which the line is drawn."""
    label: str


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The settings of an axis."""

    label: str
    """Name of the quantity, with its unit."""
    log: bool = False
    """True for a logarithmic axis."""
    text: Callable[[float], str] = compact
    """Formats the value of a tick."""
    ticks: tuple[float, ...] | None = None
    """Values of the ticks; None: round numbers."""


def plot(
    series: Sequence[Series],
    *,
    x: Scale,
    y: Scale,
    title: str,
    description: str,
    note: Child = None,
    guides: Sequence[Guide] = (),
) -> Markup:
    """Draw a figure with title, drawing, legend and note. `description` says in words what it shows."""
    points = [point for one in series for point in one.points]
    heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    # A guide further than a factor of four from all points would squeeze them, so it is left out.
    near = [g.y for g in guides if heights and min(heights) / 4 <= g.y <= max(heights) * 4]
    right = _RIGHT_WITH_GUIDES if near else RIGHT
    across = axis_of((p.x for p in points), start=LEFT, end=right, log=x.log)
    up = axis_of([*heights, *near], start=BOTTOM, end=TOP, log=y.log)
    inside = [_grid(across, up, x, y), _guides([g for g in guides if up.holds(g.y)], up, right)]
    inside += [_series(one, across, up) for one in series]
    drawing = tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        inside,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="plot",
    )
    return tag(
        "figure",
        tag("figcaption", title, class_="name"),
        drawing,
        _legend(series),
        tag("p", note, class_="note") if note else None,
    )


def _grid(across: Axis, up: Axis, x: Scale, y: Scale) -> list[Markup]:
    """The axes with grid lines, ticks and labels."""
    right = across.end
    marks = [tag("text", y.label, x=2, y=12, class_="label")]
    for value in y.ticks or up.ticks(6):
        at = up.at(value)
        marks.append(tag("path", d=f"M{LEFT} {number(at)}H{number(right)}", class_="grid"))
        marks.append(tag("text", y.text(value), x=LEFT - 5, y=at, dy="0.35em", class_="tick end"))
    for at, text in _without_overlaps(
        [(across.at(v), x.text(v)) for v in x.ticks or across.ticks(5) if across.holds(v)]
    ):
        marks.append(tag("path", d=f"M{number(at)} {BOTTOM}v4", class_="axis"))
        marks.append(tag("text", text, x=at, y=BOTTOM + 9, dy="0.71em", class_="tick middle"))
    marks.append(tag("text", x.label, x=(LEFT + right) / 2, y=HEIGHT - 5, class_="label middle"))
    return [*marks, tag("path", d=f"M{LEFT} {TOP}V{BOTTOM}H{number(right)}", class_="axis")]


def _without_overlaps(labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Drop the labels that would touch the one before them."""
    kept: list[tuple[float, str]] = []
    end = -math.inf
    for at, text in labels:
        half = len(text) * _LETTER_WIDTH / 2
        if at - half >= end:
            kept.append((at, text))
            end = at + half + _LETTER_WIDTH
    return kept


def _guides(guides: Sequence[Guide], up: Axis, right: float) -> Markup:
    """Horizontal lines with labels beside them, which are moved up as little as keeps them apart."""
    # From the bottom up: each label stays at least a line above the one before, whose place is `lowest`.
    marks, lowest = [], math.inf
    for guide in sorted(guides, key=lambda g: g.y):
        at = up.at(guide.y)
        words = lowest = min(at, lowest - _LINE_HEIGHT)
        marks.append(
            tag("path", d=f"M{LEFT} {number(at)}H{number(right)}L{number(right + 5)} {number(words)}")
        )
        marks.append(tag("text", guide.label, x=right + 7, y=words, dy="0.35em", class_="tick"))
    return tag("g", marks, class_="guide")


def _series(series: Series, across: Axis, up: Axis) -> Markup:
    """The line, the trend and the points of one series."""
    points = sorted(series.points, key=lambda p: (p.x, p.y))
    parts: list[Child] = []
    if series.trend:
        ends = "L".join(f"{number(across.at(x))} {number(up.at(y))}" for x, y in series.trend)
        parts.append(tag("path", d=f"M{ends}", class_="trend"))
    if series.joined and len(points) > 1:
        way = "L".join(f"{number(across.at(p.x))} {number(up.at(p.y))}" for p in points)
        parts.append(tag("path", d=f"M{way}", class_="line"))
    parts += [_point(p, series.style, across, up) for p in points]
    return tag("g", parts, class_=f"s{series.style % COLOURS}")


def _point(point: Point, style: int, across: Axis, up: Axis) -> Markup:
    x, y = across.at(point.x), up.at(point.y)
    span = None
    if point.low is not None or point.high is not None:
        low, high = (point.y if v is None else v for v in (point.low, point.high))
        span = tag("path", d=f"M{number(x)} {number(up.at(low))}V{number(up.at(high))}", class_="span")
    return tag("g", tag("title", point.tip), span, marker(style, x, y))


def marker(style: int, x: float, y: float) -> Markup:
    """The marker of a series: one of eight shapes, centred at a place."""
    a, b = _MARKER_RADIUS, _MARKER_RADIUS * 1.3
    shapes = (
        f"m{-a} 0a{a} {a} 0 1 0 {2 * a} 0a{a} {a} 0 1 0 {-2 * a} 0z",
        f"m{-a} {-a}h{2 * a}v{2 * a}h{-2 * a}z",
        f"m0 {-b}l{b} {2 * a}h{-2 * b}z",
        f"m0 {-b}l{b} {b}l{-b} {b}l{-b} {-b}z",
        f"m0 {b}l{b} {-2 * a}h{-2 * b}z",
        f"m{-a} {-a}l{2 * a} {2 * a}m0 {-2 * a}l{-2 * a} {2 * a}",
        f"m{-b} 0h{2 * b}m{-b} {-b}v{2 * b}",
        f"m{-b} {-a / 2}h{2 * b}v{a}h{-2 * b}z",
    )
    # Crosses have no area to fill.
    kind = "mark open" if style % COLOURS in (5, 6) else "mark"
    return tag("path", d=f"M{number(x)} {number(y)}{shapes[style % COLOURS]}", class_=kind)


def _legend(series: Sequence[Series]) -> Markup:
    """The list of series with their markers."""
    return tag("ul", [tag("li", swatch(one.style), one.name) for one in series], class_="legend")


def swatch(style: int) -> Markup:
    """The marker of a series in the legend."""
    return tag(
        "svg",
        marker(style, 7, 7),
        viewBox="0 0 14 14",
        width=14,
        height=14,
        aria_hidden="true",
        class_=f"swatch s{style % COLOURS}",
    )
