"""Slower, faster or neither: on times that scatter and drift as they do on real machines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tests.bench.sample_results as sample
from sr_deploy.bench.compare import MIN_PACE_TIMES, compare_results, compare_times, regressions, undecided
from sr_deploy.errors import InputError


def times(rng: np.random.Generator, slower: float = 0.0, count: int = 90) -> list[float]:
    """Times on a shared machine: 2 % of scatter, slow waves of 1 %, and every tenth call delayed."""
    scatter = rng.normal(0, 0.02, count)
    waves = 0.01 * np.sin(np.arange(count) / rng.uniform(5, 15) + rng.uniform(0, 6.3))
    held_up = np.where(rng.random(count) < 0.1, rng.exponential(0.3, count), 0)
    return [float(v) for v in 0.05 * (1 + slower) * np.exp(scatter + waves) + 0.05 * held_up]


def test_the_same_thing_twice_is_no_change_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(1)
    verdicts = [compare_times(times(rng), times(rng)).verdict for _ in range(100)]
    assert verdicts.count("no change") >= 95


def test_five_percent_more_is_found_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(2)
    verdicts = [compare_times(times(rng), times(rng, slower=0.05)).verdict for _ in range(100)]
    assert verdicts.count("slower") >= 95


def test_turned_round_slower_is_faster() -> None:
    rng = np.random.default_rng(3)
    change = compare_times(times(rng, slower=0.1), times(rng))
    assert change.verdict == "faster"
    assert change.low < change.ratio < change.high < 1


def test_the_same_samples_give_the_same_answer() -> None:
    rng = np.random.default_rng(4)
    first, second = times(rng), times(rng)
    assert compare_times(first, second) == compare_times(first, second)
    assert compare_times(first, first).ratio == 1


def test_too_few_samples_say_nothing() -> None:
    assert compare_times([0.1] * 3, [0.2] * 3).verdict == "too few samples"
    few = sample.result(sample.run(samples=[0.1] * 3))
    (line,) = undecided(compare_results(few, few))
    assert "3 and 3 samples are too few" in line
    assert compare_times([0.1] * 4, [0.2] * 4).verdict == "slower"


def test_runs_are_paired_by_what_ran_on_what() -> None:
    before = sample.result(*sample.sweep())
    after = sample.result(*sample.sweep(at_360p=0.012)[1:3], sample.run(sample.subject(backend="openvino")))
    pairs = compare_results(before, after)
    assert [pair.after.case.label for pair in pairs] == ["360p", "540p"]
    assert {pair.change.verdict for pair in pairs} == {"slower"}


def test_a_regression_is_named_with_its_times_and_what_was_allowed() -> None:
    pairs = compare_results(sample.result(sample.run(seconds=0.01)), sample.result(sample.run(seconds=0.012)))
    (line,) = regressions(pairs, 0.05)
    assert line.startswith("rt-x4 onnxruntime fp32 on 360p: +20.0 %")
    assert line.endswith("allowed are +5.0%")
    assert regressions(pairs, 0.25) == []


def test_results_of_unlike_machines_are_not_compared() -> None:
    other = replace(sample.MACHINE, cpu="Another CPU", usable_cores=8)
    with pytest.raises(InputError, match="cpu: Test CPU and Another CPU; usable cores: 2 and 8"):
        compare_results(sample.result(), sample.result(machine=other), ("a.json", "b.json"))


def test_on_a_busy_machine_processor_time_is_judged() -> None:
    quiet = sample.run(samples=[0.1] * 20, cpu=(0.2,) * 20)
    crowded = sample.run(samples=[0.3] * 20, cpu=(0.2,) * 20, others=0.5)
    (pair,) = compare_results(sample.result(quiet), sample.result(crowded))
    assert (pair.by, pair.change.verdict) == ("processor time", "no change")
    (pair,) = compare_results(sample.result(quiet), sample.result(sample.run(samples=[0.3] * 20)))
    assert (pair.by, pair.change.verdict) == ("time", "slower")


def test_a_slower_machine_is_no_slower_program_and_a_faster_one_hides_none() -> None:
    def pair_of(seconds: float, pace: float) -> Any:
        before = sample.run(seconds=0.01, pace=(0.002,) * MIN_PACE_TIMES)
        after = sample.run(seconds=seconds, pace=(pace,) * MIN_PACE_TIMES)
        (pair,) = compare_results(sample.result(before), sample.result(after))
        return pair

    slower_machine = pair_of(0.011, 0.0022)
    assert (slower_machine.change.verdict, slower_machine.note) == ("no change", "the machine +10.0%")
    hidden = pair_of(0.01, 0.0018)
    assert (hidden.change.verdict, hidden.note) == ("slower", "the machine -10.0%")
    assert "the machine -10.0%" in regressions([hidden], 0.05)[0]
    assert pair_of(0.0101, 0.002).note == ""


def test_few_looks_at_the_pace_or_another_numpy_say_nothing() -> None:
    before = sample.result(sample.run(seconds=0.01, pace=(0.002,) * MIN_PACE_TIMES))
    for after, versions in (
        (sample.run(seconds=0.011, pace=(0.0022,) * (MIN_PACE_TIMES - 1)), {}),
        (sample.run(seconds=0.011, pace=(0.0022,) * MIN_PACE_TIMES), {"numpy": "0.1"}),
    ):
        result = sample.result(after)
        changed = dict(result.environment.versions) | versions
        result = replace(result, environment=replace(result.environment, versions=changed))
        (pair,) = compare_results(before, result)
        assert (pair.change.verdict, pair.note) == ("slower", "")


def test_a_pace_that_scatters_widens_the_interval() -> None:
    rng = np.random.default_rng(6)
    first, second = times(rng), times(rng)
    steady = compare_times(first, second, paces=([0.002] * MIN_PACE_TIMES,) * 2)
    looks = [list(0.002 * np.exp(rng.normal(0, 0.1, MIN_PACE_TIMES))) for _ in range(2)]
    scattered = compare_times(first, second, paces=(looks[0], looks[1]))
    assert scattered.high - scattered.low > steady.high - steady.low


def test_few_samples_are_judged_by_their_median() -> None:
    assert compare_times([1.0, 1.0, 1.0, 1.0, 9.0], [1.0, 2.0, 2.0, 2.0, 2.0]).ratio == 2


def test_what_holds_calls_up_now_and_then_is_no_change() -> None:
    rng = np.random.default_rng(5)
    plain, crowded = (list(rng.normal(0.05, 0.0005, 200)) for _ in range(2))
    crowded[::2] = [seconds * 1.3 for seconds in crowded[::2]]
    assert compare_times(plain, crowded).verdict == "no change"
    assert np.median(crowded) > 1.025 * np.median(plain)


def test_with_several_in_flight_the_pace_counts_not_the_latency() -> None:
    slow = sample.run(samples=[0.4] * 20, wall=2.0, throughput=True)
    slower = sample.run(samples=[0.2] * 20, wall=2.2, throughput=True)
    (pair,) = compare_results(sample.result(slow), sample.result(slower))
    assert pair.change.ratio == pytest.approx(1.1)
    slow = sample.run(samples=[0.4] * 200, wall=20, throughput=True)
    uneven = sample.run(samples=[0.1, 0.4] * 100, wall=25, throughput=True)
    (pair,) = compare_results(sample.result(slow), sample.result(uneven))
    assert pair.change.ratio == pytest.approx(1.25)
    assert pair.change.verdict == "slower"
