"""The order of the work: every subject on every case, small before large, so that little is lost when it is stopped.

A sweep with a time limit leaves out what would not end in time, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sr_deploy.bench.result import BenchCase, BenchRun, FailedRun
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.session import BenchSession, WorkerStart
from sr_deploy.bench.summary import summarise

_MAX_SHARE = 0.25  # of the time left that a case may take, but for the largest: nothing comes after it
_EXTRA_CALLS = 1  # that a case costs beside its samples: those that take long need no more to warm up


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to measure."""

    entries: Sequence[WorkerStart]
    cases: Sequence[BenchCase]
    mode: str = "end-to-end"
    throughput: bool = False
    effort: Effort = field(default_factory=Effort)
    time_limit: float | None = None
    """Seconds; None: as long as it takes."""
    rounds: int = 1
    """How often to go through everything; the samples of a run are put together."""
    fresh: bool = True
    """Every round in fresh processes, where there are several."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What was not measured for lack of time."""

    entry: WorkerStart
    case: BenchCase
    seconds: float
    """It would have taken about so many."""


Step = BenchRun | FailedRun | LeftOut


def run_sweep(
    session: BenchSession,
    sweep: Sweep,
    on_start: Callable[[WorkerStart, BenchCase, int, int], None] | None = None,
) -> Iterator[Step]:
    """Measure everything; `on_start` is called before each with how many there were and will be.

    With several rounds the runs come with the last one, whole.
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
    """One run of several of the same subject and case: their samples one after the other."""
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
    for case in sorted(sweep.cases, key=lambda case: case.pixels):
        for entry in sweep.entries:
            yield case, entry


def _run_rounds(
    session: BenchSession, sweep: Sweep, on_start: Callable[[WorkerStart, BenchCase, int, int], None] | None
) -> Iterator[Step]:
    """Case by case, all subjects in turn, in every round: what drifts, drifts for all of them."""
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
        finally:  # when it is interrupted too: the rounds that were complete are handed over first
            for entry, runs in found.items():
                if entry in failed:
                    yield failed[entry]
                elif runs:
                    yield merge_rounds(runs)


class _TimeLimit:
    """What is left of the time limit, and what a case would cost by what was seen so far."""

    def __init__(self, sweep: Sweep) -> None:
        self._effort, self._limit = sweep.effort, sweep.time_limit
        self._largest = max((case.pixels for case in sweep.cases), default=0)
        self._begin = time.monotonic()
        self._per_pixel: dict[WorkerStart, float] = {}

    @property
    def _left(self) -> float:
        return float("inf") if self._limit is None else self._limit - (time.monotonic() - self._begin)

    def too_long(self, entry: WorkerStart, case: BenchCase) -> float | None:
        """Seconds that the least would take, where they are not left, or would leave too little for the others."""
        seconds = self._per_pixel.get(entry, 0.0) * case.pixels * (self._effort.least_samples + _EXTRA_CALLS)
        share = 1.0 if case.pixels == self._largest else _MAX_SHARE
        return seconds if seconds > self._left * share else None

    def effort(self, to_come: int) -> Effort:
        """As asked for; with a limit, no more than twice this case's fair share of what is left."""
        if self._limit is None:
            return self._effort
        share = max(0.2, 2 * self._left / max(1, to_come))
        effort = self._effort
        return replace(
            effort,
            most_seconds=min(effort.most_seconds, share),
            warm_up_seconds=min(effort.warm_up_seconds, share / 2),
        )

    def note(self, entry: WorkerStart, step: Step) -> None:
        if isinstance(step, BenchRun):
            self._per_pixel[entry] = summarise(step).mean / step.case.pixels


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    total = _total(values)
    return None if total is None else total / len(values)
