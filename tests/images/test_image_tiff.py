"""Reading TIFF in all its layouts."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from tests.images.samples import (
    Array,
    joined,
    noise,
    read,
    saved,
    smooth,
)

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
    """A TIFF 6.0 of [H, W, C] samples in layouts that Pillow does not write."""
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
