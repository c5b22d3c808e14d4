"""Reading pictures of every kind, compared with Pillow; and the class `Image`."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from sr_deploy.errors import ImageError, OutputError, SrDeployError, UsageError
from sr_deploy.images.image import (
    Image,
)
from tests.images.kinds.builders import png_file
from tests.images.samples import (
    joined,
    noise,
    read,
    saved,
    smooth,
)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_reads_as_pillow_reads_it(tmp_path: Path, mode: str) -> None:
    rgba = PIL.Image.fromarray(smooth(23, 31, 4))
    wide = PIL.Image.fromarray(smooth(23, 31, 1, 16)[..., 0])
    source = (
        wide if mode == "I;16" else rgba.convert("RGB").quantize(50) if mode == "P" else rgba.convert(mode)
    )
    shown = {"1": "L", "P": "RGB"}.get(mode)
    expected = np.asarray(source.convert(shown) if shown else source)
    image = read(tmp_path, saved(source, "PNG"))
    assert np.array_equal(joined(image), expected.reshape(23, 31, -1))
    assert image.bits == (16 if mode == "I;16" else 8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_keeps_its_transparency(tmp_path: Path, bits: int) -> None:
    source = PIL.Image.new("P", (9, 7))
    source.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    source.putdata([i % min(4, 2**bits) for i in range(63)])
    data = saved(source, "PNG", bits=bits, transparency=bytes([0, 128, 255, 77]))
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA"))
    assert np.array_equal(joined(read(tmp_path, data)), expected)
    assert len(np.unique(expected[..., 3])) > 1


@pytest.mark.parametrize(("mode", "key"), [("L", 80), ("RGB", (80, 80, 80)), ("1", 255)])
def test_one_transparent_colour_becomes_alpha(tmp_path: Path, mode: str, key: Any) -> None:
    source = PIL.Image.fromarray(np.tile(np.array([0, 80, 160, 255], np.uint8), (5, 3))).convert(mode)
    data = saved(source, "PNG", transparency=key if mode != "1" else 1)
    image = read(tmp_path, data)
    flat = image.pixels[..., 0]
    assert image.alpha is not None
    assert np.array_equal(image.alpha, np.where(flat == (key if mode != "RGB" else 80), 0, 255))
    assert image.pixels.shape[2] == (3 if mode == "RGB" else 1)


def test_one_transparent_colour_of_16_bits_is_compared_at_16_bits(tmp_path: Path) -> None:
    pixels = np.array([[1000, 1001, 1255]], np.uint16)
    data = saved(PIL.Image.fromarray(pixels), "PNG")
    chunk = b"tRNS" + struct.pack(">H", 1001)
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    image = read(tmp_path, data[:33] + chunk + data[33:])
    assert image.alpha is not None
    assert image.alpha.tolist() == [[65535, 0, 65535]]


def test_an_interlaced_png_is_read(tmp_path: Path) -> None:
    pixels = noise(21, 19, 3)
    assert np.array_equal(read(tmp_path, png_file(pixels, 8, 2, interlaced=True)).pixels, pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_read(tmp_path: Path, mode: str, progressive: bool) -> None:
    source = PIL.Image.fromarray(smooth(40, 50, 3)).convert(mode)
    data = saved(source, "JPEG", quality=95, progressive=progressive)
    image = read(tmp_path, data)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("L" if mode == "L" else "RGB"))
    difference = np.abs(image.pixels.astype(int) - expected.reshape(40, 50, -1).astype(int))
    assert difference.max() <= 2
    assert image.pixels.shape[2] == (1 if mode == "L" else 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
def test_every_kind_of_webp_reads_as_pillow_reads_it(tmp_path: Path, mode: str, lossless: bool) -> None:
    source = PIL.Image.fromarray(smooth(40, 50, 4)).convert(mode)
    data = saved(source, "WEBP", lossless=lossless, exact=True)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)))
    assert np.array_equal(joined(read(tmp_path, data)), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_kind_of_bmp_reads_as_pillow_reads_it(tmp_path: Path, mode: str) -> None:
    rgb = PIL.Image.fromarray(smooth(23, 31, 3))
    source = rgb.quantize(50) if mode == "P" else rgb.convert(mode)
    data = saved(source, "BMP")
    expected = np.asarray(source.convert({"1": "L", "P": "RGB"}.get(mode, mode)))
    image = read(tmp_path, data)
    assert np.array_equal(image.pixels, expected.reshape(23, 31, -1))
    assert image.alpha is None


@pytest.mark.parametrize("top_down", [False, True])
def test_bmp_rows_run_either_way(tmp_path: Path, top_down: bool) -> None:
    pixels = noise(5, 8, 3)
    rows = pixels[..., ::-1] if top_down else pixels[::-1, :, ::-1]
    header = struct.pack("<2sIHHI", b"BM", 54 + 120, 0, 0, 54)
    header += struct.pack("<IiiHHIIiiII", 40, 8, -5 if top_down else 5, 1, 24, 0, 120, 0, 0, 0, 0)
    assert np.array_equal(read(tmp_path, header + rows.tobytes()).pixels, pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_of_an_animation_the_first_frame_is_used_and_said_so(tmp_path: Path, kind: str) -> None:
    frames = [PIL.Image.fromarray(smooth(20, 30, 3) // (i + 1)) for i in range(3)]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    image = read(tmp_path, data)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(image.pixels, expected)
    assert image.notes == ("animated, 3 frames: only the first is used",)


def test_an_animated_png_shows_its_still_picture(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(smooth(20, 30, 3) // (i + 1)) for i in range(3)]
    data = saved(frames[2], "PNG", save_all=True, append_images=frames[:2], default_image=True)
    assert np.array_equal(read(tmp_path, data).pixels, np.asarray(frames[2]))


def test_of_several_pages_the_first_is_used_and_said_so(tmp_path: Path) -> None:
    pages = [PIL.Image.fromarray(smooth(20, 30, 3) // (i + 1)) for i in range(4)]
    image = read(tmp_path, saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert np.array_equal(image.pixels, np.asarray(pages[0]))
    assert image.notes == ("has 4 pages: only the first is used",)


def test_a_gif_keeps_its_transparency(tmp_path: Path) -> None:
    source = PIL.Image.fromarray(smooth(20, 30, 3)).quantize(8)
    data = saved(source, "GIF", transparency=2)
    expected = np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGBA"))
    image = read(tmp_path, data)
    assert image.alpha is not None
    assert np.array_equal(image.alpha, expected[..., 3])
    assert np.array_equal(image.pixels[image.alpha > 0], expected[..., :3][image.alpha > 0])


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    pixels = noise(9, 9, 3)
    image = read(tmp_path, saved(PIL.Image.fromarray(pixels), "PNG"), "holiday.JPG")
    assert np.array_equal(image.pixels, pixels)
    assert image.format == "png"
    assert image.notes == ("named .JPG but is a PNG file",)


def test_bytes_after_the_end_of_a_jpeg_are_nothing_to_us(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(smooth(30, 30, 3)), "JPEG")
    assert np.array_equal(read(tmp_path, data + b"garbage" * 99).pixels, read(tmp_path, data).pixels)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    good = noise(4, 5, 3)
    for pixels, alpha in (
        (good[..., 0], None),
        (good[..., :2], None),
        (good.astype(np.float32), None),
        (good[::2], None),
        (good[:0], None),
        (good, good[:2, :, 0]),
        (good, good[..., 0].astype(np.uint16)),
    ):
        with pytest.raises(UsageError):
            Image(pixels=pixels, alpha=alpha)
    image = Image(pixels=good)
    assert (image.width, image.height, image.bits) == (5, 4, 8)


def test_every_refusal_is_one_of_ours() -> None:
    assert issubclass(ImageError, SrDeployError)
    assert issubclass(OutputError, SrDeployError)
