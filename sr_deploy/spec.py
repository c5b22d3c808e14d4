"""What a runner must know of a model: `ModelSpec` and `SizeRule`, as values and as JSON. Stdlib only.

The record travels inside the ONNX file (metadata key `sr_deploy`) and beside every compiled engine. This
module does not read files: `sr_deploy.graph` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from reprlib import repr as brief
from typing import Any

from sr_deploy.errors import ModelError, UsageError

SCHEMA = 1
METADATA_KEY = "sr_deploy"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

_LARGEST_SCALE = 16
_LARGEST_SIDE = 1 << 16
"""Pixels that a record may speak of; more is a typing error, and would be padded to in earnest."""
_LARGEST_VALUE, _SMALLEST_RANGE = 1e6, 1e-6
"""Of a value range: what single precision still tells apart."""


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """Which input sizes a model takes, per axis, in input pixels."""

    minimum: int = 1
    """Smallest height and width."""
    multiple_of: int = 1
    """Height and width must be multiples of this."""
    fixed: tuple[int, int] | None = None
    """The one (height, width) a model with fixed axes takes; None where the axes are dynamic."""

    def __post_init__(self) -> None:
        fixed = self.fixed
        numbers = (self.minimum, self.multiple_of, *(fixed if isinstance(fixed, tuple) else ()))
        is_pair = fixed is None or (isinstance(fixed, tuple) and len(fixed) == 2)
        if not (is_pair and all(_is_whole(n, 1, _LARGEST_SIDE) for n in numbers)):
            raise UsageError(
                f"a size rule needs positive whole numbers up to {_LARGEST_SIDE}, and two for a fixed size, got "
                f"minimum {brief(self.minimum)}, multiple_of {brief(self.multiple_of)}, fixed {brief(fixed)}"
            )

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The smallest (height, width) that the rule allows and that holds the given one.

        Raises UsageError where the size is fixed and smaller than what was asked.
        """
        if self.fixed:
            if height > self.fixed[0] or width > self.fixed[1]:
                raise UsageError(
                    f"the model takes {self.fixed[1]}x{self.fixed[0]} pixels only, got {width}x{height}; tile the picture"
                )
            return self.fixed
        step = self.multiple_of
        tall, wide = (-(-max(n, self.minimum) // step) * step for n in (height, width))
        return tall, wide


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The self-description of a model. `to_json` and `from_json` are exact inverses."""

    name: str
    scale: int
    """Output pixels per input pixel, along each axis."""
    halo: int | None
    """Radius of the receptive field in input pixels, measured; None: global, so never tiled silently."""
    architecture: str = "unknown"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the architecture; JSON values only."""
    channels: int = 3
    """3: RGB; 1: a grey or luma net."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """What black and white are, at the input and at the output."""
    layout: str = "NCHW"
    precision: str = "fp32"
    size_rule: SizeRule = field(default_factory=SizeRule)
    checkpoint_sha256: str | None = None
    recipe_sha256: str | None = None
    licence: str | None = None
    undecided: tuple[str, ...] = ()
    """What probing a foreign model could not decide, one sentence each."""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if not _is_whole(self.schema, SCHEMA, SCHEMA):
            raise ModelError(
                f"model {brief(self.name)} has a spec of schema {brief(self.schema)}, this sr-deploy knows schema {SCHEMA}; "
                "install the version of sr-deploy that wrote it or export the model again"
            )
        for name, fine, expected in self._checks():
            if not fine:
                raise ModelError(
                    f"model {brief(self.name)}: {name} must be {expected}, got {brief(getattr(self, name))}"
                )
        # equal specs are equal bytes, so 0 and 0.0 are not both kept
        object.__setattr__(self, "value_range", tuple(float(value) for value in self.value_range))

    def _checks(self) -> list[tuple[str, bool, str]]:
        """Of every field: its name, whether its value makes sense, and what would."""
        texts = "a tuple of texts"
        optional = ("checkpoint_sha256", "recipe_sha256", "licence")
        return [
            ("name", _is_text(self.name) and self.name != "", "a text that is not empty"),
            ("scale", _is_whole(self.scale, 1, _LARGEST_SCALE), f"a whole number of 1 to {_LARGEST_SCALE}"),
            (
                "halo",
                self.halo is None or _is_whole(self.halo, 0, _LARGEST_SIDE),
                "None or a number of pixels",
            ),
            ("architecture", _is_text(self.architecture), "a text"),
            ("parameters", _is_json_object(self.parameters), "names with JSON values"),
            ("channels", _is_whole(self.channels, 1, 3) and self.channels != 2, "1 or 3"),
            (
                "value_range",
                _is_range(self.value_range),
                f"two numbers, black below white, up to {_LARGEST_VALUE:g}",
            ),
            ("layout", self.layout in ("NCHW", "NHWC"), "NCHW or NHWC"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("size_rule", isinstance(self.size_rule, SizeRule), "a SizeRule"),
            *(
                (n, getattr(self, n) is None or _is_text(getattr(self, n)), "None or a text")
                for n in optional
            ),
            ("undecided", _is_tuple(self.undecided) and all(map(_is_text, self.undecided)), texts),
        ]

    def with_(self, **changes: Any) -> ModelSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """One line of JSON, keys sorted, so that equal specs are equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what `to_json` wrote. Raises ModelError for anything else: an unknown schema, a missing or
        unknown field, a value that makes no sense. Never a guess."""
        record = _strict_object(text)
        schema = record.get("schema")
        if not _is_whole(schema, SCHEMA, SCHEMA):
            raise ModelError(
                f"the model's sr_deploy record has schema {brief(schema)}, this version knows {SCHEMA}; "
                "install the version of sr-deploy that wrote it or export the model again"
            )
        try:
            rule = _fields_of(SizeRule, record.pop("size_rule", {}))
            for values, name in ((rule, "fixed"), (record, "value_range"), (record, "undecided")):
                if isinstance(values.get(name), list):
                    values[name] = tuple(values[name])
            return cls(size_rule=SizeRule(**rule), **_fields_of(cls, record))
        except (UsageError, ModelError) as error:
            raise _unusable_metadata(str(error)) from error


def _strict_object(text: str) -> dict[str, Any]:
    """The JSON object that `text` spells, without the NaN and Infinity that Python would add to JSON."""

    def reject_constant(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    try:
        record = json.loads(text, parse_constant=reject_constant)
    except (ValueError, RecursionError) as error:
        raise _unusable_metadata(f"it is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise _unusable_metadata(f"it is a {type(record).__name__}, not an object")
    return record


def _fields_of(kind: type[SizeRule] | type[ModelSpec], values: Any) -> dict[str, Any]:
    """`values`, where they are an object of no other fields than `kind` has, and of all it needs."""
    if not isinstance(values, dict):
        raise ModelError(f"{kind.__name__} is {brief(values)}, not an object")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise ModelError(f"it has unknown fields: {', '.join(map(brief, unknown[:5]))}")
    if missing := [name for name, needed in known.items() if needed and name not in values]:
        raise ModelError(f"it is not complete: {', '.join(missing)} missing")
    return values


def _unusable_metadata(why: str) -> ModelError:
    return ModelError(
        f"the model's sr_deploy record cannot be used: {why}; export the model again, or probe it with "
        "`sr-deploy stamp --force`"
    )


def _is_whole(value: object, low: int, high: int) -> bool:
    """Whether `value` is an int of `low` to `high`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: object) -> bool:
    """Whether `value` is a str that can be printed and stored: no half of a UTF-16 pair."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: object) -> bool:
    """Whether `value` is (black, white), which a net can be fed with in single precision."""
    if not (isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))):
        return False
    black, white = value  # comparisons with NaN are False
    return bool(
        abs(black) <= _LARGEST_VALUE and abs(white) <= _LARGEST_VALUE and white - black >= _SMALLEST_RANGE
    )


def _is_json_object(value: object) -> bool:
    """Whether `value` is a mapping that JSON can hold exactly."""
    if not (isinstance(value, Mapping) and all(map(_is_text, value))):
        return False
    try:
        json.dumps(dict(value), allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        return False
    return True
