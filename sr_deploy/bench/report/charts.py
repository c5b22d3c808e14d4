"""The plots of a cost against its cause: time by size, and the growth of time and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from sr_deploy.bench.report.axes import compact, duration, size
from sr_deploy.bench.report.lines import Line, Panel, grouped, names_of
from sr_deploy.bench.report.markup import Markup
from sr_deploy.bench.report.plot import COLOURS, Guide, Point, Scale, Series, plot
from sr_deploy.bench.result import BenchRun
from sr_deploy.bench.scaling import fit_power_law

T = TypeVar("T")
RATES = (60, 30, 24)
"""Pictures per second that count as real time."""


def median(run: BenchRun) -> float:
    """The median time of a sample in seconds."""
    return float(np.median(run.samples))


def p95_seconds(run: BenchRun) -> float:
    """The 95th percentile of the samples in seconds."""
    return float(np.percentile(run.samples, 95))


def seconds_per_picture(run: BenchRun) -> float:
    """Seconds per picture: from the median sample, or from the elapsed time with several calls in flight."""
    whole = run.wall / len(run.samples) if run.throughput else median(run)
    return whole / run.case.batch


def latency_plots(panel: Panel) -> Iterator[Markup]:
    """Draw time by size, with at most eight lines in a plot.

    Lines with one picture in a sample are drawn if there are any; otherwise all lines are.
    """
    single = [line for line in panel.swept if line.batch == 1] or panel.swept
    title = "Time per picture by size, pipeline full" if panel.throughput else "Latency by size"
    point = (
        "A point is the mean of the whole run."
        if panel.throughput
        else "A point is the median; the line above it ends at the 95th percentile."
    )
    for name, part in split_plots(title, single):
        series = [_line(line, _latency_point, style=i) for i, line in enumerate(part)]
        yield plot(
            series,
            x=_sizes([run for line in part for run in line.runs]),
            y=Scale(label="seconds per picture" if panel.throughput else "latency", log=True, text=duration),
            guides=[Guide(y=1 / rate, label=f"{rate} fps") for rate in RATES],
            title=name,
            description=_description(part, lambda run: duration(seconds_per_picture(run))),
            note=f"Both axes are logarithmic. {point} Points below a dashed line keep up with that rate.",
        )


def split_plots(title: str, items: Sequence[T]) -> Iterator[tuple[str, Sequence[T]]]:
    """Split `items` among as many plots as are needed, of nearly equal size; yield each title with its items."""
    count = math.ceil(len(items) / COLOURS)
    each = math.ceil(len(items) / max(count, 1))
    for i in range(count):
        number = "" if count == 1 else f" ({i + 1} of {count})"
        yield f"{title}{number}", items[i * each : (i + 1) * each]


def _line(line: Line, point: Callable[[BenchRun], Point], *, style: int) -> Series:
    """The series of a line, with `point` applied to each run."""
    return Series(name=line.name, style=style, points=tuple(point(run) for run in line.runs))


def _latency_point(run: BenchRun) -> Point:
    """The point of a run in a plot of latency; its vertical line ends at p95."""
    high = None if run.throughput else p95_seconds(run) / run.case.batch
    last = "" if high is None else f", p95 {duration(high)}"
    tip = f"{picture_label(run)}: {duration(seconds_per_picture(run))}{last}"
    return Point(x=_area(run), y=seconds_per_picture(run), high=high, tip=tip)


def _area(run: BenchRun) -> float:
    """Input pixels of one picture."""
    return run.case.width * run.case.height


def picture_label(run: BenchRun) -> str:
    """The size of a run's picture, such as "360p (640x360)"."""
    exact = f"{run.case.width}x{run.case.height}"
    return exact if run.case.label == exact else f"{run.case.label} ({exact})"


def _sizes(runs: Sequence[BenchRun]) -> Scale:
    """The horizontal scale, with ticks at sizes that have a name such as 360p.

    If fewer than two have one, the ticks are at round numbers of pixels.
    """
    named = {int(_area(r)): r.case.label for r in runs if re.fullmatch(r"\d{2,5}p", r.case.label)}
    kept: list[int] = []
    span = math.log(max(map(_area, runs)) / min(map(_area, runs))) or 1.0
    for area in sorted(named):
        # Named sizes closer than 9 % of the axis get no tick of their own.
        if not kept or math.log(area / kept[-1]) > span * 0.09:
            kept.append(area)
    if len(kept) < 2:
        return Scale(label="pixels of the input picture", log=True)
    ticks = tuple(float(area) for area in kept)
    return Scale(label="size of the input picture", log=True, ticks=ticks, text=lambda v: named[int(v)])


def _description(lines: Sequence[Line], value: Callable[[BenchRun], str]) -> str:
    """A plot in words: each line from its smallest to its largest picture."""
    return " ".join(
        f"{line.name}: {value(line.runs[0])} at {picture_label(line.runs[0])}"
        + (f" to {value(line.runs[-1])} at {picture_label(line.runs[-1])}." if len(line.runs) > 1 else ".")
        for line in lines
    )


def scaling_plots(panel: Panel) -> Iterator[Markup]:
    """Draw how time and memory grow with pixels, and time with batch, threads and tile side, if these vary."""
    lines = [line for line in panel.lines if len({_area(run) for run in line.runs}) > 1]
    groups = [(line.name, list(line.runs)) for line in lines]
    yield from _growth_plots(groups, _area, seconds_per_picture, "pixels", "Time by pixels", duration)
    kept = [(name, [r for r in runs if r.memory.host]) for name, runs in groups]
    yield from _growth_plots(kept, _area, _mebibytes, "pixels", "Memory by pixels", _memory)
    runs = [run for _, run in panel.runs]
    for part, what, value in _SWEPT:
        swept = {g: [r for r in rs if value(r)] for g, rs in grouped(runs, apart_from=part).items()}
        swept = {g: rs for g, rs in swept.items() if len({value(r) for r in rs}) > 1}
        named = list(zip(names_of(list(swept)), swept.values(), strict=True))
        yield from _growth_plots(
            named, value, seconds_per_picture, what, f"Time per picture by {what}", duration
        )


def _mebibytes(run: BenchRun) -> float:
    """Peak host memory of a run in MiB; 0 if it is unknown."""
    return (run.memory.host or 0) / 2**20


def _memory(mebibytes: float) -> str:
    """A number of MiB as text."""
    return size(mebibytes * 2**20)


def _tile_side(run: BenchRun) -> float:
    """Side of the tiles in pixels; 0 if the tiling is "auto" or "whole"."""
    return float(run.case.tile) if run.case.tile.isdecimal() and len(run.case.tile) < 7 else 0.0


_LABELS = {"pixels": "pixels of the input picture", "tile side": "side of a tile, in pixels"}
"""Labels of the horizontal axis that differ from the name of the quantity."""
_SWEPT: tuple[tuple[str, str, Callable[[BenchRun], float]], ...] = (
    ("batch", "batch", lambda run: run.case.batch),
    ("threads", "threads", lambda run: run.subject.threads or 0),
    ("tile", "tile side", _tile_side),
)
"""Key in `lines.parts_of`, name, and value of each quantity; 0 if a run has none."""


def _growth_plots(
    groups: Sequence[tuple[str, Sequence[BenchRun]]],
    x: Callable[[BenchRun], float],
    y: Callable[[BenchRun], float],
    what: str,
    title: str,
    text: Callable[[float], str],
) -> Iterator[Markup]:
    """Plots of `y` against `x` with fitted laws, of the groups in which `x` takes at least two values.

    `what` names the quantity, and `text` formats a value of `y`.
    """
    groups = [(name, runs) for name, runs in groups if len({x(run) for run in runs}) > 1]
    for heading, part in split_plots(title, groups):
        series = [
            _growth_series(n, sorted(runs, key=x), x, y, what, text, style=i)
            for i, (n, runs) in enumerate(part)
        ]
        values = tuple(sorted({p.x for one in series for p in one.points}))
        yield plot(
            series,
            x=Scale(label=_LABELS.get(what, what), log=True, ticks=None if what == "pixels" else values),
            y=Scale(label=title.split(" by ")[0].lower(), log=True, text=text),
            title=heading,
            description=" ".join(f"{one.name}, {one.points[0].tip}, {one.points[-1].tip}." for one in series),
            note="The dashed line is the fitted power law; it needs at least three points.",
        )


def _growth_series(
    name: str,
    runs: Sequence[BenchRun],
    x: Callable[[BenchRun], float],
    y: Callable[[BenchRun], float],
    what: str,
    text: Callable[[float], str],
    *,
    style: int,
) -> Series:
    """The points of one group, with the fitted power law as a dashed line, if there are enough points."""
    points = tuple(Point(x=x(r), y=y(r), tip=f"{compact(x(r))} {what}: {text(y(r))}") for r in runs)
    fit = fit_power_law([(p.x, p.y) for p in points])
    if fit is None:
        return Series(name=name, style=style, points=points, joined=False)
    first, last = points[0].x, points[-1].x
    return Series(
        name=f"{name}: {what}^{fit.exponent:.2f}",
        style=style,
        points=points,
        joined=False,
        trend=((first, fit.at(first)), (last, fit.at(last))),
    )
