"""Small valid files made after public bug reports, each with the pixels that other readers see in it.

The files are in `cases`. The right values were read with libvips, Pillow, tifffile or ImageMagick.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sr_deploy.errors import ImageError
from sr_deploy.images.image import read_image
from tests.images.samples import Array, refused

COLOSSEUM = (33.7, 48.9, 54.8)
"""Mean red, green and blue of the photograph that most cases show."""


def case(name: str) -> Path:
    """The file `name` in one of the folders of `cases`."""
    return next(Path(__file__).with_name("cases").rglob(name))


def means(pixels: Array) -> list[float]:
    return [float(channel.mean()) for channel in np.moveaxis(pixels, 2, 0)]


@pytest.mark.parametrize(
    ("name", "expected", "size"),
    [
        ("fillorder2-none.tif", COLOSSEUM, (64, 48)),
        ("fillorder2-deflate.tif", COLOSSEUM, (64, 48)),
        ("os2-palette.bmp", (33.4, 48.8, 54.7), (64, 48)),
        ("palette1-colour.tif", (32.0, 46.8, 52.6), (64, 48)),
        ("bitfields-xrgb.bmp", COLOSSEUM, (64, 48)),
        ("bitfields-444.bmp", (27.5, 44.1, 49.7), (64, 48)),
        ("thumbnail-first.tif", COLOSSEUM, (64, 48)),
        ("grey4.tif", (41.1,), (64, 48)),
        ("palette2.tif", (32.7, 48.1, 53.5), (64, 48)),
        ("no-bytecounts.tif", COLOSSEUM, (64, 48)),
        ("predictor2-uncompressed.tif", COLOSSEUM, (64, 48)),
        ("tiles16-uncompressed.tif", COLOSSEUM, (64, 48)),
        ("rotated-with-thumbnail.jpg", COLOSSEUM, (64, 48)),
    ],
)
def test_the_pixels_are_those_that_other_readers_see(
    name: str, expected: tuple[float, ...], size: tuple[int, int]
) -> None:
    image = read_image(case(name))
    assert (image.width, image.height) == size
    assert means(image.pixels) == pytest.approx(expected, abs=0.2)
    assert image.alpha is None


def test_a_two_colour_palette_keeps_its_colours() -> None:
    colours = np.unique(read_image(case("palette1-colour.tif")).pixels.reshape(-1, 3), axis=0)
    assert colours.tolist() == [[25, 39, 44], [42, 58, 65]]


def test_damaged_strips_are_an_error_or_a_note() -> None:
    path = case("damaged-deflate.tif")
    assert "--keep-damaged" in refused(path)
    image = read_image(path, keep_damaged=True)
    assert image.notes[0].startswith("damaged: it cannot be decoded")
    intact = read_image(case("tiles16-uncompressed.tif")).pixels
    assert np.array_equal(image.pixels[:16], intact[:16])  # the rows above the damage


def test_ink_becomes_light_by_its_profile() -> None:
    image = read_image(case("cmyk-icc.jpg"))
    pixels = image.pixels.reshape(-1, 3).astype(int)
    for colour in ((12, 152, 64), (64, 65, 141), (36, 36, 37)):  # as lcms converts green, blue and black
        assert np.abs(pixels - colour).max(axis=1).min() <= 3
    assert image.metadata.icc is None
    assert image.notes == ("converted from CMYK to sRGB by its colour profile",)


def test_camera_raw_is_refused_by_name() -> None:
    with pytest.raises(ImageError, match="camera raw"):
        read_image(case("photo.dng"))
