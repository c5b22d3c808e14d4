"""Fit how a cost grows with its cause: a power law through the measured points, y = factor * x ** exponent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.bench.result import BenchRun
from sr_deploy.bench.summary import summarise


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A least-squares line through the logarithms of `points`."""

    factor: float
    """The y for x = 1."""
    exponent: float
    """Slope in the logarithms: 1 is proportional growth, 0 is a constant cost."""
    r2: float
    """Share of the spread of log y that the law explains; 1 is all of it."""
    points: tuple[tuple[float, float], ...]
    """The fitted (x, y) pairs, in ascending order."""

    def at(self, x: float) -> float:
        """The y that the law gives for `x`."""
        return float(self.factor * x**self.exponent)

    def reaching(self, y: float) -> float | None:
        """The x for which the law gives `y`; None if y hardly depends on x."""
        if abs(self.exponent) < 0.05:  # the inverse would magnify every error twentyfold or more
            return None
        return float((y / self.factor) ** (1 / self.exponent))


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One law: the growth of `cost` with `against`, for the runs that `name` describes."""

    name: str
    """Subject and settings that the runs have in common."""
    cost: str
    """Dependent quantity: "time" (median seconds of a sample) or "memory" (peak host bytes)."""
    against: str
    """Independent quantity: "pixels" (of a sample), "batch", "threads" or "tile" (pixels a side)."""
    fit: Fit


def fit_power_law(points: Sequence[tuple[float, float]]) -> Fit | None:
    """Fit a power law to `points` (x, y).

    Points that are not above 0 are ignored, since they have no logarithm. Returns None for fewer than three
    different x, because a line through two points says nothing about the fit.
    """
    usable = sorted((float(x), float(y)) for x, y in points if x > 0 and y > 0)
    if len({x for x, _ in usable}) < 3:
        return None
    x, y = np.log(np.asarray(usable)).T
    exponent, offset = (float(value) for value in np.polyfit(x, y, 1))
    scatter = float(((y - y.mean()) ** 2).sum())
    missed = float(((y - (exponent * x + offset)) ** 2).sum())
    return Fit(
        factor=float(np.exp(offset)),
        exponent=exponent,
        r2=1 - missed / scatter if scatter > 0 else 1.0,
        points=tuple(usable),
    )


def find_scalings(runs: Sequence[BenchRun]) -> list[Scaling]:
    """Return the laws of all groups of at least three runs that differ in one quantity only."""
    found = []
    for against, value in _CAUSES.items():
        for name, group in _groups(runs, against).items():
            for cost, of in _COSTS.items():
                points = [(x, y) for run in group if (x := value(run)) and (y := of(run))]
                if fit := fit_power_law(points):
                    found.append(Scaling(name=name, cost=cost, against=against, fit=fit))
    return found


def _tile_side(run: BenchRun) -> float:
    """Side of the tiles in pixels; 0 for "auto" and "whole", which `find_scalings` then ignores."""
    return float(run.case.tile) if run.case.tile.isdecimal() else 0.0


_CAUSES: dict[str, Callable[[BenchRun], float]] = {
    "pixels": lambda run: float(run.case.width * run.case.height),
    "batch": lambda run: float(run.case.batch),
    "threads": lambda run: float(run.subject.threads or 0),
    "tile": _tile_side,
}
"""Name of a quantity -> its value for a run; 0 excludes the run."""
_COSTS: dict[str, Callable[[BenchRun], float]] = {
    "time": lambda run: summarise(run).p50,
    "memory": lambda run: float(run.memory.host or 0),
}
"""Name of a cost -> its value for a run; 0 excludes the run."""


def _groups(runs: Sequence[BenchRun], against: str) -> dict[str, list[BenchRun]]:
    """Group the runs that differ in nothing but `against` and the photograph, named by the rest."""
    groups: dict[tuple[Hashable, ...], list[BenchRun]] = {}
    for run in runs:
        groups.setdefault(_key(run, against), []).append(run)
    return {" ".join(str(part) for part in key if part): group for key, group in groups.items()}


def _key(run: BenchRun, against: str) -> tuple[Hashable, ...]:
    """Everything that identifies a group of runs except the quantity `against`, as parts of its name."""
    subject, case = run.subject, run.case
    tiled = case.tile.isdecimal()
    return (
        subject.name,
        "" if against == "pixels" else f"{case.width}x{case.height}",
        "" if against == "batch" or case.batch == 1 else f"batch {case.batch}",
        "" if against == "threads" or subject.threads is None else f"{subject.threads} threads",
        ("" if against == "tile" else f"tiles of {case.tile}")
        if tiled
        else case.tile
        if against == "tile"
        else "",
        "" if run.mode == "end-to-end" else run.mode,
        "throughput" if run.throughput else "",
    )
