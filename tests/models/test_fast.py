"""The fastest form of a model: which forms count, what is measured and what is kept."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from sr_deploy import Upscaler
from sr_deploy.cli import main
from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import load_model, read_spec, save_model, write_spec
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.models.fast import fast_form, forms_of
from sr_deploy.precision.convert import NOTES_KEY, convert
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.system.files import digest_of
from tests.graph.rewrites.test_carried import net


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder with two pictures to measure on."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(2):
        write_image(Image(pixels=dead_leaves(128, 128, seed=seed)), folder / f"{seed}.png")
    return folder


@pytest.fixture
def model(tmp_path, photographs, monkeypatch):
    """A file with a measured int8 form beside it. Nothing is known of it from another test."""
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    save_model(net(), tmp_path / "net.onnx")
    made = convert(net(), "int8", data=photographs, source=digest_of(tmp_path / "net.onnx"))
    save_model(made.model, tmp_path / "net-int8.onnx")
    return tmp_path / "net.onnx"


def changed(path, **notes):
    """Change notes of the conversion in the file at `path`."""
    form = load_model(path)
    entry = next(entry for entry in form.metadata_props if entry.key == NOTES_KEY)
    entry.value = json.dumps({**json.loads(entry.value), **notes})
    save_model(form, path)


def test_a_measured_form_beside_a_file_counts(model):
    assert forms_of(model) == {"int8": model.with_name("net-int8.onnx")}
    assert forms_of(model.with_name("net-int8.onnx")) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (None, "not measured"),
        (-0.11, "costs 0.11 dB"),
        (float("nan"), "expected a number"),
        ("x", "expected a number"),
        ([1], "expected a number"),
    ],
)
def test_a_form_that_costs_too_much_or_was_not_measured_does_not_count_and_that_is_told(
    model, change, reason
):
    changed(model.with_name("net-int8.onnx"), psnr_change=change)
    said = []
    assert forms_of(model, said.append) == {}
    assert said[0].startswith("fast: net-int8.onnx is not used: ")
    assert reason in said[0]


def test_a_form_of_another_file_does_not_count(model):
    """The digest of the file it was made from decides where neither names a checkpoint."""
    changed(model.with_name("net-int8.onnx"), source="0" * 64)
    said = []
    assert forms_of(model, said.append) == {}
    assert "was not made from net.onnx as it is now" in said[0]


def test_a_form_of_the_same_checkpoint_counts_whatever_file_it_was_made_from(model):
    form = model.with_name("net-int8.onnx")
    changed(form, source=None)
    for path in (model, form):
        file = load_model(path)
        save_model(write_spec(file, read_spec(file).with_(checkpoint_sha256="1" * 64)), path)
    assert forms_of(model) == {"int8": form}


def test_a_broken_form_is_left_out_and_named(model):
    model.with_name("net-int8.onnx").write_bytes(b"no model")
    said = []
    assert fast_form(model, "onnxruntime", say=said.append).precision == "fp32"
    assert "not an ONNX file" in said[0]


def test_a_page_beside_a_file_of_the_users_is_no_card(model):
    model.with_suffix(".md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert "int8" in forms_of(model)


def test_the_choice_is_measured_once_and_its_times_are_told(model):
    said = []
    first = fast_form(model, say=said.append)
    assert any("measured once" in line and "int8 onnxruntime" in line for line in said)
    said.clear()
    assert fast_form(model, say=said.append) == first
    assert said == []


def test_a_named_backend_is_obeyed_and_does_not_change_the_choice_among_all(model):
    first = fast_form(model)
    assert fast_form(model, "onnxruntime").backend == "onnxruntime"
    assert fast_form(model) == first


def test_a_form_whose_picture_is_wrong_is_dropped(model):
    """A form with other weights that claims to be one of this model."""
    form = load_model(model.with_name("net-int8.onnx"))
    tensor = next(t for t in form.graph.initializer if t.name == "head.weight_int8")
    wrong = -numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(wrong), tensor.name))
    bias = next(t for t in form.graph.initializer if t.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.2), bias.name))
    onnx.save(form, model.with_name("net-int8.onnx"))
    said = []
    assert fast_form(model, "onnxruntime", say=said.append).precision == "fp32"
    assert any("int8 onnxruntime is not used: its picture differs" in line for line in said)


def test_a_model_without_forms_runs_as_it_is_and_that_is_told(tmp_path):
    save_model(net(), tmp_path / "net.onnx")
    said = []
    found = fast_form(tmp_path / "net.onnx", "onnxruntime", say=said.append)
    assert (found.path, found.precision) == (tmp_path / "net.onnx", "fp32")
    assert said == ["fast: net.onnx as it is, because there is no bf16 or int8 form of it"]


def test_a_chain_is_refused(model):
    with pytest.raises(UsageError, match="chain"):
        fast_form(f"{model}+{model}")


def test_an_upscaler_can_be_opened_fast(model):
    picture = Image(pixels=dead_leaves(32, 32))
    with Upscaler.open(model, fast=True) as fast, Upscaler.open(model) as plain:
        assert fast.spec.precision == fast_form(model).precision
        difference = fast.upscale(picture).pixels.astype(int) - plain.upscale(picture).pixels
    assert np.abs(difference).mean() < 1


def test_fast_and_ray_contradict_each_other(model):
    done = CliRunner().invoke(main, ["upscale", ".", "--fast", "--ray", "local"])
    assert done.exit_code == 2
    assert "--fast measures this machine" in done.stderr


def test_upscale_and_bench_take_the_option_and_name_what_they_run(model, tmp_path):
    write_image(Image(pixels=dead_leaves(40, 48)), tmp_path / "photo.png")
    runner = CliRunner()
    arguments = [
        "upscale",
        str(tmp_path / "photo.png"),
        "--model",
        str(model),
        "--fast",
        "--backend",
        "onnxruntime",
    ]
    done = runner.invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "fast: " in done.stderr
    assert read_image(tmp_path / "photo-x4.png").width == 48 * 4
    arguments = ["bench", "--model", str(model), "--fast", "--sizes", "32", "--samples", "2", "--json"]
    done = runner.invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert {one["subject"]["model"] for one in json.loads(done.stdout)["runs"]} <= {"net", "net-int8"}
