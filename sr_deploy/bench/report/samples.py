"""Plot every sample of a run in the order it was taken, with warm-ups and a histogram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sr_deploy.bench.report.axes import Axis, axis_of, duration
from sr_deploy.bench.report.markup import Markup, number, tag
from sr_deploy.bench.result import BenchRun

_WIDTH, _HEIGHT = 360, 172
# The samples lie between _LEFT and _MIDDLE, the histogram between _MIDDLE and _RIGHT.
_LEFT, _MIDDLE, _RIGHT, _TOP, _BOTTOM = 50, 258, 324, 12, 144
_MAX_DOTS = 400
"""Largest number of dots; of more samples, only the fastest and slowest of each stretch are drawn."""
_LARGE_DOTS_BELOW = 60
"""Number of samples below which the dots are larger."""
_HISTOGRAM_BINS = 24
_WARM_UP_MARGIN = 1.6
"""Height of the plot, in slowest samples: slower warm-ups are drawn at the upper edge."""
_MIN_LABEL_GAP = 10.0
"""Smallest distance between the labels of two levels, in units of the drawing."""


def samples_plot(run: BenchRun, title: str) -> Markup:
    """Draw the figure of one run. Warm-ups are rings on a shaded area, samples are dots."""
    times = list(run.samples)
    # A first call can take many times a sample, and would leave the samples a narrow strip.
    top = max(times) * _WARM_UP_MARGIN
    up = axis_of([*times, *(min(t, top) for t in run.warm_up)], start=_BOTTOM, end=_TOP)
    across = _order(len(run.warm_up), len(times))
    inside = [*_frame(up, across, run), *_dots(run, across, up), _histogram(times, up), *_levels(times, up)]
    description = _description(run)
    drawing = tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        inside,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="plot",
    )
    return tag("figure", tag("figcaption", title, class_="name"), drawing)


def _order(warm_ups: int, samples: int) -> Axis:
    """The horizontal axis: warm-ups have negative numbers, samples count from 0."""
    return Axis(low=-warm_ups - 0.5, high=samples - 0.5, start=_LEFT, end=_MIDDLE)


def _frame(up: Axis, across: Axis, run: BenchRun) -> list[Markup]:
    """The axes, grid lines and labels, and the shaded area behind the warm-ups."""
    marks = []
    if run.warm_up:
        edge = across.at(-0.5)
        box = f"M{_LEFT} {_TOP}H{number(edge)}V{_BOTTOM}H{_LEFT}z"
        marks.append(tag("path", d=box, class_="shade"))
    for value in up.ticks(4):
        at = up.at(value)
        marks.append(tag("path", d=f"M{_LEFT} {number(at)}H{_RIGHT}", class_="grid"))
        marks.append(tag("text", duration(value), x=_LEFT - 5, y=at, dy="0.35em", class_="tick end"))
    marks.append(tag("path", d=f"M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}", class_="axis"))
    warm = f"{len(run.warm_up)} warm-up, " if run.warm_up else ""
    words = f"{warm}{len(run.samples)} samples, in order"
    marks.append(tag("text", words, x=(_LEFT + _MIDDLE) / 2, y=_BOTTOM + 18, class_="label middle"))
    marks.append(tag("text", "number", x=(_MIDDLE + _RIGHT) / 2 + 4, y=_BOTTOM + 18, class_="label middle"))
    return marks


def _dots(run: BenchRun, across: Axis, up: Axis) -> list[Markup]:
    """Two paths: rings for the warm-ups, and dots for the samples.

    A dot is a line of no length with round ends, which takes far fewer bytes than an element for each.
    """
    count = len(run.warm_up)
    rings = "".join(
        f"M{number(across.at(i - count))} {number(up.at(t))}m-2 0a2 2 0 1 0 4 0a2 2 0 1 0 -4 0"
        for i, t in _thinned(run.warm_up)
    )
    dots = "".join(f"M{number(across.at(i))} {number(up.at(t))}h0" for i, t in _thinned(run.samples))
    return [
        tag("path", d=rings, class_="warmup"),
        tag("path", d=dots, class_="dots s0" + (" few" if len(run.samples) < _LARGE_DOTS_BELOW else "")),
    ]


def _thinned(times: Sequence[float]) -> list[tuple[int, float]]:
    """Return the times with their numbers; if there are too many, only the extremes of each stretch.

    So outliers stay visible, and the page stays small.
    """
    if len(times) <= _MAX_DOTS:
        return list(enumerate(times))
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(times)), _MAX_DOTS // 2):
        values = np.asarray(times)[stretch]
        kept |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    return [(i, times[i]) for i in sorted(kept)]


def _histogram(times: Sequence[float], up: Axis) -> Markup:
    """Horizontal bars on the same vertical axis as the dots."""
    counts, edges = np.histogram(times, bins=_HISTOGRAM_BINS, range=(up.low, up.high))
    room = (_RIGHT - _MIDDLE - 10) / max(int(counts.max()), 1)
    bars = "".join(
        f"M{_MIDDLE + 8} {number(up.at(float(a)))}h{number(room * int(n))}V{number(up.at(float(b)))}h{number(-room * int(n))}z"
        for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True)
        if n
    )
    return tag("path", d=bars, class_="bar s0")


def _levels(times: Sequence[float], up: Axis) -> list[Markup]:
    """Lines at the percentiles, with labels if there is room."""
    marks, last = [], float("inf")
    for name, share in (("p50", 50), ("p95", 95), ("p99", 99)):
        at = up.at(float(np.percentile(times, share)))
        marks.append(tag("path", d=f"M{_LEFT} {number(at)}H{_RIGHT}", class_="level"))
        if last - at >= _MIN_LABEL_GAP:
            marks.append(tag("text", name, x=_RIGHT + 4, y=at, dy="0.35em", class_="tick"))
            last = at
    return marks


def _description(run: BenchRun) -> str:
    """The plot in words."""
    low, middle, late, high = (duration(float(v)) for v in np.percentile(run.samples, (0, 50, 95, 100)))
    return (
        f"{len(run.samples)} samples from {low} to {high}, median {middle}, p95 {late}, "
        f"after {len(run.warm_up)} warm-ups."
    )
