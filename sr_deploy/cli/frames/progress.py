"""The progress that `video` and `pipe` report on stderr: frames done, rate and time left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

from sr_deploy.cli.shared.bars import clock, print_above, stderr_bar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 10.0


class FrameProgress:
    """Frames done, rate and time left: a bar on a terminal, else a line now and then; all of it on stderr."""

    def __init__(self, *, quiet: bool, bar: bool = True) -> None:
        self.frames = 0
        self._quiet, self._draws = quiet, bar and not quiet and sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._first = 0
        self._total: int | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> FrameProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def say(self, message: str) -> None:
        """One line the user should know, unless quiet."""
        if not self._quiet:
            self._line(f"note: {message}")

    def begin(self, total: int | None, first: int = 0) -> None:
        """`total` frames are to be done, where that is known, and `first` of them are."""
        self.frames = self._first = first
        self._total = total
        self._start = time.monotonic()

    def frame(self, count: int) -> None:
        """`count` frames are done."""
        self.frames = count
        now = time.monotonic()
        if self._draws:
            self._draw()
        elif not self._quiet and now - self._last > _SECONDS_BETWEEN_LINES:
            self._last = now
            self._line(self._pace())

    @property
    def rate(self) -> float:
        """Frames a second since the beginning."""
        return (self.frames - self._first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start

    def _pace(self) -> str:
        if self._total is None or self.frames > self._total:
            return f"{self.frames} frames, {self.rate:.1f}/s"
        left = (self._total - self.frames) / max(self.rate, 1e-9)
        return f"{self.frames}/{self._total} frames, {self.rate:.1f}/s, {clock(left)} left"

    def _draw(self) -> None:
        if self._progress is None:
            self._progress = stderr_bar("{task.fields[pace]}", left=False, stderr_above=True)
            self._task = self._progress.add_task("", total=self._total, pace="")
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=self.frames, pace=self._pace())

    def _line(self, line: str) -> None:
        if self._progress is not None:
            print_above(self._progress, line)
        else:
            click.echo(line, err=True)
