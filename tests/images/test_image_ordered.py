"""`in_order` returns results in order, uses as many threads as asked for, and ends early when told to."""

from __future__ import annotations

import threading
import time

import pytest

from sr_deploy.images.codecs.ordered import in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_results_come_in_order(workers: int, count: int) -> None:
    def slow_at_first(i: int) -> int:
        time.sleep(0.003 if i % 3 == 0 else 0)
        return i * i

    assert list(in_order(slow_at_first, count, workers)) == [i * i for i in range(count)]


def test_several_threads_work_at_once() -> None:
    meeting = threading.Barrier(3, timeout=20)
    assert list(in_order(lambda i: meeting.wait() >= 0, 3, 3)) == [True] * 3


def test_what_nobody_takes_is_bounded() -> None:
    begun: list[int] = []
    results = in_order(lambda i: begun.append(i), 100, 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 5
    results.close()


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    begun: list[int] = []

    def fails_at_five(i: int) -> int:
        begun.append(i)
        if i == 5:
            raise ValueError("five")
        return i

    results = in_order(fails_at_five, 1000, 3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(begun) < 20


def test_no_thread_is_left_behind_by_whoever_stops_early() -> None:
    before = set(threading.enumerate())
    results = in_order(lambda i: i, 1000, 4)
    assert next(results) == 0
    results.close()
    assert set(threading.enumerate()) <= before


def test_a_thread_that_cannot_be_started_is_an_error_and_the_others_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, start, started = set(threading.enumerate()), threading.Thread.start, list[threading.Thread]()

    def starts_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts_one)
    with pytest.raises(RuntimeError, match="new thread"):
        list(in_order(lambda i: i, 100, 4))
    assert set(threading.enumerate()) <= before
