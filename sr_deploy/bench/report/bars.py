"""The figures that are rows of bars: what the time went to, and how far the samples of each run lie apart.

A row's words are HTML, which keeps the size of its letters; its bar is an SVG that is stretched.
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

_WIDTH, _HEIGHT = 1000, 16
_MAX_ROWS = 12
"""More rows than this are a table's business."""
_OTHER = "other"
_MIN_LEGEND_SHARE = 0.002
"""Share of the time that a stage needs, in any row, to stand in the legend."""
_MAX_MEDIANS = 3.0
"""Medians: where the scale of the spread ends at the latest."""

Row = tuple[Line, BenchRun]


def stage_bars(panel: Panel) -> Markup | None:
    """What share of a sample each stage took; None where no run was split."""
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
        f'{note}Shares of the mean sample; "{_OTHER}" is the harness, Python, and waiting.',
    )


def _omission_note(rows: Sequence[Row], of: Sequence[object]) -> str:
    return f"{len(rows)} of {len(of)} runs are shown; the table has all. " if len(rows) < len(of) else ""


def _figure(title: str, inside: Sequence[Markup], note: str) -> Markup:
    return tag(
        "figure",
        tag("figcaption", title, class_="name"),
        inside,
        tag("p", note, class_="note"),
        class_="wide",
    )


def _selected(rows: Sequence[Row]) -> list[Row]:
    """All rows, or where these are many the smallest, the middle and the largest size of each line, and no more
    lines than have room.
    """
    if len(rows) <= _MAX_ROWS:
        return list(rows)
    by_line: dict[str, list[Row]] = {}
    for row in rows:
        by_line.setdefault(row[0].name, []).append(row)
    count = 3 if len(by_line) * 3 <= _MAX_ROWS else 1
    picked = []
    for mine in list(by_line.values())[:_MAX_ROWS]:
        places = {0, len(mine) // 2, len(mine) - 1} if count == 3 else {len(mine) - 1}
        picked += [mine[i] for i in sorted(places)]
    return picked


def _stacked(run: BenchRun) -> Markup:
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
    shares = stage_shares(run)
    return {name: shares[name] for name in (*STAGES, _OTHER) if name in shares}


def _bar(parts: Sequence[Markup], label: str) -> Markup:
    return tag(
        "svg",
        parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def _row(line: Line, run: BenchRun, value: str, bar: Markup) -> Markup:
    name = tag("span", tag("bdi", line.name), f", {picture_label(run)}")
    return tag("li", name, bar, tag("span", value, class_="value"))


def _colour(stage: str) -> str:
    return f"t{(*STAGES, _OTHER).index(stage)}"


def _swatch(stage: str) -> Markup:
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
    """How far the samples of each run lie from their median; None without any run of two samples."""
    several = [(line, run) for line, run in panel.runs if len(run.samples) > 1 and median(run) > 0]
    rows = _selected(several)
    if not rows:
        return None
    low = min(min(run.samples) / median(run) for _, run in rows)
    high = min(max(max(run.samples) / median(run) for _, run in rows), _MAX_MEDIANS)
    edge = 0.02 * (high - low) or 0.01
    ends = (low - edge, high + edge)
    bars = [_row(line, run, _p95_excess(run), _spread(run, ends)) for line, run in rows]
    beyond = (
        " Beyond the end lie samples that took more than three times the median."
        if high == _MAX_MEDIANS
        else ""
    )
    return _figure(
        "Spread of the samples",
        [tag("ul", bars, class_="rows")],
        f"{_omission_note(rows, several)}The thin line goes from the fastest sample to the slowest, the bar holds the middle half, ticks are at the "
        f"median (long), p95 and p99. All rows share a scale from {three_digits(ends[0])} to {three_digits(ends[1])} medians.{beyond} "
        "The figure is how far p95 lies above the median.",
    )


def _p95_excess(run: BenchRun) -> str:
    return f"+{100 * (percentile(run.samples, 95) / median(run) - 1):.1f} %"


def _spread(run: BenchRun, ends: tuple[float, float]) -> Markup:
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
    return (f"M{number(place)} 3V13" for place in places)
