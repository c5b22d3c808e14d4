"""Whether something became slower, judged by the samples' own spread.

Times of one run are not independent: a machine is fast for a while and slow for a while. So whole stretches of
neighbouring samples are drawn, not single ones (the moving block bootstrap: Kuensch, Annals of Statistics 17, 1989),
and what they make of the ratio of two runs is its interval of confidence.

What a run is judged by is the time its fastest tenth stays below: whatever else happens on a machine only adds to a
time. And between two runs, a machine that others share is faster or slower as a whole. Both timed a fixed piece of
work between their samples (`sr_deploy.bench.run.pace`), and are compared as if it had taken the same time in both, where
both looked at it often enough. `benchmarks/harness.py` shows what that can tell apart, and what medians could not.

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
from sr_deploy.bench.result import BenchResult, BenchRun

ChangeVerdict = Literal["faster", "slower", "no change", "too few samples"]
_DRAWS = 2000
_STRETCHES = 12  # of a run at least; fewer where it has fewer samples
_STRETCH = 0.25  # seconds, at most: what drifts more slowly the pace tells
_TENTH = 10  # samples that a tenth percentile can be told from
LOOKS = 150
"""Looks at the pace that a run needs, of several processes: within one they come in two kinds, fast and slow."""
_TOLD = 0.005  # a machine that much slower or faster is worth a word
_LEAST = (
    4  # samples of each: with three, the least likely order of all six still comes about once in ten times
)

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Change:
    """How two series of times differ."""

    ratio: float
    """After over before: 1.05 is 5 % slower."""
    low: float
    high: float
    """Upper end of the interval that holds the ratio, with the confidence that was asked for; `low` is the other end."""
    verdict: ChangeVerdict

    @property
    def percent(self) -> str:
        """With its sign: "+5.0 %"."""
        return f"{(self.ratio - 1) * 100:+.1f} %"


@dataclass(frozen=True, kw_only=True)
class MatchedRuns:
    """The same thing in two results."""

    before: BenchRun
    after: BenchRun
    change: Change
    by: str = "time"
    """What was compared: "time", or "processor time" where other processes kept the machine busy."""
    machine: float = 1.0
    """How much slower the machine itself was in `after` (1.05: 5 %), which `change` leaves aside."""

    @property
    def how(self) -> str:
        """What there is to know of the comparison; empty where that is nothing."""
        if self.by != "time":
            return f"by {self.by}"
        return f"the machine {self.machine - 1:+.1%}" if abs(self.machine - 1) >= _TOLD else ""


def compare_times(
    before: Sequence[float],
    after: Sequence[float],
    *,
    by_mean: bool = False,
    paces: tuple[Sequence[float], Sequence[float]] | None = None,
    smallest: float = 0.025,
    confidence: float = 0.95,
    seed: int = 0,
) -> Change:
    """How `after` differs from `before`, in seconds a sample, in the order they were taken.

    The tenth percentile of each stands for it, of fewer than ten the median; with `by_mean` the mean, for values that
    nothing holds up. With `paces`, what a fixed piece of work took beside each, both are divided by theirs. "slower" and
    "faster" where the ratio of the two is beyond 1 by more than `smallest`, and 1 is outside the interval of
    `confidence`. The same input gives the same answer.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    rng = np.random.default_rng(seed)
    middle = np.mean if by_mean else fastest_tenth if min(len(first), len(second)) >= _TENTH else np.median
    stretches = [max(_STRETCHES, round(times.sum() / _STRETCH)) for times in (first, second)]

    def log_ratios(old: Seconds, new: Seconds, middle: Callable[..., Any]) -> Seconds:
        drawn = _middles(new, stretches[1], middle, rng)
        return np.asarray(np.log(drawn) - np.log(_middles(old, stretches[0], middle, rng)))

    logs, ratio = log_ratios(first, second, middle), float(middle(second) / middle(first))
    if paces is not None:
        own, other = (np.asarray(pace, np.float64) for pace in paces)
        logs -= log_ratios(own, other, fastest_tenth)
        ratio /= pace_ratio(*paces)
    tail = (1 - confidence) / 2 * 100
    low, high = (float(value) for value in np.exp(np.percentile(logs, (tail, 100 - tail))))
    verdict: ChangeVerdict = "no change"
    if min(len(first), len(second)) < _LEAST:
        verdict = "too few samples"
    elif low > 1 and ratio > 1 + smallest:
        verdict = "slower"
    elif high < 1 and ratio < 1 / (1 + smallest):
        verdict = "faster"
    return Change(ratio=ratio, low=low, high=high, verdict=verdict)


def compare_results(
    before: BenchResult, after: BenchResult, names: tuple[str, str] = ("A", "B")
) -> list[MatchedRuns]:
    """Everything that both measured, in the order of `after`. Raises InputError for unlike machines."""
    require_alike((before, after), names)
    known = {identity(run): run for run in before.runs}
    old, new = (result.environment.versions.get("numpy") for result in (before, after))
    pairs = ((known.get(identity(run)), run) for run in after.runs)
    # the fixed work is NumPy's
    return [compare_runs(run, later, paced=old == new) for run, later in pairs if run is not None]


def identity(run: BenchRun) -> Hashable:
    """What two runs must share to be runs of the same thing. The model's bytes may differ: that may be the point."""
    subject, case = run.subject, run.case
    return (
        (subject.model, subject.backend, subject.precision, subject.runner, subject.scale, subject.threads),
        (subject.streams, case.width, case.height, case.batch, case.tile, run.mode, run.throughput),
    )


def undecided(pairs: Sequence[MatchedRuns]) -> list[str]:
    """A line for every pair that cannot be judged."""
    return [
        f"{pair.after.subject.name} on {pair.after.case.label}: {len(pair.before.samples)} and "
        f"{len(pair.after.samples)} samples are too few to judge, {_LEAST} each are needed"
        for pair in pairs
        if pair.change.verdict == "too few samples"
    ]


def regressions(pairs: Sequence[MatchedRuns], most: float) -> list[str]:
    """A line for every pair that became slower by more than `most` (0.05: 5 %), where its spread allows to say so."""
    lines = []
    for pair in pairs:
        change = pair.change
        if change.verdict == "slower" and change.ratio > 1 + most:
            times = " to ".join(
                f"{1000 * fastest_tenth(run.samples):.2f}" for run in (pair.before, pair.after)
            )
            how = f", {pair.how}" if pair.how else ""
            lines.append(
                f"{pair.after.subject.name} on {pair.after.case.label}: {change.percent} ({times} ms{how}, between "
                f"{change.low - 1:+.1%} and {change.high - 1:+.1%}), allowed are {most:+.1%}"
            )
    return lines


def compare_runs(before: BenchRun, after: BenchRun, *, paced: bool = True) -> MatchedRuns:
    """How `after` differs from `before`, whatever ran in them; `paced` where their fixed work was the same.

    Judged by processor time where others took much of the machine in one of them: that holds up the clock, hardly the
    work, and as evenly as a slower program would.
    """
    busy = max(before.others or 0.0, after.others or 0.0) > BUSY
    if busy and before.cpu and after.cpu and min(sum(before.cpu), sum(after.cpu)) > 0:
        change = compare_times(before.cpu, after.cpu, by_mean=True)
        return MatchedRuns(before=before, after=after, change=change, by="processor time")
    if before.throughput:  # its samples wait for each other: what counts is how many there were in a second
        return MatchedRuns(
            before=before, after=after, change=compare_times(_times(before), _times(after), by_mean=True)
        )
    paces = (before.pace, after.pace) if paced and min(len(before.pace), len(after.pace)) >= LOOKS else None
    change = compare_times(before.samples, after.samples, paces=paces)
    return MatchedRuns(
        before=before, after=after, change=change, machine=pace_ratio(*paces) if paces else 1.0
    )


def pace_ratio(before: Sequence[float], after: Sequence[float]) -> float:
    """How much longer the fixed work took in `after`."""
    return float(fastest_tenth(after) / fastest_tenth(before))


def fastest_tenth(seconds: Sequence[float] | Seconds, axis: Any = None) -> Any:
    """What a tenth of the times stay below; along `axis` where that is given."""
    return np.quantile(np.asarray(seconds, np.float64), 0.1, axis=axis)


def _times(run: BenchRun) -> Sequence[float]:
    """With several in flight: the time of the whole run, shared out among them."""
    factor = run.wall / sum(run.samples)
    return [seconds * factor for seconds in run.samples]


def _middles(times: Seconds, stretches: int, middle: Callable[..., Any], rng: np.random.Generator) -> Seconds:
    """The `middle` of each of `_DRAWS` series put together from `stretches` of `times`."""
    count = len(times)
    length = max(1, count // stretches)
    starts = rng.integers(0, count - length + 1, (_DRAWS, -(-count // length)))
    drawn = times[(starts[:, :, None] + np.arange(length)).reshape(_DRAWS, -1)[:, :count]]
    middles: Seconds = middle(drawn, axis=1)
    return middles
