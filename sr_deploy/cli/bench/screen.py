"""The text output of `bench`: first the sizes that run in real time on this machine, then the numbers.

All functions return text and print nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sr_deploy.bench.doubts import BUSY
from sr_deploy.bench.gate import frame_rate
from sr_deploy.bench.result import BenchResult, BenchRun
from sr_deploy.bench.run.session import WorkerStart
from sr_deploy.bench.run.sweep import LeftOut
from sr_deploy.bench.scaling import find_scalings, fit_power_law
from sr_deploy.bench.sizes import Size, size_of_height
from sr_deploy.bench.summary import summarise
from sr_deploy.bench.tables import HEADER, rows
from sr_deploy.cli.bench.options import BenchOptions
from sr_deploy.cli.shared.console import table

_CURVE_ASPECT = 16 / 9
"""Aspect ratio of the sizes that the fitted curve is read at."""
_MODES = {
    "end-to-end": "from 8-bit pixels in memory to 8-bit pixels in memory",
    "with-files": "from file to file",
    "device": "on the device's own buffers",
}
"""--mode -> the timed work in words."""


def first_screen(result: BenchResult, fps: float, percentile: str) -> str:
    """The text output of a run: machine, real-time sizes, table, details and growth laws.

    `fps` is the frame rate that counts as real time, at `percentile` of the samples.
    """
    if not result.runs:
        return "nothing was measured"
    parts = [
        _conditions(result),
        _real_time_lines(result.runs, fps, percentile),
        table(HEADER, rows(result.runs)),
    ]
    parts += [part for part in (_details(result), _growth_laws(result.runs)) if part]
    return "\n\n".join(parts)


def found_lines(
    found: Mapping[WorkerStart, Size | None], runs: Sequence[BenchRun], options: BenchOptions
) -> tuple[list[str], list[str]]:
    """The findings of --find: (a line for each subject with a size, a line for each subject without one).

    The second list holds missed budgets, which make the exit code 1.
    """
    lines, missed = [], []
    asked = f"{options.real_time_fps:g} fps at {options.percentile}"
    for entry, size in found.items():
        if size is None:
            missed.append(f"{entry.subject.name}: no size of {options.aspect:.3g}:1 holds {asked}")
            continue
        run = next(
            r
            for r in runs
            if replace(r.subject, engine_sha256=None) == entry.subject
            and (r.case.width, r.case.height) == (size.width, size.height)
        )
        lines.append(
            f"{entry.subject.name}: {_sizes(run)} is the largest that holds {asked}: {frame_rate(run, options.percentile):.1f}"
        )
    return lines, missed


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """The cases that the time limit left out, one line per subject, with their estimated time in seconds."""
    cases: dict[str, list[str]] = {}
    for left in left_out:
        tile = f" {left.case.tile}" if left.case.tile != "auto" else ""
        clause = f"{left.case.label}{tile} ({left.seconds:.0f} s)"
        cases.setdefault(left.entry.subject.name, []).append(clause)
    return [
        f"left out for lack of time: {name} on {', '.join(clauses)}; ask for it with --sizes"
        for name, clauses in cases.items()
    ]


def _conditions(result: BenchResult) -> str:
    machine, settings = result.environment.machine, result.settings
    runtimes = {run.subject.backend for run in result.runs}
    versions = result.environment.versions
    used = [f"{name} {versions[name]}" for name in sorted(runtimes) if name in versions]
    kept = ", pipeline kept full" if settings.throughput else ""
    return f"{machine.cpu}, {machine.usable_cores} cores; {', '.join(used)}; {_MODES[settings.mode]}{kept}"


def _real_time_lines(runs: Sequence[BenchRun], fps: float, percentile: str) -> str:
    """One line per subject: the largest measured size that runs in real time, and the estimate of the fitted curve.

    Subjects that differ in threads or batch size get lines of their own.
    """
    full = any(run.throughput for run in runs)
    lines = [f"Real time, {fps:g} fps{' with the pipeline full' if full else f' at {percentile}'}:"]
    names = dict.fromkeys((run.subject.name, run.subject.threads, run.case.batch) for run in runs)
    for key in names:
        own = [run for run in runs if (run.subject.name, run.subject.threads, run.case.batch) == key]
        lines.append(f"  {_label(key, names)}: {_real_time_answer(own, fps, percentile)}")
    return "\n".join(lines)


def _label(key: tuple[str, int | None, int], keys: Mapping[tuple[str, int | None, int], None]) -> str:
    """Name of a subject (name, threads, batch), with threads and batch only if they are needed to tell subjects apart."""
    name, threads, batch = key
    label = name if len({other[1] for other in keys}) == 1 else f"{name}, {threads} threads"
    return label if batch == 1 else f"{label}, batches of {batch}"


def _real_time_answer(runs: Sequence[BenchRun], fps: float, percentile: str) -> str:
    """The answer for the runs of one subject, such as "up to 540p 960x540 -> 1920x1080, 31.2 fps".

    The fitted curve is a power law of time over pixels. Its estimate is added if a measured size was too slow; it
    is marked as extrapolated if it lies outside the measured sizes.
    """
    fast_enough = [run for run in runs if frame_rate(run, percentile) >= fps]
    rates = [(float(run.case.width * run.case.height), 1 / frame_rate(run, percentile)) for run in runs]
    fit = fit_power_law(rates)
    pixels = fit.reaching(1 / fps) if fit else None
    size = size_of_height(max(1, round((pixels / _CURVE_ASPECT) ** 0.5)), _CURVE_ASPECT) if pixels else None
    extrapolated = pixels is not None and not min(rates)[0] <= pixels <= max(rates)[0]
    how = "extrapolated, the curve through all sizes" if extrapolated else "the curve through all sizes"
    curve = f"{how} says {size.width}x{size.height}" if size else ""
    if not fast_enough:
        return f"at none of these sizes{f'; {curve}' if curve else ''}"
    best = max(fast_enough, key=lambda run: run.case.pixels)
    more = f"; {curve}" if curve and len(fast_enough) < len(runs) else ""
    return f"up to {_sizes(best)}, {frame_rate(best, percentile):.1f} fps{more}"


def _sizes(run: BenchRun) -> str:
    """Input and output size of a run, such as "540p 960x540 -> 1920x1080"."""
    case, scale = run.case, run.subject.scale
    name = "" if case.label == f"{case.width}x{case.height}" else f"{case.label} "
    return f"{name}{case.width}x{case.height} -> {case.width * scale}x{case.height * scale}"


def _details(result: BenchResult) -> str:
    """One line per subject about its largest run: start, memory, share of the machine's peak, energy, stages.

    The share of the peak is left out if other processes were busy while the peak was measured.
    """
    lines, busy = [], (result.environment.state.busy_elsewhere or 0) > BUSY
    for name in dict.fromkeys(run.subject.name for run in result.runs):
        own = [run for run in result.runs if run.subject.name == name]
        run = max(own, key=lambda run: run.case.pixels)
        summary, parts = summarise(run, result.calibration), []
        if run.cold_start:
            cold = run.cold_start
            parts.append(f"opens in {cold.open * 1000:.0f} ms, first picture {cold.first * 1000:.0f} ms")
        if run.memory.host is not None:
            parts.append(f"{run.case.label} takes {run.memory.host / 1e6:,.0f} MB")
        if summary.compute_share is not None and not busy:
            parts.append(f"{summary.compute_share:.0%} of this machine's float32 peak")
        if summary.joules is not None:
            parts.append(f"{summary.joules:.2g} J a picture")
        if summary.stages:
            spent = ", ".join(f"{stage} {share:.1%}" for stage, share in summary.stages.items())
            parts.append(f"time goes to {spent}")
        lines.append(f"{name}: {'; '.join(parts)}")
    return "\n".join(lines)


def _growth_laws(runs: Sequence[BenchRun]) -> str:
    """The fitted growth laws, one line each: how time and memory grow with pixels, batch, threads or tile."""
    return "\n".join(
        f"{law.name}: {law.cost} grows as {law.against}^{law.fit.exponent:.2f} (R2 {law.fit.r2:.3f}, "
        f"{len(law.fit.points)} points)"
        for law in find_scalings(runs)
    )
