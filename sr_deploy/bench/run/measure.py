"""The stopwatch: call something until its times are steady, then time it often enough, and keep every time.

It knows nothing of models. Between two samples there are two readings of the clock and a comparison. Nothing
is allocated that the garbage collector would have to inspect.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from sr_deploy.errors import UsageError

Call = Callable[[], object]
_LONG_CALL = 2.0  # seconds; a call this long is its own warm-up


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Effort for one measurement: how many samples, and for how long.

    Sampling ends when both `samples` and `seconds` are reached, or when `most_seconds` or `most_samples` is.
    Raises UsageError for negative times and for less than one sample.
    """

    samples: int = 30
    """Minimum number of samples."""
    seconds: float = 1.0
    """Minimum time of all samples together, in seconds."""
    most_seconds: float = 20.0
    """Time limit in seconds, after which no sample begins; `least_samples` are taken all the same."""
    least_samples: int = 3
    """Number of samples that are taken even beyond the time limit."""
    most_samples: int = 2000
    """Maximum number of samples, whatever `seconds` says: of 2000, twenty are above p99."""
    warm_up_seconds: float = 5.0
    """Time limit of the warm-up in seconds, whether the times are steady or not."""
    warm_up_least: float = 0.1
    """Minimum time of the warm-up in seconds, because clocks and caches need time to settle."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.least_samples < 1:
            raise UsageError(
                f"at least one sample must be taken, got {min(self.samples, self.least_samples)}"
            )
        if min(self.seconds, self.most_seconds, self.warm_up_seconds, self.warm_up_least) < 0:
            raise UsageError("times to measure must be at least 0 seconds; give positive numbers")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The times that the stopwatch took, in seconds."""

    warm_up: tuple[float, ...]
    """Time of each call of the warm-up."""
    steady: bool
    """True if the warm-up ended with steady times."""
    samples: tuple[float, ...]
    """Time of each sample, in order."""
    cpu: tuple[float, ...] = ()
    """Processor time of the whole process in each sample; empty if several were in flight."""
    wall: float
    """Time from the start of the first sample to the end of the last one, without what ran between them."""


def measure(
    call: Call, effort: Effort, before_samples: Call | None = None, after_each: Call | None = None
) -> Timing:
    """Warm `call` up, call `before_samples` once, then time `call` again and again.

    `after_each` is called after every sample; its time counts nowhere. Exceptions of `call` are passed on.
    The garbage collector is off meanwhile.
    """
    with _without_garbage_collection():
        warm_up, steady = _warm_up(call, effort)
        if before_samples is not None:
            before_samples()
        samples, cpu, wall = _take_samples(call, effort, after_each)
    return Timing(warm_up=tuple(warm_up), steady=steady, samples=tuple(samples), cpu=tuple(cpu), wall=wall)


def measure_self_timed(
    call: Callable[[], float], effort: Effort, before_samples: Call | None = None
) -> Timing:
    """Like `measure`, for a call that returns its own time in seconds, such as one taken by a device's clock."""
    clock, samples = time.perf_counter, list[float]()
    with _without_garbage_collection():
        warm_up, steady = _warm_up(call, effort)
        if before_samples is not None:
            before_samples()
        begin = clock()
        while True:
            samples.append(call())
            spent, count = clock() - begin, len(samples)
            enough = count >= effort.samples and spent >= effort.seconds
            over = spent >= effort.most_seconds or count >= max(effort.samples, effort.most_samples)
            if count >= effort.least_samples and (enough or over):
                break
    return Timing(warm_up=tuple(warm_up), steady=steady, samples=tuple(samples), wall=sum(samples))


def measure_streams(calls: Sequence[Call], effort: Effort, before_samples: Call | None = None) -> Timing:
    """Like `measure`, with one thread for each of `calls`, all of which call again and again.

    A sample is the time of one call beside the others. `wall` over the number of samples is the time that a
    sample costs.
    """
    with _without_garbage_collection(), ThreadPoolExecutor(len(calls)) as pool:
        warm_up, steady = _warm_up(lambda: list(pool.map(_invoke, calls)), effort)
        if before_samples is not None:
            before_samples()
        shared, begin = _Streams(effort), time.perf_counter()
        for future in [pool.submit(shared.run, call, begin) for call in calls]:
            future.result()
    return Timing(
        warm_up=tuple(warm_up), steady=steady, samples=tuple(shared.samples), wall=shared.end - begin
    )


class _Streams:
    """State shared by the threads of `measure_streams`.

    Appending to a list is one step under the interpreter's lock, so the samples need no lock of their own.
    """

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self.samples: list[float] = []
        self.end = 0.0
        self._failed = False

    def run(self, call: Call, begin: float) -> None:
        """Time `call` until all threads together have enough samples, or one of them fails. `begin` is the
        common start. An exception of `call` stops the other threads after their current call."""
        clock, effort = time.perf_counter, self._effort
        try:
            while not self._failed:
                start = clock()
                call()
                end = clock()
                self.samples.append(end - start)
                self.end = max(self.end, end)
                count = len(self.samples)
                late = end - begin >= effort.most_seconds or count >= max(effort.samples, effort.most_samples)
                enough = count >= effort.samples and end - begin >= effort.seconds
                if count >= effort.least_samples and (late or enough):
                    return
        except BaseException:
            self._failed = True
            raise


def _invoke(call: Call) -> object:
    """Call `call`; a function that can be mapped over the calls of a pool."""
    return call()


def _take_samples(
    call: Call, effort: Effort, after_each: Call | None
) -> tuple[list[float], list[float], float]:
    """Return the elapsed time and the processor time of each sample, and the time of all, in seconds."""
    clock, cpu_clock, outside = time.perf_counter, time.process_time, 0.0
    samples, cpu = list[float](), list[float]()
    least, enough = effort.least_samples, effort.samples
    most = max(enough, effort.most_samples)
    begin = clock()
    soonest, latest = begin + effort.seconds, begin + effort.most_seconds
    while True:
        # The readings are nested, so that reading the processor clock is not part of the elapsed time.
        cpu_start, start = cpu_clock(), clock()
        call()
        end, cpu_end = clock(), cpu_clock()
        samples.append(end - start)
        cpu.append(cpu_end - cpu_start)
        if after_each is not None:
            after_each()
            outside += clock() - end
        count = len(samples)
        over = end >= latest or count >= most
        if count >= least and (over or (count >= enough and end >= soonest)):
            # Rounding in the subtraction must not make the whole shorter than its parts.
            return samples, cpu, max(clock() - begin - outside, sum(samples))


def _warm_up(call: Call, effort: Effort) -> tuple[list[float], bool]:
    """Call until the times are steady or the limit is reached; return the times and whether they are steady."""
    clock, times = time.perf_counter, list[float]()
    begin = clock()
    while True:
        start = clock()
        call()
        end = clock()
        times.append(end - start)
        if end - begin >= effort.warm_up_least and is_steady(times):
            return times, True
        if end - begin + times[-1] > effort.warm_up_seconds and len(times) >= 2:
            return times, is_steady(times)


def is_steady(times: Sequence[float], tolerance: float = 0.05) -> bool:
    """Return whether the last calls took the same time as the calls before them, within `tolerance`.

    Compared are the medians of the last two windows. A window is a third of all calls, at most 10. Medians
    that differ by less than the range of the last window also count as equal. A call of more than two seconds
    counts as warmed up by itself.
    """
    if times[-1] > _LONG_CALL:
        return True
    if len(times) < (2 if times[-1] > 1.0 else 3):
        return False
    size = min(len(times) // 3, 10) or 1
    before, after = times[-2 * size : -size], times[-size:]
    old, new = statistics.median(before), statistics.median(after)
    return abs(old - new) <= max(tolerance * new, max(after) - min(after))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Collect once, then keep the collector off inside the block."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
