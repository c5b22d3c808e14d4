"""Reasons to doubt a measurement are reported."""

from __future__ import annotations

from dataclasses import replace

import tests.bench.sample_results as sample
from sr_deploy.bench.doubts import doubts, run_doubts


def said(text: str, **changes: object) -> bool:
    return any(text in doubt for doubt in run_doubts(sample.run(**changes)))  # type: ignore[arg-type]


def test_a_good_run_is_not_doubted() -> None:
    assert run_doubts(sample.run()) == []


def test_each_reason_is_told() -> None:
    assert said("fewer than 20 samples", samples=[0.1] * 19)
    assert said("before the times were steady", steady=False)
    assert said("spreads by more than 10%", samples=[0.1, 0.2] * 20)
    assert said("are outliers", samples=([0.1, 0.101] * 3 + [0.5]) * 6)
    assert said("other processes took", others=0.11)
    assert said("less than 0.1 ms", seconds=0.00005)
    assert not said("other processes took", others=0.09)


def test_runs_with_the_same_doubt_share_a_line() -> None:
    runs = [sample.run(where=sample.case(label), steady=False) for label in sample.SIZES]
    lines = doubts(sample.result(*runs, interrupted=True))
    assert len(lines) == 2
    assert "180p" in lines[0]
    assert lines[0].endswith("and 1 more")
    assert "interrupted" in lines[1]


def test_a_clock_that_saves_power_is_told() -> None:
    good = sample.result()
    state = replace(good.environment.state, governor="powersave")
    assert (
        "governor is powersave"
        in doubts(replace(good, environment=replace(good.environment, state=state)))[0]
    )
