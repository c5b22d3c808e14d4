"""`sr-deploy doctor` says what works, and never fails over what does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from sr_deploy import doctor
from sr_deploy.system.cpu import describe_cpu


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """The driver's tool is not called: a test says what it answers."""

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)


def test_the_runtime_that_works_has_run_a_bundled_model(run, bundle):
    result = run("doctor")
    assert result.exit_code == 0
    assert re.search("onnxruntime +works: ran rt-x2: 16x16 to 32x32 pixels", result.stdout)
    assert "rt-x2, rt-x4" in result.stdout


def test_json_holds_the_facts_a_program_asks_for(run, bundle):
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["can_upscale"] is True
    assert facts["packages"]["numpy"]
    assert facts["models"] == ["rt-x2", "rt-x4"]
    assert 1 <= facts["cpu"]["usable_cores"] <= facts["cpu"]["cores"]
    assert facts["memory_available"] > 0


def test_no_backend_at_all_is_exit_code_4_and_says_why(run, bundle, monkeypatch):
    for models in ("there", "missing"):
        for runtime in ("onnxruntime", "openvino"):
            monkeypatch.setitem(sys.modules, runtime, None)
        result = run("doctor")
        assert result.exit_code == 4, models
        assert re.search(
            "onnxruntime +does not work: the onnxruntime backend needs ONNX Runtime", result.stdout
        )
        for path in bundle.iterdir():
            path.unlink()


def test_a_runtime_that_no_bundled_model_can_try_is_not_blamed(run, bundle):
    (bundle / "rt-x2.onnx").write_bytes(b"")
    damaged = run("doctor")
    assert damaged.exit_code == 3
    says = "onnxruntime +not tried: it loads, but there is no bundled model to try it with"
    assert re.search(says, damaged.stdout)
    assert "it is empty" in damaged.stdout
    for path in bundle.iterdir():
        path.unlink()
    missing = run("doctor", "--json")
    assert missing.exit_code == 3
    facts = json.loads(missing.stdout)
    assert facts["can_upscale"] is False
    works = {backend["name"]: backend["works"] for backend in facts["backends"]}
    assert works["onnxruntime"] is None
    assert True not in works.values()


def test_what_is_missing_comes_with_the_line_that_installs_it(run, bundle, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("torch", "onnxruntime") else "1.0")
    assert 'pip install "sr-deploy[train]"' in run("doctor").stdout
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert 'pip install "sr-deploy[cpu]"' in run("doctor").stdout


def test_a_gpu_is_listed_with_memory_and_driver(run, bundle, monkeypatch):
    answer = subprocess.CompletedProcess([], 0, "NVIDIA H100 80GB HBM3, 81559, 580.65\nodd line\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    lines = run("doctor").stdout
    assert "gpu        NVIDIA H100 80GB HBM3, 81559 MiB, driver 580.65" in lines
    assert "gpu        odd line, driver unknown" in lines


def test_a_driver_that_does_not_answer_is_a_sentence(run, bundle, monkeypatch):
    answer = subprocess.CompletedProcess([], 9, "", "NVIDIA-SMI has failed\nbecause it could not talk")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    result = run("doctor")
    assert result.exit_code == 0
    assert (
        "gpu        none: nvidia-smi fails with exit code 9: NVIDIA-SMI has failed because" in result.stdout
    )


def test_facts_that_cannot_be_had_are_left_open(run, bundle, monkeypatch):
    def broken(*_):
        raise RuntimeError("this installation is broken")

    monkeypatch.setattr(doctor, "available_memory", broken)
    monkeypatch.setattr("importlib.metadata.version", broken)
    result = run("doctor")
    assert result.exit_code == 0
    assert "memory     unknown" in result.stdout


def test_the_processor_is_described_where_nothing_tells(monkeypatch):
    monkeypatch.setattr("sr_deploy.system.cpu._linux_facts", dict)
    cpu = describe_cpu()
    assert cpu.name
    assert 1 <= cpu.usable_cores <= cpu.cores


def test_tensorrt_is_found_under_the_name_of_its_cuda_version(tmp_path, monkeypatch):
    """The extra `onnxruntime-gpu` installs tensorrt-cu12 or tensorrt-cu13, never the distribution "tensorrt"."""
    folder = tmp_path / "tensorrt_cu13-10.14.1.48.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: 10.14.1.48\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor._version("tensorrt") == "10.14.1.48"
    assert doctor._version("no-such-distribution") is None
