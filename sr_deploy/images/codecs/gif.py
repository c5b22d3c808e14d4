"""GIF: cut down to its first frame before it is decoded. It is not written."""

from __future__ import annotations

import struct

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, require_bytes


def _blocks_end(data: bytes, at: int) -> int:
    """Where a chain of sub-blocks that begins at `at` is over."""
    while True:
        require_bytes(data, at + 1)
        if not data[at]:
            return at + 1
        at += 1 + data[at]


def _image_end(data: bytes, at: int, width: int, height: int) -> int:
    """Where the picture whose descriptor begins at `at` is over."""
    require_bytes(data, at + 11)
    left, top, wide, tall, flags = struct.unpack_from("<HHHHB", data, at + 1)
    if left + wide > width or top + tall > height or not (wide and tall):
        raise DamagedError("has a frame that lies outside the picture")
    table = 3 << (flags & 7) + 1 if flags & 0x80 else 0
    return _blocks_end(data, at + 10 + table + 1)


def parse_gif(data: bytes, check: SizeCheck) -> PictureHeader:
    """Walk a GIF (GIF89a) to its trailer."""
    require_bytes(data, 13)
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check(width, height)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = first_end = 0
    while True:
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
            raise DamagedError(f"has a part of unknown kind {data[at]} at byte {at}")
    if not frames:
        raise DamagedError("has no pixel data")
    return PictureHeader(
        format="gif", width=width, height=height, payload=data[:first_end] + b";", frames=frames
    )
