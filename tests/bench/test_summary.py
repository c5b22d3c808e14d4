"""Summaries of samples, against numbers worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.bench.sample_results as sample
from sr_deploy.bench.result import Calibration
from sr_deploy.bench.summary import percentile, summarise
from sr_deploy.errors import UsageError


def test_percentiles_are_interpolated_between_the_samples() -> None:
    summary = summarise(sample.run(samples=[0.5, 0.1, 0.3, 0.2, 0.4]))
    assert (summary.least, summary.p50, summary.most) == (0.1, 0.3, 0.5)
    assert summary.p90 == pytest.approx(0.46)
    assert summary.p99 == pytest.approx(0.496)
    assert summary.count == 5
    assert summary.jitter == pytest.approx((0.4 + 0.2 + 0.1 + 0.2) / 4)
    assert summary.spread == pytest.approx(0.1 / 0.3)


def test_rates_come_from_the_whole_run_not_from_single_samples() -> None:
    run = sample.run(where=sample.case("100x50", batch=2), samples=[0.1, 0.1, 0.2], wall=0.5)
    summary = summarise(run)
    assert summary.fps == pytest.approx(3 * 2 / 0.5)
    assert summary.megapixels == pytest.approx(12 * 100 * 50 / 1e6)
    assert summary.output_megapixels == pytest.approx(16 * summary.megapixels)


def test_one_sample_is_enough_for_numbers() -> None:
    summary = summarise(sample.run(samples=[0.25]))
    assert (summary.p50, summary.p99, summary.jitter, summary.spread) == (0.25, 0.25, 0, 0)


def test_one_slow_sample_in_twenty_is_an_outlier() -> None:
    assert summarise(sample.run(samples=[1.0, 1.01] * 9 + [1.0, 5.0])).outliers == pytest.approx(1 / 20)


def test_stages_and_what_is_left_make_up_a_sample() -> None:
    samples = [0.1, 0.2]
    run = sample.run(samples=samples, stages=sample.stages(samples, prepare=0.1, compute=0.7))
    assert summarise(run).stages == pytest.approx({"prepare": 0.1, "compute": 0.7, "other": 0.2})


def test_shares_of_the_peak_need_a_calibration_and_the_work_of_the_net() -> None:
    run = sample.run(
        sample.subject(multiply_adds_per_pixel=1000.0), sample.case("100x100"), samples=[0.01], wall=0.01
    )
    peak = Calibration(copy_bytes_per_second=1e9, multiply_adds_per_second=2e9, threads=1)
    summary = summarise(run, peak)
    assert summary.compute_share == pytest.approx(100 * 100 * 1000 / 0.01 / 2e9)
    assert summary.bandwidth_share == pytest.approx(100 * 100 * 3 * 17 / 0.01 / 1e9)
    assert summarise(run).compute_share is None
    assert summarise(sample.run(), peak).compute_share is None


def test_energy_is_shared_out_among_the_pictures() -> None:
    run = sample.run(where=sample.case(batch=4), samples=[0.1] * 5, energy=40.0)
    assert summarise(run).joules == pytest.approx(2.0)
    assert summarise(sample.run()).joules is None


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50))
def test_percentiles_never_fall(samples: list[float]) -> None:
    summary = summarise(sample.run(samples=samples))
    ordered = (summary.least, summary.p50, summary.p90, summary.p95, summary.p99, summary.most)
    assert list(ordered) == sorted(ordered)
    assert percentile(samples, 100) == max(samples)


def test_a_percentile_is_found_by_its_name() -> None:
    summary = summarise(sample.run(samples=[0.1, 0.2, 0.3]))
    assert (summary.percentile_of("p50"), summary.percentile_of("max")) == (0.2, 0.3)
    with pytest.raises(UsageError, match="p97"):
        summary.percentile_of("p97")
