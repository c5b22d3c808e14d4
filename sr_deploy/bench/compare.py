"""Whether something became slower, judged by the samples' own spread.

Times of one run are not independent: a machine is fast for a while and slow for a while. So whole stretches of
neighbouring samples are drawn, not single ones (the moving block bootstrap: Kuensch, Annals of Statistics 17, 1989),
and what they make of the ratio of the medians is its interval of confidence.

Where the machine was busy, processor time is compared, by its mean. On a crowded machine that ratio scattered by 3.4 %
between equal runs (measured), that of medians by 4.3 %, and that of medians of plain time by 10 %.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sr_deploy.bench.doubts import BUSY
from sr_deploy.bench.machines import require_alike
from sr_deploy.bench.result import Result, Run
from sr_deploy.bench.summary import summarise

Verdict = Literal["faster", "slower", "no change", "too few samples"]
_DRAWS = 2000
_STRETCHES = 12  # of a run; fewer where it has fewer samples
_LEAST = (
    4  # samples of each: with three, the least likely order of all six still comes about once in ten times
)

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Change:
    """How two series of times differ."""

    ratio: float
    """After over before: 1.05 is 5 % slower."""
    low: float
    high: float
    """The interval that holds the ratio with `confidence`."""
    confidence: float
    verdict: Verdict

    @property
    def percent(self) -> str:
        """With its sign: "+5.0 %"."""
        return f"{(self.ratio - 1) * 100:+.1f} %"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same thing in two results."""

    before: Run
    after: Run
    change: Change
    by: str = "time"
    """What was compared: "time", or "processor time" where other processes kept the machine busy."""


def compare_times(
    before: Sequence[float],
    after: Sequence[float],
    *,
    by_mean: bool = False,
    smallest: float = 0.025,
    confidence: float = 0.95,
    seed: int = 0,
) -> Change:
    """How `after` differs from `before`, in seconds a sample, in the order they were taken.

    The median of each stands for it; with `by_mean` the mean, for values that nothing holds up. "slower" and
    "faster" where the ratio of the two is beyond 1 by more than `smallest`, and 1 is outside the interval of
    `confidence`. The same input gives the same answer.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    rng = np.random.default_rng(seed)
    middle = np.mean if by_mean else np.median
    logs = np.log(_middles(second, middle, rng)) - np.log(_middles(first, middle, rng))
    ratio = float(middle(second) / middle(first))
    tail = (1 - confidence) / 2 * 100
    low, high = (float(value) for value in np.exp(np.percentile(logs, (tail, 100 - tail))))
    verdict: Verdict = "no change"
    if min(len(first), len(second)) < _LEAST:
        verdict = "too few samples"
    elif low > 1 and ratio > 1 + smallest:
        verdict = "slower"
    elif high < 1 and ratio < 1 / (1 + smallest):
        verdict = "faster"
    return Change(ratio=ratio, low=low, high=high, confidence=confidence, verdict=verdict)


def compare_results(before: Result, after: Result, names: tuple[str, str] = ("A", "B")) -> list[Pair]:
    """Everything that both measured, in the order of `after`. Raises InputError for unlike machines."""
    require_alike((before, after), names)
    known = {identity(run): run for run in before.runs}
    return [compare_runs(old, run) for run in after.runs if (old := known.get(identity(run))) is not None]


def identity(run: Run) -> Hashable:
    """What two runs must share to be runs of the same thing. The model's bytes may differ: that may be the point."""
    subject, case = run.subject, run.case
    return (
        (subject.model, subject.backend, subject.precision, subject.runner, subject.scale, subject.threads),
        (subject.streams, case.width, case.height, case.batch, case.tile, run.mode, run.throughput),
    )


def undecided(pairs: Sequence[Pair]) -> list[str]:
    """A line for every pair that cannot be judged."""
    return [
        f"{pair.after.subject.name} on {pair.after.case.label}: {len(pair.before.samples)} and "
        f"{len(pair.after.samples)} samples are too few to judge, {_LEAST} each are needed"
        for pair in pairs
        if pair.change.verdict == "too few samples"
    ]


def regressions(pairs: Sequence[Pair], most: float) -> list[str]:
    """A line for every pair that became slower by more than `most` (0.05: 5 %), where its spread allows to say so."""
    lines = []
    for pair in pairs:
        change = pair.change
        if change.verdict == "slower" and change.ratio > 1 + most:
            times = " to ".join(f"{summarise(run).p50 * 1000:.2f}" for run in (pair.before, pair.after))
            by = "" if pair.by == "time" else f" by {pair.by}, for the machine was busy"
            lines.append(
                f"{pair.after.subject.name} on {pair.after.case.label}: {change.percent}{by} ({times} ms, between "
                f"{change.low - 1:+.1%} and {change.high - 1:+.1%}), allowed are {most:+.1%}"
            )
    return lines


def compare_runs(before: Run, after: Run) -> Pair:
    """How `after` differs from `before`, whatever ran in them.

    Judged by processor time where others took much of the machine in one of them: that holds up the clock, hardly the
    work, and as evenly as a slower program would.
    """
    busy = max(before.others or 0.0, after.others or 0.0) > BUSY
    if busy and before.cpu and after.cpu and min(sum(before.cpu), sum(after.cpu)) > 0:
        change = compare_times(before.cpu, after.cpu, by_mean=True)
        return Pair(before=before, after=after, change=change, by="processor time")
    return Pair(before=before, after=after, change=compare_times(_paces(before), _paces(after)))


def _paces(run: Run) -> Sequence[float]:
    """Times to compare: of the samples; with several in flight, of the whole run shared out among them."""
    if not run.throughput:
        return run.samples
    factor = run.wall / sum(run.samples)
    return [seconds * factor for seconds in run.samples]


def _middles(times: Times, middle: Callable[..., Any], rng: np.random.Generator) -> Times:
    """The `middle` of each of `_DRAWS` series put together from stretches of `times`."""
    count = len(times)
    length = max(1, count // _STRETCHES)
    starts = rng.integers(0, count - length + 1, (_DRAWS, -(-count // length)))
    drawn = times[(starts[:, :, None] + np.arange(length)).reshape(_DRAWS, -1)[:, :count]]
    middles: Times = middle(drawn, axis=1)
    return middles
