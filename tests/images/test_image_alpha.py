"""Filling the colour of fully transparent pixels."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.images.image import (
    fill_hidden_colour,
)
from tests.images.samples import (
    noise,
)


def test_hidden_colours_become_those_of_their_visible_neighbours() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:30, 10:30] = (200, 100, 50)
    pixels[12, 12] = (1, 2, 3)
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    alpha[10:30, 29] = 1  # the smallest opacity still counts as visible
    pixels[10:30, 29] = (0, 255, 0)
    filled = fill_hidden_colour(pixels, alpha)
    assert np.array_equal(filled[alpha > 0], pixels[alpha > 0])
    assert filled[20, 5].tolist() == filled[2, 15].tolist() == [200, 100, 50]
    assert filled[20, 33].tolist() == [0, 255, 0]
    assert (pixels[alpha == 0] == 0).all()  # the caller's array is unchanged


def test_there_may_be_nothing_hidden_or_nothing_visible() -> None:
    pixels = noise(5, 6, 3)
    assert fill_hidden_colour(pixels, np.full((5, 6), 255, np.uint8)) is pixels
    assert fill_hidden_colour(pixels, np.zeros((5, 6), np.uint8)) is pixels


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_hidden_colours_are_filled_over_many_strips(bits: int, channels: int) -> None:
    shape = (2600, 60)
    alpha = np.zeros(shape, f"uint{bits}")
    alpha[:, 30:] = 7
    pixels = np.where(alpha[..., None] > 0, 90, 0).astype(f"uint{bits}").repeat(channels, 2)
    assert (fill_hidden_colour(pixels, alpha) == 90).all()
