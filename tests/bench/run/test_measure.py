"""The stopwatch, on a clock that only moves when a call moves it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest

import sr_deploy.bench.run.measure as measure_module
from sr_deploy.bench.run.measure import Effort, is_steady, measure, measure_self_timed, measure_streams
from sr_deploy.errors import UsageError


class Clock:
    """A clock that each call advances by the next of the given seconds; the last one repeats."""

    def __init__(self, seconds: Iterable[float]) -> None:
        self.now, self._seconds = 100.0, iter(seconds)
        self._last = 0.0
        self.calls = 0

    def call(self) -> None:
        self._last = next(self._seconds, self._last)
        self.now += self._last
        self.calls += 1


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[float]], Clock]:
    def make(seconds: Iterable[float]) -> Clock:
        clock = Clock(seconds)
        monkeypatch.setattr(
            measure_module,
            "time",
            SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: 2 * clock.now),
        )
        return clock

    return make


def test_samples_are_what_the_calls_took_and_warm_ups_are_apart(on: Callable[..., Clock]) -> None:
    clock = on([0.9, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])
    timing = measure(clock.call, Effort(samples=5, seconds=0))
    assert timing.samples == pytest.approx((0.2,) * 5)
    assert timing.cpu == pytest.approx((0.4,) * 5)
    assert timing.steady
    assert timing.warm_up[:3] == pytest.approx((0.9, 0.5, 0.2))
    assert timing.wall == pytest.approx(1.0)
    assert clock.calls == len(timing.warm_up) + len(timing.samples)


def test_both_the_samples_and_the_seconds_are_reached(on: Callable[..., Clock]) -> None:
    assert len(measure(on([0.1]).call, Effort(samples=7, seconds=0.35)).samples) == 7
    assert len(measure(on([0.1]).call, Effort(samples=2, seconds=0.35)).samples) == 4


def test_what_takes_long_ends_after_the_most_seconds_but_not_before_the_least_samples(
    on: Callable[..., Clock],
) -> None:
    assert len(measure(on([1.5]).call, Effort(samples=100, most_seconds=6.1)).samples) == 5
    assert len(measure(on([50.0]).call, Effort(samples=100, most_seconds=6, least_samples=3)).samples) == 3


def test_what_is_quick_ends_with_the_most_samples_unless_more_are_asked_for(on: Callable[..., Clock]) -> None:
    assert len(measure(on([1e-4]).call, Effort(samples=5, seconds=1, most_samples=40)).samples) == 40
    assert len(measure(on([1e-4]).call, Effort(samples=60, seconds=1, most_samples=40)).samples) == 60


def test_a_warm_up_that_never_settles_ends_and_is_reported(on: Callable[..., Clock]) -> None:
    clock = on([0.5 * 0.8**n for n in range(60)])
    timing = measure(clock.call, Effort(samples=1, seconds=0, warm_up_seconds=1.6))
    assert not timing.steady
    assert sum(timing.warm_up) < 2.2


def test_what_is_to_be_forgotten_is_forgotten_between_warm_up_and_samples(on: Callable[..., Clock]) -> None:
    clock, seen = on([0.1]), []

    def call() -> None:
        seen.append(clock.calls)
        clock.call()

    timing = measure(call, Effort(samples=4, seconds=0), seen.clear)
    assert len(seen) == len(timing.samples) == 4


@pytest.mark.parametrize(
    ("times", "steady"),
    [
        ([0.1], False),
        ([0.1, 0.1], False),
        ([0.1, 0.1, 0.1], True),
        ([0.3, 0.2, 0.1], False),
        ([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], True),
        ([1.5, 1.5], True),
        ([3.0], True),
        ([0.10, 0.20, 0.10, 0.19, 0.11, 0.20, 0.10, 0.20, 0.11], True),  # noise is steady too
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], False),
    ],
)
def test_steady_means_that_the_times_no_longer_fall(times: list[float], steady: bool) -> None:
    assert is_steady(times) is steady


def test_the_garbage_collector_rests_and_comes_back_after_an_error_too() -> None:
    states = []
    measure(lambda: states.append(gc.isenabled()), Effort(samples=3, seconds=0, warm_up_least=0))
    assert states
    assert not any(states)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 / 0, Effort())
    assert gc.isenabled()


def test_every_stream_calls_and_every_call_is_a_sample() -> None:
    counts = [0, 0, 0]

    def caller(number: int) -> Callable[[], None]:
        def call() -> None:
            counts[number] += 1

        return call

    timing = measure_streams(
        [caller(n) for n in range(3)],
        Effort(samples=50, seconds=0, warm_up_least=0),
        lambda: counts.__setitem__(slice(None), [0, 0, 0]),
    )
    assert min(counts) >= 1
    assert sum(counts) == len(timing.samples) >= 50
    assert timing.wall > 0


def test_a_clock_of_the_devices_own_is_believed() -> None:
    seconds = iter([0.4, 0.4, 0.4] + [0.1] * 100)
    timing = measure_self_timed(lambda: next(seconds), Effort(samples=6, seconds=0, warm_up_least=0))
    assert timing.samples == (0.1,) * 6
    assert timing.wall == pytest.approx(0.6)


def test_a_failing_stream_ends_the_others() -> None:
    calls = 0

    def fails() -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise MemoryError("full")

    with pytest.raises(MemoryError, match="full"):
        measure_streams([fails, lambda: None], Effort(samples=10**9, seconds=60, warm_up_least=0))


@pytest.mark.parametrize("bad", [{"samples": 0}, {"least_samples": 0}, {"seconds": -1.0}])
def test_an_effort_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Effort(**bad)  # type: ignore[arg-type]
