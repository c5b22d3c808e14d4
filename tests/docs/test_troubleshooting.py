"""The errors on the page about troubleshooting are those that the code raises."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = [
    re.sub(r"^(error|warning|note): ", "", line)
    for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
_LONG = 14
"""Letters that the longest text of every error has at least. Shorter ones could be from any other error."""


def templates(tree: ast.Module) -> Iterator[str]:
    """The texts of a module, each joined from its parts; {} stands for every value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def source() -> str:
    """Every text of the package."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "sr_deploy").rglob("*.py"))
    return "\n".join(text for tree in trees for text in templates(tree))


def segments(piece: str) -> list[str]:
    """Cut a literal part of an error into the longest texts that the code has, from left to right."""
    for end in range(len(piece), 0, -1):
        if piece[:end] in source():
            return [piece[:end], *(segments(piece[end:]) if end < len(piece) else ())]
    return [piece, "not in the code"]


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_quoted_error_is_in_the_code(quoted):
    """An error may be joined from two texts: what is wrong, and what to do."""
    found = [segments(piece.strip().replace("17", "{}")) for piece in quoted.split("...") if piece.strip()]
    assert [parts for parts in found if len(parts) > 2 or "not in the code" in parts] == []
    assert max(len(part) for parts in found for part in parts) >= _LONG


def test_the_page_has_the_errors_that_users_meet():
    assert len(QUOTED) >= 30
    assert len(set(QUOTED)) == len(QUOTED)
