"""Turn results into rows for a terminal, Markdown or CSV. Measures and prints nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from sr_deploy.bench.result import BenchResult, BenchRun
from sr_deploy.bench.summary import Summary, summarise
from sr_deploy.system.text import csv_cell, markdown_cell, shown

HEADER = (
    "model",
    "backend",
    "precision",
    "threads",
    "size",
    "pixels",
    "tiles",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "fps",
    "MP/s",
)
"""Column titles of `row`."""
_SUBJECT = ("model", "backend", "precision", "runner", "scale", "threads", "streams")
"""Fields of BenchSubject that become CSV columns."""
_CASE = ("label", "width", "height", "batch", "tile", "tiles")
"""Fields of BenchCase that become CSV columns."""
_RUN = ("mode", "throughput", "others", "load", "steady")
"""Fields of BenchRun that become CSV columns."""


def rows(runs: Sequence[BenchRun]) -> list[tuple[str, ...]]:
    """Return one row per run, with the columns of `HEADER`."""
    return [row(run) for run in runs]


def row(run: BenchRun) -> tuple[str, ...]:
    """Return the cells of one run, with the columns of `HEADER`.

    The column "backend" names the peer if another program than sr-deploy called the backend.
    """
    summary, subject, case = summarise(run), run.subject, run.case
    driver = subject.backend if subject.runner == "sr-deploy" else subject.runner
    return (
        subject.model,
        driver,
        subject.precision,
        "-" if subject.threads is None else str(subject.threads),
        case.label + (f" x{case.batch}" if case.batch > 1 else ""),
        f"{case.width}x{case.height}",
        str(case.tiles),
        *(milliseconds(seconds) for seconds in (summary.p50, summary.p95, summary.p99)),
        rate(summary.fps),
        rate(summary.megapixels),
    )


def milliseconds(seconds: float) -> str:
    """Format a time as milliseconds with three significant digits: 0.123, 12.3, 1,234."""
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def rate(value: float) -> str:
    """Format a rate per second: 0.12, 12.3, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(results: Sequence[BenchResult]) -> str:
    """Return a Markdown table for each machine and mode.

    The title has the processor, the usable cores, the date and the mode. Figures of two modes are never in
    one table.
    """
    parts = []
    for result in results:
        machine = result.environment.machine
        modes = dict.fromkeys((run.mode, run.throughput) for run in result.runs)
        for mode, throughput in modes:
            chosen = [run for run in result.runs if (run.mode, run.throughput) == (mode, throughput)]
            kept = ", pipeline kept full" if throughput else ""
            title = f"{shown(machine.cpu)}, {machine.usable_cores} cores, {result.created}; {mode}{kept}"
            parts.append(f"{title}\n\n{markdown_table(HEADER, rows(chosen))}")
    return "\n".join(parts)


def markdown_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. Nothing in a cell is markup: names of models may hold any character."""
    lines = [header, ["---"] * len(header), *cells]
    return "".join("| " + " | ".join(markdown_cell(cell) for cell in line) + " |\n" for line in lines)


def csv_text(results: Sequence[BenchResult]) -> str:
    """Return every run of every result as a CSV line in full precision.

    Values that are unknown are empty. Without any run the text is an empty header line.
    """
    text = io.StringIO()
    lines = [_csv_row(result, run) for result in results for run in result.runs]
    writer = csv.DictWriter(text, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _csv_row(result: BenchResult, run: BenchRun) -> dict[str, object]:
    """Column -> value of one run: times in milliseconds, memory in bytes, shares from 0 to 1.

    All results give the same columns in the same order, because the first row decides the header.
    """
    summary = summarise(run, result.calibration)
    subject, case, cold = run.subject, run.case, run.cold_start
    return {
        **{name: getattr(subject, name) for name in _SUBJECT},
        **{name: getattr(case, name) for name in _CASE},
        **{name: getattr(run, name) for name in _RUN},
        **_times(summary),
        "samples": summary.count,
        "spread": summary.spread,
        "outliers": summary.outliers,
        "fps": summary.fps,
        "megapixels_per_second": summary.megapixels,
        "output_megapixels_per_second": summary.output_megapixels,
        "compute_share": summary.compute_share,
        "bandwidth_share": summary.bandwidth_share,
        "joules_per_picture": summary.joules,
        "open_ms": cold.open * 1000 if cold else None,
        "first_ms": cold.first * 1000 if cold else None,
        "host_bytes": run.memory.host,
        "device_bytes": run.memory.device,
        "model_sha256": subject.model_sha256,
        "cpu": result.environment.machine.cpu,
        "created": result.created,
    }


def _times(summary: Summary) -> dict[str, float]:
    """Percentiles and other times of a summary in milliseconds, named like "p50_ms"."""
    names = {"min": "least", "max": "most"}
    wanted = ("min", "p50", "p90", "p95", "p99", "max", "mean", "jitter")
    return {f"{name}_ms": getattr(summary, names.get(name, name)) * 1000 for name in wanted}
