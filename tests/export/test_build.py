"""`export/build.py`: rebuilding the bundled files byte for byte from checkpoints, and their cards."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sr_deploy.models import list_models, read_card, read_spec
from sr_deploy.training.checkpoint import CheckpointInfo, load_net, read_checkpoint, save_checkpoint
from sr_deploy.training.nets import build_net
from sr_deploy.training.recipe import parse_recipe
from tests.paths import ROOT

pytestmark = pytest.mark.long

RECIPE = b"""
name = "tiny-x2"
[net]
architecture = "rt"
features = 4
depth = 1
[[phase]]
scale = 2
crop = 8
steps = 100
loss = { l1 = 1, feature = 0.1 }
[export]
licence = "CC0-1.0"
"""


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("export_build", ROOT / "export" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def places(tmp_path):
    """Return arguments of build.py that name a recipe, its checkpoint, and folders for models and results."""
    recipes, models, results = tmp_path / "export", tmp_path / "models", tmp_path / "results"
    for folder in (recipes / "checkpoints", models, results):
        folder.mkdir(parents=True)
    (recipes / "tiny-x2.toml").write_bytes(RECIPE)
    recipe = parse_recipe(RECIPE)
    torch.manual_seed(0)
    info = CheckpointInfo(
        name="tiny-x2",
        architecture="rt",
        scale=2,
        parameters=dict(recipe.parameters),
        recipe_sha256=recipe.sha256,
        training={"steps": 100, "minutes": 1.5, "device": "CPU, 1 threads"},
    )
    net = build_net("rt", 2, recipe.parameters)
    save_checkpoint(recipes / "checkpoints" / "tiny-x2.safetensors", net, info)
    return ["--recipes", str(recipes), "--models", str(models), "--results", str(results)]


def test_a_model_and_its_card_are_built_and_rebuilt_byte_for_byte(build, places, tmp_path, capsys):
    assert build.main(places) == 0
    assert build.main([*places, "--check"]) == 0
    assert "1 models: every file is what its checkpoint gives, byte for byte" in capsys.readouterr().out
    (entry,) = list_models(tmp_path / "models")
    assert (entry.name, entry.scale, entry.licence) == ("tiny-x2", 2, "CC0-1.0")
    assert entry.sha256 == build.sha256_of(entry.path)
    assert entry.spec.recipe_sha256 == parse_recipe(RECIPE).sha256
    card = (tmp_path / "models" / "tiny-x2.md").read_text(encoding="utf-8")
    assert "100 steps in 1.5 minutes" in card
    assert "loss 1 l1 + 0.1 feature" in card
    assert "CC BY-SA 4.0" in card
    assert "Not measured yet" in card

    quality = {"model": "tiny-x2", "sha256": entry.sha256, "mean": {"psnr_y": 30.123456, "ssim_y": 0.9}}
    other = {**quality, "sha256": "0" * 64, "mean": {"psnr_y": 99.0, "ssim_y": 1.0}}
    results = tmp_path / "results"
    (results / "quality-set5.json").write_text(json.dumps({"set": "set5", "results": [quality, other]}))
    measured = build.quality_of("tiny-x2", entry.sha256, results)
    assert measured == {"Set5": {"psnr_y": 30.1235, "ssim_y": 0.9}}
    assert build.main([*places, "--check"]) == 1  # because the card would now contain the results
    assert "tiny-x2.md" in capsys.readouterr().err


def test_files_that_are_missing_or_differ_are_named(build, tmp_path):
    for folder in ("built", "there"):
        (tmp_path / folder).mkdir()
    for name in ("same", "other", "missing"):
        (tmp_path / "built" / name).write_text(name)
        (tmp_path / "there" / name).write_text("same")
    (tmp_path / "there" / "missing").unlink()
    lines = build.compare(sorted((tmp_path / "built").iterdir()), tmp_path / "built", tmp_path / "there")
    assert [Path(line.split(": ")[0]).name for line in lines] == ["missing", "other"]


def test_a_recipe_changed_after_training_is_refused(build, places, tmp_path, capsys):
    (tmp_path / "export" / "tiny-x2.toml").write_bytes(RECIPE.replace(b"100", b"101"))
    assert build.main(places) == 3
    assert "train again, or restore the recipe" in capsys.readouterr().err
    assert not list((tmp_path / "models").iterdir())


def test_an_unknown_name_is_refused_with_those_there_are(build, places, capsys):
    assert build.main([*places, "huge-x2"]) == 3
    assert "tiny-x2" in capsys.readouterr().err


def test_the_photographs_of_the_cards_add_up(build):
    table = build.tomllib.loads((ROOT / "export" / "photographs.toml").read_text(encoding="utf-8"))
    assert sum(part["count"] for part in table["part"]) == table["count"]
    assert all(part["licence"] and part["source"] for part in table["part"])


def test_a_teacher_is_told_of_in_the_card_and_not_built(build, places, tmp_path, capsys):
    folder = tmp_path / "export" / "checkpoints"
    path = folder / "tiny-x2.safetensors"
    net, info = load_net(path)
    teacher = folder / "tiny-x2-teacher.safetensors"
    save_checkpoint(teacher, net, info)
    taught = {"name": "tiny-x2", "sha256": "abc123", "training": dict(info.training)}
    recipe = RECIPE.replace(b"steps = 100", b'steps = 100\ntarget = "teacher"')
    (tmp_path / "export" / "tiny-x2.toml").write_bytes(recipe)
    info = replace(
        info,
        recipe_sha256=parse_recipe(recipe).sha256,
        training={
            **info.training,
            "init": {"name": "tiny-x2", "training": dict(info.training)},
            "teacher": taught,
        },
    )
    save_checkpoint(path, net, info)
    assert build.main(places) == 0
    files = sorted(p.name for p in (tmp_path / "models").iterdir() if p.is_file())
    assert files == ["tiny-x2.md", "tiny-x2.onnx"]
    card = (tmp_path / "models" / "tiny-x2.md").read_text()
    assert "against a teacher's pictures" in card
    assert "`abc123`). It is the net whose weights this one began with." in card
    assert "Trained for 100 steps in 1.5 minutes on CPU, 1 threads, against pictures of `tiny-x2`:" in card
    assert card.count("- `tiny-x2`: 100 steps in 1.5 minutes on CPU, 1 threads\n") == 1

    training = {
        **info.training,
        "steps": 500,
        "init": {"name": "tiny-x2, wider", "training": {"steps": 7, "minutes": 2.0}},
    }
    taught = {**taught, "training": training}
    save_checkpoint(path, net, replace(info, training={**info.training, "teacher": taught}))
    assert build.main(places) == 0
    card = (tmp_path / "models" / "tiny-x2.md").read_text()
    runs = card.split("It was trained by these runs:\n\n")[1].splitlines()
    assert runs[0] == "- `tiny-x2, wider`: 7 steps in 2 minutes"
    assert runs[1].startswith("- `tiny-x2`: 500 steps in 1.5 minutes on CPU, 1 threads, against pictures of")


def test_without_the_extra_one_sentence_says_what_to_install():
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        f"runpy.run_path({str(ROOT / 'export' / 'build.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "building the models needs torch, which is not installed" in done.stderr
    assert '".[cpu,train]"' in done.stderr


def test_a_net_that_was_trained_for_int8_gets_forms_whose_loss_is_that_of_committed_results(
    build, places, tmp_path
):
    path = tmp_path / "export" / "checkpoints" / "tiny-x2.safetensors"
    info, _ = read_checkpoint(path)
    net, _ = load_net(path)
    ranges = {
        name: {"range": 1.0, "signed": True} for name, part in net.named_modules() if hasattr(part, "weight")
    }
    save_checkpoint(path, net, replace(info, ranges=ranges))
    assert build.main(places) == 0
    models, results = tmp_path / "models", tmp_path / "results"
    forms = {kind: models / "forms" / f"tiny-x2-{kind}.onnx" for kind in ("bf16", "int8")}
    (entry,) = list_models(models)
    assert [read_spec(file).precision for file in forms.values()] == ["bf16", "int8"]
    assert "not measured yet" in (models / "tiny-x2.md").read_text(encoding="utf-8")

    def row(file, psnr):
        return {
            "model": "tiny-x2",
            "sha256": build.sha256_of(file),
            "mean": {"psnr_y": psnr, "ssim_y": 0.9},
            "pictures": [{}] * 3,
        }

    for name, loss in (("set5", 0.02), ("held-out", 0.03)):
        rows = [row(entry.path, 30.0), row(forms["int8"], 30.0 - loss)]
        (results / f"quality-{name}.json").write_text(json.dumps({"set": name, "results": rows}))
    assert build.main(places) == 0
    told = read_card(models / "tiny-x2.md")["forms"]
    assert told == {
        "int8": {"sha256": build.sha256_of(forms["int8"]), "psnr_change": -0.03, "photographs": 3}
    }
    forms["int8"].write_bytes(b"other")
    assert build.main([*places, "--check"]) == 1


def test_other_nets_get_a_form_in_bf16_if_it_is_small_and_forms_that_no_longer_belong_are_removed(
    build, places, tmp_path, monkeypatch, capsys
):
    forms = tmp_path / "models" / "forms"
    assert build.main(places) == 0
    assert [path.name for path in forms.iterdir()] == ["tiny-x2-bf16.onnx"]
    (forms / "tiny-x2-int8.onnx").write_bytes(b"of an earlier training")
    assert build.main([*places, "--check"]) == 1
    assert "tiny-x2-int8.onnx: its checkpoint gives no such form" in capsys.readouterr().err
    assert build.main(places) == 0
    assert [path.name for path in forms.iterdir()] == ["tiny-x2-bf16.onnx"]
    monkeypatch.setattr(build, "_LARGEST_FORM", 10)
    assert build.main(places) == 0
    assert [path.name for path in forms.iterdir()] == []
