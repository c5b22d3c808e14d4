"""The C library in programs with threads, in plugins, and over many calls."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.parametrize("name", ["plain", "rt-x2"])
def test_eight_threads_agree_with_a_handle_each_and_with_one_handle(run, model, name):
    path = name if name.startswith("rt") else model(name)
    ways = ["a handle for each thread", "one handle behind a lock", "one handle without a lock"]
    assert run("c/threads.c", path).stdout.splitlines() == [f"{way}: the same" for way in ways]


def test_the_lock_is_free_while_a_picture_is_computed_and_closing_lets_it_be_finished(run):
    answers, begun, later = run("lock.c", "rt-x2", 400).stdout.splitlines()
    assert int(answers) > 100  # of 49 tiles; while the lock is held for a tile, no answer comes
    assert (begun, later) == ("SR_OK the same", "SR_ERROR_CLOSED")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
def test_ten_thousand_calls_leave_memory_flat(run, model):
    grown = int(run("flat.c", model("plain"), "onnxruntime", 10_000).stdout)
    assert grown < 1024  # KiB, which is 1/8 KiB for each call


def test_a_plugin_works_with_hidden_symbols_and_half_a_mebibyte_of_stack(run, library, model):
    assert run("plugin.c", library.library, model("plain")).stdout == "6x4\n"
