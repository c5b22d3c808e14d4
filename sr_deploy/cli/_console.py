"""Printing for every command: one line on stderr, text that any console can take, tables of plain text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click


def complain(message: str, *, prefix: bool = True) -> None:
    """Print `message` as one line on stderr, after "error: " unless told otherwise."""
    line = " ".join(message.split())
    click.echo(f"error: {line}" if prefix else line, err=True)


def make_output_safe() -> None:
    """Let stdout and stderr escape what their encoding lacks (a file name may hold anything), not raise."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")


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
