"""Damaged files of every kind are read, or refused in one line."""

from __future__ import annotations

from tests.system.mutations import check


def test_damaged_files_are_read_or_refused() -> None:
    said: list[str] = []
    counts = check(2000, seed=3, say=said.append)
    assert said == []
    assert not any(key.endswith("wrong") for key in counts)
    assert sum(counts.values()) == 2000
