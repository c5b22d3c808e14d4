"""Facts in a result: the work of a net, the machine, the resources of a process, the machine's peak."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tests.bench.sample_results as sample
from sr_deploy.bench.machines import differences
from sr_deploy.bench.run.calibrate import calibrate
from sr_deploy.bench.run.environment import describe_environment
from sr_deploy.bench.run.usage import EnergyMeter, OtherProcesses, peak_resident, reset_peak, resident
from sr_deploy.graph.multiplications import multiply_adds_per_pixel


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", 9 * 3 * 8 + 9 * 8 * 12),  # two convolutions of 3x3
        ("grey", 9 * 1 * 8 + 9 * 8 * 16),
        ("convolved", 9 * 3 * 8 + 9 * 8 * 12 + 4 * 9 * 3 * 3),  # one more, at four times the pixels
        ("nhwc", 9 * 3 * 8 + 9 * 8 * 12),
        ("fixed", 9 * 3 * 8 + 9 * 8 * 12),
    ],
)
def test_multiplications_are_counted_from_the_graph(
    tmp_path: Path, tiny: Callable[[str], Any], name: str, expected: int
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tiny(name).model, path)
    assert multiply_adds_per_pixel(path) == expected


def test_what_is_no_model_has_no_count(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no")
    assert multiply_adds_per_pixel(path) is None


def test_the_environment_names_machine_and_versions() -> None:
    found = describe_environment(0.25)
    assert found.state.busy_elsewhere == 0.25
    assert found.machine.usable_cores >= 1
    assert found.versions["numpy"] == np.__version__
    assert "sr-deploy" in found.versions
    assert describe_environment().machine == found.machine


def test_two_machines_differ_in_what_tells_them_apart() -> None:
    assert differences(sample.MACHINE, sample.MACHINE) == []
    other = replace(sample.MACHINE, gpus=("GPU A",), cpu_quota=1.5)
    assert differences(sample.MACHINE, other) == ["cpu quota: none and 1.5", "gpus: none and GPU A"]


def test_a_calibration_finds_rates_above_zero() -> None:
    found = calibrate(2, seconds=0.01)
    assert found.threads == 2
    assert found.copy_bytes_per_second > 1e6
    assert found.multiply_adds_per_second > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own figures exist on Linux")
def test_the_peak_of_memory_is_seen_and_can_be_forgotten() -> None:
    before = resident()
    assert before is not None
    block = mmap.mmap(-1, 96 << 20)  # no array: malloc may reuse memory that an earlier test left over
    np.frombuffer(block, np.uint8)[:: mmap.PAGESIZE] = 1
    peak = peak_resident()
    assert peak is not None
    assert peak >= before + (90 << 20)
    block.close()
    if reset_peak():
        after = peak_resident()
        assert after is not None
        assert after < peak - (60 << 20)


def test_bystanders_and_energy_are_shares_and_joules_or_unknown() -> None:
    others, meter = OtherProcesses(), EnergyMeter()
    sum(range(100_000))
    share, joules = others.share(), meter.joules()
    assert share is None or 0 <= share <= 1
    assert joules is None or joules >= 0


def test_energy_counts_on_when_the_counter_wraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = tmp_path / "intel-rapl:0"
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, so its energy is already counted
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("9000000", encoding="utf-8")
    (zone / "energy_uj").write_text("8000000", encoding="utf-8")
    monkeypatch.setattr("sr_deploy.bench.run.usage._RAPL", tmp_path)
    meter = EnergyMeter()
    (zone / "energy_uj").write_text("500000", encoding="utf-8")
    assert meter.joules() == pytest.approx(1.5)
    (zone / "energy_uj").unlink()
    assert meter.joules() is None
