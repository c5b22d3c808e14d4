"""Tests of the pool of lanes."""

from __future__ import annotations

import threading
import time

import pytest

from sr_deploy.engines.tensorrt.lane import Lanes
from sr_deploy.errors import OutOfMemoryError, UsageError


class FakeLane:
    """A stand-in for a lane that knows whether it was released."""

    count = 0

    def __init__(self) -> None:
        self.closed = False
        FakeLane.count += 1

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def test_lanes_are_made_when_needed_and_used_again():
    made: list[FakeLane] = []
    lanes = Lanes(lambda: made.append(FakeLane()) or made[-1], 3)
    first = lanes.take()
    lanes.give_back(first)
    assert lanes.take() is first
    second = lanes.take()
    assert made == [first, second]


def test_who_does_not_wait_gets_nothing_when_all_are_busy():
    lanes = Lanes(FakeLane, 1)
    lane = lanes.take()
    assert lanes.take(wait=False) is None
    lanes.give_back(lane)
    assert lanes.take(wait=False) is lane


def test_who_waits_gets_the_next_that_comes_back():
    lanes, got = Lanes(FakeLane, 1), []
    lane = lanes.take()
    thread = threading.Thread(target=lambda: got.append(lanes.take()))
    thread.start()
    time.sleep(0.05)
    assert got == []
    lanes.give_back(lane)
    thread.join(10)
    assert got == [lane]


def test_no_more_than_the_most_are_busy_at_once():
    lanes, busy, most = Lanes(FakeLane, 3), set(), []
    lock = threading.Lock()

    def work():
        for _ in range(50):
            lane = lanes.take()
            with lock:
                assert lane not in busy
                busy.add(lane)
                most.append(len(busy))
            with lock:
                busy.remove(lane)
            lanes.give_back(lane)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 400
    assert max(most) <= 3


def test_a_failed_lane_is_released_and_another_made():
    lanes = Lanes(FakeLane, 1)
    lane = lanes.take()
    lanes.discard(lane)
    assert lane.closed
    assert lanes.take() is not lane


def test_where_memory_does_not_suffice_for_another_those_there_have_to_do():
    first = FakeLane()
    supply = iter([first])

    def make():
        for lane in supply:
            return lane
        raise OutOfMemoryError("no memory left")

    lanes = Lanes(make, 5)
    assert lanes.take() is first
    assert lanes.take(wait=False) is None
    lanes.give_back(first)
    assert lanes.take() is first


def test_no_memory_for_the_first_is_an_error():
    def make():
        raise OutOfMemoryError("no memory left")

    with pytest.raises(OutOfMemoryError):
        Lanes(make, 2).take()


def test_trimming_releases_what_is_idle_alone():
    lanes = Lanes(FakeLane, 2)
    busy, idle = lanes.take(), lanes.take()
    lanes.give_back(idle)
    lanes.trim()
    assert (busy.closed, idle.closed) == (False, True)
    assert lanes.idle() == ()


def test_closing_waits_for_busy_lanes_and_then_nothing_can_be_taken():
    lanes = Lanes(FakeLane, 2)
    busy, idle = lanes.take(), lanes.take()
    lanes.give_back(idle)
    timer = threading.Timer(0.1, lambda: lanes.give_back(busy))
    timer.start()
    lanes.close()
    assert (busy.closed, idle.closed) == (True, True)
    with pytest.raises(UsageError, match="closed"):
        lanes.take()


def test_closing_wakes_those_who_wait():
    lanes, errors = Lanes(FakeLane, 1), []
    busy = lanes.take()

    def wait():
        try:
            lanes.take()
        except UsageError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    timer = threading.Timer(0.1, lambda: lanes.give_back(busy))
    timer.start()
    lanes.close()
    thread.join(10)
    assert len(errors) == 1
