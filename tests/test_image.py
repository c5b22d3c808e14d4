"""Reading and writing pictures, with Pillow as the judge of what a file holds."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from sr_deploy.errors import ImageError, OutputError, SrDeployError, UsageError
from sr_deploy.image import (
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    Image,
    Metadata,
    check_writable_size,
    fill_hidden_colour,
    format_of,
    formats,
    read_image,
    write_image,
)

Array = npt.NDArray[Any]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:title="a title"/></x:xmpmeta>'


def smooth(height: int, width: int, channels: int, bits: int = 8) -> Array:
    """A picture with gradients in every channel, and detail."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + c) * np.cos(y / (4 + c)) * 0.4 + 0.5 for c in range(channels)]
    top = 2**bits - 1
    return np.ascontiguousarray(np.rint(np.stack(waves, 2) * top).astype(f"uint{bits}"))


def noise(height: int, width: int, channels: int, bits: int = 8) -> Array:
    return np.random.default_rng(5).integers(0, 2**bits, (height, width, channels), dtype=f"uint{bits}")


def picture(channels: int = 3, bits: int = 8, alpha: bool = False, size: tuple[int, int] = (37, 53)) -> Image:
    pixels = noise(*size, channels + 1, bits)
    opacity = np.ascontiguousarray(pixels[..., -1]) if alpha else None
    return Image(pixels=np.ascontiguousarray(pixels[..., :channels]), alpha=opacity)


def saved(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes, name: str = "picture") -> Image:
    path = tmp_path / name
    path.write_bytes(data)
    return read_image(path)


def joined(image: Image) -> Array:
    """[H, W, C], opacity last."""
    return image.pixels if image.alpha is None else np.dstack((image.pixels, image.alpha))


def profile(space: str = "sRGB") -> bytes:
    return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile(space)).tobytes()


def grey_profile() -> bytes:
    return profile().replace(b"RGB ", b"GRAY", 1)


def camera_exif(orientation: int = 1) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", orientation
    exif.get_ifd(0x8769).update({0xA002: 53, 0xA003: 37, 0x829A: 0.125})
    exif.get_ifd(0x8825)[1] = "N"
    return exif


# --- reading: what the pixels are ---------------------------------------------------------------------------


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


def interlaced_png(pixels: Array) -> bytes:
    """Adam7 (PNG specification 8.2), which Pillow does not write."""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b""
    for x, y, across, down in passes:
        for row in pixels[y::down, x::across]:
            rows += b"\0" + row.tobytes() if row.size else b""
    result = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        result += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return result


def test_an_interlaced_png_is_read(tmp_path: Path) -> None:
    pixels = noise(21, 19, 3)
    assert np.array_equal(read(tmp_path, interlaced_png(pixels)).pixels, pixels)


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


TIFF_KINDS = [
    (mode, compression)
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK")
    if compression != "jpeg" or mode in ("L", "RGB")
]


@pytest.mark.parametrize(("mode", "compression"), TIFF_KINDS)
def test_every_kind_of_tiff_reads_as_pillow_reads_it(
    tmp_path: Path, mode: str, compression: str | None
) -> None:
    rgba = PIL.Image.fromarray(smooth(33, 41, 4))
    wide = PIL.Image.fromarray(smooth(33, 41, 1, 16)[..., 0])
    source = (
        wide if mode == "I;16" else rgba.convert("RGB").quantize(50) if mode == "P" else rgba.convert(mode)
    )
    data = saved(source, "TIFF", compression=compression)
    stored = PIL.Image.open(io.BytesIO(data))
    shown = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}.get(stored.mode)
    expected = np.asarray(stored.convert(shown) if shown else stored).reshape(33, 41, -1)
    image = read(tmp_path, data)
    tolerance = 1 if mode == "CMYK" or compression == "jpeg" else 0
    assert joined(image).shape == expected.shape
    assert np.abs(joined(image).astype(int) - expected.astype(int)).max() <= tolerance


def tiff(samples: Array, photometric: int, *, order: str = "<", planar: bool = False, extra: int = 0,
         predictor: bool = False, tile: int = 0) -> bytes:  # fmt: skip
    """A TIFF 6.0 of [H, W, C] samples in any layout, which Pillow does not write."""
    height, width, count = samples.shape
    values = samples.astype(samples.dtype.newbyteorder(order))
    parts = [values[..., c : c + 1] for c in range(count)] if planar else [values]
    blocks = []
    for part in parts:
        if not tile:
            blocks.append(part)
            continue
        padded = np.pad(part, ((0, -height % tile), (0, -width % tile), (0, 0)))
        blocks += [
            padded[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)
        ]
    if predictor:
        blocks = [np.diff(b, axis=1, prepend=np.zeros_like(b[:, :1])).astype(b.dtype) for b in blocks]
    packed = [zlib.compress(b.astype(b.dtype.newbyteorder(order)).tobytes()) for b in blocks]
    at, offsets = 8, []
    for block in packed:
        offsets.append(at)
        at += len(block)
    sizes = [len(block) for block in packed]
    where = (
        {324: offsets, 325: sizes, 322: [tile], 323: [tile]}
        if tile
        else {273: offsets, 279: sizes, 278: [height]}
    )
    tags = {256: [width], 257: [height], 258: [8 * samples.itemsize] * count, 259: [8], 262: [photometric],
            277: [count], 284: [2 if planar else 1], 317: [2 if predictor else 1], **where}  # fmt: skip
    if extra:
        tags[338] = [extra]
    directory, values_at, behind = b"", at + 2 + 12 * len(tags) + 4, b""
    for tag in sorted(tags):
        form, code = ("H", 3) if tag in (258, 259, 262, 277, 284, 317, 338) else ("I", 4)
        body = struct.pack(f"{order}{len(tags[tag])}{form}", *tags[tag])
        directory += struct.pack(order + "HHI", tag, code, len(tags[tag]))
        directory += (
            body.ljust(4, b"\0") if len(body) <= 4 else struct.pack(order + "I", values_at + len(behind))
        )
        behind += body if len(body) > 4 else b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return head + b"".join(packed) + struct.pack(order + "H", len(tags)) + directory + b"\0" * 4 + behind


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_tiff_layouts_of_all_kinds_are_read(
    tmp_path: Path, bits: int, order: str, layout: str, channels: int
) -> None:
    samples = smooth(37, 45, channels, bits)
    data = tiff(samples, 2 if channels > 2 else 1, order=order, planar=layout == "planes",
                extra=2 if channels in (2, 4) else 0, predictor=True, tile=16 if layout == "tiles" else 0)  # fmt: skip
    assert np.array_equal(joined(read(tmp_path, data)), samples)


def test_multiplied_tiff_colours_are_divided_again(tmp_path: Path) -> None:
    colour, opacity = np.array([200, 100, 40]), np.array([[255, 128, 64, 0]])
    stored = np.dstack((np.rint(colour * opacity[..., None] / 255), opacity)).astype(np.uint8)
    image = read(tmp_path, tiff(stored, 2, extra=1))
    assert np.abs(image.pixels[0, :3].astype(int) - colour).max() <= 2


def test_white_may_be_zero_in_a_tiff(tmp_path: Path) -> None:
    assert np.array_equal(read(tmp_path, tiff(noise(5, 6, 1), 0)).pixels, 255 - noise(5, 6, 1))


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
    assert image.notes == ("named .JPG but is a PNG",)


def test_bytes_after_the_end_of_a_jpeg_are_nothing_to_us(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(smooth(30, 30, 3)), "JPEG")
    assert np.array_equal(read(tmp_path, data + b"garbage" * 99).pixels, read(tmp_path, data).pixels)


# --- reading: metadata --------------------------------------------------------------------------------------


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
        assert notes == (() if kept else ("the colour profile does not fit the pixels and is left out",))


def test_the_profile_of_ink_is_not_put_on_light(tmp_path: Path) -> None:
    icc = profile().replace(b"RGB ", b"CMYK", 1)
    source = PIL.Image.fromarray(smooth(20, 20, 3)).convert("CMYK")
    image = read(tmp_path, saved(source, "JPEG", icc_profile=icc))
    assert image.metadata.icc is None
    assert image.notes == ("its colour profile does not fit its pixels and is left out",)


def test_blobs_too_large_for_jpeg_are_left_out_and_said_so(tmp_path: Path) -> None:
    exif = camera_exif().tobytes()[6:] + b"\0" * 70_000
    notes = write_image(
        Image(pixels=noise(6, 6, 3), metadata=Metadata(exif=exif, xmp=XMP)), tmp_path / "a.jpg"
    )
    assert notes == ("EXIF metadata is too large for JPEG and is left out",)
    assert read_image(tmp_path / "a.jpg").metadata.xmp == XMP


# --- reading: what is refused -------------------------------------------------------------------------------


def refused(path: Path, **options: Any) -> str:
    """The one line that says why `path` is not read."""
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for content, part in (
        (b"", "empty"),
        (b"Dear diary, today I did not take a picture.\n", "text"),
        (np.random.default_rng(0).bytes(5000), "no known kind"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 50, "AVIF"),
        (b"\0\0\0\x1cftypheic" + b"\0" * 50, "HEIC"),
        (b"\xff\x0a" + b"\1" * 50, "JPEG XL"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        assert part in refused(tmp_path / "a.png")
    assert "folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refused(tmp_path / "pipe.png")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.png").chmod(0)
    assert "permission" in refused(tmp_path / "a.png").lower()


def header_only(kind: str, width: int, height: int) -> bytes:
    if kind == "png":
        body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    if kind == "jpeg":
        return (
            b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x11\0\2\x11\0\3\x11\0"
        )
    if kind == "webp":
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + size
    if kind == "bmp":
        return struct.pack("<2sIHHIIiiHHI", b"BM", 0, 0, 0, 54, 40, width, height, 1, 24, 0) + b"\0" * 20
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0"
    entries = b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in ((256, width), (257, height)))
    return b"II*\0\x08\0\0\0\2\0" + entries + b"\0" * 4


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [("png", 250_000, 200_000), ("jpeg", 65_000, 65_000), ("webp", 16_000_000, 16_000_000),
     ("bmp", 250_000, 200_000), ("gif", 65_000, 65_000), ("tiff", 250_000, 200_000), ("png", 2_000_000, 1)],
)  # fmt: skip
def test_a_header_of_many_gigapixels_is_refused(tmp_path: Path, kind: str, width: int, height: int) -> None:
    (tmp_path / "a").write_bytes(header_only(kind, width, height))
    assert f"{width}x{height} pixels are too many" in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "tiff"])
def test_a_header_of_no_pixels_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(header_only(kind, 0, 10))
    assert "0x10 pixels" in refused(tmp_path / "a")


def test_the_limit_of_pixels_is_the_callers(tmp_path: Path) -> None:
    write_image(Image(pixels=noise(10, 20, 3)), tmp_path / "a.png")
    assert "at most 199" in refused(tmp_path / "a.png", max_pixels=199)
    assert read_image(tmp_path / "a.png", max_pixels=200).width == 20


def test_a_header_that_promises_more_than_the_data_holds_is_refused(tmp_path: Path) -> None:
    data = header_only("png", 16_000, 16_000)
    for kind, body in ((b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a").write_bytes(data)
    assert "too few" in refused(tmp_path / "a")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True}),
     ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("GIF", {})],
)  # fmt: skip
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    data = saved(PIL.Image.fromarray(smooth(60, 80, 3)), kind, **options)
    assert read(tmp_path, data).width == 80
    for kept in sorted({1, 3, 9, 20, 40, *range(len(data) // 20, len(data), len(data) // 20), len(data) - 1}):
        (tmp_path / "cut").write_bytes(data[:kept])
        refused(tmp_path / "cut")


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(saved(PIL.Image.fromarray(noise(60, 80, 3)), "PNG"))
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert "checksum" in refused(tmp_path / "a.png")


def test_a_strange_profile_makes_no_noise(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(noise(9, 9, 3)), "PNG", icc_profile=b"\0" * 300)
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(data[:-20])
    code = (
        "import sys; from sr_deploy.image import read_image; from sr_deploy.errors import ImageError\n"
        "print(read_image(sys.argv[1]).notes)\n"
        "try: read_image(sys.argv[2])\n"
        "except ImageError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=package_on_path())
    assert done.stdout.split("\n")[:2] == [
        "('its colour profile does not fit its pixels and is left out',)",
        "refused",
    ]
    assert done.stderr == ""


def package_on_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_formats_give_back_every_bit(
    tmp_path: Path, suffix: str, bits: int, channels: int, alpha: bool
) -> None:
    image = picture(channels, bits, alpha)
    assert write_image(image, tmp_path / f"a{suffix}") == ()
    again = read_image(tmp_path / f"a{suffix}")
    assert (again.bits, again.pixels.shape) == (bits, image.pixels.shape)
    assert np.array_equal(joined(again), joined(image))
    if (suffix, bits) == (".tif", 16) and alpha and channels == 1:
        return  # a kind that Pillow does not know
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        other = np.asarray(seen).reshape(*image.pixels.shape[:2], -1)
    if bits == 8 or other.dtype == np.uint16:
        assert np.array_equal(other, joined(image))
    else:  # Pillow shows deep colours in 8 bits
        expected = joined(image)[..., [0, 0, 0, 1]] if channels == 1 else joined(image)
        assert np.abs(other.astype(int) - (expected // 256).astype(int)).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_picture_of_many_strips_is_one_picture(tmp_path: Path, suffix: str, alpha: bool) -> None:
    image = picture(3, 8, alpha, size=(1501, 1999))  # several MB: some dozen strips
    write_image(image, tmp_path / f"a{suffix}")
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        assert np.array_equal(np.asarray(seen), joined(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_tiny_pictures_are_written(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    image = Image(pixels=np.full((*size, 3), 77, np.uint8))
    write_image(image, tmp_path / f"a{suffix}")
    assert np.abs(read_image(tmp_path / f"a{suffix}").pixels.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("consume", [False, True])
def test_red_stays_red(tmp_path: Path, suffix: str, consume: bool) -> None:
    image = Image(pixels=np.full((16, 16, 3), (250, 20, 60), np.uint8))
    write_image(image, tmp_path / f"a{suffix}", consume=consume)
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        assert np.abs(np.asarray(seen).astype(int) - (250, 20, 60)).max() <= 4
    if not consume:
        assert (image.pixels == (250, 20, 60)).all()


def test_read_only_pixels_are_not_consumed(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), (250, 20, 60), np.uint8)
    pixels.flags.writeable = False
    write_image(Image(pixels=pixels), tmp_path / "a.bmp", consume=True)
    assert read_image(tmp_path / "a.bmp").pixels[0, 0].tolist() == [250, 20, 60]


def test_sixteen_bits_are_rounded_not_cut(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    notes = write_image(Image(pixels=values), tmp_path / "a.bmp")
    exact = np.floor(values / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "a.bmp").pixels, exact)
    assert notes == ("BMP has no 16 bits: rounded to 8",)


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [10, 20, 30], [100, 100, 100]]], np.uint8)
    image = Image(pixels=pixels, alpha=np.array([[255, 0, 128]], np.uint8))
    assert write_image(image, tmp_path / "a.bmp") == ("BMP has no transparency: put on white",)
    assert read_image(tmp_path / "a.bmp").pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [177, 177, 177]]]


def test_grey_stays_grey_where_the_format_can(tmp_path: Path) -> None:
    image = Image(pixels=smooth(20, 20, 1))
    for suffix in (".png", ".jpg", ".tif", ".bmp"):
        write_image(image, tmp_path / f"a{suffix}")
        with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
            assert seen.mode == "L"


def test_jpeg_quality_and_colour_resolution(tmp_path: Path) -> None:
    image = Image(pixels=noise(64, 64, 3))
    for quality, sampling in ((None, 0), (90, 0), (89, 2)):
        write_image(image, tmp_path / f"{quality}.jpg", quality=quality)
        with PIL.Image.open(tmp_path / f"{quality}.jpg") as seen:
            from PIL.JpegImagePlugin import get_sampling

            assert get_sampling(seen) == sampling
    assert (tmp_path / "None.jpg").stat().st_size > (tmp_path / "90.jpg").stat().st_size
    with pytest.raises(UsageError, match="1 to 100"):
        write_image(image, tmp_path / "a.jpg", quality=101)


def test_webp_is_lossy_or_lossless_as_asked(tmp_path: Path) -> None:
    image = picture(alpha=True)
    write_image(image, tmp_path / "exact.webp", quality=101)
    write_image(image, tmp_path / "small.webp", quality=50)
    visible = image.alpha > 0 if image.alpha is not None else np.array(True)
    exact = read_image(tmp_path / "exact.webp")
    assert np.array_equal(joined(exact)[visible], joined(image)[visible])
    assert (tmp_path / "small.webp").stat().st_size < (tmp_path / "exact.webp").stat().st_size / 2
    assert not np.array_equal(read_image(tmp_path / "small.webp").pixels, image.pixels)


def test_a_quality_for_a_lossless_format_is_said_to_be_ignored(tmp_path: Path) -> None:
    notes = write_image(picture(), tmp_path / "a.png", quality=80)
    assert notes == ("PNG is lossless: the quality is not used",)


def test_the_format_may_differ_from_the_name(tmp_path: Path) -> None:
    write_image(picture(), tmp_path / "a.dat", format="webp")
    assert read_image(tmp_path / "a.dat").format == "webp"
    with pytest.raises(UsageError, match=r"\.xyz.*\.png"):
        write_image(picture(), tmp_path / "a.xyz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dat"]


def test_names_may_be_of_any_language(tmp_path: Path) -> None:
    for suffix in WRITABLE_SUFFIXES:
        path = tmp_path / f"Ünïcødé 図 🎈{suffix}"
        write_image(picture(), path)
        assert read_image(path).width == 53


def test_sizes_that_a_format_cannot_hold_are_refused_before_any_work() -> None:
    check_writable_size("jpeg", 65_500, 65_500)
    check_writable_size("png", 60_000, 40_000)
    with pytest.raises(UsageError, match=r"20000x300.*16383.*PNG or JPEG or TIFF"):
        check_writable_size("webp", 20_000, 300)
    with pytest.raises(UsageError, match="PNG or TIFF"):
        check_writable_size("jpg", 70_000, 10)
    with pytest.raises(UsageError, match="2 GB"):
        check_writable_size("bmp", 30_000, 30_000)
    with pytest.raises(UsageError, match="smaller"):
        check_writable_size("png", 2_000_000, 10)


def test_the_table_of_formats_is_true(tmp_path: Path) -> None:
    assert set(WRITABLE_SUFFIXES) < READABLE_SUFFIXES
    for kind in formats():
        for suffix in kind.suffixes:
            assert format_of(suffix) == format_of(f"x/y{suffix.upper()}") == format_of(kind.name) == kind
            image = picture(3, 16, alpha=True)
            write_image(image, tmp_path / f"a{suffix}")
            again = read_image(tmp_path / f"a{suffix}")
            assert (again.bits == 16, again.alpha is not None) == (kind.deep, kind.alpha)


def test_wide_pictures_are_written_up_to_the_limit(tmp_path: Path) -> None:
    for suffix, side in (
        (".jpg", 65_500),
        (".webp", 16_383),
        (".bmp", 65_535),
        (".png", 1_000_000),
        (".tif", 250_000),
    ):
        write_image(Image(pixels=np.full((1, side, 3), 9, np.uint8)), tmp_path / f"a{suffix}")
        assert read_image(tmp_path / f"a{suffix}").width == side


# --- writing: whole or not at all ---------------------------------------------------------------------------


def not_written(image: Image, path: Path, **options: Any) -> str:
    with pytest.raises(OutputError) as caught:
        write_image(image, path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_that_cannot_be_written_are_said_to_be(tmp_path: Path) -> None:
    assert "folder" in not_written(picture(), tmp_path, format="png")
    assert "does not exist" in not_written(picture(), tmp_path / "no" / "a.png")
    (tmp_path / "file").write_bytes(b"x")
    assert "does not exist" in not_written(picture(), tmp_path / "file" / "a.png")
    assert "name" in not_written(picture(), tmp_path / ("n" * 300 + ".png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_an_existing_file_is_replaced_only_if_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    assert "exists already" in not_written(picture(), path, overwrite=False)
    assert path.read_bytes() == b"precious"
    write_image(picture(), path)
    assert read_image(path).width == 53


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    write_image(picture(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert read_image(tmp_path / "real.png").width == 53


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no devices or pipes with names here")
def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "ordinary file" in not_written(picture(), tmp_path / "pipe.png")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from sr_deploy.errors import OutputError
from sr_deploy.image import Image, Metadata, write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
image = Image(pixels=np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8),
              metadata=Metadata(xmp=b"x" * 50000))
for suffix in ("png", "jpg", "webp", "tif", "bmp"):
    path = Path(sys.argv[1], "a." + suffix)
    for share in (0.001, 0.5, 0.9, 0.999):
        write_image(image, path)
        size = path.stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), limits[1]))
        before = path.read_bytes()
        try:
            write_image(image, path)
            print("written", suffix, share)
        except OutputError as error:
            if "room" not in str(error): print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if path.read_bytes() != before: print("changed", suffix, share)
print(sorted(p.name for p in Path(sys.argv[1]).iterdir()))
"""


@pytest.mark.skipif(os.name == "nt", reason="no limits of file size there")
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=package_on_path())
    assert done.stdout.strip() == "['a.bmp', 'a.jpg', 'a.png', 'a.tif', 'a.webp']"


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sr_deploy._png.zlib.adler32", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_image(picture(size=(2000, 1000)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def _race(path: str, grey: int, barrier: Any, results: Any) -> None:
    image = Image(pixels=np.full((64, 64, 3), grey, np.uint8))
    barrier.wait(60)
    try:
        write_image(image, path, overwrite=False)
        results.put(grey)
    except OutputError:
        results.put(None)


def test_of_two_processes_that_write_one_file_one_wins(tmp_path: Path) -> None:
    context = get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    racers = [
        context.Process(target=_race, args=(str(tmp_path / "a.png"), g, barrier, results)) for g in (10, 20)
    ]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert outcomes.count(None) == 1
    winner = next(o for o in outcomes if o is not None)
    assert (read_image(tmp_path / "a.png").pixels == winner).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_without_hard_links_a_taken_name_is_still_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if os.name != "nt":
        monkeypatch.setattr("os.link", no_links)
    write_image(picture(), tmp_path / "a.png", overwrite=False)
    assert read_image(tmp_path / "a.png").width == 53
    assert "exists already" in not_written(picture(), tmp_path / "a.png", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


MEMORY = """
import resource, sys
import numpy as np
from sr_deploy.image import Image, write_image
unit = 1 if sys.platform == "darwin" else 1024
for suffix, alpha in (("jpg", False), ("png", True), ("tif", True), ("bmp", False)):
    pixels = np.zeros((5000, 5000, 3), np.uint8)
    pixels[:] = (np.arange(5000) % 251).astype(np.uint8)[:, None]
    image = Image(pixels=pixels, alpha=np.full((5000, 5000), 9, np.uint8) if alpha else None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_image(image, sys.argv[1] + "/a." + suffix, consume=True)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit // 2**20)
"""


@pytest.mark.skipif(os.name == "nt", reason="peak memory is measured otherwise there")
def test_writing_takes_little_memory_beside_the_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=package_on_path())
    assert max(int(line) for line in done.stdout.split()) < 60  # of a picture of 71 MB, 95 with alpha


# --- alpha --------------------------------------------------------------------------------------------------


def test_hidden_colours_become_those_of_their_visible_neighbours() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:30, 10:30] = (200, 100, 50)
    pixels[12, 12] = (1, 2, 3)
    alpha = np.zeros((40, 40), np.uint8)
    alpha[10:30, 10:30] = 255
    alpha[10:30, 29] = 1  # hardly visible is visible
    pixels[10:30, 29] = (0, 255, 0)
    filled = fill_hidden_colour(pixels, alpha)
    assert np.array_equal(filled[alpha > 0], pixels[alpha > 0])
    assert filled[20, 5].tolist() == filled[2, 15].tolist() == [200, 100, 50]
    assert filled[20, 33].tolist() == [0, 255, 0]
    assert (pixels[alpha == 0] == 0).all()  # the caller's array is untouched


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


# --- the value itself ---------------------------------------------------------------------------------------


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
