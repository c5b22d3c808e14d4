"""Record runs: time a call with the stopwatch, and read memory, energy and other processes beside it.

It knows neither engines nor pictures. `runner` makes the calls, and so do the peers of a benchmark.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject, ColdStart, Memory
from sr_deploy.bench.run.environment import load
from sr_deploy.bench.run.measure import Effort, Timing, measure, measure_self_timed, measure_streams
from sr_deploy.bench.run.pace import PaceMeter
from sr_deploy.bench.run.usage import EnergyMeter, OtherProcesses, peak_resident, reset_peak, resident
from sr_deploy.engines.registry import GPU_BACKENDS

T = TypeVar("T")


@dataclass(kw_only=True)
class SampledCall:
    """The call that a sample measures, with what belongs to it."""

    call: Callable[[], object]
    """The work of one sample."""
    stages: Mapping[str, list[float]] = field(default_factory=dict)
    """Stage -> list to which `call` appends the seconds of that stage."""
    tiles: int = 1
    """Number of tiles that a picture is cut into."""
    self_timed: Callable[[], float] | None = None
    """Like `call`, but returns the seconds it took by another clock, such as a device's."""
    after: Callable[[], object] | None = None
    """Called after every sample, and not timed."""
    device_memory: Callable[[], int | None] = lambda: None
    """Returns the bytes taken on a device; called once at the end."""


class Recorder:
    """Record the runs of one subject. Create it before the subject is opened: memory is counted from then."""

    def __init__(self, subject: BenchSubject) -> None:
        self.subject = subject
        # the pace of the processor says nothing about a GPU
        self._pace = None if subject.backend in GPU_BACKENDS else PaceMeter()
        self._resident = resident()
        self._open_seconds = 0.0
        self._cold: ColdStart | None = None

    def time_opening(self, opening: Callable[[], T]) -> T:
        """Call `opening`, keep its time as the first part of the cold start, and return its result."""
        start = time.perf_counter()
        made = opening()
        self._open_seconds = time.perf_counter() - start
        return made

    def record(
        self, case: BenchCase, mode: str, throughput: bool, effort: Effort, works: Sequence[SampledCall]
    ) -> BenchRun:
        """Measure `works`, which all do the same: the first one, or all at once with `throughput`.

        The first run of a recorder also measures the cold start. Exceptions of a call are passed on.
        """
        reset_peak()
        if self._cold is None:
            self._cold = self._measure_cold_start(works[0])
        # The pace is measured on idle cores, so only where one call on the processor follows the other.
        plain = mode == "end-to-end" and not throughput and works[0].self_timed is None
        pace = self._pace if plain else None
        with _Meters(works) as meters:
            timing = _take_timing(works, throughput, effort, meters.begin, pace)
        # Some platforms cannot reset the peak; there it also covers the earlier runs of this process.
        peak, before = peak_resident(), self._resident
        return BenchRun(
            subject=self.subject,
            case=replace(case, tiles=works[0].tiles),
            mode=mode,
            throughput=throughput,
            warm_up=timing.warm_up,
            steady=timing.steady,
            samples=timing.samples,
            cpu=timing.cpu,
            wall=timing.wall,
            pace=tuple(pace.seconds) if pace else (),
            stages={} if throughput else {name: tuple(v) for name, v in works[0].stages.items()},
            cold_start=self._cold,
            memory=Memory(
                host=max(0, peak - before) if peak is not None and before is not None else None,
                host_total=peak,
                device=works[0].device_memory(),
            ),
            energy=meters.joules,
            load=load(),
            others=meters.others,
        )

    def _measure_cold_start(self, work: SampledCall) -> ColdStart:
        """Time the very first call, before any warm-up."""
        start = time.perf_counter()
        work.call()
        return ColdStart(open=self._open_seconds, first=time.perf_counter() - start)


class _Meters:
    """Read energy and the load by other processes from the end of the warm-up to the last sample."""

    def __init__(self, works: Sequence[SampledCall]) -> None:
        self._works = works
        self.joules: float | None = None
        self.others: float | None = None

    def begin(self) -> None:
        """Start the meters and drop the stage times of the warm-up."""
        for work in self._works:
            for seconds in work.stages.values():
                seconds.clear()
        self._energy, self._other_processes = EnergyMeter(), OtherProcesses()

    def __enter__(self) -> _Meters:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.joules, self.others = self._energy.joules(), self._other_processes.share()


def _take_timing(
    works: Sequence[SampledCall],
    throughput: bool,
    effort: Effort,
    begin: Callable[[], None],
    pace: PaceMeter | None,
) -> Timing:
    """Choose the stopwatch for `works`: several streams, a device's clock, or ours with or without the pace."""
    if throughput:
        return measure_streams([work.call for work in works], effort, begin)
    if works[0].self_timed is not None:
        return measure_self_timed(works[0].self_timed, effort, begin)
    if pace is None:
        return measure(works[0].call, effort, begin, works[0].after)

    # The pace comes first, so that the meters do not count its untimed work.
    def begin_both() -> None:
        pace.begin()
        begin()

    def after_each() -> None:
        if works[0].after is not None:
            works[0].after()
        pace()

    return measure(works[0].call, effort, begin_both, after_each)
