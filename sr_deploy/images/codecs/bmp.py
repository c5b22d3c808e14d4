"""BMP: checked before it is decoded. OpenCV reads and writes it."""

from __future__ import annotations

import struct

from sr_deploy.images.codecs.density import from_bmp
from sr_deploy.images.codecs.headers import (
    DamagedError,
    PictureHeader,
    SizeCheck,
    UnsupportedError,
    require_bytes,
)


def parse_bmp(data: bytes, check: SizeCheck) -> PictureHeader:
    """Check the header of a BMP, and that its rows are all there."""
    require_bytes(data, 26)
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, planes, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    elif 40 <= header <= 256:
        require_bytes(data, 14 + header)
        width, height, planes, bits, packing = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)  # negative: the rows run from top to bottom
    else:
        raise DamagedError("does not begin with a BMP header")
    check(width, height)
    if planes != 1 or bits not in (1, 4, 8, 16, 24, 32) or offset < 14 + header:
        raise DamagedError(f"has a BMP header that makes no sense ({planes} planes, {bits} bits)")
    if packing in (0, 3, 6):
        require_bytes(data, offset + (width * bits + 31) // 32 * 4 * height)
    elif packing in (1, 2):
        # A run takes 2 bytes and covers at most 255 pixels; skipped pixels are legal, but no writer lives on them.
        if (len(data) - offset) * 128 < width * height:
            raise DamagedError(
                f"holds {len(data) - offset} bytes of pixel data, too few for {width}x{height} pixels"
            )
    else:
        raise UnsupportedError(f"is a BMP of compression {packing}, which is not read here")
    dpi = from_bmp(data[:46]) if header >= 40 else None
    return PictureHeader(format="bmp", width=width, height=height, payload=data, dpi=dpi)
