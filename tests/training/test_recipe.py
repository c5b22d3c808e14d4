"""Recipes: reading, and errors that name the key of a value that does not fit."""

import pytest

from sr_deploy.errors import InputError, UsageError
from sr_deploy.training.checkpoint import read_checkpoint
from sr_deploy.training.data.degrade import Degradation
from sr_deploy.training.recipe import parse_recipe, read_recipe
from sr_deploy.training.run.trainer import check_crops
from tests.paths import ROOT

EXPORT = ROOT / "export"
HEAD = 'name = "n"\n'
NET = '[net]\narchitecture = "rt"\n'
PHASE = "[[phase]]\nscale = 2\ncrop = 8\nsteps = 10\n"


def parsed(phase="", head="", net="", tail=""):
    return parse_recipe((HEAD + head + NET + net + PHASE + phase + tail).encode())


def test_what_is_left_out_has_its_default():
    recipe = parsed()
    assert (recipe.scale, recipe.steps, recipe.precision) == (2, 10, "bf16")
    assert recipe.phases[0].loss == {"l1": 1.0}
    assert (recipe.leaves, recipe.phases[0].busiest_of) == (0, 1)
    assert not recipe.phases[0].perceptual


def test_a_loss_is_a_term_or_a_table_of_weights():
    assert parsed('loss = "l2"').phases[0].loss == {"l2": 1.0}
    phase = parsed("loss = { l1 = 0.1, feature = 1, gram = 2.5 }").phases[0]
    assert phase.loss == {"l1": 0.1, "feature": 1, "gram": 2.5}
    assert phase.perceptual


def test_a_crop_may_be_given_in_large_pixels():
    text = HEAD + NET + "[[phase]]\nscale = 4\nlarge_crop = 192\nsteps = 10\n"
    assert parse_recipe(text.encode()).phases[0].crop == 48


def test_degradations_are_ranges():
    phase = parsed("degrade = { blur = [0.2, 2], noise = [0, 10], jpeg = [40, 95], second = 0.5 }").phases[0]
    assert phase.degrade == Degradation(blur=(0.2, 2.0), noise=(0.0, 10.0), jpeg=(40.0, 95.0), second=0.5)


def test_equal_bytes_have_equal_hashes_and_others_do_not():
    assert parsed().sha256 == parsed().sha256 != parsed("batch = 3").sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "sise = 3"}, r"phase 1: unknown key 'sise'.*batch"),
        ({"phase": "batch = 2.5"}, r"phase 1: batch = 2.5 is a float, expected int"),
        ({"phase": "batch = true"}, r"batch = True is a bool, expected int"),
        ({"phase": "batch = 0"}, r"phase 1: batch = 0, expected a number above 0"),
        ({"phase": "busiest_of = 0"}, r"phase 1: busiest_of = 0, expected a number above 0"),
        ({"phase": "busiest_of = true"}, r"busiest_of = True is a bool, expected int"),
        ({"phase": "busiest_of = 1.5"}, r"busiest_of = 1.5 is a float, expected int"),
        ({"phase": 'learning_rate = "fast"'}, r"learning_rate = 'fast' is a str, expected int or float"),
        ({"phase": 'loss = "l3"'}, r"phase 1: loss: unknown term 'l3'"),
        ({"phase": "loss = { l1 = -1 }"}, r"loss: l1 = -1, expected a number of at least 0"),
        ({"phase": "loss = { l1 = 0 }"}, r"loss: no weight is above 0"),
        ({"phase": "large_crop = 16"}, r"either crop .* or large_crop"),
        ({"phase": "degrade = { blurr = [0, 1] }"}, r"phase 1: degrade: unknown key 'blurr'"),
        (
            {"phase": "degrade = { blur = [0, 99] }"},
            r"degrade: blur = \[0.0, 99.0\], expected .* between 0 and 8",
        ),
        ({"phase": "degrade = { jpeg = [95, 40] }"}, r"degrade: jpeg"),
        ({"phase": "degrade = { noise = [1] }"}, r"degrade: noise = \[1\], expected two numbers"),
        ({"phase": "degrade = { second = 2 }"}, r"degrade: second = 2"),
        ({"head": "speed = 9\n"}, r"recipe: unknown key 'speed'"),
        ({"head": "ema = 1.5\n"}, r"ema = 1.5"),
        ({"head": "validation = 0\n"}, r"validation >= 1"),
        ({"head": "sizes = []\n"}, r"sizes = \[\], expected factors from 0.1 to 4"),
        ({"head": "sizes = [1, 9.0]\n"}, r"sizes = \[1, 9.0\], expected factors from 0.1 to 4"),
        ({"head": "sizes = 1.5\n"}, r"sizes = 1.5 is a float, expected list"),
        ({"head": 'precision = "fp8"\n'}, r"precision = 'fp8', expected one of bf16"),
        ({"tail": '[perceptual]\nnetwork = "resnet"\n'}, r"network = 'resnet'"),
        ({"tail": '[perceptual]\npooling = "mean"\n'}, r"pooling = 'mean', expected max or l2"),
        ({"tail": "[perceptual]\nlayers = { relu1_1 = 0 }\n"}, r"layers: no weight is above 0"),
        ({"tail": "[export]\nformat = 'onnx'\n"}, r"export: unknown key 'format'"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_key(change, message):
    with pytest.raises(UsageError, match=message):
        parsed(**change)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("scale = 5\ncrop = 8\nsteps = 1", r"phase 1: scale = 5, expected one of 2, 3, 4, 8"),
        (
            "scale = 4\nlarge_crop = 190\nsteps = 1",
            r"large_crop = 190 is not a multiple of scale 4; try 188 or 192",
        ),
        (
            "scale = 4\ncrop = 2\nsteps = 1",
            r"crop = 2 small pixels \(8 large ones at scale 4\), expected at least",
        ),
        ("scale = 4\nsteps = 1", r"expected either crop"),
        ("crop = 8", r"phase 1: missing scale, steps"),
    ],
)
def test_crops_and_scales_that_do_not_fit_are_refused(phase, message):
    with pytest.raises(UsageError, match=message):
        parse_recipe((HEAD + NET + "[[phase]]\n" + phase).encode())


@pytest.mark.parametrize("text", ["", 'name = "n"', HEAD + NET, HEAD + PHASE])
def test_a_recipe_without_name_net_or_phase_says_what_it_needs(text):
    with pytest.raises(UsageError, match=r"needs name, \[net\] architecture and at least one \[\[phase\]\]"):
        parse_recipe(text.encode())


def test_a_parameter_that_the_net_does_not_take_is_refused_by_name():
    with pytest.raises(UsageError, match="wings"):
        check_crops(parsed(net="wings = 2\n"))


def test_a_file_that_is_not_there_and_one_that_is_no_toml_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"name = \xff")
    with pytest.raises(InputError, match="not TOML"):
        read_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize("path", sorted(EXPORT.glob("*-x*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_released_models_are_valid_and_named_as_their_files(path):
    recipe = read_recipe(path)
    check_crops(recipe)
    assert recipe.name == path.stem
    assert recipe.name.split("-")[1] == f"x{recipe.scale}"


@pytest.mark.parametrize(
    "path", sorted((EXPORT / "checkpoints").glob("*-teacher.safetensors")), ids=lambda path: path.stem
)
def test_the_recipe_of_a_teacher_is_kept_beside_it(path):
    assert read_recipe(path.with_suffix(".toml")).sha256 == read_checkpoint(path)[0].recipe_sha256
