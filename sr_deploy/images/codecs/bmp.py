"""BMP: read and written here, except for run-length encoded pixels, which OpenCV reads.

libvips cannot read BMP. OpenCV ignores channel masks and reads the palette of OS/2 files as grey
(seen in 5.0.0).

Offsets below follow Microsoft's BITMAPFILEHEADER (14 bytes) and the header after it, which begins with
its own size: BITMAPCOREHEADER (12, also OS/2 1.x), BITMAPINFOHEADER (40) or a later one (up to 256).
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

from sr_deploy.images.codecs.headers import (
    DamagedError,
    PictureHeader,
    SizeCheck,
    UnsupportedError,
    require_bytes,
)
from sr_deploy.images.codecs.pixels import decode_by_opencv
from sr_deploy.images.metadata.blobs import Metadata
from sr_deploy.images.metadata.density import Dpi, from_bmp, to_bmp
from sr_deploy.system.arrays import AnyArray

_RGB, _RLE8, _RLE4, _MASKS, _ALPHA_MASKS = 0, 1, 2, 3, 6  # values of biCompression
_CORE, _OS2 = 12, 64  # sizes of the headers of OS/2 1.x and 2.x
_ROWS = 64  # rows that are converted at a time for writing
_DEFAULT_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0xFF000000)}
"""Masks of red, green, blue and opacity where the file has none. Officially the fourth byte of a 32-bit
pixel has no meaning, but editors store opacity there."""


def parse_bmp(data: bytes, check: SizeCheck) -> PictureHeader:
    """Check the header of a BMP, and that all its rows are present.

    Raises DamagedError, UnsupportedError, or the error of `check`.
    """
    require_bytes(data, 26)  # both headers, of the shortest kind
    offset, header = struct.unpack_from("<II", data, 10)
    if header != _CORE and not 40 <= header <= 256:
        raise DamagedError("does not begin with a BMP header")
    require_bytes(data, 14 + header)
    width, height, planes, bits, packing = _fields(data)
    height = abs(height)  # negative: the rows run from top to bottom
    check(width, height)
    if planes != 1 or bits not in (1, 4, 8, 16, 24, 32) or offset < 14 + header:
        raise DamagedError(f"has an invalid BMP header ({planes} planes, {bits} bits)")
    if packing in (_RLE8, _RLE4):
        # A run takes 2 bytes and covers at most 255 pixels. Skipping pixels is legal, but no program writes
        # files that consist mostly of skipped pixels.
        if (len(data) - offset) * 128 < width * height:
            raise DamagedError(
                f"holds {len(data) - offset} bytes of pixel data, too few for {width}x{height} pixels"
            )
    elif packing == _RGB or (packing in (_MASKS, _ALPHA_MASKS) and bits in (16, 32) and header != _OS2):
        require_bytes(data, offset + _row_bytes(width, bits) * height)
    else:  # in OS/2 2.x, 3 is Huffman and 4 RLE24; 4 and 5 are an embedded JPEG or PNG elsewhere
        raise UnsupportedError(f"is a BMP of {bits} bits with compression {packing}, which is not supported")
    metadata = Metadata(dpi=from_bmp(data[:46]) if header >= 40 else None)
    return PictureHeader(format="bmp", payload=data, metadata=metadata)


def _fields(data: bytes) -> tuple[int, int, int, int, int]:
    """Width, height (negative: rows from top to bottom), planes, bits per pixel and compression."""
    if data[14] == _CORE:
        return (*struct.unpack_from("<HHHH", data, 18), _RGB)
    width, height, planes, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    return width, height, planes, bits, packing


def _row_bytes(width: int, bits: int) -> int:
    """Bytes of a stored row: rows are padded to multiples of 4 bytes."""
    return (width * bits + 31) // 32 * 4


def decode_bmp(header: PictureHeader) -> tuple[AnyArray, AnyArray | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha [H, W] or None, both uint8.

    A palette of greys gives one channel. The header must have passed `parse_bmp`.
    """
    data = header.payload
    width, height, _, bits, packing = _fields(data)
    if packing in (_RLE8, _RLE4):
        samples = decode_by_opencv(data)
        return np.ascontiguousarray(samples[..., :3]), None
    stride = _row_bytes(width, bits)
    rows = np.frombuffer(data, np.uint8, stride * abs(height), struct.unpack_from("<I", data, 10)[0])
    rows = rows.reshape(abs(height), stride)[:: 1 if height < 0 else -1]
    if bits == 24:
        from sr_deploy.images.opencv import cv2

        # a tenth of the time of numpy's copy with a negative step
        return cv2.cvtColor(
            np.ascontiguousarray(rows[:, : 3 * width]).reshape(-1, width, 3), cv2.COLOR_BGR2RGB
        ), None
    if bits < 24 and bits != 16:
        return _palette(data, bits)[_indices(rows, bits)[:, :width]], None
    values = np.ascontiguousarray(rows).view(f"<u{bits // 8}")[:, :width]
    masks = _masks(data, bits, packing)
    channels = [_scaled(values, mask) for mask in masks[:3]]
    alpha = _scaled(values, masks[3]) if masks[3] else None
    # most programs write zeros as padding into the fourth byte of a pixel
    return np.stack(channels, 2), alpha if alpha is not None and alpha.any() else None


def _masks(data: bytes, bits: int, packing: int) -> tuple[int, ...]:
    """The bits of red, green, blue and opacity in a pixel; 0 for a channel that is missing.

    They follow the 40 bytes of the oldest header, outside of it or as a part of a longer one. The mask of
    opacity exists in headers of 56 bytes or more, or with BI_ALPHABITFIELDS.
    """
    if packing == _RGB:
        return _DEFAULT_MASKS[bits]
    masks = struct.unpack_from("<4I", data + b"\0" * 16, 54)
    with_alpha = packing == _ALPHA_MASKS or int.from_bytes(data[14:18], "little") >= 56
    return masks if with_alpha else (*masks[:3], 0)


def _scaled(values: AnyArray, mask: int) -> AnyArray:
    """The channel in the bits `mask` of every value, scaled to 0..255 and rounded to nearest."""
    mask &= (1 << 8 * values.itemsize) - 1  # bits beyond a pixel of 16 bits
    if not mask:
        return np.zeros(values.shape, np.uint8)
    top = mask // (mask & -mask)  # the largest value of the channel; the quotient drops the zeros below
    channel = (values & values.dtype.type(mask)) // values.dtype.type(mask & -mask)
    if top == 255:
        return np.asarray(channel, np.uint8)
    wide = channel.astype(np.uint64)  # a mask may have all 32 bits
    return np.asarray((wide * np.uint64(255) + np.uint64(top // 2)) // np.uint64(top), np.uint8)


def _indices(rows: AnyArray, bits: int) -> AnyArray:
    """The palette indices in rows of bytes; the first pixel is in the highest bits of a byte."""
    if bits == 8:
        return rows
    parts = [rows >> shift & (1 << bits) - 1 for shift in range(8 - bits, -1, -bits)]
    return np.stack(parts, 2).reshape(len(rows), -1)


def _palette(data: bytes, bits: int) -> AnyArray:
    """The colours [2**bits, 1 or 3] of the palette; entries that the file lacks are black.

    An entry has 3 bytes in OS/2 1.x and 4 elsewhere, in the order blue, green, red.
    """
    offset, header = struct.unpack_from("<II", data, 10)
    size = 3 if header == _CORE else 4
    stored = struct.unpack_from("<I", data, 46)[0] if header >= 40 else 0
    count = min(stored or 1 << bits, 1 << bits, (offset - 14 - header) // size)
    colours = np.zeros((1 << bits, 3), np.uint8)
    entries = np.frombuffer(data, np.uint8, count * size, 14 + header).reshape(count, size)
    colours[:count] = entries[:, 2::-1]
    grey = (colours == colours[:, :1]).all()
    return colours[:, :1].copy() if grey else colours


def write_bmp(file: BinaryIO, pixels: AnyArray, dpi: Dpi | None) -> None:
    """Write 8-bit pixels [H, W, 1 or 3], grey ones with a palette. Raises OSError from `file`."""
    height, width, channels = pixels.shape
    stride = _row_bytes(width, 8 * channels)
    table = b"".join(bytes([value, value, value, 0]) for value in range(256)) if channels == 1 else b""
    offset = 54 + len(table)
    size = stride * height
    file.write(struct.pack("<2sIHHI", b"BM", offset + size, 0, 0, offset))
    fields = (40, width, height, 1, 8 * channels, _RGB, size, *to_bmp(dpi), len(table) // 4, 0)
    file.write(struct.pack("<IiiHHIIiiII", *fields))
    file.write(table)
    for end in range(height, 0, -_ROWS):  # the last row comes first
        part = pixels[max(0, end - _ROWS) : end][::-1, :, ::-1].reshape(-1, width * channels)
        file.write(np.pad(part, ((0, 0), (0, stride - width * channels))).tobytes())
