"""ModelSpec and SizeRule: exact through JSON, and strict about what they accept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.errors import ModelError, UsageError
from sr_deploy.spec import PRECISIONS, SCHEMA, ModelSpec, SizeRule

SIDES = st.integers(1, 4000)
RULES = st.builds(
    SizeRule,
    minimum=st.integers(1, 64),
    multiple_of=st.integers(1, 64),
    fixed=st.none() | st.tuples(SIDES, SIDES),
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SPECS = st.builds(
    ModelSpec,
    name=st.text(max_size=20),
    scale=st.integers(1, 16),
    halo=st.none() | st.integers(0, 500),
    architecture=st.text(max_size=10),
    parameters=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text()),
    channels=st.sampled_from((1, 3)),
    value_range=st.tuples(FINITE, FINITE),
    layout=st.sampled_from(("NCHW", "NHWC")),
    precision=st.sampled_from(PRECISIONS),
    size_rule=RULES,
    licence=st.none() | st.text(max_size=10),
    undecided=st.lists(st.text(max_size=10), max_size=3).map(tuple),
)


@given(SPECS)
def test_a_spec_survives_json_exactly(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec


@given(SPECS)
def test_equal_specs_are_equal_bytes(spec):
    assert ModelSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@given(RULES.filter(lambda rule: rule.fixed is None), SIDES, SIDES)
def test_a_padded_size_is_the_smallest_the_rule_allows(rule, height, width):
    for asked, given_side in zip((height, width), rule.padded(height, width), strict=True):
        assert given_side >= max(asked, rule.minimum)
        assert given_side % rule.multiple_of == 0
        assert given_side - rule.multiple_of < max(asked, rule.minimum)


def test_a_fixed_size_pads_what_is_smaller_and_refuses_what_is_larger():
    rule = SizeRule(fixed=(32, 48))
    assert rule.padded(5, 48) == (32, 48)
    with pytest.raises(UsageError, match="takes 48x32 pixels only, got 20x33"):
        rule.padded(33, 20)


@pytest.mark.parametrize("wrong", [{"minimum": 0}, {"multiple_of": 0}, {"fixed": (0, 4)}])
def test_a_size_rule_wants_positive_numbers(wrong):
    with pytest.raises(UsageError, match="positive"):
        SizeRule(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0},
        {"scale": 2.0},
        {"halo": -1},
        {"channels": 4},
        {"layout": "CHW"},
        {"precision": "fp8"},
        {"schema": SCHEMA + 1},
    ],
)
def test_a_spec_that_makes_no_sense_names_the_model_and_the_value(wrong):
    with pytest.raises(ModelError, match="'net'.*" + str(next(iter(wrong.values())))):
        ModelSpec(**({"name": "net", "scale": 2, "halo": 1} | wrong))


def record(**changes: object) -> str:
    return json.dumps(json.loads(ModelSpec(name="net", scale=2, halo=1).to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        (record(schema=SCHEMA + 1), f"has schema {SCHEMA + 1}, this version knows {SCHEMA}"),
        (json.dumps({"name": "net", "scale": 2, "halo": 1}), "schema None"),
        (record(colour="blue"), "unknown fields: colour"),
        (json.dumps({"schema": SCHEMA, "name": "net"}), "not complete"),
        (record(size_rule={"minimum": 0}), "not complete"),
        (record(size_rule={"squared": True}), "not complete"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(text, says):
    with pytest.raises(ModelError, match=says):
        ModelSpec.from_json(text)
