"""`sr-deploy export` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from sr_deploy.graph.onnx_file import load_model, read_spec
from sr_deploy.training.checkpoint import CheckpointInfo, save_checkpoint
from sr_deploy.training.nets import build_net


@pytest.fixture
def run_folder(tmp_path):
    """A folder as training leaves it, with the checkpoint of a tiny net."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    parameters = {"features": 4, "depth": 1}
    info = CheckpointInfo(name="tiny-x2", architecture="rt", scale=2, parameters=parameters)
    save_checkpoint(folder / "last.safetensors", build_net("rt", 2, parameters), info)
    return folder


def test_a_run_folder_becomes_a_model_and_the_lines_say_what_it_is(run, run_folder, tmp_path):
    out = tmp_path / "tiny.onnx"
    result = run("export", run_folder, "-o", out)
    assert result.exit_code == 0, result.stderr
    first, second, third = result.stdout.splitlines()
    assert first.startswith(f"{out}  ")
    assert "rt x2" in second
    assert "halo 3 pixels" in second
    assert third.startswith("checked against torch on 14 crops: at most ")
    assert read_spec(load_model(out)).halo == 3


def test_json_tells_a_program_the_same(run, run_folder, tmp_path):
    out = tmp_path / "tiny.onnx"
    result = run(
        "export",
        run_folder / "last.safetensors",
        *("-o", out, "--precision", "fp16", "--io", "uint8", "--opset", 21, "--json", "--licence", "CC0-1.0"),
    )
    record = json.loads(result.stdout)
    assert (record["path"], record["halo"], record["opset"]) == (str(out), 3, 21)
    assert (record["precision"], record["io"], record["multiple_of"]) == ("fp16", "uint8", 1)
    assert record["size_bytes"] == out.stat().st_size
    assert 0 <= record["max_difference"] <= record["tolerance"]
    assert read_spec(load_model(out)).licence == "CC0-1.0"


def test_the_exported_file_upscales_a_picture(run, run_folder, tmp_path, picture):
    from sr_deploy.images.image import read_image

    run("export", run_folder, "-o", tmp_path / "tiny.onnx")
    result = run(
        "upscale", picture(width=11, height=6), "--model", tmp_path / "tiny.onnx", "-o", tmp_path / "big.png"
    )
    assert result.exit_code == 0, result.stderr
    assert read_image(tmp_path / "big.png").pixels.shape == (12, 22, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{run}/none.safetensors"], 3, "no such checkpoint"),
        (["{run}/.."], 3, "neither final.safetensors nor last.safetensors"),
        (["{run}", "--opset", "7"], 2, "expected 18 to 23"),
        (["{run}", "--precision", "fp8"], 2, "fp8"),
        (["{run}", "--data", "{run}"], 3, "no pictures found"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_the_right_code(
    run, run_folder, tmp_path, arguments, code, says
):
    result = run("export", *(a.format(run=run_folder) for a in arguments), "-o", tmp_path / "tiny.onnx")
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "tiny.onnx").exists()


def test_without_torch_the_error_ends_in_what_to_install(run_folder, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sr_deploy.cli import main\n"
        f"main(['export', {str(run_folder)!r}, '-o', {str(tmp_path / 'tiny.onnx')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 4
    assert result.stderr.strip().endswith('pip install "sr-deploy[train]"')


@pytest.mark.parametrize("command", ["'export', '4x.pth', '-o', 'x.onnx'", "'info', '4x.pth'"])
def test_without_torch_a_community_checkpoint_names_its_own_extra(tmp_path, command):
    (tmp_path / "4x.pth").write_bytes(b"PK")
    code = f"import sys; sys.modules['torch'] = None\nfrom sr_deploy.cli import main\nmain([{command}])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 4
    assert result.stderr.strip().endswith('pip install "sr-deploy[community]"')


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom sr_deploy.cli import main\n"
        "try:\n    main(['export', '--help'])\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "CHECKPOINT" in result.stdout


def test_a_file_that_is_there_is_replaced_only_with_overwrite(run, run_folder, tmp_path):
    out = tmp_path / "tiny.onnx"
    out.write_bytes(b"mine")
    refused = run("export", run_folder, "-o", out)
    assert refused.exit_code == 3
    assert "it exists already; choose another name, or add --overwrite" in refused.stderr
    assert out.read_bytes() == b"mine"
    assert run("export", run_folder, "-o", out, "--overwrite").exit_code == 0
    assert out.read_bytes() != b"mine"
