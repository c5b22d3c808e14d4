"""Resampling to any size, compared with Pillow's Lanczos."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.errors import UsageError
from sr_deploy.images.image import Image, Metadata
from sr_deploy.images.resize import fit, resize

Array = npt.NDArray[Any]


def noise(height: int, width: int, channels: int = 3, bits: int = 8) -> Array:
    return np.random.default_rng(3).integers(0, 2**bits, (height, width, channels), dtype=f"uint{bits}")


def by_pillow(pixels: Array, width: int, height: int) -> Array:
    """Pillow's result in floating point; with 8 bits it would clip between the passes."""
    planes = [PIL.Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(pixels.shape[2])]
    result = np.dstack([np.asarray(p.resize((width, height), PIL.Image.Resampling.LANCZOS)) for p in planes])
    return np.clip(result, 0, np.iinfo(pixels.dtype).max)


SIZES = [(50, 40), (60, 173), (173, 60), (400, 333), (90, 400), (1, 1), (174, 131), (173, 132), (1000, 3)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_it_resamples_as_pillow_does(size: tuple[int, int], channels: int) -> None:
    pixels = noise(131, 173, channels)
    result = resize(Image(pixels=pixels), *size)
    assert result.pixels.dtype == np.uint8
    assert np.abs(result.pixels - by_pillow(pixels, *size)).max() <= 0.51


@pytest.mark.parametrize("size", [(50, 40), (400, 333), (90, 400)])
def test_sixteen_bits_keep_their_precision(size: tuple[int, int]) -> None:
    pixels = noise(131, 173, 3, 16)
    result = resize(Image(pixels=pixels), *size).pixels
    assert result.dtype == np.uint16
    assert np.abs(result - by_pillow(pixels, *size)).max() <= 0.6


def test_a_picture_of_many_strips_has_no_seams() -> None:
    y, x = np.mgrid[:900, :4000]
    pixels = np.rint(np.sin(x / 90) * np.cos(y / 70) * 120 + 128).astype(np.uint8)[..., None]
    result = resize(Image(pixels=pixels), 2999, 2501).pixels
    assert np.abs(result - by_pillow(pixels, 2999, 2501)).max() <= 0.51


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90), st.integers(0, 65535))
def test_one_colour_stays_that_colour_at_every_size(
    h: int, w: int, height: int, width: int, value: int
) -> None:
    alpha = np.full((h, w), 40_000, np.uint16)
    result = resize(Image(pixels=np.full((h, w, 3), value, np.uint16), alpha=alpha), width, height)
    assert result.pixels.shape == (height, width, 3)
    assert np.abs(result.pixels.astype(int) - value).max() <= 1
    assert result.alpha is not None
    assert np.abs(result.alpha.astype(int) - 40_000).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(31, 17), (200, 180)])
def test_hidden_colours_do_not_bleed_into_the_edge(bits: int, size: tuple[int, int]) -> None:
    top = 2**bits - 1
    pixels = np.zeros((64, 64, 3), f"uint{bits}")
    pixels[..., 1] = top  # green, but only where the picture is transparent
    pixels[16:48, 16:48] = (top, 0, 0)
    alpha = np.zeros((64, 64), f"uint{bits}")
    alpha[16:48, 16:48] = top
    result = resize(Image(pixels=pixels, alpha=alpha), *size)
    assert result.alpha is not None
    seen = result.alpha > 0
    assert 0 < seen.sum() < seen.size
    assert (result.pixels[seen] == (top, 0, 0)).all()


def test_metadata_and_notes_go_with_it() -> None:
    image = Image(pixels=noise(8, 9), metadata=Metadata(xmp=b"<x/>"), format="webp", notes=("animated",))
    result = resize(image, 4, 5)
    assert (result.metadata, result.format, result.notes) == (image.metadata, "webp", ("animated",))
    assert resize(image, 9, 8) is image


def test_sizes_must_be_positive() -> None:
    for size in ((0, 5), (5, -1)):
        with pytest.raises(UsageError, match="at least 1, got"):
            resize(Image(pixels=noise(4, 4)), *size)


def test_fit_keeps_the_aspect() -> None:
    assert fit(400, 300) == (400, 300)
    assert fit(400, 300, target_width=800) == (800, 600)
    assert fit(400, 300, target_height=150) == (200, 150)
    assert fit(400, 300, target_width=100, target_height=100) == (100, 100)
    assert fit(400, 300, box=(1000, 600)) == (800, 600)
    assert fit(300, 400, box=(1000, 600)) == (450, 600)
    assert fit(5000, 1, target_width=100) == (100, 1)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_a_box_is_filled_and_not_left(width: int, height: int, wide: int, tall: int) -> None:
    result = fit(width, height, box=(wide, tall))
    assert result[0] <= wide
    assert result[1] <= tall
    assert result[0] == wide or result[1] == tall


def test_fit_refuses_what_makes_no_sense() -> None:
    for options in ({"target_width": 0}, {"box": (0, 5)}, {"target_width": 5, "box": (5, 5)}):
        with pytest.raises(UsageError):
            fit(4, 3, **options)  # type: ignore[arg-type]


def test_the_result_does_not_depend_on_the_number_of_cores() -> None:
    code = """
import hashlib, numpy as np
from sr_deploy import Image, resize
pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
print(hashlib.sha256(resize(Image(pixels=pixels), 1234, 555).pixels.tobytes()).hexdigest())
"""
    command = [sys.executable, "-c", code]
    found = {
        subprocess.run(
            command, env={**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}, capture_output=True, check=True
        ).stdout
        for threads in (1, 2)
    }
    assert len(found) == 1
