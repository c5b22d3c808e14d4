"""`sr-deploy serve-repo`: what is said, and what a wrong call ends in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_every_bundled_model_is_written_and_the_server_s_command_is_said(run, bundle, tmp_path: Path) -> None:
    result = run("serve-repo", "-o", tmp_path / "repository")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "rt-x2 version 1, onnxruntime: model.onnx",
        "rt-x4 version 1, onnxruntime: model.onnx",
        f"start the server with: tritonserver --model-repository={tmp_path / 'repository'}",
    ]
    assert sorted(p.name for p in (tmp_path / "repository").iterdir()) == ["rt-x2", "rt-x4"]


def test_as_json_it_is_what_a_program_reads(run, bundle, tmp_path: Path) -> None:
    arguments = ("--model", "rt-x4", "--backend", "python", "--version", "3", "--json")
    (served,) = json.loads(run("serve-repo", "-o", tmp_path, *arguments).stdout)
    assert (served["name"], served["version"], served["backend"]) == ("rt-x4", 3, "python")
    assert served["files"] == ["model.onnx", "model.py"]
    assert "pip install" in served["notes"][0]


def test_sizes_to_warm_up_are_written_or_left_out(run, bundle, tmp_path: Path) -> None:
    run("serve-repo", "-o", tmp_path, "--model", "rt-x4", "--warm-up", "640x360,64x64")
    text = (tmp_path / "rt-x4" / "config.pbtxt").read_text(encoding="ascii")
    assert "dims: [360, 640, 3]" in text
    assert "dims: [64, 64, 3]" in text
    run("serve-repo", "-o", tmp_path, "--model", "rt-x4", "--warm-up", "", "--overwrite")
    assert "model_warmup" not in (tmp_path / "rt-x4" / "config.pbtxt").read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "nothing"), 3, "no bundled model is called 'nothing'"),
        (("--engine", "missing.engine"), 3, "cannot read the engine"),
        (("--warm-up", "large"), 2, "'large' is not a size"),
        (("--version", "0"), 2, "--version"),
        (("--device", "tpu"), 2, "--device"),
    ],
)
def test_a_wrong_call_ends_in_its_code_and_one_sentence(
    run, bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, code, words
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("serve-repo", "-o", "repository", *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "repository").exists()
