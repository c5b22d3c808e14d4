"""EXIF, ICC and XMP: applied, kept, edited or left out; compared with Pillow."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from sr_deploy.images.image import (
    Image,
    Metadata,
    read_image,
    write_image,
)
from tests.images.samples import (
    XMP,
    camera_exif,
    grey_profile,
    joined,
    noise,
    picture,
    profile,
    read,
    saved,
    smooth,
)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_camera_was_turned_and_the_picture_is_not(tmp_path: Path, kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "TIFF":
        options["tiffinfo"] = {0x0112: orientation}
    else:
        options["exif"] = camera_exif(orientation)
    data = saved(PIL.Image.fromarray(smooth(24, 40, 3)), kind, **options)
    expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
    image = read(tmp_path, data)
    assert np.abs(image.pixels.astype(int) - np.asarray(expected).astype(int)).max() <= 2
    if image.metadata.exif:
        kept = PIL.Image.Exif()
        kept.load(image.metadata.exif)
        assert kept.get(0x0112) == 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_grey_alpha_and_deep_pictures_turn_too(
    tmp_path: Path, channels: int, bits: int, orientation: int
) -> None:
    image = picture(channels, bits, alpha=True)
    exif = camera_exif(orientation).tobytes()[6:]
    write_image(
        Image(pixels=image.pixels, alpha=image.alpha, metadata=Metadata(exif=exif)), tmp_path / "a.png"
    )
    turned = read_image(tmp_path / "a.png")
    steps = {5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)}[orientation]
    expected = np.rot90(joined(image), steps[0])
    assert np.array_equal(joined(turned), expected[::-1] if steps[1] else expected)


def test_an_orientation_in_xmp_is_set_upright_too(tmp_path: Path) -> None:
    for text in (b'tiff:Orientation="6"', b"<tiff:Orientation>6</tiff:Orientation>"):
        image = Image(pixels=noise(4, 4, 3), metadata=Metadata(xmp=b"<x>" + text + b"</x>"))
        write_image(image, tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").metadata.xmp == b"<x>" + text.replace(b"6", b"1") + b"</x>"


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_exif_are_understood(tmp_path: Path, order: str) -> None:
    exif = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    exif += struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    image = Image(pixels=noise(4, 7, 3), metadata=Metadata(exif=exif))
    write_image(image, tmp_path / "a.webp", quality=101)
    turned = read_image(tmp_path / "a.webp")
    assert (turned.width, turned.height) == (4, 7)
    assert turned.metadata.exif == exif.replace(
        struct.pack(order + "IH", 1, 6), struct.pack(order + "IH", 1, 1)
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_metadata_survives_the_way_through_every_format(tmp_path: Path, suffix: str, alpha: bool) -> None:
    exif, icc = camera_exif().tobytes()[6:], profile()
    image = picture(alpha=alpha, size=(21, 34))
    image = Image(pixels=image.pixels, alpha=image.alpha, metadata=Metadata(exif=exif, icc=icc, xmp=XMP))
    write_image(image, tmp_path / f"a{suffix}")
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        seen.load()
        kept = seen.getexif()
        assert seen.info["icc_profile"] == icc
        assert XMP in (seen.info["xmp"] if isinstance(seen.info["xmp"], bytes) else seen.info["xmp"].encode())
        assert kept[0x010F] == "A maker"
        assert kept.get_ifd(0x8769)[0x829A] == 0.125
        assert kept.get_ifd(0x8825)[1] == "N"
        assert (kept.get_ifd(0x8769)[0xA002], kept.get_ifd(0x8769)[0xA003]) == (34, 21)  # the new size
    again = read_image(tmp_path / f"a{suffix}")
    assert again.metadata.icc == icc
    assert again.metadata.xmp == XMP
    write_image(again, tmp_path / "b.png")
    with PIL.Image.open(tmp_path / "b.png") as seen:
        assert seen.getexif()[0x010F] == "A maker"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_large_colour_profile_survives(tmp_path: Path, suffix: str) -> None:
    icc = profile() + np.random.default_rng(0).bytes(300_001)
    icc = struct.pack(">I", len(icc)) + icc[4:]
    write_image(Image(pixels=noise(8, 8, 3), metadata=Metadata(icc=icc)), tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}").metadata.icc == icc
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        assert seen.info["icc_profile"] == icc


def test_a_grey_picture_keeps_a_grey_profile_and_no_other(tmp_path: Path) -> None:
    grey, rgb = noise(6, 6, 1), noise(6, 6, 3)
    for pixels, icc, kept in (
        (grey, grey_profile(), True),
        (grey, profile(), False),
        (rgb, grey_profile(), False),
    ):
        notes = write_image(Image(pixels=pixels, metadata=Metadata(icc=icc)), tmp_path / "a.png")
        assert (read_image(tmp_path / "a.png").metadata.icc == icc) is kept
        assert notes == (() if kept else ("the colour profile does not fit the pixels and was left out",))


def test_the_profile_of_ink_is_not_put_on_light(tmp_path: Path) -> None:
    icc = profile().replace(b"RGB ", b"CMYK", 1)
    source = PIL.Image.fromarray(smooth(20, 20, 3)).convert("CMYK")
    image = read(tmp_path, saved(source, "JPEG", icc_profile=icc))
    assert image.metadata.icc is None
    assert image.notes == ("its colour profile does not fit its pixels and was left out",)


def test_blobs_too_large_for_jpeg_are_left_out_and_said_so(tmp_path: Path) -> None:
    exif = camera_exif().tobytes()[6:] + b"\0" * 70_000
    notes = write_image(
        Image(pixels=noise(6, 6, 3), metadata=Metadata(exif=exif, xmp=XMP)), tmp_path / "a.jpg"
    )
    assert notes == ("EXIF metadata is too large for JPEG and was left out",)
    assert read_image(tmp_path / "a.jpg").metadata.xmp == XMP
