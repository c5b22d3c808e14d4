"""Budgets: what a run has to hold, and by how much it missed it. Compares numbers; prints nothing.

A budget is a latency at a percentile, or the frame rate that this latency allows; with the pipeline kept full, the
frame rate is that of the whole run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from sr_deploy.bench.result import BenchRun
from sr_deploy.bench.summary import summarise
from sr_deploy.errors import InputError, UsageError
from sr_deploy.system.json_values import from_plain

REAL_TIME_FPS = 30.0
PERCENTILE_NAMES = ("p50", "p90", "p95", "p99", "max", "mean", "min")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the runs that it is about have to hold. Raises UsageError where it makes no sense."""

    min_fps: float | None = None
    max_ms: float | None = None
    percentile: str = "p95"
    model: str | None = None
    backend: str | None = None
    precision: str | None = None
    size: str | None = None
    """Label or WIDTHxHEIGHT. None, as of the others: any."""

    def __post_init__(self) -> None:
        for name, value in (("min_fps", self.min_fps), ("max_ms", self.max_ms)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} must be a number above 0, got {value}")
        if self.min_fps is None and self.max_ms is None:
            raise UsageError("a budget needs min_fps or max_ms; give at least one")
        if self.percentile not in PERCENTILE_NAMES:
            raise UsageError(
                f"there is no percentile {self.percentile!r}; choose {', '.join(PERCENTILE_NAMES)}"
            )

    def applies_to(self, run: BenchRun) -> bool:
        """Whether it names `run`."""
        size = (run.case.label, f"{run.case.width}x{run.case.height}")
        return (
            self.model in (None, run.subject.model)
            and self.backend in (None, run.subject.backend)
            and self.precision in (None, run.subject.precision)
            and (self.size is None or self.size.lower() in size)
        )

    def misses(self, run: BenchRun) -> list[str]:
        """What `run` missed and by how much, a clause each."""
        summary = summarise(run)
        fps, milliseconds = frame_rate(run, self.percentile), summary.percentile_of(self.percentile) * 1000
        missed = []
        if self.min_fps is not None and fps < self.min_fps:
            at = "" if run.throughput else f" at {self.percentile}"
            short = 1 - fps / self.min_fps
            missed.append(f"{fps:.1f} fps{at}, asked for {self.min_fps:g}: {short:.1%} too few")
        if self.max_ms is not None and milliseconds > self.max_ms:
            over = milliseconds / self.max_ms - 1
            missed.append(
                f"{milliseconds:.2f} ms at {self.percentile}, allowed are {self.max_ms:g}: {over:.1%} too long"
            )
        return missed


@dataclass(frozen=True, kw_only=True)
class BudgetFile:
    """What a budget file holds: `[[budget]]` tables with the fields of `Budget`."""

    budget: tuple[Budget, ...] = field(default=())


def frame_rate(run: BenchRun, percentile: str = "p95") -> float:
    """Frames per second that `run` holds: at a percentile of its latency, or of the whole where several overlap."""
    summary = summarise(run)
    if run.throughput:
        return summary.fps
    return run.case.batch / summary.percentile_of(percentile)


def read_budgets(path: Path) -> tuple[Budget, ...]:
    """The budgets of a TOML or JSON file. Raises InputError naming what is wrong with it."""
    record = read_table(path, "--budget")
    try:
        budgets = from_plain(BudgetFile, record, "it").budget
    except (ValueError, UsageError) as error:
        raise InputError(
            f"--budget {path}: {error}; write [[budget]] tables with min_fps or max_ms"
        ) from error
    if not budgets:
        raise InputError(f"--budget {path}: it has no [[budget]] table; write one with min_fps or max_ms")
    return budgets


def read_table(path: Path, what: str) -> dict[str, Any]:
    """A TOML or JSON file, told by its suffix. Raises InputError; `what` is the option it was given to."""
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text) if path.suffix.lower() == ".json" else _toml().loads(text)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}; check the path") from error
    except ValueError as error:  # of TOML, JSON and UTF-8 alike
        raise InputError(f"{what} {path}: it cannot be parsed ({error}); mend it") from error
    if not isinstance(record, dict):
        raise InputError(f"{what} {path}: it is a {type(record).__name__}, expected a table; mend it")
    return record


def check_budgets(budgets: Sequence[Budget], runs: Sequence[BenchRun]) -> list[str]:
    """A line for every budget that a run missed, and for every one that is about no run."""
    lines = []
    for budget in budgets:
        about = [run for run in runs if budget.applies_to(run)]
        if not about:
            lines.append(f"nothing was measured that the budget {_description(budget)} is about")
        lines += [
            f"{run.subject.name} on {run.case.label}: {clause}"
            for run in about
            for clause in budget.misses(run)
        ]
    return lines


def _description(budget: Budget) -> str:
    parts = (budget.model, budget.backend, budget.precision, budget.size)
    return " ".join(part for part in parts if part) or "for everything"


def _toml() -> Any:
    """The standard library's reader, or before Python 3.11 the package it came from."""
    try:
        return import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise InputError(
            "TOML needs Python 3.11 or the package tomli; pip install tomli, or write the file as JSON"
        ) from error
