"""What a build tells while it goes on: a bar of TensorRT's own phases on a terminal, a line now and then elsewhere.

TensorRT before 10 says nothing of how far it is; the time that has gone is shown then.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

from sr_deploy.cli.shared.bars import stderr_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 15.0


class BuildProgress:
    """Call it with (phase, steps done, steps); use it in a `with` statement."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # TensorRT calls from the build's thread
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BuildProgress:
        if sys.stderr.isatty():
            self._bar = stderr_bar("{task.fields[count]}", gone=True)
            self._bar.start()
            self._bar.add_task("building", total=None, count="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, phase: str, done: int, steps: int) -> None:
        """Show that `done` of the `steps` of `phase` are done."""
        with self._lock:
            if self._bar is not None:
                self._show(self._bar, phase, done, steps)
            elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
                self._last_line = time.monotonic()
                gone = self._last_line - self._start
                click.echo(f"{phase}: {done} of {steps} steps, {gone:.0f} s", err=True)

    def _show(self, bar: Progress, phase: str, done: int, steps: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = bar.add_task(phase, total=steps, count="")
        if done >= steps:
            bar.remove_task(self._tasks.pop(phase))
        else:
            bar.update(self._tasks[phase], completed=done, count=f"{done}/{steps}")
