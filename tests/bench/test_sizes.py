"""Sizes by name and by number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.bench.sizes import (
    DEFAULT_SIZES,
    LARGEST_SIDE,
    Size,
    parse_aspect,
    parse_size,
    size_of_height,
)
from sr_deploy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "width", "height"),
    [
        ("360p", 640, 360),
        ("1080P", 1920, 1080),
        ("4k", 3840, 2160),
        ("637x481", 637, 481),
        (" 512 ", 512, 512),
    ],
)
def test_names_and_numbers_are_understood(text: str, width: int, height: int) -> None:
    size = parse_size(text)
    assert (size.width, size.height) == (width, height)


@given(st.integers(1, LARGEST_SIDE), st.integers(1, LARGEST_SIDE))
def test_what_a_size_is_called_means_that_size(width: int, height: int) -> None:
    assert parse_size(Size(f"{width}x{height}", width, height).label) == Size(
        f"{width}x{height}", width, height
    )


@pytest.mark.parametrize("text", ["0", "0x5", "40000", "9x40000", "12x", "big", "", "-5", "1x2x3", "1e3"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(UsageError, match="did you mean 1080p"):
        parse_size("108p")


def test_a_list_keeps_its_order_and_has_nothing_twice() -> None:
    from benchmarks.peers import parse_sizes

    assert [size.label for size in parse_sizes("540p,90p,540p,7x5")] == ["540p", "90p", "7x5"]


@pytest.mark.parametrize("text", ["16:0", "0", "wide", "nan", "-4:3", "1:1000"])
def test_an_aspect_ratio_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_aspect(text)


def test_a_height_and_an_aspect_ratio_make_a_size() -> None:
    assert size_of_height(1080, parse_aspect("16:9")) == Size("1080p", 1920, 1080)
    assert size_of_height(99, parse_aspect("1.5")).width in (148, 149)


def test_the_default_sizes_grow_and_hold_an_odd_one() -> None:
    pixels = [size.pixels for size in DEFAULT_SIZES]
    assert pixels == sorted(pixels)
    assert any(size.width % 2 and size.height % 2 for size in DEFAULT_SIZES)
