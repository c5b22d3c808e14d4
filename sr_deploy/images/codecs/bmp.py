"""BMP: checked before decoding. OpenCV decodes and encodes it.

Offsets below follow Microsoft's BITMAPFILEHEADER (14 bytes) and the header after it, which begins with
its own size: BITMAPCOREHEADER (12), BITMAPINFOHEADER (40) or a later one (up to 256 accepted).
"""

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
    """Check the header of a BMP, and that all its rows are present.

    Raises DamagedError, UnsupportedError, or the error of `check`.
    """
    require_bytes(data, 26)  # both headers, of the shortest kind
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
        raise DamagedError(f"has an invalid BMP header ({planes} planes, {bits} bits)")
    if packing in (0, 3, 6):  # BI_RGB, BI_BITFIELDS, BI_ALPHABITFIELDS: rows padded to 4 bytes
        require_bytes(data, offset + (width * bits + 31) // 32 * 4 * height)
    elif packing in (1, 2):  # BI_RLE8, BI_RLE4
        # A run takes 2 bytes and covers at most 255 pixels. Skipping pixels is legal, but no program writes
        # files that consist mostly of skipped pixels.
        if (len(data) - offset) * 128 < width * height:
            raise DamagedError(
                f"holds {len(data) - offset} bytes of pixel data, too few for {width}x{height} pixels"
            )
    else:
        raise UnsupportedError(f"is a BMP with compression {packing}, which is not supported")
    dpi = from_bmp(data[:46]) if header >= 40 else None
    return PictureHeader(format="bmp", width=width, height=height, payload=data, dpi=dpi)
