"""Pixels per inch are carried from the picture read to the picture written; compared with Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import PIL.Image
import pytest

from sr_deploy.images.image import Image, Metadata, read_image, write_image
from tests.images.samples import camera_exif, noise, read, saved

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp"}


def sample(kind: str, dpi: tuple[float, float] | None = (300, 150)) -> bytes:
    options = {} if dpi is None else {"dpi": dpi}
    return saved(PIL.Image.fromarray(noise(12, 20, 3)), kind, **options)


@pytest.mark.parametrize("target", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_the_print_resolution_goes_from_any_format_to_any_other(
    tmp_path: Path, source: str, target: str
) -> None:
    image = read(tmp_path, sample(source))
    assert image.metadata.dpi == pytest.approx((300, 150), abs=0.02)
    path = tmp_path / f"out{SUFFIXES[target]}"
    write_image(image, path)
    with PIL.Image.open(path) as written:
        assert written.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert read_image(path).metadata.dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_picture_that_says_nothing_gets_none(tmp_path: Path, kind: str) -> None:
    image = read(tmp_path, sample(kind, dpi=None))
    assert image.metadata.dpi is None
    write_image(image, tmp_path / "out.png")
    with PIL.Image.open(tmp_path / "out.png") as written:
        assert "dpi" not in written.info


def test_the_resolution_in_exif_counts_where_the_file_itself_has_none(tmp_path: Path) -> None:
    exif = camera_exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = 240.0, 240.0, 2
    image = read(tmp_path, saved(PIL.Image.fromarray(noise(12, 20, 3)), "WEBP", exif=exif))
    write_image(image, tmp_path / "out.tif")
    with PIL.Image.open(tmp_path / "out.tif") as written:
        assert written.info["dpi"] == pytest.approx((240, 240))


def test_it_turns_with_the_picture(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(noise(12, 20, 3)), "JPEG", exif=camera_exif(6), dpi=(300, 150))
    assert read(tmp_path, data).metadata.dpi == (150, 300)


def test_centimetres_are_understood(tmp_path: Path) -> None:
    data = bytearray(sample("JPEG"))
    at = data.index(b"JFIF\0") + 7
    data[at : at + 5] = struct.pack(">BHH", 2, 100, 200)
    assert read(tmp_path, bytes(data)).metadata.dpi == pytest.approx((254, 508))


@pytest.mark.parametrize("values", [(0, 0), (0xFFFFFFFF, 1)])
def test_densities_that_nobody_means_count_as_none(tmp_path: Path, values: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise(5, 5, 3)).save(buffer, "PNG", dpi=(300, 300))
    data = buffer.getvalue()
    at = data.index(b"pHYs") + 4
    body = struct.pack(">IIB", *values, 1)
    changed = data[:at] + body + struct.pack(">I", zlib.crc32(b"pHYs" + body)) + data[at + 13 :]
    assert read(tmp_path, changed).metadata.dpi is None


def test_a_jpeg_keeps_both_the_density_and_the_blobs(tmp_path: Path) -> None:
    image = Image(pixels=noise(12, 20, 3), metadata=Metadata(dpi=(96.0, 96.0), xmp=b"<x/>"))
    write_image(image, tmp_path / "out.jpg")
    found = read_image(tmp_path / "out.jpg").metadata
    assert (found.dpi, found.xmp) == ((96.0, 96.0), b"<x/>")
