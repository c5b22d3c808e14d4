"""GIF: cut to its first frame before OpenCV decodes it. GIF files are not written.

Of a damaged frame, libvips returns the rows that it got, even if warnings count as errors (seen in 8.18.7).

The layout is that of the GIF89a specification: header and logical screen descriptor (13 bytes), an
optional colour table, then extensions (0x21) and pictures (0x2C) up to the trailer (0x3B).
"""

from __future__ import annotations

import struct

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes


def _blocks_end(data: bytes, at: int) -> int:
    """The offset after the chain of sub-blocks at `at`, which length 0 ends (GIF89a, section 15)."""
    while True:
        require_bytes(data, at + 1)
        if not data[at]:
            return at + 1
        at += 1 + data[at]


def _image_end(data: bytes, at: int, width: int, height: int) -> int:
    """The offset after the picture whose descriptor begins at `at` (GIF89a, section 20).

    `width` and `height` are those of the logical screen, in pixels. Raises DamagedError if the picture
    lies partly outside of it.
    """
    require_bytes(data, at + 11)
    left, top, wide, tall, flags = struct.unpack_from("<HHHHB", data, at + 1)
    if left + wide > width or top + tall > height or not (wide and tall):
        raise DamagedError("has a frame that lies outside the picture")
    # a local colour table has 2 ** (n + 1) entries of 3 bytes; one byte of LZW code size follows it
    table = 3 << (flags & 7) + 1 if flags & 0x80 else 0
    return _blocks_end(data, at + 10 + table + 1)


def parse_gif(data: bytes, check: SizeCheck) -> PictureHeader:
    """Follow a GIF (GIF87a or GIF89a) to its trailer.

    The payload ends after the first frame, so that OpenCV does not decode the others. Raises
    DamagedError or the error of `check`.
    """
    require_bytes(data, 13)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check(width, height)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = first_end = 0
    while True:
        # the trailer is a single byte; everything else has at least two
        require_bytes(data, at + 2 - (data[at : at + 1] == b";"))
        if data[at] == 0x3B:
            break
        if data[at] == 0x21:
            at = _blocks_end(data, at + 2)
        elif data[at] == 0x2C:
            at = _image_end(data, at, width, height)
            frames += 1
            first_end = first_end or at
        else:
            raise DamagedError(f"has a block of unknown type {data[at]} at byte {at}")
    if not frames:
        raise DamagedError("has no pixel data")
    return PictureHeader(format="gif", payload=data[:first_end] + b";", frames=frames)
