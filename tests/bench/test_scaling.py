"""Power laws through measured points."""

from __future__ import annotations

import math

import pytest

import tests.bench.sample_results as sample
from sr_deploy.bench.result import Memory
from sr_deploy.bench.scaling import find_scalings, fit_power_law


def test_a_law_is_found_again_in_points_that_follow_it() -> None:
    fit = fit_power_law([(x, 3e-9 * x**1.25) for x in (1e3, 1e4, 1e5, 1e6)])
    assert fit is not None
    assert fit.exponent == pytest.approx(1.25)
    assert fit.factor == pytest.approx(3e-9)
    assert fit.r2 == pytest.approx(1)
    assert fit.at(5e4) == pytest.approx(3e-9 * 5e4**1.25)
    reached = fit.reaching(fit.at(777.0))
    assert reached is not None
    assert reached == pytest.approx(777)


def test_two_points_are_no_law() -> None:
    assert fit_power_law([(1, 1), (2, 2), (2, 2.1)]) is None
    assert fit_power_law([(0, 1), (2, 2), (3, 3)]) is None


def test_what_does_not_grow_reaches_nothing() -> None:
    fit = fit_power_law([(1, 5.0), (10, 5.0), (100, 5.0)])
    assert fit is not None
    assert fit.reaching(6.0) is None


def test_scatter_lowers_how_much_the_law_accounts_for() -> None:
    fit = fit_power_law([(1, 1.0), (2, 4.0), (4, 2.0), (8, 8.0)])
    assert fit is not None
    assert 0.3 < fit.r2 < 0.9


def test_a_sweep_over_sizes_gives_a_law_of_time_and_one_of_memory() -> None:
    laws = find_scalings(sample.sweep(exponent=1.1))
    assert [(law.cost, law.against) for law in laws] == [("time", "pixels"), ("memory", "pixels")]
    assert laws[0].fit.exponent == pytest.approx(1.1, abs=0.03)
    assert laws[1].fit.exponent == pytest.approx(1.0, abs=1e-6)


def test_batch_threads_and_tiles_have_laws_of_their_own() -> None:
    batches = [
        sample.run(where=sample.case("180p", batch=n), seconds=0.01 * n, memory=Memory()) for n in (1, 2, 4)
    ]
    threads = [
        sample.run(sample.subject(threads=n), sample.case("540p"), seconds=0.1 / n, memory=Memory())
        for n in (1, 2, 4)
    ]
    tiles = [
        sample.run(where=sample.case("1080p", tile=str(n)), seconds=1 / math.sqrt(n), memory=Memory())
        for n in (64, 128, 512)
    ]
    found = {law.against: law.fit.exponent for law in find_scalings([*batches, *threads, *tiles])}
    assert found == pytest.approx({"batch": 1.0, "threads": -1.0, "tile": -0.5}, abs=0.05)


def test_runs_of_two_backends_or_modes_are_never_in_one_law() -> None:
    runs = sample.sweep()[:2] + sample.sweep(sample.subject(backend="openvino"))[2:]
    assert find_scalings(runs) == []
    runs = sample.sweep()[:2] + sample.sweep(mode="with-files")[2:]
    assert find_scalings(runs) == []
