"""Workers: one process per subject, whose failures and crashes become lines of a report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from sr_deploy.bench.result import BenchCase, BenchRun, BenchSubject, FailedRun
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.session import BenchSession, WorkerStart

QUICK = Effort(samples=3, seconds=0, warm_up_least=0)
CASE = BenchCase(label="9x6", width=9, height=6)
HOW = {"mode": "end-to-end", "throughput": False, "effort": QUICK}


@pytest.fixture
def entry(tmp_path: Path, tiny: Callable[[str], Any]) -> WorkerStart:
    path = tmp_path / "modèle.onnx"
    onnx.save(tiny("fixed").model, path)
    subject = BenchSubject(model="modèle", backend="onnxruntime", precision="fp32", scale=2, threads=1)
    return WorkerStart(subject=subject, path=path)


def test_a_worker_measures_and_goes_on_after_what_it_cannot_do(entry: WorkerStart) -> None:
    with BenchSession() as session:
        whole = session.measure(entry, replace(CASE, tile="whole", width=12), **HOW)  # type: ignore[arg-type]
        good = session.measure(entry, CASE, **HOW)  # type: ignore[arg-type]
    assert isinstance(whole, FailedRun)
    assert "12x6" in whole.error
    assert isinstance(good, BenchRun)
    assert good.subject == entry.subject
    assert len(good.samples) == 3


def test_a_model_that_cannot_be_opened_is_a_failure_with_its_reason(
    entry: WorkerStart, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with BenchSession() as session:
        failure = session.measure(replace(entry, path=broken), CASE, **HOW)  # type: ignore[arg-type]
    assert isinstance(failure, FailedRun)
    assert "broken.onnx" in failure.error


def dies_at_once(tmp_path: Path) -> tuple[str, ...]:
    """A worker that opens, writes to both streams, and dies when it is asked to measure."""
    code = """
import os, sys
from sr_deploy.bench.run.worker import serve
class Dies:
    def measure(self, *case):
        os.write(2, b"the runtime has had enough\\n")
        os._exit(7)
def opened(opening):
    os.write(1, b"a runtime's greeting\\n")
    print("another", flush=True)
    return Dies()
serve(opened)
"""
    path = tmp_path / "dies.py"
    path.write_text(code, encoding="utf-8")
    return (sys.executable, str(path))


def test_nothing_is_left_of_a_worker_that_is_ended_at_work(
    entry: WorkerStart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    with BenchSession() as session:
        files = {**HOW, "mode": "with-files"}
        assert isinstance(session.measure(entry, CASE, **files), BenchRun)  # type: ignore[arg-type]
        assert set(tmp_path.iterdir()) != before
    assert set(tmp_path.iterdir()) == before


def test_a_worker_that_dies_takes_nobody_along(entry: WorkerStart, tmp_path: Path) -> None:
    dying = replace(entry, command=dies_at_once(tmp_path))
    with BenchSession() as session:
        failures = [session.measure(dying, CASE, **HOW) for _ in range(2)]  # type: ignore[arg-type]
        good = session.measure(entry, CASE, **HOW)  # type: ignore[arg-type]
    assert [isinstance(failure, FailedRun) for failure in failures] == [True, True]
    assert "exit code 7: the runtime has had enough" in failures[1].error  # type: ignore[union-attr]
    assert isinstance(good, BenchRun)


def test_the_harness_needs_no_torch() -> None:
    import subprocess

    code = "import sys; sys.modules['torch'] = None; import sr_deploy.bench.run.worker as w, sr_deploy.bench.run.runner"
    code += "; import sr_deploy.cli.bench.run; assert sys.modules['torch'] is None"
    subprocess.run([sys.executable, "-c", code], check=True)
