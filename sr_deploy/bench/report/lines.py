"""Which runs of a result belong together in a plot, and what to call them. It draws nothing.

A panel is what was measured in one mode: figures of two modes never stand in one plot or table. A line is the
runs that differ in the size of the picture alone. Names are as short as they can be without becoming equal;
what all lines share is said once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.bench.result import BenchResult, BenchRun

MAX_LINES = 8
"""Lines, from which on those of one size alone are left to the tables."""
_ONLY_IF_NEEDED = ("scale", "options", "file")
"""Parts that are named only where the others do not tell two lines apart."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Runs of one subject, in order of size."""

    name: str
    style: int
    """Its number in the panel."""
    runs: tuple[BenchRun, ...]

    @property
    def batch(self) -> int:
        """Pictures a sample."""
        return self.runs[0].case.batch


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What was measured in one mode."""

    mode: str
    throughput: bool
    lines: tuple[Line, ...]
    common: str
    """What all lines share, in words."""

    @property
    def swept(self) -> list[Line]:
        """The lines worth a place in what is drawn by size: all while they are few, else those of several sizes."""
        several = [line for line in self.lines if len(line.runs) > 1]
        return several if several and len(self.lines) > MAX_LINES else list(self.lines)

    @property
    def runs(self) -> list[tuple[Line, BenchRun]]:
        """All runs with their lines."""
        return [(line, run) for line in self.lines for run in line.runs]


def panels(result: BenchResult) -> list[Panel]:
    """The modes of a result, in the order they were measured."""
    modes = dict.fromkeys((run.mode, run.throughput) for run in result.runs)
    return [
        _panel(mode, full, [r for r in result.runs if (r.mode, r.throughput) == (mode, full)])
        for mode, full in modes
    ]


def _panel(mode: str, throughput: bool, runs: Sequence[BenchRun]) -> Panel:
    groups = grouped(runs)
    names, common = _names(list(groups))
    lines = [
        Line(name=name, style=i, runs=tuple(sorted(group, key=lambda r: (r.case.pixels, r.case.width))))
        for i, (name, group) in enumerate(zip(names, groups.values(), strict=True))
    ]
    return Panel(mode=mode, throughput=throughput, lines=tuple(lines), common=common)


Parts = tuple[tuple[str, str], ...]


def grouped(runs: Iterable[BenchRun], *, apart_from: str = "") -> dict[Parts, list[BenchRun]]:
    """Runs by everything but their size, and but the part `apart_from`; then with their size instead."""
    groups: dict[Parts, list[BenchRun]] = {}
    for run in runs:
        parts = parts_of(run)
        if apart_from:
            parts = {**parts, "size": f"{run.case.width}x{run.case.height}"}
            del parts[apart_from]
        groups.setdefault(tuple(parts.items()), []).append(run)
    return groups


def parts_of(run: BenchRun) -> dict[str, str]:
    """What tells a run's line from another, in the order a name has it; "" where there is nothing to say."""
    subject, case = run.subject, run.case
    return {
        "model": subject.model,
        "backend": subject.backend,
        "precision": subject.precision,
        "runner": "" if subject.runner == "sr-deploy" else f"({subject.runner})",
        "threads": "" if subject.threads is None else count(subject.threads, "thread"),
        "streams": "" if subject.streams == 1 else count(subject.streams, "stream"),
        "tile": f"tiles of {case.tile}" if case.tile.isdecimal() else {"auto": ""}.get(case.tile, case.tile),
        "batch": "" if case.batch == 1 else f"batch {case.batch}",
        "scale": f"x{subject.scale}",
        "options": " ".join(f"{key}={value}" for key, value in sorted(subject.options.items())),
        "file": (subject.engine_sha256 or subject.model_sha256 or "")[:8],
    }


def count(number: int, what: str) -> str:
    """A number of things: 1 run, 2 runs."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def names_of(groups: Sequence[Parts]) -> list[str]:
    """A short name for each, no two of them equal where the groups are not."""
    return _names(groups)[0]


def _names(groups: Sequence[Parts]) -> tuple[list[str], str]:
    """The names, and what all share."""
    parts = [dict(group) for group in groups]
    keys = [key for key in (parts[0] if parts else {}) if key != "model"]
    used = ["model"] + [key for key in keys if key not in _ONLY_IF_NEEDED and _values(parts, [key]) > 1]
    for key in _ONLY_IF_NEEDED:
        if key in keys and _values(parts, [*used, key]) > _values(parts, used):
            used.append(key)
    shared = (
        [parts[0][key] for key in keys if key not in used and key not in _ONLY_IF_NEEDED] if parts else []
    )
    return [_joined(part, used) for part in parts], ", ".join(filter(None, shared))


def _values(parts: Sequence[Mapping[str, str]], keys: Sequence[str]) -> int:
    return len({tuple(part[key] for key in keys) for part in parts})


def _joined(part: Mapping[str, str], keys: Sequence[str]) -> str:
    return " ".join(filter(None, (part[key] for key in keys))) or "unnamed"
