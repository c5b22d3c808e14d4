"""Text from files and names, made fit to be shown: on a terminal, in a table of a spreadsheet, in Markdown."""

from __future__ import annotations

_SHOWN_AS = {
    code: f"\\u{code:04x}"
    for first, last in (
        (0x00, 0x08),
        (0x0B, 0x1F),
        (0x7F, 0x9F),
        (0x61C, 0x61C),
        (0x200E, 0x200F),
        (0x2028, 0x202E),
        (0x2066, 0x2069),
    )
    for code in range(first, last + 1)
}
"""Control characters but tab and line feed, other line ends, and characters that change the direction of writing.

A terminal obeys some of them: a file name could clear the screen, or make another name appear. A table, because
compiling an expression of these characters takes 0.4 ms of every start.
"""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of cells that spreadsheets take for formulas."""
_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_<>[]|"})
"""Characters that can begin an element of Markdown or HTML inside a line."""


def shown(text: str) -> str:
    """`text` with control characters as escapes by their numbers (four hexadecimal digits), which are valid in JSON too."""
    return text.translate(_SHOWN_AS)


def csv_cell(value: object) -> object:
    """A value for a CSV file. Text that begins like a formula gets an apostrophe in front, as spreadsheets expect."""
    if not isinstance(value, str):
        return value
    return shown(f"'{value}" if value.startswith(_FORMULA) else value)


def markdown_cell(text: str) -> str:
    """`text` for a cell of a Markdown table: one line, and nothing in it is markup."""
    return " ".join(shown(text).split("\n")).translate(_MARKDOWN)
