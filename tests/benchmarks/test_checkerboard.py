"""The checkerboard measure sees a planted pattern, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.icnr.checkerboard import blocking, checkerboard_energy
from sr_deploy.errors import UsageError
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves

SMALL = dead_leaves(200, 240, seed=1)
SCALES = (2, 3, 4, 8)


def pattern(shape: tuple[int, ...], scale: int) -> np.ndarray:
    """A checkerboard of period `scale`: one phase of every cell stands out by 8 grey levels."""
    rows, columns = np.indices(shape[:2])
    return 8.0 * ((rows + columns) % scale == 0)[..., None]


@pytest.mark.parametrize("scale", SCALES)
def test_clean_upsampling_has_none_and_a_planted_checkerboard_is_seen(scale: int) -> None:
    nearest = SMALL.repeat(scale, 0).repeat(scale, 1)
    smooth = imresize(SMALL, float(scale))
    planted = np.clip(smooth + pattern(smooth.shape, scale), 0, 255).astype(np.uint8)
    clean = max(checkerboard_energy(nearest, scale), checkerboard_energy(smooth, scale))
    assert clean < 1e-4
    assert checkerboard_energy(planted, scale) > max(20 * clean, 1e-3)


def test_the_share_is_that_of_the_pattern_in_the_energy() -> None:
    rows, columns = np.indices((256, 256))
    content = 30 * np.sqrt(2) * np.sin(2 * np.pi * rows / 64)
    board = 10.0 * (-1.0) ** (rows + columns)
    share = checkerboard_energy(content + board, 2)
    assert share == pytest.approx(10**2 / (10**2 + 30**2), rel=0.01)


def test_stripes_count_and_a_pattern_of_another_period_does_not() -> None:
    rows, _ = np.indices((240, 240))
    assert checkerboard_energy(rows % 3 == 0, 3) > 0.9
    assert checkerboard_energy(rows % 5 == 0, 3) < 1e-6


def test_a_pattern_that_follows_the_brightness_is_seen_too() -> None:
    smooth = imresize(SMALL, 4.0).astype(np.float64)
    modulated = smooth * (1 + pattern(smooth.shape, 4) / 100)
    assert checkerboard_energy(modulated, 4) > 30 * checkerboard_energy(smooth, 4)


def test_the_unit_of_the_pixels_does_not_matter() -> None:
    picture = SMALL.astype(np.float32)
    assert checkerboard_energy(picture, 2) == pytest.approx(checkerboard_energy(picture / 255, 2), rel=1e-6)


def test_a_flat_picture_has_none() -> None:
    assert checkerboard_energy(np.full((32, 32), 7, np.uint8), 2) == 0.0


@pytest.mark.parametrize(
    ("shape", "scale", "says"),
    [((16, 16, 4), 2, "shape"), ((64, 64), 1, "at least 2"), ((64, 15), 2, "16 pixels a side")],
)
def test_what_cannot_be_measured_is_refused(shape: tuple[int, ...], scale: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        checkerboard_energy(np.zeros(shape), scale)
    with pytest.raises(UsageError, match=says):
        blocking(np.zeros(shape), scale)


@pytest.mark.parametrize("scale", SCALES)
def test_blocks_are_seen_where_the_energy_is_blind(scale: int) -> None:
    photograph = dead_leaves(200, 240, seed=2)
    nearest = SMALL.repeat(scale, 0).repeat(scale, 1)
    assert blocking(photograph, scale) == pytest.approx(1, abs=0.1)
    assert blocking(nearest, scale) == float("inf")
    smooth = imresize(SMALL, float(scale)).astype(np.float64)
    mixed = 0.7 * smooth + 0.3 * nearest
    assert blocking(mixed, scale) > 1.3 * blocking(smooth, scale)
    assert blocking(np.full((64, 64), 7, np.uint8), scale) == 1.0


def test_blocking_is_the_ratio_of_the_mean_steps() -> None:
    row = np.tile([0.0, 1.0, 4.0, 5.0], 4)  # steps of 1 within cells of two, of 3 and 5 between them
    steps = [abs(b - a) for a, b in zip(row[1::2], row[2::2], strict=False)]
    assert blocking(np.tile(row, (16, 1)), 2) == pytest.approx(np.mean(steps))


def test_dead_leaves_are_the_same_every_time_and_have_the_spectrum_of_photographs() -> None:
    assert np.array_equal(SMALL, dead_leaves(200, 240, seed=1))
    assert not np.array_equal(SMALL, dead_leaves(200, 240, seed=2))
    grey = dead_leaves(256, 256).mean(axis=2)
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    radius = np.rint(256 * np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])).astype(int)
    mean = np.bincount(radius.ravel(), power.ravel()) / np.bincount(radius.ravel())
    slope = np.polyfit(np.log(np.arange(4, 100)), np.log(mean[4:100]), 1)[0]
    assert -3.2 < slope < -1.5  # photographs: about -2 (Field 1987)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="needs pixels"):
        dead_leaves(0, 5)
