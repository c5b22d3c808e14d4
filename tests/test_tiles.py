"""Tile plans: every pixel is kept once, every tile reads enough, and all tiles have one shape."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.errors import UsageError
from sr_deploy.spec import SizeRule
from sr_deploy.tiles import plan_tiles, plan_whole

lengths = st.integers(1, 400)
rules = st.builds(SizeRule, minimum=st.integers(1, 40), multiple_of=st.sampled_from([1, 2, 3, 4, 8, 16]))


@given(height=lengths, width=lengths, tile=st.integers(1, 120), halo=st.integers(0, 60), rule=rules)
def test_every_pixel_is_kept_exactly_once_and_read_with_its_halo(height, width, tile, halo, rule):
    plan = plan_tiles(height, width, tile=tile, halo=halo, rule=rule)
    axes = ((height, plan.rows, plan.read_height), (width, plan.columns, plan.read_width))
    for length, spans, read in axes:
        padded = rule.padded(length, length)[0]
        assert spans[0].keep_from == 0
        assert spans[-1].keep_to == length
        assert all(a.keep_to == b.keep_from for a, b in pairwise(spans))
        for span in spans:
            assert span.keep_from < span.keep_to
            assert 0 <= span.start <= padded - read
            assert span.start == 0 or span.keep_from - span.start >= halo
            assert span.start + read == padded or span.start + read - span.keep_to >= halo


@given(height=lengths, width=lengths, tile=st.integers(1, 120), halo=st.integers(0, 60), rule=rules)
def test_tiles_respect_the_size_rule_and_the_size_asked_for(height, width, tile, halo, rule):
    plan = plan_tiles(height, width, tile=tile, halo=halo, rule=rule)
    largest = rule.padded(max(tile, rule.multiple_of) + 2 * halo, 1)[0]
    for read, spans in ((plan.read_height, plan.rows), (plan.read_width, plan.columns)):
        assert read % rule.multiple_of == 0
        assert rule.minimum <= read <= largest
        assert all(span.start % rule.multiple_of == 0 for span in spans)


@given(
    height=lengths,
    width=lengths,
    tile=st.integers(1, 120),
    halo=st.integers(0, 60),
    unit=st.sampled_from([1, 2]),
    factor=st.sampled_from([2, 3, 8]),
)
def test_tiles_of_a_net_with_a_grid_start_on_it_and_end_with_the_picture(
    height, width, tile, halo, unit, factor
):
    """A net that pads inside takes any size; its tiles must meet the picture's end as the whole picture does."""
    rule = SizeRule(multiple_of=unit, tile_step=unit * factor)
    plan = plan_tiles(height, width, tile=tile, halo=halo, rule=rule)
    for length, spans, read in (
        (height, plan.rows, plan.read_height),
        (width, plan.columns, plan.read_width),
    ):
        padded = rule.padded(length, length)[0]
        assert read % unit == 0
        assert (padded - read) % rule.step == 0
        assert all(span.start % rule.step == 0 for span in spans)
        assert spans[-1].start + read == padded
        for span in spans:
            assert span.start == 0 or span.keep_from - span.start >= halo
            assert span.start + read == padded or span.start + read - span.keep_to >= halo


@given(height=lengths, width=lengths, fixed=st.integers(28, 90), step=st.sampled_from([1, 2, 4, 8]))
def test_a_model_of_one_size_covers_any_picture(height, width, fixed, step):
    rule = SizeRule(fixed=(fixed, fixed + 3), multiple_of=step)
    plan = plan_tiles(height, width, tile=999, halo=10, rule=rule)
    assert (plan.read_height, plan.read_width) == rule.fixed
    for length, spans, read in ((height, plan.rows, fixed), (width, plan.columns, fixed + 3)):
        assert spans[-1].keep_to == length
        for span in spans:
            assert span.start % step == 0
            assert span.start <= span.keep_from < span.keep_to <= span.start + read
            assert span.start == 0 or span.keep_from - span.start >= 10
            assert span.keep_to == length or span.start + read - span.keep_to >= 10


def test_tiles_are_balanced_so_that_less_is_read_twice():
    plan = plan_tiles(1000, 10, tile=480, halo=10, rule=SizeRule())
    assert len(plan.rows) == 3
    assert plan.read_height == 347
    plan = plan_tiles(1000, 10, tile=500, halo=10, rule=SizeRule())
    assert (len(plan.rows), plan.read_height) == (2, 510)


def test_a_picture_smaller_than_a_tile_is_taken_whole():
    assert plan_tiles(30, 40, tile=64, halo=5, rule=SizeRule()).whole
    whole = plan_whole(30, 41, SizeRule(multiple_of=4))
    assert (whole.read_height, whole.read_width, whole.count) == (32, 44, 1)


@pytest.mark.parametrize(("tile", "halo"), [(0, 1), (8, -1)])
def test_a_tile_or_overlap_that_makes_no_sense_is_refused(tile, halo):
    with pytest.raises(UsageError, match="tile must be at least 1"):
        plan_tiles(10, 10, tile=tile, halo=halo, rule=SizeRule())


def test_a_fixed_size_smaller_than_two_halos_is_refused():
    with pytest.raises(UsageError, match="smaller overlap"):
        plan_tiles(100, 100, tile=64, halo=32, rule=SizeRule(fixed=(64, 64)))
