"""`sr-deploy convert` from the outside."""

from __future__ import annotations

import json
import sys

import pytest

from sr_deploy.graph.onnx_file import load_model, read_spec, save_model
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.quality.dead_leaves import dead_leaves


@pytest.fixture
def model(tiny, tmp_path):
    path = tmp_path / "net.onnx"
    save_model(tiny("plain").model, path)
    return path


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(3):
        write_image(Image(pixels=dead_leaves(64, 80, seed=seed)), folder / f"{seed}.png")
    return folder


def test_an_int8_file_upscales_a_picture(run, model, photographs, tmp_path, picture):
    out = tmp_path / "net-int8.onnx"
    result = run("convert", model, "--precision", "int8", "--data", photographs, "-o", out, "--tolerance", 5)
    assert result.exit_code == 0, result.stderr
    first, second, *rest = result.stdout.splitlines()
    assert first.startswith(f"{out}  ")
    assert second == "plain: int8, float pixels"
    assert rest[-1].startswith("costs ")
    assert "on 3 photographs" in rest[-1]
    assert read_spec(load_model(out)).precision == "int8"
    result = run("upscale", picture(width=11, height=6), "--model", out, "-o", tmp_path / "big.png")
    assert result.exit_code == 0, result.stderr
    assert read_image(tmp_path / "big.png").pixels.shape == (12, 22, 3)


def test_json_tells_a_program_the_same(run, model, tmp_path):
    out = tmp_path / "half.onnx"
    result = run("convert", model, "-p", "fp16", "-o", out, "--io", "uint8", "--json")
    record = json.loads(result.stdout)
    assert (record["path"], record["precision"], record["io"]) == (str(out), "fp16", "uint8")
    assert record["size_bytes"] == out.stat().st_size
    assert (record["psnr_change"], record["unmeasured"]) == (None, "no photographs were given")
    assert result.stderr == ""


def test_fine_tuning_is_part_of_the_record(run, model, photographs, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "tuned.onnx"
    arguments = ("--data", photographs, "-o", out, "--tolerance", 5, "--finetune", "0.005", "--json")
    result = run("convert", model, "-p", "int8", *arguments)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["method"], record["finetuned"]) == ("fine-tuned", 0.005)
    assert record["fidelity"] > 20
    assert record["fidelity_before"] > 20
    assert result.stderr == ""
    assert read_spec(load_model(out)).precision == "int8"


def test_fine_tuning_without_torch_is_the_install_line(run, model, photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("sr_deploy.training.finetune.")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("convert", model, "-p", "int8", "--data", photographs, "--finetune", 1)
    assert result.exit_code == 4
    assert 'fine-tuning needs torch, which is not installed; pip install "sr-deploy[train]"' in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_default_name_says_the_precision(run, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("convert", model, "-p", "fp16").exit_code == 0
    assert (tmp_path / "net-fp16.onnx").exists()
    again = run("convert", model, "-p", "fp16")
    assert (again.exit_code, "--overwrite" in again.stderr) == (3, True)
    assert run("convert", model, "-p", "fp16", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{model}", "-p", "int8"], 2, "point --data at a folder"),
        (["{model}", "-p", "int4"], 2, "int4"),
        (["{model}", "-p", "int8", "--finetune", "0"], 2, "--finetune"),
        (["{model}"], 2, "--precision"),
        (["no-such-model", "-p", "fp16"], 3, "no bundled model is called"),
        (["{model}", "-p", "int8", "--data", "{model}"], 3, "it is a file"),
        (["{model}", "-p", "int8", "--data", "{photographs}", "--tolerance", "-1"], 2, "--tolerance"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_the_right_code(
    run, model, photographs, tmp_path, arguments, code, says
):
    out = tmp_path / "out.onnx"
    result = run("convert", *(a.format(model=model, photographs=photographs) for a in arguments), "-o", out)
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()
