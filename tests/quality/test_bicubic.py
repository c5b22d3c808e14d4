"""imresize, compared with exact rational arithmetic and with weights calculated by hand."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.quality import bicubic
from sr_deploy.quality.bicubic import imresize

# Keys' cubic (a = -1/2) at 1.75, 0.75, 0.25 and 1.25 samples, in 128ths: for instance 1.5 / 4**3 - 2.5 / 4**2 + 1
FAR, NEAR, NEAREST, BEYOND = -3, 29, 111, -9


def cubic(x: Fraction) -> Fraction:
    d = abs(x)
    if d <= 1:
        return Fraction(3, 2) * d**3 - Fraction(5, 2) * d**2 + 1
    return -Fraction(1, 2) * d**3 + Fraction(5, 2) * d**2 - 4 * d + 2 if d <= 2 else Fraction(0)


def exact_columns(row: list[int], length: int) -> list[Fraction]:
    """One row of pixels resized to `length`, by the definition, in exact arithmetic."""
    scale = Fraction(length, len(row))
    widen = min(scale, Fraction(1))
    result = []
    for j in range(length):
        centre = (j + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = range(floor(centre - 2 / widen), ceil(centre + 2 / widen) + 1)
        weights = [cubic(widen * (centre - i)) for i in reach]
        values = [row[min(max(i, 0), len(row) - 1)] for i in reach]
        result.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return result


def exact_resize(pixels: np.ndarray, rows: int, columns: int, *, rows_first: bool = True) -> np.ndarray:
    """Resize an integer picture [H, W] as MATLAB does: one axis, rounding half up and clipping, the other axis."""
    white = int(np.iinfo(pixels.dtype).max)

    def along_columns(picture: list[list[int]], length: int) -> list[list[int]]:
        resized = [exact_columns(row, length) for row in picture]
        return [[min(max(floor(v + Fraction(1, 2)), 0), white) for v in row] for row in resized]

    def along_rows(picture: list[list[int]], length: int) -> list[list[int]]:
        return [
            list(c)
            for c in zip(*along_columns([list(c) for c in zip(*picture, strict=True)], length), strict=True)
        ]

    picture = pixels.tolist()
    if rows_first:
        return np.array(along_columns(along_rows(picture, rows), columns), pixels.dtype)
    return np.array(along_rows(along_columns(picture, columns), rows), pixels.dtype)


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, int(np.iinfo(dtype).max) + 1, shape, dtype)


def test_an_impulse_enlarged_twice_shows_the_weights_worked_out_by_hand() -> None:
    impulse = np.zeros((1, 7))
    impulse[0, 3] = 128
    expected = [0, 0, FAR, BEYOND, NEAR, NEAREST, NEAREST, NEAR, BEYOND, FAR, 0, 0]
    assert imresize(impulse, 2)[0, 1:13].tolist() == expected


def test_an_impulse_halved_shows_the_same_weights_spread_over_twice_the_samples() -> None:
    impulse = np.zeros((12, 1))
    impulse[6] = 256
    assert imresize(impulse, 0.5)[:, 0].tolist() == [0, FAR, NEAR, NEAREST, BEYOND, 0]


def test_the_border_is_replicated() -> None:
    ramp = np.arange(8.0)[None, :]
    padded = np.concatenate([np.zeros((1, 8)), ramp, np.full((1, 8), 7.0)], axis=1)
    assert np.array_equal(imresize(ramp, 0.5), imresize(padded, 0.5)[:, 4:8])
    assert not np.array_equal(imresize(ramp, 0.5), imresize(np.tile(ramp, 3), 0.5)[:, 4:8])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (24, 16, 0.5),
        (24, 16, 0.25),
        (15, 21, 1 / 3),
        (7, 9, 2),
        (5, 6, 3),
        (5, 4, 4),
        (10, 15, 1.4),
        (20, 25, 0.6),
    ],
)
def test_whole_pictures_equal_exact_arithmetic_to_the_bit(
    height: int, width: int, scale: float, dtype: type
) -> None:
    pixels = noise(height, width, dtype=dtype)
    rows, columns = round(height * scale), round(width * scale)
    expected = exact_resize(pixels, rows, columns)
    assert np.array_equal(imresize(pixels, scale), expected)
    assert np.array_equal(imresize(pixels, size=(rows, columns)), expected)


def test_the_axis_that_shrinks_most_goes_first() -> None:
    pixels = noise(9, 24)
    assert np.array_equal(imresize(pixels, size=(18, 6)), exact_resize(pixels, 18, 6, rows_first=False))
    assert not np.array_equal(imresize(pixels, size=(18, 6)), exact_resize(pixels, 18, 6, rows_first=True))
    assert np.array_equal(imresize(pixels.T, size=(6, 18)), exact_resize(pixels.T, 6, 18, rows_first=True))


def test_integer_pictures_are_rounded_between_the_passes_unless_asked_not_to() -> None:
    pixels = noise(16, 16)
    in_double = np.floor(np.clip(imresize(pixels.astype(np.float64), 2), 0, 255) + 0.5).astype(np.uint8)
    assert np.array_equal(imresize(pixels, 2, round_once=True), in_double)
    assert not np.array_equal(imresize(pixels, 2), in_double)


def test_colours_are_resized_each_for_itself() -> None:
    pixels = noise(12, 10, 3)
    each = [imresize(pixels[:, :, c], 0.5) for c in range(3)]
    assert np.array_equal(imresize(pixels, 0.5), np.stack(each, axis=2))


def test_an_integer_picture_is_clipped_and_a_floating_one_is_not() -> None:
    edge = np.repeat(np.array([[0, 0, 0, 255, 255, 255]], np.uint8), 4, axis=0)
    whole = imresize(edge, 2)
    assert whole.dtype == np.uint8
    assert (whole.min(), whole.max()) == (0, 255)
    floating = imresize(edge.astype(np.float32) / 255, 2)
    assert floating.dtype == np.float64
    assert floating.min() < -0.05
    assert floating.max() > 1.05


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.37, 1.0, 1.7, 4])
def test_a_flat_picture_stays_flat(scale: float) -> None:
    assert np.unique(imresize(np.full((13, 9, 3), 77, np.uint8), scale)).tolist() == [77]


def test_a_scale_gives_the_next_larger_whole_size() -> None:
    assert imresize(noise(5, 7), 0.5).shape == (3, 4)
    assert imresize(noise(5, 7, 3), 1.5).shape == (8, 11, 3)


def test_working_in_strips_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(40, 50, 3)
    whole = [imresize(pixels, scale) for scale in (0.3, 2)]
    monkeypatch.setattr(bicubic, "_STRIP", 7 * 40 * 3)
    for result, scale in zip(whole, (0.3, 2), strict=True):
        assert np.array_equal(imresize(pixels, scale), result)


def test_a_view_that_is_not_contiguous_gives_the_same_as_its_copy() -> None:
    pixels = noise(30, 20, 3)[::-1, ::2]
    assert np.array_equal(imresize(pixels, 0.5), imresize(pixels.copy(), 0.5))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match="positive number"):
        imresize(noise(4, 4), scale)


def test_a_scale_and_a_size_together_or_neither_are_refused() -> None:
    with pytest.raises(UsageError, match="either a scale or a size"):
        imresize(noise(4, 4), 2, size=(8, 8))
    with pytest.raises(UsageError, match="either a scale or a size"):
        imresize(noise(4, 4))


def test_a_size_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="two positive whole numbers"):
        imresize(noise(4, 4), size=(0, 3))


def test_pixels_of_another_shape_or_type_are_refused() -> None:
    with pytest.raises(UsageError, match="shape"):
        imresize(np.zeros((0, 4)), 2)
    with pytest.raises(UsageError, match="int32"):
        imresize(np.zeros((4, 4), np.int32), 2)
