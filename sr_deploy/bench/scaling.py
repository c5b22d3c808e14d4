"""How a cost grows with what it depends on: a power law through the measured points, y = factor * x ** exponent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from sr_deploy.bench.result import BenchRun
from sr_deploy.bench.summary import summarise


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Least squares through the logarithms of `points`."""

    factor: float
    exponent: float
    r2: float
    """How much of the spread of log y the law accounts for; 1 is all."""
    points: tuple[tuple[float, float], ...]

    def at(self, x: float) -> float:
        """Y by the law."""
        return float(self.factor * x**self.exponent)

    def reaching(self, y: float) -> float | None:
        """The x at which the law comes to `y`; None where y hardly depends on x."""
        if abs(self.exponent) < 0.05:
            return None
        return float((y / self.factor) ** (1 / self.exponent))


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """One law: of `cost` against `against`, for the runs that `name` describes."""

    name: str
    cost: str
    """"time" (seconds of a sample, p50) or "memory" (bytes, host peak over the bare process)."""
    against: str
    """"pixels" (of a sample), "batch", "threads" or "tile" (pixels a side)."""
    fit: Fit


def fit_power_law(points: Sequence[tuple[float, float]]) -> Fit | None:
    """The law through `points` (x, y), all above 0; None for fewer than three different x."""
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
    """Every law that at least three runs differing in one thing only allow, in a fixed order."""
    found = []
    for against, value in _CAUSES.items():
        for name, group in _groups(runs, against).items():
            for cost, of in _COSTS.items():
                points = [(x, y) for run in group if (x := value(run)) and (y := of(run))]
                if fit := fit_power_law(points):
                    found.append(Scaling(name=name, cost=cost, against=against, fit=fit))
    return found


def _tile_side(run: BenchRun) -> float:
    return float(run.case.tile) if run.case.tile.isdecimal() else 0.0


_CAUSES: dict[str, Callable[[BenchRun], float]] = {
    "pixels": lambda run: float(run.case.width * run.case.height),
    "batch": lambda run: float(run.case.batch),
    "threads": lambda run: float(run.subject.threads or 0),
    "tile": _tile_side,
}
_COSTS: dict[str, Callable[[BenchRun], float]] = {
    "time": lambda run: summarise(run).p50,
    "memory": lambda run: float(run.memory.host or 0),
}


def _groups(runs: Sequence[BenchRun], against: str) -> dict[str, list[BenchRun]]:
    """Runs that differ in nothing but `against` and the picture they were cut from, under a name of the rest."""
    groups: dict[tuple[Hashable, ...], list[BenchRun]] = {}
    for run in runs:
        groups.setdefault(_key(run, against), []).append(run)
    return {" ".join(str(part) for part in key if part): group for key, group in groups.items()}


def _key(run: BenchRun, against: str) -> tuple[Hashable, ...]:
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
