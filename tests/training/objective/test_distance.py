"""The distance in VGG features, as a measure of `sr-deploy eval`."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from sr_deploy.cli import main
from sr_deploy.images.image import Image, write_image
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.training.objective.distance import VggDistance

WIDTHS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256)}
"""Convolutions of VGG-19 up to relu3_1, by torchvision's numbers."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights up to relu3_1."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for index, (inputs, outputs) in WIDTHS.items():
        spread = (2 / (9 * inputs)) ** 0.5
        tensors[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) * spread
        tensors[f"features.{index}.bias"] = torch.zeros(outputs)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(tensors, path)
    return path


def test_the_distance_is_zero_for_equal_pictures_and_grows_with_noise(weights):
    distance, picture = VggDistance(weights), dead_leaves(48, 64)
    noise = np.random.default_rng(0).normal(0, 1, picture.shape)
    noisy = [np.clip(picture + sigma * noise, 0, 255).astype(np.uint8) for sigma in (4, 16)]
    assert distance(picture, picture) == 0
    assert 0 < distance(noisy[0], picture) < distance(noisy[1], picture)


def test_it_does_not_depend_on_the_bits_of_the_pictures_and_takes_grey_ones(weights):
    distance, picture = VggDistance(weights), dead_leaves(32, 32)
    other = picture[::-1]
    wide = [pixels.astype(np.uint16) * 257 for pixels in (picture, other)]
    assert distance(*wide) == pytest.approx(distance(picture, other), rel=1e-5)
    assert distance(picture[..., :1], other[..., :1]) > 0


def test_eval_prints_it_and_names_what_it_is(weights, tmp_path):
    write_image(Image(pixels=dead_leaves(64, 64)), tmp_path / "leaves.png")
    arguments = ["eval", tmp_path, "--model", "bicubic", "--scale", 2, "--vgg", weights]
    runner, arguments = CliRunner(), [str(argument) for argument in arguments]
    result = runner.invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    assert "VGG" in result.stdout.splitlines()[0]
    assert "features of VGG-19" in result.stdout
    record = json.loads(runner.invoke(main, [*arguments, "--json"]).stdout)
    assert record["results"][0]["mean"]["vgg"] > 0
