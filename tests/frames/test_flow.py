"""The flow keeps the order, bounds the queues, and raises the right error, whichever part fails."""

from __future__ import annotations

import threading

import pytest

from sr_deploy.frames.flow import run_flow


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_everything_comes_out_once_and_in_order(workers):
    out: list[int] = []
    assert run_flow(range(500), lambda n: n * n, out.append, workers=workers, ahead=3, behind=1) == 500
    assert out == [n * n for n in range(500)]


def test_an_empty_source_is_no_error():
    assert run_flow([], str, pytest.fail) == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_what_came_before_the_sources_error_is_written(workers):
    def source():
        yield from (1, 2)
        raise ValueError("cut short")

    out: list[int] = []
    with pytest.raises(ValueError, match="cut short"):
        run_flow(source(), int, out.append, workers=workers)
    assert out == [1, 2]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_computed_before_an_error_is_written(workers):
    def compute(n: int) -> int:
        if n == 3:
            raise ArithmeticError("three")
        return n

    out: list[int] = []
    with pytest.raises(ArithmeticError, match="three"):
        run_flow(range(9), compute, out.append, workers=workers)
    assert out == [0, 1, 2]


def test_as_many_are_computed_at_once_as_there_are_workers():
    both = threading.Barrier(2, timeout=30)
    assert run_flow(range(6), lambda n: both.wait(), lambda n: None, workers=2) == 6


def test_an_endless_source_stops_when_nobody_takes_what_comes_out():
    made = 0

    def source():
        nonlocal made
        while True:
            made += 1
            yield made

    def sink(n: int) -> None:
        if n == 5:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_flow(source(), int, sink)
    assert made < 20


def test_a_result_comes_out_before_anything_else_comes_in():
    first_out = threading.Event()

    def source():
        yield 1
        assert first_out.wait(30)
        yield 2

    assert run_flow(source(), int, lambda n: first_out.set(), workers=2) == 2


def test_a_sink_that_fails_ends_it_though_nothing_comes_in():
    never = threading.Event()

    def source():
        yield 1
        never.wait(30)

    def sink(n: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_flow(source(), int, sink, shutdown_timeout=0.1)
    assert not never.is_set()
    never.set()


def test_at_most_the_asked_number_waits():
    lock, made, most = threading.Lock(), 0, 0
    out: list[int] = []

    def source():
        nonlocal made, most
        for n in range(100):
            with lock:
                made += 1
                most = max(most, made - len(out))
            yield n

    run_flow(source(), int, out.append, ahead=2, behind=2)
    assert (
        most <= 2 + (2 + 1) + 3
    )  # the queues with the worker's place, and one in the hands of each of the three


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interruption_ends_all_three(workers):
    out: list[int] = []

    def compute(n: int) -> int:
        if n == 4:
            raise KeyboardInterrupt
        return n

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        run_flow(range(10**9), compute, out.append, workers=workers)
    assert set(threading.enumerate()) <= before  # one of another test may end meanwhile
    assert out == list(range(len(out)))
