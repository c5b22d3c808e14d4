"""Text from files and names, made fit to be shown: on a terminal, in a table of a spreadsheet, in Markdown."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, other line ends, and characters that change the direction of writing.

A terminal obeys some of them: a file name could clear the screen, or make another name appear.
"""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of cells that spreadsheets take for formulas."""
_MARKDOWN = re.compile(r"[\\`*_<>\[\]|]")
"""Characters that can begin an element of Markdown or HTML inside a line."""


def shown(text: str) -> str:
    """`text` with control characters as escapes by their numbers (four hexadecimal digits), which are valid in JSON too."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def csv_cell(value: object) -> object:
    """A value for a CSV file. Text that begins like a formula gets an apostrophe in front, as spreadsheets expect."""
    if not isinstance(value, str):
        return value
    return shown(f"'{value}" if value.startswith(_FORMULA) else value)


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: one line, and nothing in it is markup."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", " ".join(shown(text).split("\n")))
