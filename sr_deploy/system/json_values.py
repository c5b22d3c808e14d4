"""Conversion of frozen dataclasses to plain JSON values and back.

Reading checks every value against its annotation. Supported are bool, int, float, str, None, X | None,
tuple[X, ...], Mapping[str, X], and dataclasses of these. The module knows nothing about the
dataclasses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """`value` as plain JSON values. Raises ValueError for infinity and NaN, which JSON does not have."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written as JSON; expected a finite number")
    return value


def from_plain(kind: type[T], value: Any, where: str = "the record") -> T:
    """An instance of `kind` from plain JSON values.

    `where` names the value in errors. Raises ValueError with the path of the first value that does not
    fit, for example `the record.runs[2].seconds`, and the reason.
    """
    made: T = _convert(kind, value, where)
    return made


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the type `kind`. `where` is the path of the value, for errors."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        # the only supported union is X | None
        inner = [part for part in get_args(kind) if part is not type(None)]
        return None if value is None else _convert(inner[0], value, where)
    if origin is tuple:
        _require_type(value, list, where)
        return tuple(_convert(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _require_type(value, dict, where)
        inner = get_args(kind)[1]
        # read-only, like the frozen dataclass that holds it
        return MappingProxyType({key: _convert(inner, item, f"{where}.{key}") for key, item in value.items()})
    if is_dataclass(kind):
        return _to_dataclass(kind, value, where)
    return _to_scalar(kind, value, where)


def _to_dataclass(kind: Any, value: Any, where: str) -> Any:
    """An instance of the dataclass `kind`. Unknown and missing fields raise ValueError."""
    _require_type(value, dict, where)
    hints, known = _type_hints(kind), {field.name: field for field in fields(kind)}
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{where} lacks the field {name!r}")
    for name in value:
        if name not in known:
            raise ValueError(f"{where} has {name!r}, which is not known")
    return kind(**{name: _convert(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _to_scalar(kind: Any, value: Any, where: str) -> Any:
    """`value` as a bool, int, float or str."""
    # JSON does not tell 1 from 1.0
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require_type(value, kind, where)
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, expected a finite number")
    return value


def _require_type(value: Any, kind: type, where: str) -> None:
    """Raise ValueError if `value` is not of type `kind`. A bool does not count as an int."""
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} is a {type(value).__name__}, expected a {kind.__name__}")


@cache
def _type_hints(kind: Any) -> dict[str, Any]:
    """The resolved annotations of a dataclass. Cached, because resolving them is slow."""
    return get_type_hints(kind)


def dumps(value: object, depth: int = 0) -> str:
    """Plain JSON values as text that is easy to read and compare.

    Each key has its own line, a list of numbers stays on one line, and floats have six significant
    digits. `depth` is the level of indentation.
    """
    inner, outer = " " * (depth + 1), " " * depth
    if isinstance(value, dict) and value:
        lines = (f"{inner}{json.dumps(key)}: {dumps(item, depth + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(lines) + f"\n{outer}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + dumps(item, depth + 1) for item in value) + f"\n{outer}]"
    if isinstance(value, list):
        return "[" + ", ".join(dumps(item, depth) for item in value) + "]"
    if isinstance(value, float):
        return json.dumps(float(f"{value:.6g}"))
    return json.dumps(value, ensure_ascii=False)
