"""Decide whether something became slower, judged by the spread of its samples.

The times of one run are not independent: a machine is fast for a while and slow for a while. So blocks of
neighbouring samples are drawn, not single samples (the moving block bootstrap: Kuensch, Annals of Statistics
17, 1989). The ratios of the drawn series give the confidence interval of the ratio of the two runs.

A run is represented by its tenth percentile, because everything else that happens on a machine only adds to a
time. A machine that is shared with others is faster or slower as a whole from run to run. So each run also
times a fixed piece of work between its samples (`sr_deploy.bench.run.pace`). If both runs have enough of
these times, both series are divided by them. `benchmarks/harness.py` measures which differences this can
detect, and which ones medians could not.

If the machine was busy, the mean processor time is compared instead. On a crowded machine this ratio
scattered by 3.4 % between equal runs (measured), the ratio of medians of processor time by 4.3 %, and the
ratio of medians of elapsed time by 10 %.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sr_deploy.bench.doubts import BUSY
from sr_deploy.bench.machines import require_alike
from sr_deploy.bench.result import BenchResult, BenchRun
from sr_deploy.system.arrays import DoubleArray

ChangeVerdict = Literal["faster", "slower", "no change", "too few samples"]
_DRAWS = 2000  # series drawn for the interval of confidence
_MIN_BLOCKS = 12  # smallest number of blocks of a run; a run with fewer samples has fewer
_BLOCK_SECONDS = 0.25  # seconds, the longest block: slower drifts of the machine are seen in the pace
_MIN_FOR_TENTH = 10  # samples needed for a tenth percentile
MIN_PACE_TIMES = 150
"""Pace times that each run needs before it is corrected for the machine's speed.

They should come from several processes: within one process the times are of two kinds, fast and slow.
"""
_WORTH_SAYING = 0.005  # a smaller difference between the machines is not mentioned
# With three samples each, the least likely order of all six still occurs once in ten times by chance.
_MIN_SAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class Change:
    """The difference between two series of times."""

    ratio: float
    """New time divided by old time: 1.05 is 5 % slower."""
    low: float
    """Lower end of the interval that contains the ratio with the confidence that was asked for."""
    high: float
    """Upper end of that interval."""
    verdict: ChangeVerdict
    """The conclusion; "no change" means that no difference could be shown."""

    @property
    def percent(self) -> str:
        """The change with its sign: "+5.0 %"."""
        return f"{(self.ratio - 1) * 100:+.1f} %"


@dataclass(frozen=True, kw_only=True)
class MatchedRuns:
    """Two runs of the same thing, from two results, and how they differ."""

    before: BenchRun
    after: BenchRun
    change: Change
    by: str = "time"
    """The quantity that was compared: "time", or "processor time" if other processes kept the machine busy."""
    machine: float = 1.0
    """Slowdown of the machine itself in `after` (1.05: 5 %). `change` does not include it."""

    @property
    def note(self) -> str:
        """A remark on how the runs were compared; empty if there is nothing to say."""
        if self.by != "time":
            return f"by {self.by}"
        return f"the machine {self.machine - 1:+.1%}" if abs(self.machine - 1) >= _WORTH_SAYING else ""


def compare_times(
    before: Sequence[float],
    after: Sequence[float],
    *,
    by_mean: bool = False,
    paces: tuple[Sequence[float], Sequence[float]] | None = None,
    min_change: float = 0.025,
    confidence: float = 0.95,
    seed: int = 0,
) -> Change:
    """Compare two series of times, in seconds a sample, each in the order in which it was taken.

    Args:
        before: The old series.
        after: The new series.
        by_mean: Compare means, for values that other processes do not lengthen. Otherwise the tenth
            percentiles are compared, or the medians if either series has fewer than ten samples.
        paces: Times of a fixed piece of work, in seconds, taken beside each series. Both series are divided
            by theirs.
        min_change: Smallest difference that counts; 0.025 is 2.5 %.
        confidence: Probability that the interval contains the ratio.
        seed: Seed of the random draws. The same input gives the same answer.

    Returns:
        A change whose verdict is "slower" or "faster" if the ratio differs from 1 by more than `min_change`
            and the interval does not contain 1. It is "too few samples" if either series has fewer than four.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    rng = np.random.default_rng(seed)
    statistic = (
        np.mean if by_mean else fastest_tenth if min(len(first), len(second)) >= _MIN_FOR_TENTH else np.median
    )
    blocks = [max(_MIN_BLOCKS, round(times.sum() / _BLOCK_SECONDS)) for times in (first, second)]

    # Ratios of statistics are skewed; their logarithms are symmetric, and can be subtracted.
    def log_ratios(old: DoubleArray, new: DoubleArray, statistic: Callable[..., Any]) -> DoubleArray:
        drawn = _resampled(new, blocks[1], statistic, rng)
        return np.asarray(np.log(drawn) - np.log(_resampled(old, blocks[0], statistic, rng)))

    logs, ratio = log_ratios(first, second, statistic), float(statistic(second) / statistic(first))
    if paces is not None:
        own, other = (np.asarray(pace, np.float64) for pace in paces)
        # In logarithms the division by the pace is a subtraction, and its own uncertainty is included.
        logs -= log_ratios(own, other, fastest_tenth)
        ratio /= pace_ratio(*paces)
    # The interval leaves the same share of the draws out at both ends.
    tail = (1 - confidence) / 2 * 100
    low, high = (float(value) for value in np.exp(np.percentile(logs, (tail, 100 - tail))))
    verdict: ChangeVerdict = "no change"
    if min(len(first), len(second)) < _MIN_SAMPLES:
        verdict = "too few samples"
    elif low > 1 and ratio > 1 + min_change:
        verdict = "slower"
    elif high < 1 and ratio < 1 / (1 + min_change):
        verdict = "faster"
    return Change(ratio=ratio, low=low, high=high, verdict=verdict)


def compare_results(
    before: BenchResult, after: BenchResult, names: tuple[str, str] = ("A", "B")
) -> list[MatchedRuns]:
    """Compare everything that both results measured, in the order of `after`.

    Raises InputError if the results come from different machines; `names` are their names in the message.
    """
    require_alike((before, after), names)
    known = {identity(run): run for run in before.runs}
    old, new = (result.environment.versions.get("numpy") for result in (before, after))
    pairs = ((known.get(identity(run)), run) for run in after.runs)
    # The fixed work is done by NumPy, so its times are comparable only for the same version of NumPy.
    return [compare_runs(run, later, paced=old == new) for run, later in pairs if run is not None]


def identity(run: BenchRun) -> Hashable:
    """The key that two runs must share to count as runs of the same thing.

    It leaves out the hash of the model file, because two versions of a model may be compared on purpose.
    """
    subject, case = run.subject, run.case
    return (
        (subject.model, subject.backend, subject.precision, subject.runner, subject.scale, subject.threads),
        (subject.streams, case.width, case.height, case.batch, case.tile, run.mode, run.throughput),
    )


def undecided(pairs: Sequence[MatchedRuns]) -> list[str]:
    """Return a line for every pair that has too few samples to be judged."""
    return [
        f"{pair.after.subject.name} on {pair.after.case.label}: {len(pair.before.samples)} and "
        f"{len(pair.after.samples)} samples are too few to judge, {_MIN_SAMPLES} each are needed"
        for pair in pairs
        if pair.change.verdict == "too few samples"
    ]


def regressions(pairs: Sequence[MatchedRuns], allowed: float) -> list[str]:
    """Return a line for every pair that became slower by more than `allowed` (0.05: 5 %) beyond its spread."""
    lines = []
    for pair in pairs:
        change = pair.change
        if change.verdict == "slower" and change.ratio > 1 + allowed:
            times = " to ".join(
                f"{1000 * fastest_tenth(run.samples):.2f}" for run in (pair.before, pair.after)
            )
            note = f", {pair.note}" if pair.note else ""
            lines.append(
                f"{pair.after.subject.name} on {pair.after.case.label}: {change.percent} ({times} ms{note}, between "
                f"{change.low - 1:+.1%} and {change.high - 1:+.1%}), allowed are {allowed:+.1%}"
            )
    return lines


def compare_runs(before: BenchRun, after: BenchRun, *, paced: bool = True) -> MatchedRuns:
    """Compare two runs, whatever was measured in them. `paced` says that both did the same fixed work.

    If other processes took more than a tenth of the cores during either run, processor time is compared:
    other processes lengthen the elapsed time as evenly as a slower program would, but hardly the processor
    time.
    """
    busy = max(before.others or 0.0, after.others or 0.0) > BUSY
    if busy and before.cpu and after.cpu and min(sum(before.cpu), sum(after.cpu)) > 0:
        change = compare_times(before.cpu, after.cpu, by_mean=True)
        return MatchedRuns(before=before, after=after, change=change, by="processor time")
    if before.throughput:
        # Samples in flight together wait for each other, so only their number in a second counts.
        return MatchedRuns(
            before=before,
            after=after,
            change=compare_times(_shared_times(before), _shared_times(after), by_mean=True),
        )
    paces = (
        (before.pace, after.pace)
        if paced and min(len(before.pace), len(after.pace)) >= MIN_PACE_TIMES
        else None
    )
    change = compare_times(before.samples, after.samples, paces=paces)
    return MatchedRuns(
        before=before, after=after, change=change, machine=pace_ratio(*paces) if paces else 1.0
    )


def pace_ratio(before: Sequence[float], after: Sequence[float]) -> float:
    """Ratio of the times of the fixed work: 1.05 if it took 5 % longer in `after`."""
    return float(fastest_tenth(after) / fastest_tenth(before))


def fastest_tenth(seconds: Sequence[float] | DoubleArray, axis: Any = None) -> Any:
    """The tenth percentile of times in seconds, along `axis` if it is given."""
    return np.quantile(np.asarray(seconds, np.float64), 0.1, axis=axis)


def _shared_times(run: BenchRun) -> Sequence[float]:
    """The samples of a run in throughput mode, scaled so that their sum is its elapsed time."""
    factor = run.wall / sum(run.samples)
    return [seconds * factor for seconds in run.samples]


def _resampled(
    times: DoubleArray, blocks: int, statistic: Callable[..., Any], rng: np.random.Generator
) -> DoubleArray:
    """Draw `_DRAWS` series of the length of `times` from random blocks; return their statistics.

    The last block is cut off where the series is long enough.
    """
    count = len(times)
    length = max(1, count // blocks)
    starts = rng.integers(0, count - length + 1, (_DRAWS, -(-count // length)))
    drawn = times[(starts[:, :, None] + np.arange(length)).reshape(_DRAWS, -1)[:, :count]]
    values: DoubleArray = statistic(drawn, axis=1)
    return values
