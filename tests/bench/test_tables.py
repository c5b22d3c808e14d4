"""Results as Markdown and CSV."""

from __future__ import annotations

import csv
import io

import tests.bench.sample_results as sample
from sr_deploy.bench.summary import summarise
from sr_deploy.bench.tables import HEADER, csv_text, markdown, markdown_table, milliseconds, row


def test_a_row_says_what_ran_on_what_and_how_long_it_took() -> None:
    run = sample.run(where=sample.case("540p", tiles=4), samples=[0.0125] * 20)
    cells = dict(zip(HEADER, row(run), strict=True))
    assert cells["model"] == "rt-x4"
    assert (cells["size"], cells["pixels"], cells["tiles"]) == ("540p", "960x540", "4")
    assert (cells["p50 ms"], cells["fps"]) == ("12.5", "80.0")


def test_a_peer_goes_by_its_own_name() -> None:
    assert "torch eager" in row(sample.run(sample.subject(backend="torch", runner="torch eager")))


def test_times_keep_three_figures() -> None:
    assert [milliseconds(s) for s in (0.0001234, 0.01234, 1.2345)] == ["0.123", "12.3", "1,234"]


def test_csv_holds_every_run_in_full_precision() -> None:
    results = [sample.result(*sample.sweep()), sample.result()]
    lines = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert len(lines) == 5
    first = summarise(results[0].runs[0])
    assert float(lines[0]["p99_ms"]) == first.p99 * 1000
    assert lines[0]["label"] == "180p"
    assert lines[0]["device_bytes"] == ""
    assert lines[0]["throughput"] == "False"


def test_markdown_never_puts_two_modes_into_one_table() -> None:
    text = markdown([sample.result(sample.run(), sample.run(mode="with-files"))])
    assert text.count("| model |") == 2
    assert "; with-files" in text


def test_a_bar_in_a_name_does_not_break_a_table() -> None:
    assert markdown_table(("a",), [("x|y",)]).splitlines()[-1] == "| x\\|y |"
