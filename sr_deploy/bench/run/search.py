"""Find the largest size of an aspect ratio that keeps a budget, by bisection over the rows of the picture."""

from __future__ import annotations

from collections.abc import Callable

from sr_deploy.bench.sizes import Size, size_of_height

SMALLEST, LARGEST = 16, 4320
"""Smallest and largest number of rows of a picture that is tried."""


def largest_size(
    holds: Callable[[Size], bool],
    aspect: float,
    *,
    first: int = 270,
    tolerance: float = 0.02,
    least: int = SMALLEST,
    most: int = LARGEST,
) -> Size | None:
    """Return the largest size for which `holds` is true, or None if there is none.

    Time grows with size. So the search doubles or halves the rows from `first` until it has a size that holds
    and one that does not, then bisects until the rows are known within `tolerance`. It needs at
    most about 15 calls of `holds`.

    Args:
        holds: Measures a size and returns whether it keeps the budget. It is asked for even heights only.
        aspect: Width over height.
        first: Rows of the first size to try.
        tolerance: Relative precision of the rows, 0.02 for 2 %; never finer than two rows.
        least: Smallest number of rows.
        most: Largest number of rows.
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
    """Find rows that hold and rows that do not; None for either if there are none between `least` and `most`."""
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
    """The even number at or below `rows`, kept between `least` and `most`."""
    return min(most, max(least, rows // 2 * 2))
