"""Conversion of dataclasses to plain JSON values and back: the one way for sidecars, results, caches and verdicts.

Reading checks every value against its annotation. Supported are bool, int, float, str, None, Any, X | None,
Literal, tuple[X, ...], tuple[X, Y], list[X], dict[str, X], Mapping[str, X], and dataclasses of these. For any
other type the caller gives a hook. The module knows nothing about the dataclasses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

Hooks = Mapping[type, Callable[[Any], Any]]
"""Type -> function that converts its values; used before everything else."""
_NO_HOOKS: Hooks = MappingProxyType({})


LARGEST_JSON = 4 << 20
"""Most bytes of JSON that are parsed unless the caller allows more. Python needs some ten times as much memory."""


def parse_json(text: str | bytes, most: int = LARGEST_JSON) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, for more than `most` characters, and for
    nesting beyond Python's limit (about a thousand levels)."""
    if len(text) > most:
        raise ValueError(f"it has {len(text):,} characters, more than the {most:,} that are read")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _brief(value: object, most: int = 60) -> str:
    """`repr(value)`, cut if it is long: a damaged file may hold names of any length."""
    text = repr(value[: 2 * most] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def to_plain(value: Any, hooks: Hooks = _NO_HOOKS, *, finite: bool = True) -> Any:
    """`value` as plain JSON values.

    A hook takes a value of its type and returns plain JSON values. Raises ValueError for infinity and NaN,
    which JSON does not have, unless `finite` is off: Python's `json` reads and writes them all the same.
    """
    if type(value) in hooks:
        return hooks[type(value)](value)
    if is_dataclass(value):
        return {
            field.name: to_plain(getattr(value, field.name), hooks, finite=finite) for field in fields(value)
        }
    if isinstance(value, Mapping):
        return {key: to_plain(item, hooks, finite=finite) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item, hooks, finite=finite) for item in value]
    if finite and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written as JSON; expected a finite number")
    return value


def from_plain(
    kind: type[T], value: Any, where: str = "the record", hooks: Hooks = _NO_HOOKS, *, finite: bool = True
) -> T:
    """An instance of `kind` from plain JSON values.

    `where` names the value in errors. A hook takes plain JSON values and returns an instance of its type.
    Raises ValueError with the path of the first value that does not fit, for example
    `the record.runs[2].seconds`, and the reason. Infinity and NaN do not fit, unless `finite` is off.
    Errors of hooks and of the dataclasses' own checks pass through.
    """
    made: T = _Reader(hooks, finite).read(kind, value, where)
    return made


class _Reader:
    """Converts plain JSON values to annotated types. `where` is the path of a value, for errors."""

    def __init__(self, hooks: Hooks, finite: bool) -> None:
        self._hooks, self._finite = hooks, finite

    def read(self, kind: Any, value: Any, where: str) -> Any:
        """`value` as the type `kind`."""
        if len(where) > 1000:  # no record of ours is nested that deep
            raise ValueError(f"{where[:60]}... is nested too deep")
        if kind in self._hooks:
            return self._hooks[kind](value)
        if kind is Any:
            return value
        origin = get_origin(kind)
        if origin in (Union, UnionType):
            # the only supported union is X | None
            inner = [part for part in get_args(kind) if part is not type(None)]
            return None if value is None else self.read(inner[0], value, where)
        if origin is Literal:
            return _one_of(get_args(kind), value, where)
        if origin in (tuple, list):
            return origin(self._items(get_args(kind), value, where))
        if origin is not None and issubclass(origin, Mapping):
            return self._mapping(kind, value, where)
        if is_dataclass(kind):
            return self._dataclass(kind, value, where)
        return self._scalar(kind, value, where)

    def _items(self, kinds: tuple[Any, ...], value: Any, where: str) -> list[Any]:
        """The items of a list. `kinds` are the arguments of its annotation: (X, ...), (X, Y) or (X,)."""
        _require_type(value, list, where)
        if len(kinds) == 1 or kinds[1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        elif len(value) != len(kinds):
            raise ValueError(f"{where} has {len(value)} items, expected {len(kinds)}")
        return [
            self.read(kind, item, f"{where}[{i}]")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        ]

    def _mapping(self, kind: Any, value: Any, where: str) -> Mapping[str, Any]:
        """A dict, or a read-only mapping where the annotation promises no more than a Mapping."""
        _require_type(value, dict, where)
        inner = get_args(kind)[1]
        made = {key: self.read(inner, item, f"{where}.{key[:60]}") for key, item in value.items()}
        # read-only, like the frozen dataclass that holds it
        return made if get_origin(kind) is dict else MappingProxyType(made)

    def _dataclass(self, kind: Any, value: Any, where: str) -> Any:
        """An instance of the dataclass `kind`. Unknown and missing fields raise ValueError."""
        _require_type(value, dict, where)
        hints, known = _type_hints(kind), {field.name: field for field in fields(kind)}
        for name, field in known.items():
            if name not in value and field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{where} lacks the field {name!r}")
        for name in value:
            if name not in known:
                raise ValueError(f"{where} has {_brief(name)}, which is not known")
        return kind(**{name: self.read(hints[name], item, f"{where}.{name}") for name, item in value.items()})

    def _scalar(self, kind: Any, value: Any, where: str) -> Any:
        """`value` as a bool, int, float or str."""
        # JSON does not tell 1 from 1.0
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        _require_type(value, kind, where)
        if kind is float and self._finite and not math.isfinite(value):
            raise ValueError(f"{where} is {value}, expected a finite number")
        return value


def _one_of(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """`value`, if it is one of the values of a Literal. True does not count as 1."""
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise ValueError(f"{where} is {_brief(value)}, expected one of {', '.join(map(repr, choices))}")
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
