"""`sr-deploy verify` as a user meets it: table, JSON, exit codes, what is kept beside the files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sr_deploy.engines.verdict import FailedVerdictWarning, read_verdict, verdict_path
from sr_deploy.graph.onnx_file import load_model, read_spec, save_model, write_spec
from sr_deploy.images.image import Image, write_image
from sr_deploy.models import find_model
from sr_deploy.precision.half import to_fp16
from sr_deploy.quality.dead_leaves import dead_leaves
from tests.paths import ROOT

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_image(Image(pixels=dead_leaves(128, 160, seed=4)), folder / "leaves.png")
    return folder


@pytest.fixture
def good(tiny, tmp_path: Path) -> Path:
    path = tmp_path / "good.onnx"
    save_model(tiny("plain").model, path)
    return path


@pytest.fixture
def bent(tiny, tmp_path: Path) -> Path:
    """`good` with its last layer scaled."""
    model = tiny("plain").model
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.02), "w1"))
    path = tmp_path / "bent.onnx"
    save_model(model, path)
    return path


def test_a_model_that_passes_gets_a_table_and_exit_code_0(run, good, photographs):
    result = run("verify", good, "--data", photographs)
    assert result.exit_code == 0, result.stderr
    header, *rows, last = result.stdout.splitlines()
    assert header.split()[:4] == ["model", "precision", "backend", "how"]
    assert [row.split()[2:4] for row in rows if "onnxruntime" in row] == [
        ["onnxruntime", "whole"],
        ["onnxruntime", "tiled"],
    ]
    assert all(row.endswith("passed") for row in rows)
    assert f"against {good}" in last
    assert result.stderr == ""


def test_one_that_fails_is_named_with_the_culprit_and_makes_the_exit_code_1(run, good, bent, photographs):
    result = run("verify", good, bent, "--data", photographs)
    assert result.exit_code == 1
    assert [line.split()[-1] for line in result.stdout.splitlines() if "bent" in line].count("failed") >= 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {bent} failed: the weights of Conv")
    assert "(w1) are 1.02 times" in line


def test_json_holds_every_leg_and_the_culprits(run, good, bent, photographs):
    result = run("verify", bent, "--against", good, "--data", photographs, "--json")
    assert result.exit_code == 1
    record = json.loads(result.stdout)
    assert record["against"] == str(good)
    (model,) = record["models"]
    assert model["verdict"] == "failed"
    assert "w1" in model["culprits"][0]
    whole = next(leg for leg in model["legs"] if (leg["backend"], leg["how"]) == ("onnxruntime", "whole"))
    assert whole["max_steps"] > 1
    assert "leaves.png" in whole["where"]
    assert len(whole["drift"]) == 3


def test_the_verdict_is_kept_and_warns_whoever_opens_the_file(run, good, bent, photographs):
    run("verify", good, bent, "--data", photographs)
    assert read_verdict(good).passed
    assert "w1" in read_verdict(bent).why
    with pytest.warns(FailedVerdictWarning, match="w1"):
        result = run("eval", photographs, "--model", bent)
    assert result.exit_code == 0


def test_the_warning_is_one_line_on_the_terminal(run, good, bent, photographs, tmp_path):
    run("verify", bent, "--against", good, "--data", photographs)
    arguments = ["upscale", photographs / "leaves.png", "-o", tmp_path / "large.png", "--model", bent]
    command = [sys.executable, "-m", "sr_deploy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "w1" in warnings[0]
    assert ".py" not in done.stderr


def test_verifying_again_does_not_warn_and_can_clear_a_model(run, good, bent, photographs):
    run("verify", bent, "--against", good, "--data", photographs)
    assert run("verify", bent, "--data", photographs).exit_code == 0
    assert read_verdict(bent).passed


def test_no_record_keeps_nothing(run, bent, good, photographs):
    assert run("verify", bent, "--against", good, "--data", photographs, "--no-record").exit_code == 1
    assert not verdict_path(bent).exists()


def test_a_verdict_that_cannot_be_kept_is_noted_and_no_failure(run, good, photographs):
    verdict_path(good).mkdir()
    result = run("verify", good, "--data", photographs)
    assert result.exit_code == 0
    assert "note: the verdict is not kept" in result.stderr


def test_a_halo_that_is_too_small_is_in_the_table(run, good, photographs, tmp_path):
    model = load_model(good)
    small = tmp_path / "small.onnx"
    save_model(write_spec(model, read_spec(model).with_(halo=1)), small)
    result = run("verify", small, "--against", good, "--data", photographs)
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if " halo " in line]
    assert line.endswith("failed")
    assert "halo of 1 pixels, measured is 2" in result.stderr


def test_the_bundled_model_passes_in_fp32_and_fp16(run, photographs, tmp_path):
    half = tmp_path / "half.onnx"
    save_model(to_fp16(load_model(find_model("rt-x4"))), half)
    result = run("verify", half, "rt-x4", "--data", photographs)
    assert result.exit_code == 0, result.stderr
    assert "against rt-x4 (fp32)" in result.stdout
    assert not verdict_path(find_model("rt-x4")).exists()


def test_an_unknown_backend_and_one_that_is_missing_are_errors(run, good, photographs, monkeypatch):
    result = run("verify", good, "--data", photographs, "--backend", "onnxruntme")
    assert result.exit_code == 2
    assert "did you mean 'onnxruntime'" in result.stderr
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("verify", good, "--data", photographs, "--backend", "onnxruntime")
    assert result.exit_code == 4
    assert "sr-deploy[cpu]" in result.stderr


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none.onnx", "no such file"),
        (lambda folder: (folder / "empty.onnx").write_bytes(b"") or folder / "empty.onnx", "is empty"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line_and_exit_code_3(run, photographs, tmp_path, make, said):
    result = run("verify", make(tmp_path), "--data", photographs)
    assert result.exit_code == 3
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_foreign_model_is_told_to_be_stamped(run, photographs, good, tmp_path):
    model = load_model(good)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    result = run("verify", tmp_path / "foreign.onnx", "--data", photographs)
    assert result.exit_code == 3
    assert "sr-deploy stamp" in result.stderr


def test_a_checkpoint_is_what_the_others_are_held_to(run, photographs):
    pytest.importorskip("torch")
    checkpoint = ROOT / "export" / "checkpoints" / "rt-x4.safetensors"
    result = run("verify", "rt-x4", checkpoint, "--data", photographs, "--no-record")
    assert result.exit_code == 0, result.stderr
    assert f"against {checkpoint} (fp32)" in result.stdout
    assert "torch" in result.stdout


def test_without_torch_a_checkpoint_ends_in_the_install_line(photographs, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from sr_deploy.cli import main; "
        f"main(['verify', 'net.safetensors', '--data', {str(photographs)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.strip().endswith('pip install "sr-deploy[train]"')
