"""Degradations do what their names say, in the strength asked for."""

import cv2
import numpy as np
import pytest

from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.degradations.compress import FORMATS, TABLES, jpeg, on_shifted_grid, to_uint8
from sr_deploy.quality.degradations.filters import sharpen, shift_chroma
from sr_deploy.quality.degradations.noise import add_camera_noise, add_noise, dither, from_linear, to_linear
from sr_deploy.quality.degradations.resample import KERNELS, shrink


@pytest.fixture(scope="module")
def leaves():
    return dead_leaves(96, 128, seed=3).astype(np.float32)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_kernels_keep_flat_pictures_and_the_place_of_a_ramp(kernel, scale):
    flat = np.full((24, 36, 3), 77, np.float32)
    assert np.allclose(shrink(flat, scale, kernel), 77, atol=1e-3)
    ramp = np.tile(np.arange(36, dtype=np.float32)[None, :, None], (24, 1, 3))
    wanted = (np.arange(36 // scale) + 0.5) * scale - 0.5
    inner = slice(3, -3)  # the border repeats
    assert np.allclose(shrink(ramp, scale, kernel)[5, inner, 0], wanted[inner], atol=0.05)


@pytest.mark.parametrize(
    ("kernel", "flag"),
    [("area", cv2.INTER_AREA), ("bilinear-aliased", cv2.INTER_LINEAR), ("cubic-aliased", cv2.INTER_CUBIC)],
)
def test_kernels_named_after_opencv_equal_it(leaves, kernel, flag):
    weak = leaves * 0.4 + 70  # no pass has to clip
    theirs = cv2.resize(weak, (32, 24), interpolation=flag)
    assert np.abs(shrink(weak, 4, kernel) - theirs)[1:-1, 1:-1].max() < 0.01


def test_bicubic_is_that_of_the_protocol(leaves):
    exact = imresize(leaves.astype(np.uint8), 0.25)
    assert np.abs(to_uint8(shrink(leaves, 4)).astype(int) - exact).max() <= 1


def test_noise_has_the_strength_asked_for():
    flat = np.full((256, 256, 3), 118, np.float32)
    random = np.random.default_rng(0)
    assert add_noise(flat, 7, random).std() == pytest.approx(7, rel=0.03)
    assert add_camera_noise(flat, 4, random).std() == pytest.approx(4, rel=0.03)
    grey = add_noise(flat, 7, random, grey=True)
    assert np.array_equal(grey[..., 0], grey[..., 2])


def test_camera_noise_grows_with_light_and_demosaicing_keeps_colours():
    random = np.random.default_rng(0)
    dark, bright = (
        to_linear(add_camera_noise(np.full((128, 128, 3), level, np.float32), 4, random)).std()
        for level in (60, 200)
    )
    assert bright > 2 * dark
    colour = np.empty((21, 32, 3), np.float32)
    colour[:] = (200, 100, 50)
    assert np.abs(add_camera_noise(colour, 0, random, demosaic=True) - colour).max() < 0.1


def test_linear_light_and_back():
    values = np.linspace(0, 255, 256, dtype=np.float32)
    assert np.abs(from_linear(to_linear(values)) - values).max() < 0.01
    assert to_linear(np.array([118], np.float32))[0] == pytest.approx(0.181, abs=0.001)


@pytest.mark.parametrize("name", FORMATS)
def test_lower_quality_loses_more(leaves, name):
    low, high = (np.abs(FORMATS[name](leaves, quality) - leaves).mean() for quality in (20, 95))
    assert low > 1.5 * high > 0


@pytest.mark.parametrize("tables", TABLES)
def test_jpeg_loses_colour_first_with_half_chroma(leaves, tables):
    full, half = (np.abs(jpeg(leaves, 90, chroma=c, tables=tables) - leaves).mean() for c in ("444", "420"))
    assert half > full


def test_a_shifted_grid_moves_the_blocks(leaves):
    here = jpeg(leaves, 10)
    there = jpeg(on_shifted_grid(leaves, 3, 5), 10)[3:, 5:]
    assert there.shape == leaves.shape
    assert np.abs(here - there).mean() > 1


def test_sharpening_leaves_halos_and_a_chroma_shift_keeps_luma():
    step = np.full((16, 32, 3), 60, np.float32)
    step[:, 16:] = (190, 180, 170)
    assert sharpen(step, 1.0, 1.0).max() > 195
    assert sharpen(step, 1.0, 1.0).min() < 55
    weights = np.array([0.299, 0.587, 0.114])
    moved = shift_chroma(step, 0.0, 1.0)
    assert np.abs(moved @ weights - step @ weights).max() < 0.1
    assert np.abs(moved - step).max() > 5


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_dithering_keeps_the_mean(levels):
    ramp = np.tile(np.linspace(0, 255, 64, dtype=np.float32)[None, :, None], (64, 1, 3))
    made = dither(ramp, levels)
    assert len(np.unique(made)) == levels
    assert np.abs(made.reshape(64, 8, 8, 3).mean((0, 2)) - ramp.reshape(64, 8, 8, 3).mean((0, 2))).max() < 10
