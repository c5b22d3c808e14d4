"""`sr-deploy train`: a run from the command line, its result, and its exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import sr_deploy.cli
from sr_deploy.training.run import loop

RECIPE = """
name = "tiny"
precision = "off"
validation = 1
[net]
architecture = "rt"
features = 4
depth = 1
[[phase]]
scale = 2
crop = 8
batch = 2
steps = 6
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(sr_deploy.cli.COMMANDS, "train", "sr_deploy.cli.train")
    monkeypatch.setattr(loop, "plot_curves", lambda *_: None)
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 44, 3), dtype=np.uint8)
        (folder / f"{seed}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return folder


def test_a_run_prints_its_result_on_stdout_and_what_happens_on_stderr(run, recipe, data, tmp_path):
    result = run("train", recipe, "--data", data, "--out", tmp_path / "run", "--device", "cpu", "--every", 3)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / "run" / "final.safetensors"))
    assert "6 steps" in result.stdout
    assert "phase 1 step 3" in result.stderr
    assert "3 pictures" in result.stderr


def test_the_result_can_be_json(run, recipe, data, tmp_path):
    result = run("train", recipe, "--data", data, "--out", tmp_path / "run", "--device", "cpu", "--json")
    record = json.loads(result.stdout)
    final = tmp_path / "run" / "final.safetensors"
    assert record["checkpoint"] == str(final)
    assert record["sha256"] == hashlib.sha256(final.read_bytes()).hexdigest()
    assert record["recipe_sha256"] == hashlib.sha256(recipe.read_bytes()).hexdigest()
    assert (record["steps"], record["pictures"]) == (6, 3)


def test_a_finished_run_is_refused_without_resume_and_kept_with_it(run, recipe, data, tmp_path):
    arguments = ("train", recipe, "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    assert run(*arguments).exit_code == 0
    again = run(*arguments)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    assert run(*arguments, "--resume").exit_code == 0


def test_a_key_that_is_unknown_is_a_usage_error_of_one_line(run, recipe, data, tmp_path):
    recipe.write_text(RECIPE + "sise = 3\n")
    result = run("train", recipe, "--data", data, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "unknown key 'sise'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_pictures_is_bad_input(run, recipe, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("train", recipe, "--data", tmp_path / "empty", "--out", tmp_path / "run", "--device", "cpu")
    assert result.exit_code == 3
    assert "no pictures found" in result.stderr


def test_a_loss_that_diverges_is_a_failed_check(run, recipe, data, tmp_path):
    recipe.write_text(RECIPE + "learning_rate = 1e38\n")
    result = run("train", recipe, "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    assert result.exit_code == 1
    assert "diverged" in result.stderr


def test_ctrl_c_saves_and_ends_as_interrupted(run, recipe, data, tmp_path, monkeypatch):
    import signal

    from sr_deploy.cli.train import _TrainingProgress

    original = _TrainingProgress.step

    def interrupting(self, status):
        original(self, status)
        if status.step == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_TrainingProgress, "step", interrupting)
    arguments = ("train", recipe, "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    result = run(*arguments)
    assert result.exit_code == 130
    assert "stopped after step 4" in result.stderr
    monkeypatch.setattr(_TrainingProgress, "step", original)
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 0
    assert "resuming after step 4" in resumed.stderr


def test_the_keys_are_explained_and_a_new_recipe_is_written_to_stdout(run, recipe, tmp_path):
    told = run("train", "--explain")
    assert told.exit_code == 0
    assert "[[phase]], once for every phase" in told.stdout
    written = run("train", "--new", "mine", "--architecture", "unet", "--scale", 2)
    (tmp_path / "mine.toml").write_text(written.stdout)
    from sr_deploy.training.recipe import read_recipe

    assert read_recipe(tmp_path / "mine.toml").name == "mine"


def test_a_recipe_data_and_out_are_required_for_a_training(run, recipe, data):
    assert "Missing argument 'RECIPE'" in run("train").stderr
    assert "Missing option '--data'" in run("train", recipe).stderr
    result = run("train", recipe, "--data", data)
    assert result.exit_code == 2
    assert "Missing option '--out'" in result.stderr


def test_the_choices_of_a_new_recipe_are_those_of_the_nets():
    from sr_deploy.cli.train import command
    from sr_deploy.training.nets import NETS
    from sr_deploy.training.recipe import SCALES

    choices = {
        option.name: list(option.type.choices)
        for option in command.params
        if option.name in ("architecture", "scale")
    }
    assert choices == {"architecture": list(NETS), "scale": [str(scale) for scale in SCALES]}


def test_the_folder_keeps_the_command_that_was_typed(run, recipe, data, tmp_path):
    run("train", recipe, "--data", data, "--out", tmp_path / "a run", "--device", "cpu", "--json")
    (line,) = (tmp_path / "a run" / "commands.txt").read_text().splitlines()
    assert line.endswith(
        f": sr-deploy train {recipe} --data {data} --out '{tmp_path / 'a run'}' --device cpu --json"
    )


def test_a_bar_never_stands_at_its_end(monkeypatch):
    from sr_deploy.cli.shared.progress import ProgressDisplay
    from sr_deploy.cli.train import _TrainingProgress
    from sr_deploy.training.run.session import PhaseStatus

    shown = []
    monkeypatch.setattr(
        ProgressDisplay,
        "show",
        lambda self, done, total, what, **k: shown.append((what, done, total, k["left"])),
    )
    monkeypatch.setattr(ProgressDisplay, "finish", lambda self, task, **k: shown.append((task, "finished")))
    watch = _TrainingProgress()
    status = {"phase": 1, "phases": 2, "rate": 0.1234, "left": 0.0}
    watch.step(PhaseStatus(step=9, share=0.9, **status))
    watch.step(PhaseStatus(step=9, share=0.999, **status))
    watch.step(PhaseStatus(step=10, share=1.0, **status))
    watch.work("measuring the quality", 3, 11)
    watch.work("measuring the quality", 11, 11)
    assert shown == [
        ("phase 1 of 2", 0.9, 1.0, "0:00:01 left"),
        ("phase 1 of 2", 0.99, 1.0, "0:00:01 left"),
        ("phase", "finished"),
        ("measuring the quality", 3, 11, ""),
        ("measuring the quality", "finished"),
    ]
