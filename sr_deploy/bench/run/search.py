"""The largest size of an aspect ratio that holds a budget, by bisection over the rows of the picture."""

from __future__ import annotations

from collections.abc import Callable

from sr_deploy.bench.sizes import Size, size_of_height

SMALLEST, LARGEST = 16, 4320
"""Rows of a picture, between which is searched."""


def largest_size(
    holds: Callable[[Size], bool],
    aspect: float,
    *,
    first: int = 270,
    tolerance: float = 0.02,
    least: int = SMALLEST,
    most: int = LARGEST,
) -> Size | None:
    """The largest size of `aspect` (width over height) for which `holds` says yes; None where none does.

    Time grows with size, so what holds is found by doubling or halving from `first` rows, then by bisection until
    the rows are known within `tolerance`. `holds` is asked at most some 15 times, of even heights only.
    """
    low, high = _bracket(holds, aspect, _even(first, least, most), least, most)
    if low is None:
        return None
    while high is not None and high - low > max(2, tolerance * low):
        middle = _even((low + high) // 2, least, most)
        if middle in (low, high):
            break
        low, high = (middle, high) if holds(size_of_height(middle, aspect)) else (low, middle)
    return size_of_height(low, aspect)


def _bracket(
    holds: Callable[[Size], bool], aspect: float, rows: int, least: int, most: int
) -> tuple[int | None, int | None]:
    """Rows that hold and rows that do not; None for what there is not between `least` and `most`."""
    if holds(size_of_height(rows, aspect)):
        while rows < most:
            larger = _even(rows * 2, least, most)
            if not holds(size_of_height(larger, aspect)):
                return rows, larger
            rows = larger
        return rows, None
    while rows > least:
        smaller = _even(rows // 2, least, most)
        if holds(size_of_height(smaller, aspect)):
            return smaller, rows
        rows = smaller
    return None, rows


def _even(rows: int, least: int, most: int) -> int:
    return min(most, max(least, rows // 2 * 2))
