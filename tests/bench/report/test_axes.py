"""Axes of the report's plots: places, ticks, and numbers as text."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.bench.report.axes import axis_of, compact, duration, size

VALUES = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20)


@given(VALUES, st.booleans())
def test_every_value_has_its_place_between_the_ends_in_order(values: list[float], log: bool) -> None:
    axis = axis_of(values, start=10, end=300, log=log)
    places = [axis.at(value) for value in sorted(values)]
    assert all(10 <= place <= 300 for place in places)
    assert places == sorted(places)


@given(VALUES, st.booleans())
def test_ticks_are_few_in_order_and_inside(values: list[float], log: bool) -> None:
    axis = axis_of(values, start=0, end=100, log=log)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 12
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks)


def test_ticks_of_decades_are_round() -> None:
    assert axis_of([0.9, 110], start=0, end=1, log=True, margin=0).ticks(7) == pytest.approx(
        [1, 2, 5, 10, 20, 50, 100]
    )


def test_equal_steps_are_equal_ratios_on_a_logarithmic_axis() -> None:
    axis = axis_of([1, 10, 100], start=300, end=0, log=True)
    assert axis.at(1) - axis.at(10) == pytest.approx(axis.at(10) - axis.at(100))


def test_what_a_logarithmic_axis_cannot_show_is_put_on_its_border() -> None:
    axis = axis_of([0.0, -1, 5, 50], start=0, end=100, log=True)
    assert axis.at(0.0) == 0
    assert axis.low > 0


def test_an_axis_of_one_value_or_none_has_room_around() -> None:
    for values in ([], [3.0], [0.0], [math.nan]):
        axis = axis_of(values, start=0, end=1)
        assert axis.low < axis.high


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (8.5e-5, "85 µs"),
        (0.0001, "0.1 ms"),
        (0.016667, "16.7 ms"),
        (0.99949, "999 ms"),
        (1.234, "1.23 s"),
    ],
)
def test_a_time_is_told_in_the_unit_that_reads_best(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (640, "640"), (999.9, "1k"), (2_073_600, "2.07M"), (0.25, "0.25"), (3e9, "3G")],
)
def test_a_number_is_told_in_few_characters(value: float, text: str) -> None:
    assert compact(value) == text


def test_bytes_are_told_in_binary_units() -> None:
    assert [size(v) for v in (12, 2048, 5 * 2**20, 1.5 * 2**30)] == ["12 bytes", "2 KiB", "5 MiB", "1.5 GiB"]
