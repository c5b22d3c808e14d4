"""Conversion of raw frames in every layout to pixels and back."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.frames.colour import Colours
from sr_deploy.frames.convert import FramePixels, pack, unpack
from sr_deploy.frames.layout import LAYOUTS, layout_of

ANY = Colours()


def noise(name: str, height: int = 5, width: int = 7) -> np.ndarray:
    """Return the bytes of a noise frame whose words are valid for the layout."""
    layout, rng = LAYOUTS[name], np.random.default_rng(3)
    words = layout.frame_bytes(height, width) // layout.dtype.itemsize
    values = rng.integers(0, 1 << layout.depth, words) << layout.shift
    return values.astype(layout.dtype).view(np.uint8)


@pytest.mark.parametrize("name", [n for n, layout in LAYOUTS.items() if layout.kind != "yuv"])
def test_rgb_and_grey_come_back_byte_for_byte(name):
    layout, data = LAYOUTS[name], noise(name)
    planes = layout.planes(data, 5, 7)
    again = pack(unpack(planes, layout, ANY), layout, ANY)
    assert np.concatenate([plane.reshape(-1).view(np.uint8) for plane in again]).tobytes() == data.tobytes()


def test_channels_are_where_their_letters_are():
    pixels = np.array([[[1, 2, 3]]], np.uint8)
    alpha = np.array([[4]], np.uint8)
    (bgr,) = pack(FramePixels(pixels), LAYOUTS["bgr24"], ANY)
    (bgra,) = pack(FramePixels(pixels, alpha), LAYOUTS["bgra"], ANY)
    (opaque,) = pack(FramePixels(pixels), LAYOUTS["rgba"], ANY)
    assert (bgr.tolist(), bgra.tolist(), opaque.tolist()) == (
        [[[3, 2, 1]]],
        [[[3, 2, 1, 4]]],
        [[[1, 2, 3, 255]]],
    )
    picture = unpack([bgra], LAYOUTS["bgra"], ANY)
    assert picture.pixels.tolist() == [[[1, 2, 3]]]
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[4]]


def test_rgb24_costs_no_copy_either_way():
    layout, data = LAYOUTS["rgb24"], noise("rgb24")
    picture = unpack(layout.planes(data, 5, 7), layout, ANY)
    assert np.shares_memory(picture.pixels, data)
    assert np.shares_memory(pack(picture, layout, ANY)[0], data)


@pytest.mark.parametrize(
    ("name", "bytes"),
    [
        ("rgb24", 105),
        ("gray8", 35),
        ("rgb48le", 210),
        ("yuv420p", 59),
        ("nv12", 59),
        ("p010le", 118),
        ("yuv422p", 75),
    ],
)
def test_a_frame_of_odd_size_has_ffmpegs_number_of_bytes(name, bytes):
    assert LAYOUTS[name].frame_bytes(5, 7) == bytes


def test_depths_are_changed_by_rounding():
    (deep,) = pack(FramePixels(np.array([[[0, 1, 255]]], np.uint8)), LAYOUTS["rgb48le"], ANY)
    assert deep.tolist() == [[[0, 257, 65535]]]
    (flat,) = pack(FramePixels(np.array([[[0, 65535, 129]]], np.uint16)), LAYOUTS["rgb24"], ANY)
    assert flat.tolist() == [[[0, 255, 1]]]
    (grey,) = pack(FramePixels(np.array([[[0.5]]], np.float32)), LAYOUTS["gray10le"], ANY)
    assert grey.tolist() == [[512]]


def test_colour_becomes_luma_in_a_grey_frame_and_grey_stays_grey_in_colour():
    (luma,) = pack(
        FramePixels(np.array([[[255, 0, 0]]], np.uint8)), LAYOUTS["gray8"], Colours(matrix="bt601")
    )
    assert luma.tolist() == [[76]]  # 0.299 * 255
    planes = pack(FramePixels(np.array([[[128]]], np.uint8)), LAYOUTS["yuv444p"], Colours(range="full"))
    assert [int(plane[0, 0]) for plane in planes] == [128, 128, 128]


def test_ffmpegs_gray_is_gray8_and_a_near_miss_is_answered_with_the_right_name():
    assert layout_of("gray") is LAYOUTS["gray8"]
    with pytest.raises(UsageError, match="did you mean yuv420p"):
        layout_of("yuv240p")
