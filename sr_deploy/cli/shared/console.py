"""Printing for every command: one line on stderr, text that any console can take, tables of plain text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO, cast

import click


def complain(message: str, *, prefix: bool = True) -> None:
    """Print `message` as one line on stderr, after "error: " unless told otherwise."""
    line = " ".join(message.split())
    click.echo(f"error: {line}" if prefix else line, err=True)


class _ReplacingWriter:
    """A stream whose failures to write are not worth failing for: what is printed is not the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def make_output_safe() -> None:
    """Let nothing that is printed fail the work.

    stdout and stderr escape what their encoding lacks (a file name may hold anything); where the caller closed
    one of them it goes nowhere, and so does what a full disk behind stderr does not take.
    """
    _fill_closed_streams()
    if not isinstance(sys.stderr, _ReplacingWriter):
        sys.stderr = cast(TextIO, _ReplacingWriter(sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


def _fill_closed_streams() -> None:
    """Put the null device where stdin, stdout and stderr are closed, before a picture takes their place."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # stays open as long as the process


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a header, columns padded with spaces; numbers to the right, the rest to the left."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).isdigit()
