"""The report: results of `sr-deploy bench` as one HTML file that any screen can show without a network.

Each result has its own section; figures of two machines or two modes are never merged. The page has no script
and loads nothing: its Content-Security-Policy forbids both, and allows one style sheet by its hash. The same
results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_deploy.bench.gate import Budget
from sr_deploy.bench.report.bars import spread_bars, stage_bars
from sr_deploy.bench.report.charts import latency_plots, picture_label, scaling_plots
from sr_deploy.bench.report.judgement import (
    baseline_comparison,
    collapsible,
    doubt_list,
    failure_list,
    judgement,
)
from sr_deploy.bench.report.lines import Panel, count, panels
from sr_deploy.bench.report.markup import Markup, tag
from sr_deploy.bench.report.quality import quality_plots
from sr_deploy.bench.report.samples import samples_plot
from sr_deploy.bench.report.tables import environment_table, models_table, numbers_table, real_time_table
from sr_deploy.bench.result import BenchResult, write_text
from sr_deploy.errors import UsageError

_STYLE = Path(__file__).with_name("report.css")
_MODES = {
    "end-to-end": ("End to end", "From pixels in host memory to pixels in host memory."),
    "with-files": (
        "With files",
        "From file to file: reading, decoding, upscaling, encoding, writing.",
    ),
    "device": ("On the device", "Buffers stay on the device; copies to it and from it are not counted."),
}
"""Mode -> its title and its meaning."""
_OPEN_PLOTS = 4
"""Number of sample plots up to which they are expanded from the start."""


def write_report(
    results: Sequence[BenchResult],
    path: Path,
    *,
    budgets: Sequence[Budget] = (),
    baseline: BenchResult | None = None,
) -> None:
    """Write `results` as one HTML page, atomically: no partial file is ever visible.

    Args:
        results: The results, each of which becomes a section.
        path: The HTML file.
        budgets: Limits that every result is judged by.
        baseline: Earlier result that every result from the same machine is compared with.

    Raises:
        UsageError: There is no result.
        OutputError: The file cannot be written.
    """
    if not results:
        raise UsageError("there is nothing to report; give at least one result of sr-deploy bench")
    write_text(path, report(results, budgets=budgets, baseline=baseline))


def report(
    results: Sequence[BenchResult], *, budgets: Sequence[Budget] = (), baseline: BenchResult | None = None
) -> str:
    """Return the page as text."""
    # The hash allows this style sheet and no other: a style that is injected by a name has no effect.
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"sr-deploy bench: {_where(results[0])}"),
        tag("style", Markup(style)),
    )
    sections = [_section(result, i, budgets, baseline) for i, result in enumerate(results)]
    body = tag("body", _header(results), tag("main", sections), _footer())
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _where(result: BenchResult) -> str:
    """The processor and the GPUs of a result."""
    machine = result.environment.machine
    return ", ".join((machine.cpu, *machine.gpus))


def _header(results: Sequence[BenchResult]) -> Markup:
    """The title of the page, with links to the results if there are several."""
    links = [
        tag("li", tag("a", tag("bdi", _where(r)), f", {_when(r)}", href=f"#result-{i}"))
        for i, r in enumerate(results)
    ]
    contents = tag("nav", tag("ul", links), aria_label="Results") if len(results) > 1 else None
    lead = "How fast models upscale, measured by sr-deploy bench."
    if len(results) > 1:
        lead += f" {len(results)} results in separate sections: figures of different machines or days are not merged."
    return tag("header", tag("h1", "sr-deploy bench"), tag("p", lead), contents)


def _when(result: BenchResult) -> str:
    """The time of a result, to be read by people."""
    return result.created.replace("T", " ").replace("Z", " UTC")


def _section(
    result: BenchResult, number: int, budgets: Sequence[Budget], baseline: BenchResult | None
) -> Markup:
    """The section of one result."""
    version = result.environment.versions.get("sr-deploy", "")
    about = f"{_when(result)}, sr-deploy {version}, {result.environment.machine.system}"
    found = panels(result)
    return tag(
        "section",
        tag("h2", tag("bdi", _where(result)), id=f"result-{number}"),
        tag("p", about, class_="soft"),
        judgement(result, budgets),
        baseline_comparison(result, baseline),
        doubt_list(result),
        failure_list(result),
        [_panel(panel, result) for panel in found],
        tag("h3", "Models and machine"),
        models_table(result),
        environment_table(result),
        class_="result",
    )


def _panel(panel: Panel, result: BenchResult) -> Markup:
    """The heading, tables and plots of one mode."""
    name, meaning = _MODES[panel.mode]
    full = (
        "Several pictures are in flight at once, so that the pipeline is always full."
        if panel.throughput
        else ""
    )
    common = f" All runs: {panel.common}." if panel.common else ""
    return Markup(
        tag("h3", f"{name}{', throughput' if panel.throughput else ''}")
        + tag("p", f"{meaning} {full or 'One picture at a time.'}{common}", class_="soft")
        + real_time_table(panel)
        + tag("div", list(_figures(panel)), class_="cards")
        + _samples(panel)
        + collapsible("All numbers", numbers_table(panel, result.calibration), opened=True)
    )


def _figures(panel: Panel) -> Iterator[Markup]:
    """Yield the plots of one mode."""
    yield from latency_plots(panel)
    yield from quality_plots(panel)
    yield from scaling_plots(panel)
    yield from filter(None, (stage_bars(panel), spread_bars(panel)))


def _samples(panel: Panel) -> Markup:
    """A collapsible block with a plot of every sample of every run."""
    plots = [samples_plot(run, f"{line.name}, {picture_label(run)}") for line, run in panel.runs]
    about = tag(
        "p",
        "Rings on the shaded area are warm-ups, which are not counted. Dots are the samples in the order in which they "
        "were taken. Dotted lines are p50, p95 and p99.",
        class_="note",
    )
    inside = Markup(about + tag("div", plots, class_="cards"))
    return collapsible(
        f"Every sample of {count(len(plots), 'run')}", inside, opened=len(plots) <= _OPEN_PLOTS
    )


def _footer() -> Markup:
    """The explanation of percentiles and sizes at the end of the page."""
    return tag(
        "footer",
        tag(
            "p",
            "p50 is the median: half of the samples were faster. 95 and 99 of 100 samples were faster than p95 and p99, "
            "which are interpolated between samples. Sizes are those of the input picture. This page is one file: it "
            "loads nothing, runs no script, and can be kept beside the JSON file it was made from.",
        ),
    )
