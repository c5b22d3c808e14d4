"""ModelSpec and SizeRule: exact through JSON, and strict about their values."""

from __future__ import annotations

import json
import random
from typing import Any

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
) | st.builds(
    lambda unit, factor: SizeRule(multiple_of=unit, tile_step=unit * factor),
    st.integers(1, 8),
    st.integers(1, 8),
)
RANGES = st.tuples(st.floats(-1e6, 0), st.floats(1e-3, 1e6))
SPECS = st.builds(
    ModelSpec,
    name=st.text(min_size=1, max_size=20),
    scale=st.integers(1, 16),
    halo=st.none() | st.integers(0, 500),
    architecture=st.text(max_size=10),
    parameters=st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers() | st.text()),
    channels=st.sampled_from((1, 3)),
    value_range=RANGES,
    output_range=st.none() | RANGES,
    channel_order=st.sampled_from(("RGB", "BGR")),
    inset=st.integers(0, 100),
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


def test_tiles_keep_to_the_sizes_that_are_taken():
    with pytest.raises(UsageError, match="tile_step must be a multiple of multiple_of, got 6 and 4"):
        SizeRule(multiple_of=4, tile_step=6)


def test_fields_that_came_later_are_left_out_at_their_defaults():
    """Files from before keep their bytes, and older versions read files that need none of these fields."""
    written = json.loads(ModelSpec(name="net", scale=2, halo=3).to_json())
    assert not written.keys() & {"output_range", "channel_order", "inset"}
    assert written["size_rule"].keys() == {"minimum", "multiple_of", "fixed"}
    full = ModelSpec(name="net", scale=2, halo=3, inset=2, size_rule=SizeRule(tile_step=8))
    assert json.loads(full.to_json())["size_rule"]["tile_step"] == 8


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"minimum": 0},
        {"minimum": True},
        {"multiple_of": 0},
        {"tile_step": 0},
        {"multiple_of": 1.5},
        {"multiple_of": 10**9},
        {"fixed": (0, 4)},
        {"fixed": (4,)},
        {"fixed": [4, 4]},
        {"fixed": 4},
    ],
)
def test_a_size_rule_wants_positive_numbers(wrong):
    with pytest.raises(UsageError, match="positive"):
        SizeRule(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0},
        {"scale": 2.0},
        {"scale": True},
        {"halo": -1},
        {"halo": True},
        {"halo": 1.5},
        {"channels": 4},
        {"channels": True},
        {"channels": 3.0},
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
        (record(schema=SCHEMA + 1), f"has schema {SCHEMA + 1}, this version reads schema {SCHEMA}"),
        (json.dumps({"name": "net", "scale": 2, "halo": 1}), "schema None"),
        (record(colour="blue"), "unknown fields: 'colour'"),
        (json.dumps({"schema": SCHEMA, "name": "net"}), "not complete"),
        (record(size_rule={"minimum": 0}), "positive"),
        (record(size_rule={"squared": True}), "unknown fields: 'squared'"),
        ('{"a":' * 100_000, "not JSON"),
        (json.dumps({"schema": 10**300}), "has schema 1000"),
    ],
)
def test_a_record_that_is_not_whole_is_refused(text, says):
    with pytest.raises(ModelError, match=says):
        ModelSpec.from_json(text)


NOT_A_NUMBER = float("nan")
LIES = {
    "value_range": (
        [0, 0],
        [1, 0],
        ["a", "b"],
        [0, 1, 2],
        [0],
        [0, NOT_A_NUMBER],
        [0, 1e300],
        [0, 10**400],
        "01",
        None,
    ),
    "size_rule": (
        *("abc", None, [["minimum", 3]], {"fixed": [3]}, {"fixed": [3, 4, 5]}, {"fixed": "34"}),
        *({"multiple_of": 1.5}, {"minimum": True}, {"minimum": "3"}, {"minimum": None}),
    ),
    "name": (5, "", None, ["net"], "half a pair \ud83d"),
    "parameters": ([1], None, "abc", {"rate": NOT_A_NUMBER}, {"text": "\udc80"}),
    "scale": (True, 2.5, "2", None, 17),
    "halo": (True, -1, 1.5, "global", [1], 10**30),
    "channels": (True, 2, "3", [3]),
    "architecture": (None, 3),
    "layout": (None, ["NCHW"]),
    "precision": (None, {}),
    "licence": (5, ["MIT"]),
    "checkpoint_sha256": (5, False),
    "recipe_sha256": ({}, 0),
    "undecided": ("abc", [1], {"a": "b"}, None),
    "schema": (True, 1.0, "1", None),
}


@pytest.mark.parametrize(("field", "lie"), [(field, lie) for field, lies in LIES.items() for lie in lies])
def test_a_record_of_which_one_field_lies_is_refused_in_one_line(field, lie):
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_json(record(**{field: lie}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_missing_field_is_named_and_sent_to_stamp():
    with pytest.raises(ModelError, match=r"not complete: scale, halo missing.*sr-deploy stamp --force"):
        ModelSpec.from_json(json.dumps({"schema": SCHEMA, "name": "net"}))


def test_whole_numbers_for_black_and_white_are_the_same_record():
    whole, real = (
        ModelSpec(name="net", scale=2, halo=1, value_range=ends) for ends in ((0, 255), (0.0, 255.0))
    )
    assert whole == real
    assert whole.to_json() == real.to_json()


ANYTHING: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, 16, 10**400, 0.5, 1e999, -1e308, NOT_A_NUMBER),
    *(
        "",
        "a",
        "NCHW",
        "fp16",
        "\ud800",
        "\n",
        [],
        [1, 2],
        [0.0, 1.0],
        ["a"],
        [[]],
        {},
        {"a": 1},
        {"fixed": [8, 8]},
    ),
)


def mutated(value: Any, rng: random.Random) -> Any:
    """The JSON value `value` with one change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        kept = {k: v for k, v in value.items() if k != key}
        change = rng.random()
        if change < 0.1:
            return kept
        if change < 0.2:
            return kept | {rng.choice(["", "a", "scale", "minimum"]): value[key]}
        return kept | {key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        i = rng.randrange(len(value))
        return [*value[:i], mutated(value[i], rng), *value[i + 1 :]]
    return rng.choice(ANYTHING)


def test_thousands_of_mutated_records_are_sound_or_refused():
    rng = random.Random(5)
    whole = json.loads(
        record(size_rule={"minimum": 4, "multiple_of": 2, "fixed": [8, 8]}, parameters={"a": [1]})
    )
    sound = refused = 0
    for _ in range(5000):
        value = whole
        for _ in range(rng.randint(1, 3)):
            value = mutated(value, rng)
        text = json.dumps(value)
        if rng.random() < 0.2:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice('[]{}",:0e-\\n\x00') + text[at + 1 :]
        try:
            spec = ModelSpec.from_json(text)
        except ModelError:
            refused += 1
        else:
            sound += 1
            low, high = spec.value_range
            assert low < high
            assert min(spec.size_rule.padded(1, 1)) >= 1
            assert ModelSpec.from_json(spec.to_json()).to_json() == spec.to_json()
    assert min(sound, refused) > 300
