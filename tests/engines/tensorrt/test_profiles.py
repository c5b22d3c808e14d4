"""Tests of planning profiles, choosing one for a shape, and checking options."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.engines.tensorrt.options import BuildOptions, TensorRTOptions, parse_sizes
from sr_deploy.engines.tensorrt.profiles import Profile, choose_profile, largest_size, plan_profiles
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.json_values import from_plain, to_plain

ANY = ModelSpec(name="any", scale=4, halo=5)
EIGHTS = ModelSpec(name="eights", scale=2, halo=8, size_rule=SizeRule(minimum=16, multiple_of=8))
FIXED = ModelSpec(name="fixed", scale=2, halo=8, size_rule=SizeRule(fixed=(48, 64)))
side = st.integers(1, 3000)
options = st.builds(
    BuildOptions,
    sizes=st.lists(st.tuples(side, side), max_size=4).map(tuple),
    tile=st.integers(16, 2000),
    small=st.integers(1, 600),
    max_batch=st.integers(1, 4),
)


@given(options, st.sampled_from([ANY, EIGHTS]), st.data())
def test_every_size_up_to_the_limits_is_covered(built, spec, data):
    profiles = plan_profiles(spec, built)
    tall, wide = largest_size(profiles)
    height, width = data.draw(st.integers(1, tall)), data.draw(st.integers(1, wide))
    shape = (data.draw(st.integers(1, built.max_batch)), *spec.size_rule.padded(height, width))
    chosen = profiles[choose_profile(profiles, shape)]
    assert chosen.covers(shape)
    assert all(chosen.largest_pixels <= other.largest_pixels for other in profiles if other.covers(shape))


@given(options, st.sampled_from([ANY, EIGHTS]))
def test_a_frequent_size_has_a_profile_of_exactly_that_size(built, spec):
    profiles = plan_profiles(spec, built)
    for size in built.sizes:
        shape = (1, *spec.size_rule.padded(*size))
        assert profiles[choose_profile(profiles, shape)].best == shape


@given(options, st.sampled_from([ANY, EIGHTS, FIXED]))
def test_profiles_obey_the_size_rule(built, spec):
    for profile in plan_profiles(spec, built):
        for _, height, width in (profile.low, profile.high):
            assert spec.size_rule.padded(height, width) == (height, width)


def test_usual_profiles_are_small_and_tile_beside_the_frequent_sizes():
    names = [p.name for p in plan_profiles(ANY, BuildOptions(sizes=((1080, 1920), (360, 640))))]
    assert names == ["1920x1080", "640x360", "small", "tile"]


def test_a_fixed_model_has_the_one_profile():
    profiles = plan_profiles(FIXED, BuildOptions(sizes=((100, 100),), max_batch=2))
    assert [(p.low, p.high) for p in profiles] == [((1, 48, 64), (2, 48, 64))]


def test_what_no_profile_covers_is_an_error_that_names_the_largest():
    profiles = plan_profiles(ANY, BuildOptions(tile=512))
    with pytest.raises(UsageError, match=r"1 pictures of 600x20 pixels.*512x512.*--tile"):
        choose_profile(profiles, (1, 20, 600))


@given(options)
def test_profiles_and_options_survive_json(built):
    assert from_plain(BuildOptions, json.loads(json.dumps(to_plain(built)))) == built
    for profile in plan_profiles(ANY, built):
        assert from_plain(Profile, json.loads(json.dumps(to_plain(profile)))) == profile


def test_a_profile_that_holds_nothing_is_refused():
    with pytest.raises(UsageError, match="does not hold"):
        Profile(name="x", low=(1, 9, 9), best=(1, 8, 9), high=(1, 9, 9))


def test_sizes_are_read_as_people_write_them():
    assert parse_sizes("1920x1080, 640X360,,1920x1080") == ((1080, 1920), (360, 640))
    assert parse_sizes("") == ()


@pytest.mark.parametrize("text", ["1920", "1920x", "x5", "axb", "10x10x10", "-1x5"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        parse_sizes(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile": 8},
        {"small": 0},
        {"max_batch": 0},
        {"optimisation_level": 6},
        {"workspace_mib": 0},
        {"sizes": ((0, 5),)},
        {"sizes": ((5, 1 << 20),)},
        {"hardware_compatible": "all"},
    ],
)
def test_build_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        BuildOptions(**wrong)


@pytest.mark.parametrize("wrong", [{"contexts": 0}, {"device": -1}, {"context": "mine"}, {"shapes_kept": 0}])
def test_run_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        TensorRTOptions(**wrong)
