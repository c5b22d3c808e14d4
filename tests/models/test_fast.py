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
    save_model(convert(net(), "int8", data=photographs).model, tmp_path / "net-int8.onnx")
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


@pytest.mark.parametrize("change", [None, -0.11, float("nan")])
def test_a_form_that_costs_too_much_or_was_not_measured_does_not_count(model, change):
    changed(model.with_name("net-int8.onnx"), psnr_change=change)
    assert forms_of(model) == {}


def test_a_form_of_other_weights_does_not_count(model):
    form = model.with_name("net-int8.onnx")
    other = load_model(form)
    spec = read_spec(other)
    save_model(write_spec(other, spec.with_(checkpoint_sha256="0" * 64)), form)
    assert forms_of(model) == {}


def test_the_choice_is_measured_once_and_its_times_are_told(model):
    said = []
    first = fast_form(model, say=said.append)
    assert any("measured once" in line and "int8 onnxruntime" in line for line in said)
    said.clear()
    assert fast_form(model, say=said.append) == first
    assert said == []


def test_a_named_backend_is_obeyed(model):
    assert fast_form(model, "onnxruntime").backend == "onnxruntime"


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
        difference = fast.upscale(picture).pixels.astype(int) - plain.upscale(picture).pixels
    assert np.abs(difference).mean() < 1


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
