"""Measures of blocks and specks see what they are named after, and nothing else."""

import cv2
import numpy as np
import pytest

from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.damage import blockiness, specks
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.degradations.chain import parse


@pytest.fixture(scope="module")
def large():
    """A picture that is smooth enough to show blocks."""
    return cv2.GaussianBlur(dead_leaves(512, 640, seed=5), (0, 0), 8)


def upscaled(large, steps):
    return imresize(parse(steps).small(large, 4, "name.png"), 4, round_once=True)


def test_blocks_grow_as_the_quality_of_jpeg_falls(large):
    original = blockiness(large, 4)
    found = [blockiness(upscaled(large, f"jpeg:{q}"), 4) / original for q in (95, 60, 15)]
    assert original == pytest.approx(1, abs=0.15)
    assert found[0] < found[1] < found[2]
    assert found[2] > 1.5 * found[0]


def test_noise_is_no_block_and_blocks_are_no_specks(large):
    assert blockiness(upscaled(large, "noise:8"), 4) == pytest.approx(1, abs=0.05)
    grey = np.repeat(large[..., 1:2], 3, axis=2)
    assert specks(grey, grey, 4) == 1.0


def test_colour_noise_is_seen_as_specks(large):
    clean = specks(upscaled(large, "jpeg:98"), large, 4)
    noisy = specks(upscaled(large, "noise:12"), large, 4)
    assert noisy > clean + 0.2


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_grey_original_with_a_little_colour_in_the_result_does_not_count_without_bounds(large, depth):
    top = np.iinfo(depth).max
    grey = (np.repeat(large[..., 1:2], 3, axis=2).astype(np.float64) / 255 * top).astype(depth)
    tinted = grey.copy()
    tinted[::9, ::9, 0] += depth(np.minimum(top // 64, top - tinted[::9, ::9, 0]))
    assert 1 < specks(tinted, grey, 4) < 3


def test_a_flat_picture_has_no_blocks():
    assert blockiness(np.full((64, 64, 3), 90, np.uint8), 4) == 1.0
    assert blockiness(np.full((8, 8, 3), 90, np.uint8), 4) == 1.0
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[21:23, 21:23] = 255
    assert blockiness(dot, 2) == 1.0
