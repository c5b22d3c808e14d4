"""Group the runs of a result for plots and tables, and name the groups. It draws nothing.

A panel holds what was measured in one mode: figures of two modes never appear in one plot or table. A line
holds the runs that differ only in the size of the picture. Names are as short as possible without being
equal; what all lines have in common is stated once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sr_deploy.bench.result import BenchResult, BenchRun

MAX_LINES = 8
"""Number of lines above which lines with a single size appear only in the tables."""
_ONLY_IF_NEEDED = ("scale", "options", "file")
"""Parts of a name that are used only if the other parts do not distinguish two lines."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The runs of one subject, in ascending order of size."""

    name: str
    """Short name, different from that of every other line in the panel."""
    style: int
    """Index of the line in its panel, which selects colour and marker."""
    runs: tuple[BenchRun, ...]

    @property
    def batch(self) -> int:
        """Number of pictures in a sample."""
        return self.runs[0].case.batch


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Everything that was measured in one mode."""

    mode: str
    """One of `MODES`."""
    throughput: bool
    """True if several calls were in flight at once."""
    lines: tuple[Line, ...]
    common: str
    """Properties that all lines have in common, in words."""

    @property
    def swept(self) -> list[Line]:
        """The lines that are drawn by size: all of them if there are few, otherwise those with several sizes."""
        several = [line for line in self.lines if len(line.runs) > 1]
        return several if several and len(self.lines) > MAX_LINES else list(self.lines)

    @property
    def runs(self) -> list[tuple[Line, BenchRun]]:
        """All runs, each with its line."""
        return [(line, run) for line in self.lines for run in line.runs]


def panels(result: BenchResult) -> list[Panel]:
    """Return a panel for each mode of a result, in the order of measurement."""
    modes = dict.fromkeys((run.mode, run.throughput) for run in result.runs)
    return [
        _panel(mode, full, [r for r in result.runs if (r.mode, r.throughput) == (mode, full)])
        for mode, full in modes
    ]


def _panel(mode: str, throughput: bool, runs: Sequence[BenchRun]) -> Panel:
    """The panel of `runs`, which are all of one mode."""
    groups = grouped(runs)
    names, common = _names(list(groups))
    lines = [
        Line(name=name, style=i, runs=tuple(sorted(group, key=lambda r: (r.case.pixels, r.case.width))))
        for i, (name, group) in enumerate(zip(names, groups.values(), strict=True))
    ]
    return Panel(mode=mode, throughput=throughput, lines=tuple(lines), common=common)


Parts = tuple[tuple[str, str], ...]
"""Names and values of the parts that identify a line."""


def grouped(runs: Iterable[BenchRun], *, apart_from: str = "") -> dict[Parts, list[BenchRun]]:
    """Group runs by everything except their size; with `apart_from`, by everything except that part."""
    groups: dict[Parts, list[BenchRun]] = {}
    for run in runs:
        parts = parts_of(run)
        if apart_from:
            parts = {**parts, "size": f"{run.case.width}x{run.case.height}"}
            del parts[apart_from]
        groups.setdefault(tuple(parts.items()), []).append(run)
    return groups


def parts_of(run: BenchRun) -> dict[str, str]:
    """The parts that identify the line of a run, in the order of a name; "" if there is nothing to say."""
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
        # Eight hex digits distinguish the versions of a model without making names long.
        "file": (subject.engine_sha256 or subject.model_sha256 or "")[:8],
    }


def count(number: int, what: str) -> str:
    """Format a number of things: 1 run, 2 runs."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def names_of(groups: Sequence[Parts]) -> list[str]:
    """Return a short name for each group. Different groups have different names."""
    return _names(groups)[0]


def _names(groups: Sequence[Parts]) -> tuple[list[str], str]:
    """The names of groups, and what all of them have in common."""
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
    """Number of different values of `keys` in `parts`."""
    return len({tuple(part[key] for key in keys) for part in parts})


def _joined(part: Mapping[str, str], keys: Sequence[str]) -> str:
    """The values of `keys` as one name."""
    return " ".join(filter(None, (part[key] for key in keys))) or "unnamed"
