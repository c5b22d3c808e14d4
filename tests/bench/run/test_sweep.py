"""Sweeps: the order of the work, what is left out for lack of time, and joined rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sr_deploy.bench.run.sweep as sweep_module
import tests.bench.sample_results as sample
from sr_deploy.bench.result import BenchCase, BenchRun, FailedRun
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.session import WorkerStart
from sr_deploy.bench.run.sweep import LeftOut, Sweep, merge_rounds, run_sweep

ENTRIES = tuple(
    WorkerStart(subject=sample.subject(backend=name), path=Path("x")) for name in ("onnxruntime", "openvino")
)


class CannedSession:
    """A session that answers at once, with a second per megapixel on its own clock; `fails` does not run."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.asked: list[tuple[str, str]] = []
        self.efforts: list[Effort] = []
        self.restarted: list[str] = []
        self.now = 0.0
        self._fails = fails

    def restart(self, entry: WorkerStart) -> None:
        self.restarted.append(entry.subject.backend)

    def measure(
        self, entry: WorkerStart, case: BenchCase, *, mode: str, throughput: bool, effort: Effort
    ) -> BenchRun | FailedRun:
        self.asked.append((entry.subject.backend, case.label))
        self.efforts.append(effort)
        if entry.subject.backend in self._fails:
            return FailedRun(subject=entry.subject, case=case, error="no")
        seconds = case.pixels / 1e6
        self.now += seconds * 5
        return sample.run(entry.subject, case, samples=[seconds * (1 + len(self.asked) / 100)] * 3)


def steps(session: CannedSession, **how: Any) -> list[Any]:
    cases = tuple(sample.case(label) for label in ("1080p", "180p", "540p"))
    return list(run_sweep(session, Sweep(entries=ENTRIES, cases=cases, **how)))  # type: ignore[arg-type]


def test_small_comes_before_large_and_subjects_take_turns() -> None:
    session = CannedSession()
    assert all(isinstance(step, BenchRun) for step in steps(session))
    assert session.asked[:3] == [("onnxruntime", "180p"), ("openvino", "180p"), ("onnxruntime", "540p")]
    assert session.asked[-1] == ("openvino", "1080p")


def test_what_would_not_end_in_time_is_left_out_with_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = CannedSession()
    monkeypatch.setattr(sweep_module, "time", SimpleNamespace(monotonic=lambda: session.now))
    found = steps(session, time_limit=12.0)
    left = [step for step in found if isinstance(step, LeftOut)]
    assert [(step.entry.subject.backend, step.case.label) for step in left] == [
        ("onnxruntime", "1080p"),
        ("openvino", "1080p"),
    ]
    assert left[0].seconds == pytest.approx(2.0736 * 4, rel=0.1)
    assert max(effort.most_seconds for effort in session.efforts) <= Effort().most_seconds


def test_one_subject_that_fails_does_not_stop_the_other() -> None:
    found = steps(CannedSession(fails=["onnxruntime"]))
    assert [type(step).__name__ for step in found] == ["FailedRun", "BenchRun"] * 3


def test_rounds_turn_round_and_their_samples_come_together() -> None:
    session = CannedSession()
    found = steps(session, rounds=2)
    assert [name for name, _ in session.asked[:4]] == ["onnxruntime", "openvino", "openvino", "onnxruntime"]
    assert [len(step.samples) for step in found] == [6] * 6
    assert session.restarted[:2] == ["onnxruntime", "openvino"]
    assert len(session.restarted) == 12


def test_rounds_may_stay_in_their_processes() -> None:
    session = CannedSession()
    steps(session, rounds=2, fresh=False)
    assert session.restarted == []


def test_rounds_of_what_fails_are_one_failure() -> None:
    found = steps(CannedSession(fails=["openvino"]), rounds=3)
    assert [type(step).__name__ for step in found] == ["BenchRun", "FailedRun"] * 3


def test_rounds_that_are_interrupted_hand_over_what_was_complete() -> None:
    class Interrupted(CannedSession):
        def measure(self, entry: WorkerStart, case: BenchCase, **how: Any) -> BenchRun | FailedRun:
            if len(self.asked) == 5:
                raise KeyboardInterrupt
            return super().measure(entry, case, **how)

    cases = (sample.case("180p"), sample.case("540p"))
    steps = run_sweep(Interrupted(), Sweep(entries=ENTRIES, cases=cases, rounds=2))  # type: ignore[arg-type]
    found = [next(steps) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert [(step.case.label, len(step.samples)) for step in found] == [("180p", 6), ("180p", 6), ("540p", 3)]


def test_merged_rounds_keep_everything() -> None:
    first = sample.run(samples=[0.1, 0.2], energy=1.0, others=0.1)
    second = sample.run(samples=[0.3], energy=2.0, others=0.3, steady=False)
    merged = merge_rounds([first, second])
    assert merged.samples == (0.1, 0.2, 0.3)
    assert merged.wall == pytest.approx(0.6)
    assert merged.energy == pytest.approx(3)
    assert merged.others == pytest.approx(0.2)
    assert not merged.steady
    assert len(merged.stages["compute"]) == 3
    assert merge_rounds([first, replace(second, energy=None)]).energy is None
    assert merged.pace == ()
    timed = [replace(run, pace=(0.01 * number,)) for number, run in enumerate((first, second), start=1)]
    assert merge_rounds(timed).pace == (0.01, 0.02)
