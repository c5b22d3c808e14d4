"""The bar that every long command draws on stderr, where that is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def stderr_bar(*texts: str, gone: bool = False, left: bool = True, stderr_above: bool = False) -> Progress:
    """Description, bar, `texts` (templates of a task's fields), the time gone and the time left; not started yet.

    It is wiped off when the work is done. What is printed to stdout meanwhile goes there as it is; what goes to
    stderr is kept above the bar with `stderr_above`, otherwise by `print_above`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(TextColumn(text, markup=False) for text in texts),
        *([TimeElapsedColumn()] if gone else []),
        *([TimeRemainingColumn()] if left else []),
    ]
    console = Console(stderr=True)
    return Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=stderr_above
    )


def print_above(bar: Progress, line: str) -> None:
    """`line` on stderr, above the bar, which would swallow it otherwise."""
    bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
