"""Printing for every command: one line on stderr, text that any console accepts, tables as plain text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO, cast

import click

from sr_deploy.system.text import shown


def complain(message: str, *, prefix: bool = True) -> None:
    """Print `message` as one line on stderr, after "error: " unless `prefix` is false.

    Line breaks and repeated spaces become single spaces, so that scripts can rely on one line per error.
    """
    line = shown(" ".join(message.split()))
    click.echo(f"error: {line}" if prefix else line, err=True)


class _EscapingWriter:
    """A text stream that shows control characters as escapes. File names and metadata may hold any."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = self.unescaped_stream = stream

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text` escaped. Returns its length."""
        self._stream.write(shown(text))
        return len(text)


class _ReplacingWriter:
    """A text stream that ignores failures to write. A command must not fail because a message cannot be printed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`. Returns its length if that fails, as if it had been written."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush the stream, or do nothing if that fails."""
        with suppress(OSError):
            self._stream.flush()


def screen() -> TextIO:
    """Stderr for the display of the progress, which draws with control characters of its own."""
    plain = getattr(sys.stderr, "unescaped_stream", None)
    return sys.stderr if plain is None else cast(TextIO, _ReplacingWriter(plain))


def make_output_safe() -> None:
    """Make sure that no printed text can fail the work. May be called more than once.

    stdout and stderr escape characters that their encoding lacks, because a file name may contain any character.
    Both also escape control characters.
    If the caller closed one of them, its text is discarded. Text that stderr cannot take, for example because the
    disk behind it is full, is discarded too. Errors of stdout still count: results are printed there.
    """
    _fill_closed_streams()
    if not isinstance(sys.stderr, _ReplacingWriter):
        sys.stderr = cast(TextIO, _ReplacingWriter(cast(TextIO, _EscapingWriter(sys.stderr))))
    if not isinstance(sys.stdout, _EscapingWriter):
        sys.stdout = cast(TextIO, _EscapingWriter(sys.stdout))
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _fill_closed_streams() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed.

    Otherwise the next file to be opened, such as a picture, would get number 0, 1 or 2, and messages would be
    written into it.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    # the system always hands out the lowest free number, so this fills 0 to 2
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or _null_stream()
    sys.stderr = sys.stderr or _null_stream()


def _null_stream() -> TextIO:
    """A text stream that discards everything."""
    return open(os.devnull, "w", encoding="utf-8")  # stays open until the process ends


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format `rows` under a header as plain text, with two spaces between columns.

    A column is aligned to the right if all its cells are numbers, else to the left. Spaces at the end of a line are
    removed.
    """
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    """True for a number such as "1,234.5", and for "-", which stands for a missing number."""
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).isdigit()
