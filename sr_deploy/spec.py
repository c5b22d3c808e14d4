"""`ModelSpec` and `SizeRule`: what a runner must know of a model, as Python values and as JSON.

The spec is stored inside the ONNX file (metadata key `sr_deploy`) and in the sidecar of every engine
file. This module uses the standard library only and reads no files; `sr_deploy.graph` does that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from reprlib import repr as brief
from typing import Any

from sr_deploy.errors import ModelError, UsageError

SCHEMA = 1
"""Version of the JSON form. It changes when a field changes its meaning."""
METADATA_KEY = "sr_deploy"
"""Key of the spec among the metadata properties of an ONNX file."""
_LARGEST = 4 << 20
"""Most characters of a spec's JSON. A spec has some hundred; metadata of hundreds of megabytes would fill the memory."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""The number formats a model file can compute in."""

_LARGEST_SCALE = 16
"""Largest upscaling factor along an axis."""
_LARGEST_SIDE = 1 << 16
"""Largest number of pixels in a size rule or halo. A larger number is a typing error; pictures would
really be padded to it.
"""
_LARGEST_VALUE, _SMALLEST_RANGE = 1e6, 1e-6
"""Limits of a value range: the largest absolute value, and the smallest distance from black to white.
Between them single precision can still tell the values apart.
"""
_ADDED: Mapping[str, Any] = {"output_range": None, "channel_order": "RGB", "inset": 0}
"""Fields of `ModelSpec` that came after the first version, with their defaults."""
_ADDED_TO_RULE: Mapping[str, Any] = {"tile_step": None}
"""Fields of `SizeRule` that came after the first version, with their defaults."""


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """The input sizes that a model accepts, per axis, in pixels.

    Raises UsageError for numbers that are not whole or lie outside 1 to 65536.
    """

    minimum: int = 1
    """Smallest height and width in pixels."""
    multiple_of: int = 1
    """Divisor of height and width in pixels."""
    fixed: tuple[int, int] | None = None
    """The only (height, width) that a model with fixed axes accepts, or None for dynamic axes."""
    tile_step: int | None = None
    """Divisor of the places where tiles may start, in pixels; None: `multiple_of`. A net that pads its input to a
    multiple of 8 and crops its result takes any size, but its tiles must start at multiples of 8.
    """

    def __post_init__(self) -> None:
        fixed = self.fixed
        numbers = (self.minimum, self.multiple_of, self.step, *(fixed if isinstance(fixed, tuple) else ()))
        is_pair = fixed is None or (isinstance(fixed, tuple) and len(fixed) == 2)
        if not (is_pair and all(_is_whole(n, 1, _LARGEST_SIDE) for n in numbers)):
            raise UsageError(
                f"a size rule needs positive whole numbers up to {_LARGEST_SIDE}, and a pair of them for a fixed size; got "
                f"minimum {brief(self.minimum)}, multiple_of {brief(self.multiple_of)}, fixed {brief(fixed)}, "
                f"tile_step {brief(self.tile_step)}"
            )
        if self.step % self.multiple_of:
            raise UsageError(
                f"tile_step must be a multiple of multiple_of, got {self.tile_step} and {self.multiple_of}"
            )

    @property
    def step(self) -> int:
        """Divisor of the places where tiles may start, in pixels."""
        return self.multiple_of if self.tile_step is None else self.tile_step

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The smallest allowed (height, width) that is at least as large as the given one, in pixels.

        Raises UsageError if the size is fixed and smaller than the given one.
        """
        if self.fixed:
            if height > self.fixed[0] or width > self.fixed[1]:
                raise UsageError(
                    f"the model takes {self.fixed[1]}x{self.fixed[0]} pixels only, got {width}x{height}; "
                    "process the picture in tiles"
                )
            return self.fixed
        step = self.multiple_of
        tall, wide = (-(-max(n, self.minimum) // step) * step for n in (height, width))
        return tall, wide


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The self-description of a model.

    Specs are immutable and can be compared. `to_json` and `from_json` are exact inverses. Raises
    ModelError if a field has an invalid value.
    """

    name: str
    """Name of the model, not empty."""
    scale: int
    """Output pixels per input pixel along each axis, 1 to 16."""
    halo: int | None
    """Measured halo in input pixels: the distance within which input pixels affect a result (also
    called the receptive-field radius). None if the model sees the whole picture; such a model is never
    tiled silently.
    """
    architecture: str = "unknown"
    """Name of the network architecture."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the architecture, as JSON values."""
    channels: int = 3
    """Number of channels: 3 for RGB, 1 for grey or luma."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """The numbers that stand for black and white: at the input, and at the output unless `output_range` says
    otherwise.
    """
    output_range: tuple[float, float] | None = None
    """The numbers that stand for black and white at the output; None: those of `value_range`."""
    channel_order: str = "RGB"
    """Order of the three colours, at the input and at the output: RGB or BGR."""
    inset: int = 0
    """Width in output pixels of the border that the net leaves out on every side, because its convolutions do not
    pad. The runner repeats the border of the picture by as much (see `sr_deploy.graph.foreign_ports`).
    """
    layout: str = "NCHW"
    """Order of the tensor axes: NCHW or NHWC."""
    precision: str = "fp32"
    """Number format of the computation; one of `PRECISIONS`."""
    size_rule: SizeRule = field(default_factory=SizeRule)
    """The input sizes that the model accepts."""
    checkpoint_sha256: str | None = None
    """SHA-256 of the checkpoint the model was exported from, in hexadecimal digits."""
    recipe_sha256: str | None = None
    """SHA-256 of the recipe the model was trained with, in hexadecimal digits."""
    licence: str | None = None
    """SPDX identifier of the weights' licence."""
    undecided: tuple[str, ...] = ()
    """Facts that probing a foreign model could not determine, one sentence each."""
    schema: int = SCHEMA
    """Version of the JSON form; always `SCHEMA`."""

    def __post_init__(self) -> None:
        if not _is_whole(self.schema, SCHEMA, SCHEMA):
            raise ModelError(
                f"model {brief(self.name)} has a spec of schema {brief(self.schema)}, this version reads schema {SCHEMA}; "
                "install the version of sr-deploy that wrote it, or export the model again"
            )
        for name, fine, expected in self._checks():
            if not fine:
                raise ModelError(
                    f"model {brief(self.name)}: {name} must be {expected}, got {brief(getattr(self, name))}"
                )
        # Equal specs must give equal JSON, so 0 becomes 0.0. The class is frozen; hence object.__setattr__.
        object.__setattr__(self, "value_range", tuple(float(value) for value in self.value_range))
        if self.output_range is not None:
            object.__setattr__(self, "output_range", tuple(float(value) for value in self.output_range))

    def _checks(self) -> list[tuple[str, bool, str]]:
        """(field name, whether its value is valid, description of valid values) of every field."""
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
            (
                "output_range",
                self.output_range is None or _is_range(self.output_range),
                f"None or two numbers, black below white, up to {_LARGEST_VALUE:g}",
            ),
            ("channel_order", self.channel_order in ("RGB", "BGR"), "RGB or BGR"),
            ("inset", _is_whole(self.inset, 0, _LARGEST_SIDE), "a number of pixels"),
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
        """A copy with some fields changed. Raises ModelError if the copy is invalid."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """One line of JSON with sorted keys, so that equal specs give equal bytes.

        Fields that were added to the schema later are left out at their defaults, so that files without them keep
        their bytes, and older versions still read them.
        """
        record = asdict(self)
        for values, added in ((record, _ADDED), (record["size_rule"], _ADDED_TO_RULE)):
            for name, default in added.items():
                if values[name] == default:
                    del values[name]
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The spec that `to_json` wrote. Raises ModelError for anything else: an unknown schema, a missing or
        unknown field, an invalid value. Nothing is guessed, because a wrong guess would give wrong
        pictures."""
        record = _strict_object(text)
        schema = record.get("schema")
        if not _is_whole(schema, SCHEMA, SCHEMA):
            raise ModelError(
                f"the model's sr_deploy spec has schema {brief(schema)}, this version reads schema {SCHEMA}; "
                "install the version of sr-deploy that wrote it, or export the model again"
            )
        try:
            rule = _fields_of(SizeRule, record.pop("size_rule", {}))
            # JSON has no tuples: the fields that are tuples come back as lists
            for values, name in (
                (rule, "fixed"),
                (record, "value_range"),
                (record, "output_range"),
                (record, "undecided"),
            ):
                if isinstance(values.get(name), list):
                    values[name] = tuple(values[name])
            return cls(size_rule=SizeRule(**rule), **_fields_of(cls, record))
        except (UsageError, ModelError) as error:
            raise _unusable_metadata(str(error)) from error


def _strict_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises ModelError for anything else.

    Python's parser also accepts NaN and Infinity, which JSON does not have; they are refused here.
    """

    def reject_constant(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        if len(text) > _LARGEST:
            raise ValueError(f"it has {len(text):,} characters, more than the {_LARGEST:,} that are read")
        record = json.loads(text, parse_constant=reject_constant)
    except (ValueError, RecursionError) as error:
        raise _unusable_metadata(f"it is not JSON ({error})") from error
    if not isinstance(record, dict):
        raise _unusable_metadata(f"it is a {type(record).__name__}, not an object")
    return record


def _fields_of(kind: type[SizeRule] | type[ModelSpec], values: Any) -> dict[str, Any]:
    """Return `values` if it is a dict with all required and no unknown fields of `kind`; else raise
    ModelError.
    """
    if not isinstance(values, dict):
        raise ModelError(f"{kind.__name__} is {brief(values)}, not an object")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise ModelError(f"it has unknown fields: {', '.join(map(brief, unknown[:5]))}")
    if missing := [name for name, needed in known.items() if needed and name not in values]:
        raise ModelError(f"it is not complete: {', '.join(missing)} missing")
    return values


def _unusable_metadata(why: str) -> ModelError:
    """The ModelError for a spec that cannot be read; `why` completes "cannot be used: ..."."""
    return ModelError(
        f"the model's sr_deploy spec cannot be used: {why}; export the model again, or measure a new spec with "
        "`sr-deploy stamp --force`"
    )


def _is_whole(value: object, low: int, high: int) -> bool:
    """True if `value` is an int from `low` to `high`.

    Booleans do not count, although bool is a subclass of int.
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: object) -> bool:
    """True if `value` is a str that can be stored as UTF-8, that is, without lone UTF-16 surrogates."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: object) -> bool:
    """True if `value` is (black, white) with limits that single precision can represent and tell apart."""
    if not (isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))):
        return False
    black, white = value  # NaN needs no check of its own: every comparison with it is False
    within = -_LARGEST_VALUE <= black < white <= _LARGEST_VALUE
    return bool(within and white - black >= _SMALLEST_RANGE)


def _is_json_object(value: object) -> bool:
    """True if `value` is a mapping that JSON can hold exactly."""
    if not (isinstance(value, Mapping) and all(map(_is_text, value))):
        return False
    try:
        json.dumps(dict(value), allow_nan=False, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        return False
    return True
