"""Progress on stderr: drawn in place on a terminal, single lines at intervals elsewhere.

Only this module draws. A command says what it counts, with `ProgressDisplay.show`. rich is imported when something
is drawn for the first time, not before, because its import would delay the start of every command.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import click

from sr_deploy.cli.shared.console import screen
from sr_deploy.system.text import shown

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

SECONDS_BETWEEN_LINES = 10.0
"""Shortest time between two lines of progress where nothing is drawn, unless a command chooses another one."""


class ProgressDisplay:
    """The display of one command; use it in a `with` statement. May be called from several threads.

    On a terminal it shows tasks, one under the other, which are wiped off at the end. Text that is printed to stderr
    meanwhile appears above them; stdout is left alone.
    """

    def __init__(
        self,
        *texts: str,
        quiet: bool = False,
        mark: Literal["bar", "spinner", "none"] = "bar",
        elapsed: bool = False,
        remaining: bool = False,
        refreshes: bool = True,
        interval: float | None = None,
        line_at_once: bool = False,
    ) -> None:
        """Choose the parts of a task's line; nothing is drawn yet.

        The line holds the description, the `mark` (a spinner stands before the description), `texts` (rich templates
        such as "{task.fields[count]}"), and the `elapsed` and `remaining` time. Without `refreshes` the display changes
        only within `show`, so that nothing runs between two calls. `interval` is the shortest time between two printed
        lines in seconds; None means SECONDS_BETWEEN_LINES. It also has to pass before the first line, so that short work
        prints none, unless `line_at_once` is set.
        """
        self.draws = not quiet and sys.stderr.isatty()
        """True if progress is drawn in place: stderr is a terminal and the user did not ask for quiet."""
        self._quiet, self._texts, self._mark = quiet, texts, mark
        self._elapsed, self._remaining, self._refreshes = elapsed, remaining, refreshes
        self._interval = SECONDS_BETWEEN_LINES if interval is None else interval
        self._start = time.monotonic()
        self._last_line = float("-inf") if line_at_once else self._start
        self._lock = threading.RLock()
        self._screen: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def drawn(self) -> bool:
        """True while something is on the terminal: from the first `show` until `stop`."""
        return self._screen is not None

    @property
    def seconds(self) -> float:
        """Seconds since the display was made."""
        return time.monotonic() - self._start

    def show(
        self,
        done: float,
        total: float | None,
        description: str = "",
        *,
        task: str = "",
        line: str | None = None,
        **fields: Any,
    ) -> None:
        """Show that `done` of `total` are done; `total` None means that the end is unknown. `task` is the key
        of the task to show or change, `fields` are values for the templates. Where nothing is drawn, `line`
        is printed instead if the interval has passed; None prints nothing."""
        if self._quiet:
            return
        description = shown(description)
        with self._lock:
            if self.draws:
                self._draw(done, total, description, task, fields)
            else:
                self._print_if_due(line)

    def finish(self, task: str, *, line: str | None = None) -> None:
        """Remove the task with this key, if it is shown; `line` as for `show`."""
        if self._quiet:
            return
        with self._lock:
            if not self.draws:
                self._print_if_due(line)
            elif self._screen is not None and task in self._tasks:
                self._screen.remove_task(self._tasks.pop(task))

    def print(self, line: str, *, to_stdout: bool = False) -> None:
        """Print `line`, also if quiet. After a line on stderr, the next line of progress waits for the interval.

        It goes to stderr, above the tasks, which would overwrite it otherwise. With `to_stdout` it goes to stdout; if
        both streams are terminals, they are taken for the same one.
        """
        line = shown(line)
        with self._lock:
            if not to_stdout:
                self._last_line = time.monotonic()
            if self._screen is not None and (not to_stdout or sys.stdout.isatty()):
                self._screen.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                click.echo(line, err=not to_stdout)

    def _print_if_due(self, line: str | None) -> None:
        """Print a line of progress if the interval since the last line has passed."""
        if line is not None and time.monotonic() - self._last_line > self._interval:
            self.print(line)

    def refresh(self) -> None:
        """Draw the present state at once, instead of within the next tenth of a second."""
        if self._screen is not None:
            self._screen.refresh()

    def stop(self) -> None:
        """Wipe the tasks off the terminal. Later lines are printed plainly."""
        with self._lock:
            if self._screen is not None:
                self._screen.stop()
                self._screen = None
                self._tasks.clear()

    def _draw(
        self, done: float, total: float | None, description: str, task: str, fields: dict[str, Any]
    ) -> None:
        """Change the task, or add it if its key is new. The first task starts the display."""
        if self._screen is None:
            self._screen = self._new_screen()
            self._screen.start()
        if task not in self._tasks:
            self._tasks[task] = self._screen.add_task(description, total=total, **fields)
        self._screen.update(self._tasks[task], completed=done, total=total, description=description, **fields)
        if not self._refreshes:
            self._screen.refresh()

    def _new_screen(self) -> Progress:
        """The rich display for stderr. Descriptions and texts are not markup, because file names may contain brackets."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
        if self._mark == "spinner":
            columns.insert(0, SpinnerColumn())
        elif self._mark == "bar":
            columns.append(BarColumn())
        columns += [TextColumn(text, markup=False) for text in self._texts]
        columns += [TimeElapsedColumn()] if self._elapsed else []
        columns += [TimeRemainingColumn()] if self._remaining else []
        return Progress(
            *columns,
            console=Console(stderr=True, file=screen()),
            transient=True,
            auto_refresh=self._refreshes,
            redirect_stdout=False,  # results may go through a pipe, and must arrive unchanged
        )


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
