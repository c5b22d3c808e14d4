"""What a runner must know of a model: `ModelSpec` and `SizeRule`, as values and as JSON. Stdlib only.

The record travels inside the ONNX file (metadata key `sr_deploy`) and beside every compiled engine. This
module does not read files: `sr_deploy.graph` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from sr_deploy.errors import ModelError, UsageError

SCHEMA = 1
METADATA_KEY = "sr_deploy"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


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
        if self.minimum < 1 or self.multiple_of < 1 or (self.fixed and min(self.fixed) < 1):
            raise UsageError(f"a size rule needs positive numbers, got {self}")

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
        if self.schema != SCHEMA:
            raise ModelError(
                f"model {self.name!r} has a spec of schema {self.schema}, this sr-deploy knows schema {SCHEMA}; "
                "install the version of sr-deploy that wrote it or export the model again"
            )
        if not (isinstance(self.scale, int) and 1 <= self.scale <= 16):
            raise ModelError(
                f"model {self.name!r}: scale must be a whole number of 1 to 16, got {self.scale!r}"
            )
        if self.halo is not None and not (isinstance(self.halo, int) and self.halo >= 0):
            raise ModelError(
                f"model {self.name!r}: halo must be None or a number of pixels, got {self.halo!r}"
            )
        if self.channels not in (1, 3):
            raise ModelError(f"model {self.name!r}: channels must be 1 or 3, got {self.channels!r}")
        if self.layout not in ("NCHW", "NHWC"):
            raise ModelError(f"model {self.name!r}: layout must be NCHW or NHWC, got {self.layout!r}")
        if self.precision not in PRECISIONS:
            raise ModelError(
                f"model {self.name!r}: precision {self.precision!r} is none of {', '.join(PRECISIONS)}"
            )

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
        try:
            record = json.loads(text)
        except ValueError as error:
            raise ModelError(
                f"the model's sr_deploy record is not JSON ({error}); export it again"
            ) from error
        if not isinstance(record, dict):
            raise ModelError(f"the model's sr_deploy record is a {type(record).__name__}, not an object")
        if record.get("schema") != SCHEMA:
            raise ModelError(
                f"the model's sr_deploy record has schema {record.get('schema')!r}, this version knows {SCHEMA}; "
                "install the version of sr-deploy that wrote it or export the model again"
            )
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(record) - known):
            raise ModelError(f"the model's sr_deploy record has unknown fields: {', '.join(unknown)}")
        try:
            rule = dict(record.pop("size_rule", {}))
            if rule.get("fixed") is not None:
                rule["fixed"] = tuple(rule["fixed"])
            for name in ("value_range", "undecided"):
                if name in record:
                    record[name] = tuple(record[name])
            return cls(size_rule=SizeRule(**rule), **record)
        except (TypeError, UsageError) as error:
            raise ModelError(f"the model's sr_deploy record is not complete: {error}") from error
