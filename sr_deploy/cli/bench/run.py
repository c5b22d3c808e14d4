"""One run of `sr-deploy bench`: measure, keep what was measured even if the run is interrupted, print, judge.

This module connects the options with `sr_deploy.bench`, which measures. Only this module decides on exit codes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType

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
from sr_deploy.cli.bench.screen import first_screen, found_lines, left_out_lines
from sr_deploy.cli.shared.console import complain
from sr_deploy.cli.shared.progress import ProgressDisplay
from sr_deploy.errors import InputError, MissingRuntimeError
from sr_deploy.system.cores import usable_cores

_EXIT_CHECK_FAILED = 1
"""A budget was missed, or a case became slower than the baseline allows."""
_EXIT_SOME_FAILED = 5
"""Some cases could not be measured; the others were."""


class _Collected:
    """Everything that a run has measured so far. It outlives an interruption, so that the result can still be written."""

    def __init__(self) -> None:
        self.runs: list[BenchRun] = []
        """Cases that were measured, in the order of measuring."""
        self.failures: list[FailedRun] = []
        """Cases that could not be run, each with its error."""
        self.left_out: list[LeftOut] = []
        """Cases that would have exceeded the time limit."""
        self.found: dict[WorkerStart, Size | None] = {}
        """The answer of --find for each subject; None: no size holds the budgets."""

    def add(self, step: BenchRun | FailedRun | LeftOut) -> None:
        """Sort one step of the run into the runs, the failures or the cases left out."""
        if isinstance(step, BenchRun):
            self.runs.append(step)
        elif isinstance(step, FailedRun):
            self.failures.append(step)
        else:
            self.left_out.append(step)


class _CaseProgress:
    """One line on stderr about the case that is measured. Use it in a `with` statement.

    The line changes between two measurements only: a display that refreshes by itself would disturb them.
    """

    def __init__(self, quiet: bool) -> None:
        self._display = ProgressDisplay(quiet=quiet, mark="none", refreshes=False, line_at_once=True)

    def __enter__(self) -> _CaseProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def show(self, entry: WorkerStart, case: BenchCase, number: int, total: int | None) -> None:
        """Say that `entry` on `case` is measured next, after `number` of `total` cases; None: the total is unknown."""
        count = f"{number + 1} of {total}" if total else f"{number + 1}"
        line = f"measuring {count}: {entry.subject.name} {case.label} {case.width}x{case.height}"
        self._display.show(number, total, line, line=line)


def run(options: BenchOptions) -> int:
    """Carry out a bench run. Returns the exit code: 0, 1 if a budget was missed, 5 if a case failed.

    Raises SrDeployError if nothing can be measured at all, for example because no backend works.
    """
    with tempfile.TemporaryDirectory(prefix="sr-deploy-bench-") as folder:
        return _run(options, Path(folder))


def _run(options: BenchOptions, folder: Path) -> int:
    """Measure and print. `folder` receives models that are converted to another precision on the way.

    The result is written and printed in any case where something was measured, also after Ctrl-C or an error.
    """
    photographs = load_photographs(options.images)
    entries = find_entries(
        options.models,
        scale=options.scale,
        backends=options.backends,
        precisions=options.precisions,
        fast=options.fast,
        threads=options.threads,
        streams=options.streams,
        folder=folder,
    )
    entries = _with_device(options, entries)
    environment, calibration = _prepare_machine(options)
    collected, interrupted = _Collected(), True  # false once all is measured; an exception leaves it true
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
    """The subjects to measure in the chosen mode.

    With `--mode device` and no named backends, these are the subjects whose backend supports the mode. A named
    backend without support stays in the list, so that its failure is reported. Raises MissingRuntimeError if no
    subject is left.
    """
    if options.mode != "device":
        return entries
    supported = [entry for entry in entries if entry.subject.backend in DEVICE_BACKENDS]
    if not supported:
        backends = dict.fromkeys(entry.subject.backend for entry in entries)
        raise MissingRuntimeError(no_device_mode(" or the ".join(backends)))
    return entries if options.backends else supported


def _prepare_machine(options: BenchOptions) -> tuple[Environment, Calibration]:
    """Describe the machine and measure its peak rates.

    Raises InputError if the baseline is from another machine, before time is spent on measuring.
    """
    other_processes = OtherProcesses()
    calibration = calibrate(options.threads[0] or usable_cores() or 1)
    environment = describe_environment(other_processes.share())
    if options.baseline is not None:
        different = differences(options.baseline.environment.machine, environment.machine)
        if different:
            raise InputError(
                f"--baseline {options.baseline_name} was measured on another machine ({'; '.join(different)}); measure a "
                "baseline on this one"
            )
    return environment, calibration


def _measure(options: BenchOptions, entries: list[WorkerStart], collected: _Collected) -> None:
    """Run the search of --find for each subject, or the sweep over all cases. Every step is added to `collected`."""
    with _CaseProgress(options.quiet) as progress, BenchSession(options.images) as session:
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
            collected.add(step)


def _search(
    session: BenchSession,
    entry: WorkerStart,
    options: BenchOptions,
    collected: _Collected,
    progress: _CaseProgress,
) -> Size | None:
    """The largest size that holds every budget, or None if no size does or the subject cannot run.

    The search starts from a guess: time is taken to grow with the number of pixels, measured at 90 rows.
    """
    measure = _budget_check(session, entry, options, collected, progress)
    guess = 90  # rows
    if measure(Size("90p", round(90 * options.aspect), 90)) is not None and collected.runs:
        seconds = summarise(collected.runs[-1]).percentile_of(options.percentile)
        guess = round(90 * (1 / options.real_time_fps / seconds) ** 0.5)
    return largest_size(lambda size: bool(measure(size)), options.aspect, first=max(16, guess))


def _budget_check(
    session: BenchSession,
    entry: WorkerStart,
    options: BenchOptions,
    collected: _Collected,
    progress: _CaseProgress,
) -> Callable[[Size], bool | None]:
    """A function that measures a size and returns whether all budgets hold, or None if the size cannot run.

    Each size is measured once; later calls return the known answer.
    """
    answers: dict[tuple[int, int], bool | None] = {}

    def holds(size: Size) -> bool | None:
        """Measure `size` unless it is known already."""
        where = (size.width, size.height)
        if where not in answers:
            case = BenchCase(
                label=size.label, width=size.width, height=size.height, tile=options.cases[0].tile
            )
            progress.show(entry, case, len(answers), None)
            step = session.measure(
                entry, case, mode=options.mode, throughput=options.throughput, effort=options.effort
            )
            collected.add(step)
            answers[where] = (
                not any(budget.misses(step) for budget in options.budgets)
                if isinstance(step, BenchRun)
                else None
            )
        return answers[where]

    return holds


def _settings(options: BenchOptions, names: tuple[str, ...], sha256: str) -> BenchSettings:
    """The settings that the result file records. `sha256` is the digest of the photographs."""
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
    """Write the result file, print the result on stdout, and report omissions, failures and doubts on stderr.

    The file is written first, so that nothing that is printed can prevent it.
    """
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
    """Report missed budgets and regressions on stderr. Returns the exit code.

    A missed budget (1) outweighs a failed case (5). Raises InputError if the baseline has no common case.
    """
    missed = [] if options.find else check_budgets(options.budgets, result.runs)
    if options.find:
        lines, missed = found_lines(collected.found, result.runs, options)
        for line in lines:
            click.echo(line, err=options.as_json)
    if options.baseline is not None:
        pairs = compare_results(options.baseline, result, (options.baseline_name, "this run"))
        if not pairs:
            raise InputError(
                f"--baseline {options.baseline_name} has no case that was measured now; measure the same models and sizes"
            )
        missed += regressions(pairs, options.max_regression)
        for line in undecided(pairs):
            complain(f"warning: {line}; raise --max-seconds", prefix=False)
    for line in missed:
        complain(f"missed: {line}", prefix=False)
    if missed:
        return _EXIT_CHECK_FAILED
    return _EXIT_SOME_FAILED if result.failures else 0
