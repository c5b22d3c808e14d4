"""Budgets: limits that runs must keep, and by how much a run exceeds them. Compares numbers; prints nothing.

A budget limits the latency at a percentile, or demands the frame rate which that latency allows. In
throughput mode the frame rate is that of the whole run.
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
from sr_deploy.system.files import read_bounded
from sr_deploy.system.json_values import LARGEST_JSON, from_plain

REAL_TIME_FPS = 30.0
"""Frames a second that count as real time unless a user asks for another rate."""
PERCENTILE_NAMES = ("p50", "p90", "p95", "p99", "max", "mean", "min")
"""Names that `--percentile` and the `percentile` of a budget accept."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The limits that the matching runs must keep.

    A run matches if it equals `model`, `backend`, `precision` and `size` where these are given. Raises
    UsageError for numbers that are not above 0, for an unknown percentile, and if neither `min_fps` nor
    `max_ms` is given.
    """

    min_fps: float | None = None
    """Lowest frame rate that is allowed, in frames a second."""
    max_ms: float | None = None
    """Longest latency that is allowed at `percentile`, in milliseconds."""
    percentile: str = "p95"
    """Percentile of the samples to which both limits apply; one of PERCENTILE_NAMES."""
    model: str | None = None
    """Name of the model; None matches any. The same holds for `backend` and `precision`."""
    backend: str | None = None
    precision: str | None = None
    size: str | None = None
    """Label ("540p") or WIDTHxHEIGHT. None matches any size."""

    def __post_init__(self) -> None:
        for name, value in (("min_fps", self.min_fps), ("max_ms", self.max_ms)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} must be a number above 0, got {value}")
        if self.min_fps is None and self.max_ms is None:
            raise UsageError("a budget needs min_fps or max_ms; give at least one")
        if self.percentile not in PERCENTILE_NAMES:
            raise UsageError(
                f"there is no percentile {self.percentile!r}; choose one of {', '.join(PERCENTILE_NAMES)}"
            )

    def applies_to(self, run: BenchRun) -> bool:
        """Return whether `run` matches this budget."""
        size = (run.case.label, f"{run.case.width}x{run.case.height}")
        return (
            self.model in (None, run.subject.model)
            and self.backend in (None, run.subject.backend)
            and self.precision in (None, run.subject.precision)
            and (self.size is None or self.size.lower() in size)
        )

    def misses(self, run: BenchRun) -> list[str]:
        """Return a clause for each limit that `run` exceeds, with the amount."""
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
    """The content of a budget file: `[[budget]]` tables with the fields of `Budget`."""

    budget: tuple[Budget, ...] = field(default=())


def frame_rate(run: BenchRun, percentile: str = "p95") -> float:
    """Frames per second of `run`, from a percentile of its latency. In throughput mode it is the rate of the
    whole run, because a picture's latency includes the wait for others."""
    summary = summarise(run)
    if run.throughput:
        return summary.fps
    return run.case.batch / summary.percentile_of(percentile)


def read_budgets(path: Path) -> tuple[Budget, ...]:
    """Read the budgets of a TOML or JSON file. Raises InputError that names the fault."""
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
    """Read a TOML or JSON file; the suffix ".json" selects JSON, any other TOML.

    Args:
        path: The file.
        what: The option that named the file, for messages.

    Raises:
        InputError: The file cannot be read or parsed, is not a table, or TOML is not supported here.
    """
    try:
        text = read_bounded(path, LARGEST_JSON).decode("utf-8")
        record = json.loads(text) if path.suffix.lower() == ".json" else _toml().loads(text)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}; check the path") from error
    except (ValueError, RecursionError) as error:  # the base class of the errors of TOML, JSON and UTF-8
        raise InputError(f"{what} {path}: it cannot be parsed ({error}); correct it") from error
    if not isinstance(record, dict):
        raise InputError(f"{what} {path}: it is a {type(record).__name__}, expected a table; correct it")
    return record


def check_budgets(budgets: Sequence[Budget], runs: Sequence[BenchRun]) -> list[str]:
    """Return a line for every budget that a run missed, and for every budget that matches no run."""
    lines = []
    for budget in budgets:
        about = [run for run in runs if budget.applies_to(run)]
        if not about:
            lines.append(f"no run matches the budget {_description(budget)}")
        lines += [
            f"{run.subject.name} on {run.case.label}: {clause}"
            for run in about
            for clause in budget.misses(run)
        ]
    return lines


def _description(budget: Budget) -> str:
    """The fields that restrict `budget`, in words."""
    parts = (budget.model, budget.backend, budget.precision, budget.size)
    return " ".join(part for part in parts if part) or "for everything"


def _toml() -> Any:
    try:
        return import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ImportError as error:
        raise InputError(
            "TOML needs Python 3.11 or the package tomli; pip install tomli, or write the file as JSON"
        ) from error
