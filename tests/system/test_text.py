"""Text of others is shown without obeying it."""

from __future__ import annotations

import json

import pytest

from sr_deploy.system.text import csv_cell, markdown_cell, shown


@pytest.mark.parametrize(
    "code", [*range(9), *range(11, 32), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x2028, 0x061C]
)
def test_control_characters_are_escaped(code):
    assert shown(f"a{chr(code)}b") == f"a\\u{code:04x}b"


def test_other_text_stays():
    for text in ("plain text\n\tand a table", "größe 大 🙂 e\u0301", "C:\\pictures"):
        assert shown(text) == text


def test_escapes_are_valid_in_json():
    text = json.dumps({"name": "a\x7f\x9b[2J\u202e"}, ensure_ascii=False)
    assert json.loads(shown(text)) == {"name": "a\x7f\x9b[2J\u202e"}


@pytest.mark.parametrize("begin", list("=+-@\t\r"))
def test_a_cell_that_begins_like_a_formula_is_quoted(begin):
    assert str(csv_cell(f"{begin}A1")).startswith("'")
    assert csv_cell("rt-x4") == "rt-x4"


def test_numbers_in_cells_stay_numbers():
    assert [csv_cell(value) for value in (-1.5, 3, None, True)] == [-1.5, 3, None, True]


def test_a_name_in_a_markdown_table_is_no_markup():
    assert markdown_cell("a|b\n<img src=x>[l](u) `c`") == "a\\|b \\<img src=x\\>\\[l\\](u) \\`c\\`"
