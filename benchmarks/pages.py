"""A table between two lines of a page of docs/: put in its place, or compared with what is there."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""


def filled(page: Path, begin: str, end: str, made: str) -> str:
    """The text of `page` with `made` between the lines `begin` and `end`. SystemExit where it has no such place."""
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{page} has no place for the table")
    return head + begin + made + end + tail


def settle(page: Path, made: str, *, only_check: bool, remedy: str) -> None:
    """Write `made` to `page`; or, to check only, end with 1 and `remedy` where the page is another."""
    if not only_check:
        page.write_text(made, encoding="utf-8", newline="\n")
    elif page.read_text(encoding="utf-8") != made:
        sys.exit(f"{page.relative_to(ROOT).as_posix()} does not show its results; run: python {remedy}")
