"""From the names that a user gives to the subjects that are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from sr_deploy.bench.run.subjects import find_entries
from sr_deploy.engines.registry import BACKENDS, available_backends
from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.models import list_models
from sr_deploy.system.cores import usable_cores


@pytest.fixture
def file(tmp_path: Path, tiny: Callable[[str], Any]) -> Path:
    path = tmp_path / "mine.onnx"
    onnx.save(tiny("plain").model, path)
    return path


def test_without_a_model_the_bundled_ones_of_the_scale_are_meant() -> None:
    entries = find_entries(scale=4, backends=["onnxruntime"])
    bundled = {entry.name: entry for entry in list_models() if entry.scale == 4}
    assert {entry.subject.model for entry in entries} == set(bundled)
    subject = next(entry.subject for entry in entries if entry.subject.model == "rt-x4")
    assert subject.parameters == bundled["rt-x4"].parameters
    assert subject.quality == bundled["rt-x4"].quality
    assert subject.model_sha256 == bundled["rt-x4"].sha256


def test_without_a_backend_all_that_compute_a_net_here_are_meant(file: Path) -> None:
    reasons = available_backends()
    expected = [name for name in BACKENDS if name != "nearest" and reasons[name] is None]
    assert [entry.subject.backend for entry in find_entries([str(file)])] == expected


def test_a_file_is_described_by_its_record_and_its_bytes(file: Path) -> None:
    (entry,) = find_entries([str(file)], backends=["onnxruntime"], streams=3)
    subject = entry.subject
    assert (subject.model, subject.precision, subject.scale, subject.streams) == ("mine", "fp32", 2, 3)
    assert subject.model_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert subject.multiply_adds_per_pixel == 9 * 3 * 8 + 9 * 8 * 12
    assert subject.threads == usable_cores()


def test_backends_threads_and_precisions_are_combined(file: Path, tmp_path: Path) -> None:
    entries = find_entries(
        [str(file)],
        backends=["onnxruntime", "nearest"],
        threads=[1, 2],
        precisions=["fp32", "fp16"],
        folder=tmp_path,
    )
    found = {(e.subject.backend, e.subject.threads, e.subject.precision) for e in entries}
    assert len(found) == len(entries) == 8
    half = next(entry for entry in entries if entry.subject.precision == "fp16")
    assert half.subject.model == "mine"
    assert half.path.stat().st_size < file.stat().st_size


def test_what_cannot_be_measured_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="x2, asked for --scale 4"):
        find_entries([str(file)], scale=4)
    with pytest.raises(UsageError, match="no model of precision int8"):
        find_entries([str(file)], precisions=["int8"], folder=tmp_path)
    with pytest.raises(UsageError, match="there is no backend"):
        find_entries([str(file)], backends=["abacus"])
    with pytest.raises(ModelError, match="no-such"):
        find_entries(["no-such-model"])
    bare = tmp_path / "bare.onnx"
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, bare)
    with pytest.raises(ModelError, match="sr-deploy stamp"):
        find_entries([str(bare)], backends=["onnxruntime"])


def test_a_backend_that_is_not_here_is_an_error_that_says_what_to_do(file: Path) -> None:
    missing = [name for name, reason in available_backends().items() if reason is not None]
    if not missing:
        pytest.skip("every backend can run here")
    with pytest.raises(MissingRuntimeError):
        find_entries([str(file)], backends=[missing[0]])
