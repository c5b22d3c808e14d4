"""Whether figures of several results may stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from sr_deploy.bench.result import BenchMachine, BenchResult
from sr_deploy.errors import InputError


def differences(first: BenchMachine, second: BenchMachine) -> list[str]:
    """What tells two machines apart, a clause each; none: they are alike."""
    return [
        f"{field.name.replace('_', ' ')}: {_shown(one)} and {_shown(other)}"
        for field in fields(BenchMachine)
        if (one := getattr(first, field.name)) != (other := getattr(second, field.name))
    ]


def require_alike(results: Sequence[BenchResult], names: Sequence[str]) -> None:
    """Raises InputError where the results come from unlike machines; `names` is what they are called in it."""
    for result, name in zip(results[1:], names[1:], strict=True):
        apart = differences(results[0].environment.machine, result.environment.machine)
        if apart:
            raise InputError(
                f"{names[0]} and {name} were measured on unlike machines ({'; '.join(apart)}), so their times "
                "say nothing about each other; measure both on one"
            )


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)
