"""What `bench` tells while it measures: one line on stderr, drawn over where that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click

from sr_deploy.bench.result import BenchCase
from sr_deploy.bench.run.session import WorkerStart

_SECONDS_BETWEEN_LINES = 10.0
_WIDTH = 78


class Progress:
    """Use it in a `with` statement. It draws between measurements only, never during one."""

    def __init__(self, quiet: bool) -> None:
        self._draws = not quiet and sys.stderr.isatty()
        self._prints = not quiet and not self._draws
        self._last = 0.0

    def show(self, entry: WorkerStart, case: BenchCase, number: int, total: int | None) -> None:
        """`entry` on `case` is measured next, after `number` of `total` others."""
        count = f"{number + 1} of {total}" if total else f"{number + 1}"
        line = f"measuring {count}: {entry.subject.name} {case.label} {case.width}x{case.height}"
        if self._draws:
            click.echo(f"\r{line[:_WIDTH]:<{_WIDTH}}", nl=False, err=True)
        elif self._prints and time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            click.echo(line, err=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draws:
            click.echo(f"\r{'':<{_WIDTH}}\r", nl=False, err=True)
