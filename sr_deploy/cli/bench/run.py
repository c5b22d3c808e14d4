"""One call of `sr-deploy bench`: measure, keep what was measured whatever happens, print, judge."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import click

from sr_deploy.bench.compare import compare_results, regressions, undecided
from sr_deploy.bench.doubts import doubts
from sr_deploy.bench.frames import load_photographs
from sr_deploy.bench.gate import check_budgets
from sr_deploy.bench.machines import differences
from sr_deploy.bench.result import (
    BenchCase,
    BenchResult,
    BenchRun,
    BenchSettings,
    Calibration,
    Environment,
    FailedRun,
    to_json,
    write_result,
)
from sr_deploy.bench.run.calibrate import calibrate
from sr_deploy.bench.run.device import DEVICE_BACKENDS, no_device_mode
from sr_deploy.bench.run.environment import describe_environment
from sr_deploy.bench.run.search import largest_size
from sr_deploy.bench.run.session import BenchSession, WorkerStart
from sr_deploy.bench.run.subjects import find_entries
from sr_deploy.bench.run.sweep import LeftOut, Sweep, run_sweep
from sr_deploy.bench.run.usage import OtherProcesses
from sr_deploy.bench.sizes import Size
from sr_deploy.bench.summary import summarise
from sr_deploy.cli.bench.options import BenchOptions
from sr_deploy.cli.bench.progress import Progress
from sr_deploy.cli.bench.screen import first_screen, found_lines, left_out_lines
from sr_deploy.cli.shared.console import complain
from sr_deploy.errors import InputError, MissingRuntimeError
from sr_deploy.system.cores import usable_cores

_EXIT_CHECK_FAILED, _EXIT_SOME_FAILED = 1, 5


class _Collected:
    """What there is so far."""

    def __init__(self) -> None:
        self.runs: list[BenchRun] = []
        self.failures: list[FailedRun] = []
        self.left_out: list[LeftOut] = []
        self.found: dict[WorkerStart, Size | None] = {}

    def take(self, step: BenchRun | FailedRun | LeftOut) -> None:
        if isinstance(step, BenchRun):
            self.runs.append(step)
        elif isinstance(step, FailedRun):
            self.failures.append(step)
        else:
            self.left_out.append(step)


def run(options: BenchOptions) -> int:
    """Do what was asked; the exit code. Raises what makes the whole impossible."""
    with tempfile.TemporaryDirectory(prefix="sr-deploy-bench-") as folder:
        return _run(options, Path(folder))


def _run(options: BenchOptions, folder: Path) -> int:
    """`folder` is for models that are converted on the way."""
    photographs = load_photographs(options.images)
    entries = find_entries(
        options.models,
        scale=options.scale,
        backends=options.backends,
        precisions=options.precisions,
        threads=options.threads,
        streams=options.streams,
        folder=folder,
    )
    entries = _with_device(options, entries)
    environment, calibration = _machine(options)
    collected, interrupted = _Collected(), True
    try:
        _measure(options, entries, collected)
        interrupted = False
    finally:
        result = BenchResult(
            created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            environment=environment,
            calibration=calibration,
            settings=_settings(options, photographs.names, photographs.sha256),
            runs=tuple(collected.runs),
            failures=tuple(collected.failures),
            interrupted=interrupted,
        )
        if collected.runs or not interrupted:
            _publish(result, collected, options)
    return _verdict(result, collected, options)


def _with_device(options: BenchOptions, entries: list[WorkerStart]) -> list[WorkerStart]:
    """Those that `--mode device` can measure; without it, or where backends were named, all of them."""
    if options.mode != "device":
        return entries
    able = [entry for entry in entries if entry.subject.backend in DEVICE_BACKENDS]
    if not able:
        backends = dict.fromkeys(entry.subject.backend for entry in entries)
        raise MissingRuntimeError(no_device_mode(" or the ".join(backends)))
    return entries if options.backends else able


def _machine(options: BenchOptions) -> tuple[Environment, Calibration]:
    """Also refuses a baseline of another machine, before anything is measured."""
    bystanders = OtherProcesses()
    calibration = calibrate(options.threads[0] or usable_cores() or 1)
    environment = describe_environment(bystanders.share())
    if options.baseline is not None:
        apart = differences(options.baseline.environment.machine, environment.machine)
        if apart:
            raise InputError(
                f"--baseline {options.baseline_name} was measured on another machine ({'; '.join(apart)}); measure a "
                "baseline on this one"
            )
    return environment, calibration


def _measure(options: BenchOptions, entries: list[WorkerStart], collected: _Collected) -> None:
    with Progress(options.quiet) as progress, BenchSession(options.images) as session:
        if options.find:
            for entry in entries:
                collected.found[entry] = _search(session, entry, options, collected, progress)
            return
        sweep = Sweep(
            entries=entries,
            cases=options.cases,
            mode=options.mode,
            throughput=options.throughput,
            effort=options.effort,
            time_limit=options.time_limit,
            rounds=options.rounds,
        )
        for step in run_sweep(session, sweep, progress.show):
            collected.take(step)


def _search(
    session: BenchSession,
    entry: WorkerStart,
    options: BenchOptions,
    collected: _Collected,
    progress: Progress,
) -> Size | None:
    """The largest size that holds every budget; None where none does, or it cannot run."""
    measure = _holder(session, entry, options, collected, progress)
    guess = 90
    if measure(Size("90p", round(90 * options.aspect), 90)) is not None and collected.runs:
        seconds = summarise(collected.runs[-1]).percentile_of(options.percentile)
        guess = round(90 * (1 / options.real_time_fps / seconds) ** 0.5)
    return largest_size(lambda size: bool(measure(size)), options.aspect, first=max(16, guess))


def _holder(
    session: BenchSession,
    entry: WorkerStart,
    options: BenchOptions,
    collected: _Collected,
    progress: Progress,
) -> Callable[[Size], bool | None]:
    """Measures a size and says whether it holds the budgets; None where it does not run at all."""
    known: dict[tuple[int, int], bool | None] = {}

    def holds(size: Size) -> bool | None:
        where = (size.width, size.height)
        if where not in known:
            case = BenchCase(
                label=size.label, width=size.width, height=size.height, tile=options.cases[0].tile
            )
            progress.show(entry, case, len(known), None)
            step = session.measure(
                entry, case, mode=options.mode, throughput=options.throughput, effort=options.effort
            )
            collected.take(step)
            known[where] = (
                not any(budget.misses(step) for budget in options.budgets)
                if isinstance(step, BenchRun)
                else None
            )
        return known[where]

    return holds


def _settings(options: BenchOptions, names: tuple[str, ...], sha256: str) -> BenchSettings:
    return BenchSettings(
        mode=options.mode,
        throughput=options.throughput,
        min_samples=options.effort.samples,
        min_seconds=options.effort.seconds,
        max_seconds=options.effort.most_seconds,
        images=names,
        image_sha256=sha256,
    )


def _publish(result: BenchResult, collected: _Collected, options: BenchOptions) -> None:
    if options.output is not None:
        write_result(result, options.output)
    if options.as_json:
        click.echo(to_json(result), nl=False)
    else:
        click.echo(first_screen(result, options.real_time_fps, options.percentile))
    for line in left_out_lines(collected.left_out):
        complain(line, prefix=False)
    for failure in result.failures:
        complain(f"failed: {failure.subject.name} on {failure.case.label}: {failure.error}", prefix=False)
    for doubt in doubts(result):
        complain(f"warning: {doubt}", prefix=False)


def _verdict(result: BenchResult, collected: _Collected, options: BenchOptions) -> int:
    """Say what missed; the exit code."""
    missed = [] if options.find else check_budgets(options.budgets, result.runs)
    if options.find:
        lines, missed = found_lines(collected.found, result.runs, options)
        for line in lines:
            click.echo(line, err=options.as_json)
    if options.baseline is not None:
        pairs = compare_results(options.baseline, result, (options.baseline_name, "this run"))
        if not pairs:
            raise InputError(
                f"--baseline {options.baseline_name} has nothing that was measured now; measure the same models and sizes"
            )
        missed += regressions(pairs, options.max_regression)
        for line in undecided(pairs):
            complain(f"warning: {line}; raise --max-seconds", prefix=False)
    for line in missed:
        complain(f"missed: {line}", prefix=False)
    if missed:
        return _EXIT_CHECK_FAILED
    return _EXIT_SOME_FAILED if result.failures else 0
