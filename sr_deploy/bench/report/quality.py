"""Plots of speed against quality: the quality from the models' cards, and their time on this machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from sr_deploy.bench.report.axes import duration, three_digits
from sr_deploy.bench.report.charts import seconds_per_picture, split_plots
from sr_deploy.bench.report.lines import Line, Panel
from sr_deploy.bench.report.markup import Markup
from sr_deploy.bench.report.plot import Point, Scale, Series, plot
from sr_deploy.bench.result import BenchRun

_LABELS = {"psnr_y": "PSNR of Y (dB)", "ssim_y": "SSIM of Y"}
"""Measure -> label of its axis."""


def quality_plots(panel: Panel) -> Iterator[Markup]:
    """Draw time against quality for every scale and data set in which at least two qualities are known.

    All points of a plot have the same size of picture, the one that `_common_size` chooses.
    """
    for (scale, data, measure), lines in _rated_lines(panel).items():
        at = _common_size(lines)
        points = [
            (line, run) for line in lines for run in line.runs if (run.case.width, run.case.height) == at
        ]
        if len({_value(line, data, measure) for line, _ in points}) < 2:
            continue
        for title, part in split_plots(f"Speed against quality at x{scale}", points):
            yield _quality_plot(title, part, data, measure)


def _quality_plot(title: str, points: Sequence[tuple[Line, BenchRun]], data: str, measure: str) -> Markup:
    """The plot of some runs of one size, scale and data set."""
    series = [
        Series(name=line.name, style=i, points=(_quality_point(line, run, data, measure),))
        for i, (line, run) in enumerate(points)
    ]
    case = points[0][1].case
    return plot(
        series,
        x=Scale(label=f"time for one {case.width}x{case.height} picture", log=True, text=duration),
        y=Scale(label=f"{data}, {_LABELS.get(measure, measure)}", text=three_digits),
        title=title,
        description=" ".join(f"{point.tip}." for one in series for point in one.points),
        note="Better models are further up and to the left. The quality is that of the models' cards.",
    )


def _rated_lines(panel: Panel) -> dict[tuple[int, str, str], list[Line]]:
    """Group the lines whose model has a quality by scale, data set and measure; batches are excluded.

    The measure is PSNR if it is known, otherwise the first in alphabetical order.
    """
    found: dict[tuple[int, str, str], list[Line]] = {}
    for line in panel.lines:
        subject = line.runs[0].subject
        if subject.backend == "nearest":  # it only repeats pixels, but the card describes the net
            continue
        for data, measures in sorted(subject.quality.items()):
            measure = "psnr_y" if "psnr_y" in measures else min(measures, default="")
            if measure and line.batch == 1:
                found.setdefault((subject.scale, data, measure), []).append(line)
    return found


def _common_size(lines: Sequence[Line]) -> tuple[int, int]:
    """The size (width, height) that most lines have; among equals the one nearest to 640x360."""
    counts = Counter((run.case.width, run.case.height) for line in lines for run in line.runs)
    return min(counts, key=lambda s: (-counts[s], abs(math.log(s[0] * s[1] / (640 * 360))), s))


def _quality_point(line: Line, run: BenchRun, data: str, measure: str) -> Point:
    """The point of one run, with its quality and time in the tooltip."""
    value = _value(line, data, measure)
    text = f"{value:.2f} dB" if measure.startswith("psnr") else f"{value:.4f}"
    seconds = seconds_per_picture(run)
    return Point(x=seconds, y=value, tip=f"{line.name}: {text} on {data}, {duration(seconds)}")


def _value(line: Line, data: str, measure: str) -> float:
    """The quality of a line's model."""
    return line.runs[0].subject.quality[data][measure]
