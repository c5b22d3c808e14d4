"""The fixed work between the samples: how often it is done, and where its times are kept."""

from __future__ import annotations

import time

import pytest

import sr_deploy.bench.run.pace as pace_module
import tests.bench.sample_results as sample
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.pace import PaceMeter
from sr_deploy.bench.run.recorder import Recorder, SampledCall


def test_looks_are_taken_when_they_are_due_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "_INTERVAL", 0.05)
    pace = PaceMeter()
    pace.begin()
    pace()
    assert pace.seconds == []
    time.sleep(0.06)
    pace()
    first = len(pace.seconds)
    assert first > 1
    assert min(pace.seconds) > 0
    pace()
    assert len(pace.seconds) == first


def test_the_warm_up_leaves_no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "_INTERVAL", 0.0)
    pace = PaceMeter()
    pace()
    assert pace.seconds
    pace.begin()
    assert pace.seconds == []


@pytest.mark.parametrize(
    ("throughput", "told", "mode", "backend"),
    [
        (False, False, "end-to-end", "openvino"),
        (True, False, "end-to-end", "openvino"),
        (False, True, "device", "openvino"),
        (False, False, "with-files", "openvino"),
        (False, False, "end-to-end", "tensorrt"),
    ],
)
def test_a_run_on_the_processor_has_looks_where_one_call_follows_the_other(
    throughput: bool, told: bool, mode: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace_module, "_INTERVAL", 0.01)
    after: list[int] = []
    work = SampledCall(
        call=lambda: time.sleep(0.002),
        self_timed=(lambda: 0.002) if told else None,
        after=lambda: after.append(1),
    )
    effort = Effort(samples=20, seconds=0.05, warm_up_least=0)
    recorder = Recorder(sample.subject(backend=backend))
    run = recorder.record(sample.case("180p"), mode, throughput, effort, [work])
    plain = not throughput and not told
    assert bool(run.pace) == (plain and mode == "end-to-end" and backend == "openvino")
    assert len(after) == (len(run.samples) if plain else 0)
    assert run.wall < sum(run.samples) * 1.5  # the pace work is not part of it
