"""Put a table between two lines of a page of docs/, or compare it with the one there."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Root folder of the repository."""


def filled(page: Path, begin: str, end: str, made: str) -> str:
    """Return the text of `page` with `made` between the lines `begin` and `end`. SystemExit if these are
    missing."""
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page} has no place for the table")
    return head + begin + made + end + tail


def settle(page: Path, made: str, *, only_check: bool, remedy: str) -> None:
    """Write `made` to `page`. To check only, exit with 1 and name `remedy` if the page differs."""
    if not only_check:
        page.write_text(made, encoding="utf-8", newline="\n")
    elif page.read_text(encoding="utf-8") != made:
        sys.exit(f"{page.relative_to(ROOT).as_posix()} does not show its results; run: python {remedy}")
