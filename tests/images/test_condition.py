"""The rule of `--model auto`: each row of its table, on made pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

import sr_deploy.images.condition as rule
from sr_deploy.images.condition import Condition, condition_by_file, condition_of
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.images.large import LargeImage
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.degradations.chain import parse
from sr_deploy.quality.degradations.compress import jpeg, to_uint8
from sr_deploy.quality.drawings import drawing
from tests.paths import EXAMPLE, ROOT


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A picture like a photograph: overlapping shapes and their shadings, soft as lenses make them, in muted colours."""
    large = cv2.GaussianBlur(dead_leaves(1200, 1200, seed=3), (0, 0), 2).astype(np.float32)
    large = 0.25 * large + 0.75 * large.mean(axis=2, keepdims=True)
    shade = np.linspace(0.7, 1.3, 1200, dtype=np.float32)
    return to_uint8(large * shade[:, None, None] * shade[None, ::-1, None])


def degraded(scene: np.ndarray, text: str) -> Image:
    """A small version of the scene as a lossless picture, whose grid does not begin at its corner."""
    return Image(pixels=np.ascontiguousarray(parse(text).small(scene, 4, "scene")[3:, 5:]))


def test_a_jpeg_of_low_quality_goes_to_the_photo_net(scene):
    assert condition_by_file("jpeg", 75, False) == ("photo", "JPEG of quality 75")
    image = Image(pixels=degraded(scene, "blur:0").pixels, format="jpeg", quality=rule.LOSSY_QUALITY)
    assert condition_of(image) == ("photo", f"JPEG of quality {rule.LOSSY_QUALITY}")


@pytest.mark.parametrize("seed", range(6))
def test_a_jpeg_of_a_page_or_a_drawing_goes_to_the_photo_net_too(seed):
    drawn = to_uint8(jpeg(drawing(320, 320, seed=seed).astype(np.float32), 60))
    assert condition_of(Image(pixels=drawn, format="jpeg", quality=60)) == ("photo", "JPEG of quality 60")


@pytest.mark.parametrize(("format", "name"), [("webp", "WebP"), ("avif", "AVIF")])
def test_a_lossy_file_without_a_quality_goes_to_the_photo_net(scene, format, name):
    assert condition_by_file(format, None, False) == ("photo", f"lossy {name}")
    clean = parse("blur:0").small(scene, 4, "scene")
    assert condition_of(Image(pixels=clean, format=format)) == ("photo", f"lossy {name}")
    assert condition_of(Image(pixels=clean, format=format, lossless=True)).kind == "clean"


@pytest.mark.parametrize(
    ("format", "quality", "lossless"),
    [
        ("jpeg", rule.LOSSY_QUALITY + 1, False),
        ("jpeg", None, False),
        ("webp", None, True),
        ("heic", None, False),
        ("png", None, False),
        ("tiff", None, False),
        ("gif", None, False),
    ],
)
def test_the_pixels_decide_about_other_files(format, quality, lossless):
    assert condition_by_file(format, quality, lossless) is None


def test_clean_pictures_go_to_the_clean_net(scene):
    clean = parse("blur:0").small(scene, 4, "scene")
    assert condition_of(Image(pixels=clean)) == ("clean", "neither blocks nor noise")
    assert condition_of(Image(pixels=np.ascontiguousarray(clean[..., :1]))).kind == "clean"
    assert condition_of(Image(pixels=clean, format="jpeg", quality=98)).kind == "clean"


@pytest.mark.parametrize("steps", ["jpeg:75", "jpeg:50", "mozjpeg:75", "noise:5,jpeg:75"])
def test_blocks_are_seen_wherever_their_grid_begins(scene, steps):
    image = degraded(scene, steps)
    assert condition_of(image) == ("photo", "traces of JPEG blocks")
    grey = Image(pixels=np.ascontiguousarray(image.pixels[..., 1:2]))
    assert condition_of(grey).kind == "photo"


def test_a_jpeg_saved_again_at_high_quality_still_shows_its_blocks(scene, tmp_path):
    write_image(degraded(scene, "jpeg:60"), tmp_path / "again.jpg", quality=98)
    again = read_image(tmp_path / "again.jpg")
    assert again.quality == 98
    assert condition_of(again) == ("photo", "traces of JPEG blocks")


@pytest.mark.parametrize("steps", ["noise:6", "noise:8"])
def test_noise_is_seen(scene, steps):
    noisy = degraded(scene, steps)
    assert condition_of(noisy) == ("photo", "noise")
    grey = np.ascontiguousarray(noisy.pixels[..., 1:2])
    assert condition_of(Image(pixels=grey)) == ("photo", "noise")
    assert condition_of(Image(pixels=grey.repeat(3, axis=2))) == ("photo", "noise")


@pytest.mark.parametrize("seed", range(6))
def test_drawings_and_screens_are_clean(seed):
    assert condition_of(Image(pixels=drawing(320, 320, seed=seed))).kind == "clean"


def test_pixel_art_whose_pixels_are_blocks_of_8_is_clean():
    cells = np.random.default_rng(1).integers(0, 16, (40, 40))
    palette = np.random.default_rng(2).integers(0, 256, (16, 3), np.uint8)
    assert condition_of(Image(pixels=palette[cells].repeat(8, 0).repeat(8, 1))) == ("clean", "few colours")


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """A part of a clean photograph, uint8 [270, 300, 3]."""
    photograph = read_image(EXAMPLE).pixels
    return np.ascontiguousarray(photograph[:, 90:390])


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4])
def test_enlarged_pictures_show_no_blocks(crop, method, factor):
    enlarged = cv2.resize(crop, None, fx=factor, fy=factor, interpolation=method)
    assert condition_of(Image(pixels=enlarged)).kind == "clean"
    cut = np.ascontiguousarray(enlarged[3:, 5:])
    assert condition_of(Image(pixels=cut)).kind == "clean"


@pytest.mark.parametrize("quality", [50, 75])
def test_a_photograph_that_was_a_jpeg_shows_its_blocks(crop, quality):
    damaged = to_uint8(jpeg(crop.astype(np.float32), quality))
    assert condition_of(Image(pixels=damaged)) == ("photo", "traces of JPEG blocks")
    cut = np.ascontiguousarray(damaged[3:, 5:])
    assert condition_of(Image(pixels=cut)) == ("photo", "traces of JPEG blocks")


def test_squares_of_8_pixels_are_no_blocks_of_jpeg():
    row, column = np.mgrid[:400, :400]
    board = (row // 8 + column // 8) % 2 * 100
    ramp = board + column // 4 + row // 20
    assert condition_of(Image(pixels=ramp.astype(np.uint8)[..., None].copy())).kind == "clean"
    squares = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    assert condition_of(Image(pixels=squares)).kind == "clean"
    assert condition_of(read_image(ROOT / "docs" / "images" / "icnr.png")).kind == "clean"


@pytest.mark.parametrize("levels", [2, 4])
def test_dithered_pictures_are_clean(scene, levels):
    assert condition_of(degraded(scene, f"dither:{levels}")) == ("clean", "few colours")


def test_deep_small_and_banded_pictures_are_clean(scene):
    noisy = degraded(scene, "noise:8").pixels
    assert condition_of(Image(pixels=noisy.astype(np.uint16) * 257)) == ("clean", "16 bits")
    icon = Image(pixels=np.ascontiguousarray(noisy[:31, :200]))
    assert condition_of(icon) == ("clean", "small")
    assert condition_of(LargeImage(pixels=None)) == ("clean", "too large to be looked at first")


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 5000, 1), (33, 47, 3)])
def test_flat_and_odd_pictures_are_no_trouble(shape):
    assert condition_of(Image(pixels=np.full(shape, 200, np.uint8))) == Condition("clean", "few colours")


def test_at_most_448_pixels_a_side_of_the_middle_are_looked_at(scene, monkeypatch):
    # this bounds the time; benchmarks/pictures/auto.py measures it
    seen = []
    real = rule._condition_of_pixels
    monkeypatch.setattr(
        rule, "_condition_of_pixels", lambda pixels, jpeg: seen.append(pixels) or real(pixels, jpeg=jpeg)
    )
    for height, width in ((1200, 1200), (449, 40), (32, 1200)):
        pixels = np.ascontiguousarray(scene[:height, :width])
        condition_of(Image(pixels=pixels))
        top, left = max(0, height - 448) // 2, max(0, width - 448) // 2
        np.testing.assert_array_equal(seen.pop(), pixels[top : top + 448, left : left + 448])
