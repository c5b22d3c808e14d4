"""Results as rows: for a terminal, as Markdown, as CSV. Turns values into text; measures and prints nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from sr_deploy.bench.result import BenchResult, BenchRun
from sr_deploy.bench.summary import Summary, summarise

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
_SUBJECT = ("model", "backend", "precision", "runner", "scale", "threads", "streams")
_CASE = ("label", "width", "height", "batch", "tile", "tiles")
_RUN = ("mode", "throughput", "others", "load", "steady")


def rows(runs: Sequence[BenchRun]) -> list[tuple[str, ...]]:
    """A row a run under `HEADER`."""
    return [row(run) for run in runs]


def row(run: BenchRun) -> tuple[str, ...]:
    """One run under `HEADER`."""
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
    """Three figures that count: 0.123, 12.3, 1,234."""
    value = seconds * 1000
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def rate(value: float) -> str:
    """As `milliseconds`, of something per second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(results: Sequence[BenchResult]) -> str:
    """A table a machine and mode, over what was measured where."""
    parts = []
    for result in results:
        machine = result.environment.machine
        modes = dict.fromkeys((run.mode, run.throughput) for run in result.runs)
        for mode, throughput in modes:
            chosen = [run for run in result.runs if (run.mode, run.throughput) == (mode, throughput)]
            kept = ", pipeline kept full" if throughput else ""
            title = f"{machine.cpu}, {machine.usable_cores} cores, {result.created}; {mode}{kept}"
            parts.append(f"{title}\n\n{markdown_table(HEADER, rows(chosen))}")
    return "\n".join(parts)


def markdown_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; a bar inside a cell is escaped."""
    lines = [header, ["---"] * len(header), *cells]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |\n" for line in lines)


def csv_text(results: Sequence[BenchResult]) -> str:
    """Every run of every result, in full precision, a line each; what is not known is empty."""
    text = io.StringIO()
    lines = [_csv_row(result, run) for result in results for run in result.runs]
    writer = csv.DictWriter(text, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_row(result: BenchResult, run: BenchRun) -> dict[str, object]:
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
    names = {"min": "least", "max": "most"}
    wanted = ("min", "p50", "p90", "p95", "p99", "max", "mean", "jitter")
    return {f"{name}_ms": getattr(summary, names.get(name, name)) * 1000 for name in wanted}
