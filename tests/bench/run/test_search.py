"""Bisection finds the largest size that holds with few measurements."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.bench.run.search import LARGEST, SMALLEST, largest_size
from sr_deploy.bench.sizes import Size


@given(st.integers(1, 6000), st.sampled_from([16 / 9, 4 / 3, 1.0, 9 / 16]), st.integers(16, 4000))
def test_the_largest_size_that_holds_is_found_within_the_tolerance(
    limit: int, aspect: float, first: int
) -> None:
    asked: list[int] = []

    def holds(size: Size) -> bool:
        asked.append(size.height)
        return size.height <= limit

    found = largest_size(holds, aspect, first=first)
    assert len(asked) <= 20
    if limit < SMALLEST:
        assert found is None
        return
    assert found is not None
    assert found.height <= limit
    assert found.height >= min(limit, LARGEST) - max(4, 0.02 * limit)
    assert abs(found.width - found.height * aspect) <= 0.5


def test_nothing_is_asked_beyond_the_ends() -> None:
    asked: list[int] = []

    def never(size: Size) -> bool:
        asked.append(size.height)
        return False

    assert largest_size(never, 16 / 9, first=40) is None
    assert min(asked) == SMALLEST
    everything = largest_size(lambda size: True, 16 / 9, first=3000)
    assert everything is not None
    assert everything.height == LARGEST
