"""Measure every subject on every case, small cases first, so that little is lost if the sweep is stopped.

A sweep with a time limit leaves out the cases that would not end in time, and reports them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sr_deploy.bench.result import BenchCase, BenchRun, FailedRun
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.session import BenchSession, WorkerStart
from sr_deploy.bench.summary import summarise

# Share of the remaining time that a case may take. The largest case may take all: nothing follows it.
_MAX_SHARE = 0.25
# Calls of a case beside its samples, for the estimate: a slow case needs only one to warm up.
_EXTRA_CALLS = 1


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The plan of a sweep: subjects, cases and effort."""

    entries: Sequence[WorkerStart]
    """Subjects to measure, each on every case."""
    cases: Sequence[BenchCase]
    mode: str = "end-to-end"
    throughput: bool = False
    effort: Effort = field(default_factory=Effort)
    time_limit: float | None = None
    """Time limit of the sweep in seconds; None: no limit. It is not used with several rounds."""
    rounds: int = 1
    """Number of times that everything is measured; the samples of a run are joined."""
    fresh: bool = True
    """True: each round uses fresh processes, if there are several rounds."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A case that was not measured for lack of time."""

    entry: WorkerStart
    case: BenchCase
    seconds: float
    """Estimated time in seconds that it would have taken."""


SweepStep = BenchRun | FailedRun | LeftOut


def run_sweep(
    session: BenchSession,
    sweep: Sweep,
    on_start: Callable[[WorkerStart, BenchCase, int, int], None] | None = None,
) -> Iterator[SweepStep]:
    """Measure everything, and yield each run, failure or omission as it is known.

    With several rounds a run is yielded after its last round, with the samples of all rounds.

    Args:
        session: Session whose workers measure.
        sweep: What to measure.
        on_start: Called before each measurement with the subject, the case, the number of measurements before
            it and their total number.
    """
    if sweep.rounds > 1:
        yield from _run_rounds(session, sweep, on_start)
        return
    limit = _TimeLimit(sweep)
    total = len(sweep.cases) * len(sweep.entries)
    for number, (case, entry) in enumerate(_ordered(sweep)):
        if (seconds := limit.too_long(entry, case)) is not None:
            yield LeftOut(entry=entry, case=case, seconds=seconds)
            continue
        if on_start is not None:
            on_start(entry, case, number, total)
        step = session.measure(
            entry,
            case,
            mode=sweep.mode,
            throughput=sweep.throughput,
            effort=limit.effort(len(sweep.entries) * len(sweep.cases) - number),
        )
        limit.note(entry, step)
        yield step


def merge_rounds(runs: Sequence[BenchRun]) -> BenchRun:
    """Join runs of the same subject and case into one: samples one after the other, times added up.

    The cold start is that of the first run; memory is that of the last one.
    """
    last = runs[-1]
    return replace(
        last,
        warm_up=tuple(s for run in runs for s in run.warm_up),
        steady=all(run.steady for run in runs),
        samples=tuple(s for run in runs for s in run.samples),
        cpu=tuple(s for run in runs for s in run.cpu) if all(run.cpu for run in runs) else (),
        wall=sum(run.wall for run in runs),
        pace=tuple(s for run in runs for s in run.pace) if all(run.pace for run in runs) else (),
        stages={name: tuple(s for run in runs for s in run.stages[name]) for name in last.stages},
        cold_start=runs[0].cold_start,
        energy=_total([run.energy for run in runs]),
        others=_mean([run.others for run in runs]),
    )


def _ordered(sweep: Sweep) -> Iterator[tuple[BenchCase, WorkerStart]]:
    """Yield every case with every subject, in ascending order of pixels."""
    for case in sorted(sweep.cases, key=lambda case: case.pixels):
        for entry in sweep.entries:
            yield case, entry


def _run_rounds(
    session: BenchSession, sweep: Sweep, on_start: Callable[[WorkerStart, BenchCase, int, int], None] | None
) -> Iterator[SweepStep]:
    """Measure case by case, with all subjects in turn in every round.

    So a drift of the machine affects all of them. Every second round has the reverse order, so that no
    subject always comes first. A subject that failed on a case is not tried again on it.
    """
    total, number = len(sweep.cases) * len(sweep.entries) * sweep.rounds, 0
    for case in sorted(sweep.cases, key=lambda case: case.pixels):
        found: dict[WorkerStart, list[BenchRun]] = {entry: [] for entry in sweep.entries}
        failed: dict[WorkerStart, FailedRun] = {}
        try:
            for turn in range(sweep.rounds):
                for entry in sweep.entries if turn % 2 == 0 else sweep.entries[::-1]:
                    number += 1
                    if entry in failed:
                        continue
                    if on_start is not None:
                        on_start(entry, case, number - 1, total)
                    step = session.measure(
                        entry, case, mode=sweep.mode, throughput=sweep.throughput, effort=sweep.effort
                    )
                    if isinstance(step, FailedRun):
                        failed[entry] = step
                    else:
                        found[entry].append(step)
                    if sweep.fresh:
                        session.restart(entry)
        finally:  # after an interruption too, so that the complete rounds are not lost
            for entry, runs in found.items():
                if entry in failed:
                    yield failed[entry]
                elif runs:
                    yield merge_rounds(runs)


class _TimeLimit:
    """Keep track of the time that is left, and estimate what a case costs from the cases before it."""

    def __init__(self, sweep: Sweep) -> None:
        self._effort, self._limit = sweep.effort, sweep.time_limit
        self._largest = max((case.pixels for case in sweep.cases), default=0)
        self._begin = time.monotonic()
        self._per_pixel: dict[WorkerStart, float] = {}

    @property
    def _left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return float("inf") if self._limit is None else self._limit - (time.monotonic() - self._begin)

    def too_long(self, entry: WorkerStart, case: BenchCase) -> float | None:
        """The least time in seconds that a case would take, if that is too long; None if it fits."""
        seconds = self._per_pixel.get(entry, 0.0) * case.pixels * (self._effort.least_samples + _EXTRA_CALLS)
        share = 1.0 if case.pixels == self._largest else _MAX_SHARE
        return seconds if seconds > self._left * share else None

    def effort(self, to_come: int) -> Effort:
        """The effort for the next case, if `to_come` measurements including it are left.

        With a limit it may take twice its fair share of the time that is left.
        """
        if self._limit is None:
            return self._effort
        share = max(0.2, 2 * self._left / max(1, to_come))
        effort = self._effort
        return replace(
            effort,
            most_seconds=min(effort.most_seconds, share),
            warm_up_seconds=min(effort.warm_up_seconds, share / 2),
        )

    def note(self, entry: WorkerStart, step: SweepStep) -> None:
        """Remember the time per pixel of a run, for estimates of larger cases."""
        if isinstance(step, BenchRun):
            self._per_pixel[entry] = summarise(step).mean / step.case.pixels


def _total(values: Sequence[float | None]) -> float | None:
    """The sum of `values`; None if any of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of `values`; None if any of them is unknown."""
    total = _total(values)
    return None if total is None else total / len(values)
