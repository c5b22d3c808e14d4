"""Decide whether the figures of several results may be compared.

They may if the machines are equal in processor, cores, limits of the container, and GPUs. Versions of
runtimes and models may differ: comparing them can be the purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from sr_deploy.bench.result import BenchMachine, BenchResult
from sr_deploy.errors import InputError


def differences(first: BenchMachine, second: BenchMachine) -> list[str]:
    """Return a clause for each property in which two machines differ; an empty list if they are equal."""
    return [
        f"{field.name.replace('_', ' ')}: {_shown(one)} and {_shown(other)}"
        for field in fields(BenchMachine)
        if (one := getattr(first, field.name)) != (other := getattr(second, field.name))
    ]


def require_alike(results: Sequence[BenchResult], names: Sequence[str]) -> None:
    """Raise InputError if the results come from different machines.

    `names` are their names in the message, in the order of `results`. Each result is compared with the first.
    """
    for result, name in zip(results[1:], names[1:], strict=True):
        apart = differences(results[0].environment.machine, result.environment.machine)
        if apart:
            raise InputError(
                f"{names[0]} and {name} were measured on unlike machines ({'; '.join(apart)}), so their times "
                "cannot be compared; measure both on one machine"
            )


def _shown(value: object) -> str:
    """A property's value as text; "none" for None and for an empty tuple."""
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None else str(value)
