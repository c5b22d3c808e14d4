"""PSNR, SSIM and luma, compared with closed forms and with their definitions written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.quality import metrics
from sr_deploy.quality.metrics import luma, psnr, shave, ssim


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def ssim_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. (2004), eq. 13 to 17, window by window, with a two-dimensional Gaussian."""
    y, x = np.mgrid[-5:6, -5:6]
    weight = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            p, q = (z[top : top + 11, left : left + 11].astype(float) for z in (a, b))
            mean_p, mean_q = (weight * p).sum(), (weight * q).sum()
            var_p, var_q = (weight * (p - mean_p) ** 2).sum(), (weight * (q - mean_q) ** 2).sum()
            both = (weight * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + c1)
                * (2 * both + c2)
                / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))
            )
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("dtype", "white", "step"),
    [(np.uint8, 255, 1), (np.uint16, 65535, 257), (np.float32, 1.0, 0.125), (float, 1.0, 0.5)],
)
def test_a_picture_off_by_one_step_everywhere_has_the_psnr_of_that_step(
    dtype: Any, white: float, step: float
) -> None:
    dark = np.zeros((6, 5, 3), dtype)
    expected = 20 * math.log10(white / step)
    assert psnr(dark, dark + dtype(step)) == pytest.approx(expected, abs=1e-9)
    assert psnr(dark + dtype(step), dark) == pytest.approx(expected, abs=1e-9)


def test_psnr_is_taken_over_all_channels_at_once() -> None:
    a, b = noise(20, 30, 3), noise(20, 30, 3, seed=1)
    error = np.mean([(int(p) - int(q)) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)])
    assert psnr(a, b) == pytest.approx(10 * math.log10(65025 / error), abs=1e-9)


def test_identical_pictures_have_infinite_psnr_and_an_ssim_of_one() -> None:
    picture = noise(16, 16, 3)
    assert psnr(picture, picture.copy()) == math.inf
    assert ssim(picture, picture.copy()) == pytest.approx(1.0, abs=1e-12)


def test_luma_of_black_white_and_the_primaries_is_that_of_bt601() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    result = luma(colours)
    assert result.dtype == np.uint8
    assert result.tolist() == [[16, 235, 81, 145, 41]]  # 16 + 65.481, + 128.553, + 24.966, to nearest


def test_luma_of_16_bits_is_257_times_that_of_8_but_for_rounding() -> None:
    rgb = noise(8, 9, 3)
    exact = 16 + rgb.astype(float) @ [65.481, 128.553, 24.966] / 255
    wide = luma(rgb.astype(np.uint16) * 257)
    assert wide.dtype == np.uint16
    assert np.abs(wide - 257 * exact).max() <= 0.5 + 1e-6
    assert np.abs(luma(rgb) - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_luma_of_floating_point_is_double_and_not_rounded(dtype: type) -> None:
    rgb = noise(8, 9, 3)
    result = luma((rgb / 255).astype(dtype))
    assert result.dtype == np.float64
    assert np.allclose(255 * result, 16 + rgb.astype(float) @ [65.481, 128.553, 24.966] / 255, atol=1e-4)


def test_ssim_equals_its_definition_window_by_window() -> None:
    a = noise(19, 24)
    b = np.clip(a + noise(19, 24, seed=1) / 4 - 30, 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(ssim_by_definition(a, b), abs=1e-9)


def test_ssim_of_two_flat_pictures_is_the_luminance_term_alone() -> None:
    a, b = np.full((11, 11), 100, np.uint8), np.full((11, 11), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(a, b) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-9)


def test_ssim_does_not_depend_on_the_type_that_holds_the_picture() -> None:
    a, b = noise(14, 15), noise(14, 15, seed=1)
    assert ssim(a.astype(np.uint16) * 257, b.astype(np.uint16) * 257) == pytest.approx(ssim(a, b), abs=1e-9)
    assert ssim(a / 255, b / 255) == pytest.approx(ssim(a, b), abs=1e-9)


def test_ssim_of_colours_is_the_mean_of_their_channels() -> None:
    a, b = noise(13, 17, 3), noise(13, 17, 3, seed=1)
    each = [ssim(a[:, :, c], b[:, :, c]) for c in range(3)]
    assert ssim(a, b) == pytest.approx(sum(each) / 3, abs=1e-12)


def test_a_negative_has_a_negative_ssim() -> None:
    picture = noise(16, 16)
    assert ssim(picture, 255 - picture) < -0.5


def test_large_pictures_are_measured_in_strips_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = noise(61, 40, 3), noise(61, 40, 3, seed=1)
    whole = (psnr(a, b), ssim(a, b), luma(a).tolist())
    monkeypatch.setattr(metrics, "_STRIP", 9 * 40)
    assert psnr(a, b) == pytest.approx(whole[0], abs=1e-9)
    assert ssim(a, b) == pytest.approx(whole[1], abs=1e-9)
    assert luma(a).tolist() == whole[2]


def test_shaving_leaves_the_middle() -> None:
    picture = noise(9, 8, 3)
    assert np.array_equal(shave(picture, 2), picture[2:7, 2:6])
    assert np.array_equal(shave(picture, 0), picture)


def test_shaving_everything_away_is_refused() -> None:
    with pytest.raises(UsageError, match="8x9"):
        shave(noise(9, 8), 4)
    with pytest.raises(UsageError, match="at least 0"):
        shave(noise(9, 8), -1)


def test_pictures_of_different_shape_or_type_are_not_compared() -> None:
    for measure in (psnr, ssim):
        with pytest.raises(UsageError, match="one shape and type"):
            measure(noise(12, 12), noise(12, 13))
        with pytest.raises(UsageError, match="one shape and type"):
            measure(noise(12, 12), noise(12, 12).astype(np.uint16))


def test_a_picture_smaller_than_the_window_has_no_ssim() -> None:
    with pytest.raises(UsageError, match="11x11"):
        ssim(noise(10, 20), noise(10, 20))


def test_luma_of_a_grey_picture_and_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(UsageError, match="its own luma"):
        luma(noise(4, 4))
    with pytest.raises(UsageError, match="int64"):
        luma(np.zeros((4, 4, 3), np.int64))
