"""Colours that are converted to sRGB on request, compared with lcms (through Pillow), and the quality of JPEG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from sr_deploy.errors import ImageError
from sr_deploy.images.codecs.vips import to_srgb
from sr_deploy.images.image import Image, Metadata, read_image, write_image
from tests.images.kinds.test_cases_pixels import case
from tests.images.samples import Array, saved, smooth


def by_lcms(pixels: Array, icc: bytes) -> Array:
    source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(icc))
    relative, compensated = (
        PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
        PIL.ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    change = PIL.ImageCms.buildTransform(
        source, PIL.ImageCms.createProfile("sRGB"), "RGB", "RGB", renderingIntent=relative, flags=compensated
    )
    return np.asarray(PIL.ImageCms.applyTransform(PIL.Image.fromarray(pixels), change)).astype(int)


def wide_profile() -> bytes:
    """A matrix profile of XYZ-like primaries: sRGB's with the columns of red and green exchanged in part."""
    data = bytearray(PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    entries = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = (
        int.from_bytes(data[entries[tag] + 4 : entries[tag] + 8], "big") for tag in (b"rXYZ", b"bXYZ")
    )
    data[red : red + 20], data[blue : blue + 20] = data[blue : blue + 20], data[red : red + 20]
    return bytes(data)


def test_colours_become_srgb_on_request(tmp_path: Path) -> None:
    pixels = smooth(40, 50, 3)
    image = Image(
        pixels=pixels, metadata=Metadata(icc=wide_profile(), chunks=((b"sRGB", b"\0"), (b"tEXt", b"a\0b")))
    )
    write_image(image, tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").pixels, pixels)
    found = read_image(tmp_path / "a.png", profile="srgb")
    assert np.abs(found.pixels - by_lcms(pixels, wide_profile())).max() <= 1
    assert np.abs(found.pixels.astype(int) - pixels).max() > 30
    assert found.metadata.icc is None
    assert [kind for kind, _ in found.metadata.chunks] == [b"tEXt"]


def test_sixteen_bits_and_grey_stay_what_they_are() -> None:
    deep = smooth(20, 30, 3).astype(np.uint16) * 257
    found = to_srgb(deep, wide_profile())
    assert (found.dtype, found.shape) == (deep.dtype, deep.shape)
    assert np.abs(found / 257 - to_srgb(smooth(20, 30, 3), wide_profile())).max() < 1.5
    grey = read_image(case("grey-icc.png"))
    assert read_image(case("grey-icc.png"), profile="srgb").pixels.shape == grey.pixels.shape


def test_colours_without_a_profile_are_named() -> None:
    image = read_image(case("chrm-adobergb.png"), profile="srgb")
    assert image.notes == (
        "not converted to sRGB: its colours are described by cHRM, gAMA, not by a profile",
    )
    assert read_image(case("sd-parameters.png"), profile="srgb").notes == ()


def test_ink_is_refused_where_its_profile_must_be_kept() -> None:
    with pytest.raises(ImageError, match="is CMYK with a colour profile, which cannot be kept"):
        read_image(case("cmyk-icc.jpg"), profile="keep")
    assert read_image(case("grey-icc.png"), profile="keep").metadata.icc


@pytest.mark.parametrize("quality", [25, 50, 75, 90, 95, 97, 98, 100])
def test_the_quality_of_a_jpeg_is_not_lowered(tmp_path: Path, quality: int) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(PIL.Image.fromarray(smooth(40, 50, 3)), "JPEG", quality=quality))
    image = read_image(tmp_path / "a.jpg")
    assert image.quality == quality
    write_image(image, tmp_path / "b.jpg")
    assert read_image(tmp_path / "b.jpg").quality == max(95, quality)
    write_image(image, tmp_path / "c.jpg", quality=60)
    assert read_image(tmp_path / "c.jpg").quality == 60
