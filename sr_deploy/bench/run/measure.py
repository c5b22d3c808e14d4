"""The stopwatch: call something until its times are steady, then often enough, and keep every time.

Knows nothing of models. Between two samples stand two readings of the clock and a comparison, and nothing is
allocated that the collector would have to look at.
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
_LONG_CALL = 2.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure one thing: until both `samples` and `seconds` are reached, or `most_seconds` are."""

    samples: int = 30
    seconds: float = 1.0
    most_seconds: float = 20.0
    """No sample is begun after so many; at least `least_samples` are taken all the same."""
    least_samples: int = 3
    most_samples: int = 2000
    """Nor so many, whatever `seconds` says: p99 stands on twenty of them."""
    warm_up_seconds: float = 5.0
    """The warm-up ends after so many, steady or not."""
    warm_up_least: float = 0.1
    """And not before so many: clocks and caches take their time."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.least_samples < 1:
            raise UsageError(
                f"at least one sample must be taken, got {min(self.samples, self.least_samples)}"
            )
        if min(self.seconds, self.most_seconds, self.warm_up_seconds, self.warm_up_least) < 0:
            raise UsageError("times to measure must be at least 0 seconds; give positive numbers")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What the stopwatch showed, in seconds."""

    warm_up: tuple[float, ...]
    steady: bool
    samples: tuple[float, ...]
    cpu: tuple[float, ...] = ()
    """Processor time of the whole process in every sample; none where several were in flight."""
    wall: float
    """From the first sample's start to the last one's end."""


def measure(
    call: Call, effort: Effort, before_samples: Call | None = None, after_each: Call | None = None
) -> Timing:
    """Warm `call` up, call `before_samples` once, then time `call` again and again.

    `after_each` is called after every sample, and its time counts nowhere.

    Whatever `call` raises goes through. The garbage collector rests meanwhile.
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
    """As `measure`, for a call that returns the seconds it took by another clock, such as a device's."""
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
    """As `measure`, with one thread for each of `calls`, all of them calling again and again until it is enough.

    A sample is what one call took beside the others; `wall` over the number of samples is the time a sample costs.
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
    """What the threads of `measure_streams` share; appending to a list is one step under the interpreter's lock."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self.samples: list[float] = []
        self.end = 0.0
        self._failed = False

    def run(self, call: Call, begin: float) -> None:
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
    return call()


def _take_samples(
    call: Call, effort: Effort, after_each: Call | None
) -> tuple[list[float], list[float], float]:
    clock, cpu_clock, outside = time.perf_counter, time.process_time, 0.0
    samples, cpu = list[float](), list[float]()
    least, enough = effort.least_samples, effort.samples
    most = max(enough, effort.most_samples)
    begin = clock()
    soonest, latest = begin + effort.seconds, begin + effort.most_seconds
    while True:
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
            return samples, cpu, max(clock() - begin - outside, sum(samples))


def _warm_up(call: Call, effort: Effort) -> tuple[list[float], bool]:
    """The times of the calls until they were steady, and whether they were."""
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
    """Whether the last calls took what those before them took, within `tolerance`.

    Compared are the medians of the last two windows, of a third of all calls each, at most 10. Medians that differ
    by less than the range of the last window count as equal; a call of more than two seconds warms itself up.
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
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
