"""Figures made of rows of bars: the stages of a sample, and the spread of the samples of each run.

The words of a row are HTML, so that their letters keep their size; the bar is an SVG that is stretched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from sr_deploy.bench.report.axes import duration, three_digits
from sr_deploy.bench.report.charts import median, picture_label
from sr_deploy.bench.report.lines import Line, Panel
from sr_deploy.bench.report.markup import Markup, number, tag
from sr_deploy.bench.result import STAGES, BenchRun
from sr_deploy.bench.summary import percentile, stage_shares

_WIDTH, _HEIGHT = 1000, 16  # of a bar, in units of its drawing
_MAX_ROWS = 12
"""Largest number of rows in a figure; the tables have all runs."""
_OTHER = "other"  # the time that belongs to no stage
_MIN_LEGEND_SHARE = 0.002
"""Share (0..1) of the time above which a stage is in the legend, if any row reaches it."""
_MAX_MEDIANS = 3.0
"""Upper limit of the scale of the spread, in medians."""

BarRow = tuple[Line, BenchRun]


def stage_bars(panel: Panel) -> Markup | None:
    """Draw the share of each stage in a sample; None if no run has stages."""
    rows = _selected([(line, run) for line, run in panel.runs if run.stages])
    if not rows:
        return None
    seen = [
        name
        for name in (*STAGES, _OTHER)
        if any(stage_shares(run).get(name, 0) > _MIN_LEGEND_SHARE for _, run in rows)
    ]
    legend = [tag("li", _swatch(name), name) for name in seen]
    bars = [_row(line, run, duration(float(np.mean(run.samples))), _stacked(run)) for line, run in rows]
    note = _omission_note(rows, [run for _, run in panel.runs if run.stages])
    return _figure(
        "Where the time goes",
        [tag("ul", legend, class_="legend"), tag("ul", bars, class_="rows")],
        f'{note}Shares of the mean sample. "{_OTHER}" is the harness, Python, and waiting.',
    )


def _omission_note(rows: Sequence[BarRow], of: Sequence[object]) -> str:
    """A sentence that says how many runs are shown, if not all of them are."""
    return (
        f"{len(rows)} of {len(of)} runs are shown; the table has all of them. " if len(rows) < len(of) else ""
    )


def _figure(title: str, inside: Sequence[Markup], note: str) -> Markup:
    """A figure over the full width, with a title and a note."""
    caption = tag("figcaption", title, class_="name")
    return tag("figure", caption, inside, tag("p", note, class_="note"), class_="wide")


def _selected(rows: Sequence[BarRow]) -> list[BarRow]:
    """Return all rows, or a selection if there are too many.

    The selection has the smallest, middle and largest size of each line, or only the largest if three do not
    fit.
    """
    if len(rows) <= _MAX_ROWS:
        return list(rows)
    by_line: dict[str, list[BarRow]] = {}
    for row in rows:
        by_line.setdefault(row[0].name, []).append(row)
    count = 3 if len(by_line) * 3 <= _MAX_ROWS else 1
    picked = []
    for mine in list(by_line.values())[:_MAX_ROWS]:
        places = {0, len(mine) // 2, len(mine) - 1} if count == 3 else {len(mine) - 1}
        picked += [mine[i] for i in sorted(places)]
    return picked


def _stacked(run: BenchRun) -> Markup:
    """The bar of one run: its stages side by side, with a tooltip each. Shares that exceed 1 in sum are
    scaled to fit the bar."""
    shares, left, parts = _in_order(run), 0.0, []
    scale = _WIDTH / max(1.0, sum(shares.values()))
    for name, share in shares.items():
        words = f"{name}: {three_digits(100 * share)} %, {duration(share * float(np.mean(run.samples)))}"
        box = tag(
            "path",
            d=f"M{number(left)} 0h{number(share * scale)}v{_HEIGHT}h{number(-share * scale)}z",
            class_="bar",
        )
        parts.append(tag("g", tag("title", words), box, class_=_colour(name)))
        left += share * scale
    label = ", ".join(
        f"{name} {three_digits(100 * share)} %"
        for name, share in shares.items()
        if share >= _MIN_LEGEND_SHARE
    )
    return _bar(parts, label)


def _in_order(run: BenchRun) -> dict[str, float]:
    """Stage -> share, in the order of STAGES."""
    shares = stage_shares(run)
    return {name: shares[name] for name in (*STAGES, _OTHER) if name in shares}


def _bar(parts: Sequence[Markup], label: str) -> Markup:
    """A drawing of a bar, with the text `label` for screen readers."""
    return tag(
        "svg",
        parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def _row(line: Line, run: BenchRun, value: str, bar: Markup) -> Markup:
    """A row: the line and size of a run, its bar, and a figure."""
    name = tag("span", tag("bdi", line.name), f", {picture_label(run)}")
    return tag("li", name, bar, tag("span", value, class_="value"))


def _colour(stage: str) -> str:
    """CSS class of a stage."""
    return f"t{(*STAGES, _OTHER).index(stage)}"


def _swatch(stage: str) -> Markup:
    """The square with a stage's colour in the legend."""
    box = tag("path", d="M1 1h12v12h-12z", class_="bar")
    return tag(
        "svg",
        box,
        viewBox="0 0 14 14",
        width=14,
        height=14,
        aria_hidden="true",
        class_=f"swatch {_colour(stage)}",
    )


def spread_bars(panel: Panel) -> Markup | None:
    """Draw how far the samples of each run are from their median; None without a run of two samples."""
    several = [(line, run) for line, run in panel.runs if len(run.samples) > 1 and median(run) > 0]
    rows = _selected(several)
    if not rows:
        return None
    low = min(min(run.samples) / median(run) for _, run in rows)
    high = min(max(max(run.samples) / median(run) for _, run in rows), _MAX_MEDIANS)
    edge = 0.02 * (high - low) or 0.01
    ends = (low - edge, high + edge)
    bars = [_row(line, run, _p95_excess(run), _spread(run, ends)) for line, run in rows]
    beyond = " Samples of more than three medians are drawn at the end." if high == _MAX_MEDIANS else ""
    return _figure(
        "Spread of the samples",
        [tag("ul", bars, class_="rows")],
        f"{_omission_note(rows, several)}The thin line goes from the fastest sample to the slowest. The bar covers the middle half of the samples. "
        f"Ticks mark the median (long), p95 and p99. All rows have the same scale, from {three_digits(ends[0])} to {three_digits(ends[1])} medians.{beyond} "
        "The number is the distance of p95 above the median.",
    )


def _p95_excess(run: BenchRun) -> str:
    """The distance of p95 above the median, in percent."""
    return f"+{100 * (percentile(run.samples, 95) / median(run) - 1):.1f} %"


def _spread(run: BenchRun, ends: tuple[float, float]) -> Markup:
    """The bar of one run on a scale from `ends[0]` to `ends[1]` medians."""

    # Slower samples than the end of the scale are drawn at its end.
    def at(value: float) -> float:
        return (min(value / median(run), ends[1]) - ends[0]) / (ends[1] - ends[0]) * _WIDTH

    low, early, middle, late, p95, p99, high = (
        at(float(v)) for v in np.percentile(run.samples, (0, 25, 50, 75, 95, 99, 100))
    )
    box = f"M{number(early)} 4H{number(late)}V12H{number(early)}z"
    parts = [
        tag("path", d=f"M0 8H{_WIDTH}", class_="grid"),
        tag("path", d=f"M{number(low)} 8H{number(high)}", class_="span"),
        tag("path", d=box, class_="bar"),
        tag("path", d="".join(_ticks(p95, p99)), class_="span"),
        tag("path", d=f"M{number(middle)} 0V16", class_="centre"),
    ]
    values = np.percentile(run.samples, (0, 50, 95, 99, 100))
    words = ("fastest", "median", "p95", "p99", "slowest")
    label = ", ".join(f"{word} {duration(float(v))}" for word, v in zip(words, values, strict=True))
    return _bar([tag("title", label), tag("g", parts, class_="s0")], label)


def _ticks(*places: float) -> Iterator[str]:
    """Paths of short vertical lines."""
    return (f"M{number(place)} 3V13" for place in places)
