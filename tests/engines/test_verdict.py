"""A verdict lies beside the model and holds for its bytes only; opening a model that failed warns."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy.engines.registry import open_engine
from sr_deploy.engines.verdict import (
    FailedVerdictWarning,
    Verdict,
    read_verdict,
    store_verdict,
    verdict_path,
)
from sr_deploy.errors import OutputError

FAILED = Verdict(
    passed=False, against="truth.onnx", why="layer 3 is bent", backends={"onnxruntime": "failed"}
)


@pytest.fixture
def model(tiny, tmp_path: Path) -> Path:
    path = tmp_path / "Größe 模型.onnx"
    onnx.save(tiny("plain").model, path)
    return path


def test_what_is_stored_is_read(model):
    assert store_verdict(model, FAILED) == verdict_path(model)
    assert read_verdict(model) == FAILED


def test_a_verdict_on_other_bytes_does_not_count(model, tiny):
    store_verdict(model, FAILED)
    onnx.save(tiny("dcr").model, model)
    assert read_verdict(model) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 2}', '{"schema": 1, "sha256": "x", "other": 1}', "\udcff"]
)
def test_a_damaged_verdict_counts_for_nothing(model, text):
    verdict_path(model).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_verdict(model) is None
    with open_engine(model, "onnxruntime"):
        pass


def test_opening_a_failed_model_warns_and_still_opens(model):
    store_verdict(model, FAILED)
    with (
        pytest.warns(FailedVerdictWarning, match=r"truth\.onnx: layer 3 is bent; export"),
        open_engine(model, "onnxruntime") as engine,
    ):
        assert engine.run(np.zeros((1, 4, 4, 3), np.uint8)).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("backends", "speaks"),
    [
        ({"graph": "passed", "onnxruntime": "passed", "openvino": "failed"}, False),
        ({"graph": "failed", "onnxruntime": "passed"}, True),
        ({"file": "failed", "onnxruntime": "passed"}, True),
        ({"graph": "passed", "onnxruntime": "not run"}, True),
        ({"openvino": "failed"}, True),
    ],
)
def test_a_failure_speaks_against_the_backend_it_was_found_on(backends, speaks):
    assert Verdict(passed=False, against="x", backends=backends).rejects("onnxruntime") is speaks
    assert not Verdict(passed=True, against="x", backends=backends).rejects("onnxruntime")


def test_a_model_that_passed_opens_silently(model):
    store_verdict(model, Verdict(passed=True, against="truth.onnx", backends={"onnxruntime": "passed"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_engine(model, "onnxruntime").close()


def test_a_place_that_cannot_be_written_is_named(model):
    verdict_path(model).mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        store_verdict(model, FAILED)


def test_the_record_is_json_for_anyone_to_read(model):
    record = json.loads(store_verdict(model, FAILED).read_text(encoding="utf-8"))
    assert record["passed"] is False
    assert len(record["sha256"]) == 64


def test_opening_a_model_without_a_verdict_imports_nothing_for_it(model):
    code = (
        "import sys; from sr_deploy.engines.registry import open_engine; "
        f"open_engine({str(model)!r}, 'onnxruntime').close(); "
        "print('sr_deploy.engines.verdict' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "False"
