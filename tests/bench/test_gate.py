"""Budgets: a message names what missed, and by how much."""

from __future__ import annotations

from pathlib import Path

import pytest

import tests.bench.sample_results as sample
from sr_deploy.bench.gate import Budget, check_budgets, frame_rate, read_budgets
from sr_deploy.errors import InputError, UsageError

TENTHS = [0.1] * 19 + [0.2]


def test_a_frame_rate_is_held_at_a_percentile() -> None:
    run = sample.run(samples=TENTHS)
    assert Budget(min_fps=9.9, percentile="p50").misses(run) == []
    assert Budget(min_fps=9.9, percentile="max").misses(run) == [
        "5.0 fps at max, asked for 9.9: 49.5% too few"
    ]


def test_a_latency_is_held_at_a_percentile() -> None:
    run = sample.run(samples=TENTHS)
    assert Budget(max_ms=100.1, percentile="p50").misses(run) == []
    assert Budget(max_ms=100, percentile="max").misses(run) == [
        "200.00 ms at max, allowed are 100: 100.0% too long"
    ]


def test_a_batch_counts_as_many_frames() -> None:
    assert frame_rate(sample.run(where=sample.case(batch=4), samples=[0.1]), "p50") == pytest.approx(40)


def test_with_the_pipeline_full_the_rate_is_that_of_the_whole_run() -> None:
    run = sample.run(samples=[0.2] * 10, wall=1.0, throughput=True)
    assert frame_rate(run, "p99") == pytest.approx(10)
    assert Budget(min_fps=9).misses(run) == []


def test_a_budget_is_about_the_runs_it_names() -> None:
    small, large = sample.run(where=sample.case("180p")), sample.run(where=sample.case("540p"))
    assert [Budget(min_fps=1, size="320x180").applies_to(run) for run in (small, large)] == [True, False]
    assert [Budget(min_fps=1, size="540P").applies_to(run) for run in (small, large)] == [False, True]
    assert not Budget(min_fps=1, backend="openvino").applies_to(small)
    lines = check_budgets([Budget(max_ms=1, size="180p")], [small, large])
    assert len(lines) == 1
    assert lines[0].startswith("rt-x4 onnxruntime fp32 on 180p: ")


def test_a_budget_about_nothing_that_was_measured_is_missed() -> None:
    assert check_budgets([Budget(min_fps=1, model="rt-x9")], [sample.run()]) == [
        "no run matches the budget rt-x9"
    ]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"min_fps": 0.0},
        {"max_ms": -1.0},
        {"min_fps": float("inf")},
        {"min_fps": float("nan")},
        {"max_ms": 1.0, "percentile": "p97"},
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Budget(**bad)  # type: ignore[arg-type]


JSON = '{"budget": [{"max_ms": 5, "size": "90p", "percentile": "p99"}, {"min_fps": 30}]}'


def test_budgets_are_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    path.write_text(JSON, encoding="utf-8")
    assert read_budgets(path) == (Budget(max_ms=5.0, size="90p", percentile="p99"), Budget(min_fps=30.0))


def test_budgets_are_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "budget.toml"
    path.write_text('[[budget]]\nmin_fps = 24\nbackend = "openvino"\n', encoding="utf-8")
    assert read_budgets(path) == (Budget(min_fps=24.0, backend="openvino"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"budget": [{"max_ms": "5"}]}', "max_ms is a str, expected a float"),
        ('{"budget": [{"max_ms": 5, "fps": 1}]}', "'fps', which is not known"),
        ('{"budget": [{"max_ms": 0}]}', "must be a number above 0"),
        ('{"budget": []}', "has no"),
        ("{}", "has no"),
        ("[1]", "it is a list"),
        ("{", "cannot be parsed"),
    ],
)
def test_a_broken_budget_file_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "budget.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"budget\.json") as caught:
        read_budgets(path)
    assert says in str(caught.value)
