"""Tests of the conversion between dataclasses and plain JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import pytest

from sr_deploy.system.json_values import from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested dataclass."""

    size: tuple[int, int]
    kind: Literal["a", "b", 1] = "a"


@dataclass(frozen=True, kw_only=True)
class Outer:
    """One field of every supported type."""

    inner: Inner
    many: tuple[Inner, ...] = ()
    rows: list[tuple[int, str]] = field(default_factory=list)
    free: dict[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    share: float | None = None
    exact: Fraction = Fraction(1, 3)


HOOKS = {Fraction: str}
FULL = Outer(
    inner=Inner(size=(3, 4), kind="b"),
    many=(Inner(size=(1, 2), kind=1),),
    rows=[(1, "x")],
    free={"deep": [{"any": None}]},
    counts={"n": 2},
    share=0.5,
    exact=Fraction(2, 7),
)


def test_every_supported_type_survives_json():
    text = json.dumps(to_plain(FULL, HOOKS))
    assert from_plain(Outer, json.loads(text), hooks={Fraction: Fraction}) == FULL


def test_a_dict_can_be_changed_and_a_mapping_cannot():
    made = from_plain(Outer, to_plain(FULL, HOOKS), hooks={Fraction: Fraction})
    made.free["more"] = 1
    with pytest.raises(TypeError):
        made.counts["more"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": {"size": [1, 2, 3]}}, "it.inner.size has 3 items, expected 2"),
        ({"inner": {"size": [1]}}, "it.inner.size has 1 items, expected 2"),
        ({"inner": {"size": [1, "2"]}}, r"it.inner.size\[1\] is a str, expected a int"),
        ({"inner": {"size": [1, 2], "kind": "c"}}, "it.inner.kind is 'c', expected one of 'a', 'b', 1"),
        ({"inner": {"size": [1, 2], "kind": True}}, "it.inner.kind is True, expected one of"),
        ({"rows": [[1, 2]]}, r"it.rows\[0\]\[1\] is a int, expected a str"),
        ({"many": {}}, "it.many is a dict, expected a list"),
        ({"share": math.inf}, "it.share is inf, expected a finite number"),
        ({"more": 1}, "it has 'more', which is not known"),
    ],
)
def test_a_value_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_plain(Outer, to_plain(FULL, HOOKS) | changes, "it", {Fraction: Fraction})


def test_infinity_passes_only_if_asked_for():
    endless = Outer(inner=Inner(size=(1, 2)), share=math.inf)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        to_plain(endless, HOOKS)
    record = to_plain(endless, HOOKS, finite=False)
    assert from_plain(Outer, record, hooks={Fraction: Fraction}, finite=False) == endless
