"""AVIF: libvips reads all of it. AVIF files are not written.

Turning and mirroring belong to the decoding of this format (ISO/IEC 23008-12: irot and imir), so an orientation
in the EXIF block does not count.
"""

from __future__ import annotations

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck
from sr_deploy.images.codecs.vips import read_header
from sr_deploy.images.metadata.blobs import Metadata

_NCLX = b"colrnclx"
"""Box with the meaning of pixel values by numbers of ITU-T H.273: primaries, transfer and matrix, 2 bytes each."""
_SRGB = (1, 13)  # primaries and transfer of sRGB
_UNKNOWN = 2


def parse_avif(data: bytes, check: SizeCheck) -> PictureHeader:
    """Read the header of an AVIF. Raises DamagedError or the error of `check`."""
    try:
        header = read_header("avif", data, check)
    except DamagedError as error:
        raise DamagedError(f"is AVIF and {error}") from error
    metadata = Metadata(exif=header.exif, icc=header.icc, xmp=header.xmp, chunks=_colour_chunks(data))
    pages = f"holds {header.pages} pictures: only the first is used"
    return PictureHeader(
        format="avif",
        payload=data,
        metadata=metadata,
        orientation=1,
        premultiplied=_is_premultiplied(data),
        notes=(pages,) if header.pages > 1 else (),
    )


def _is_premultiplied(data: bytes) -> bool:
    """True if the file says that its colours were multiplied by their opacity, which libvips ignores (seen in 8.18).

    It says so by a reference of the type `prem` from the picture to its opacity (ISO/IEC 23008-12, 6.10.1).
    """
    at = data.find(b"iref", 0, 1 << 16)
    size = int.from_bytes(data[max(0, at - 4) : max(0, at)], "big")
    return at >= 0 and b"prem" in data[at : at + min(size, 1 << 16)]


def _colour_chunks(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The meaning of the pixel values as a cICP chunk of PNG, unless it is sRGB or not said.

    The matrix is 0 and the range full, because the pixels are decoded to RGB.
    """
    at = data.find(_NCLX, 0, 1 << 16)  # the box is near the start of the file
    colours = data[at + len(_NCLX) : at + len(_NCLX) + 4]
    if at < 0 or len(colours) < 4:
        return ()
    primaries, transfer = int.from_bytes(colours[:2], "big"), int.from_bytes(colours[2:], "big")
    if (primaries, transfer) == _SRGB or _UNKNOWN in (primaries, transfer) or max(primaries, transfer) > 255:
        return ()
    return ((b"cICP", bytes((primaries, transfer, 0, 1))),)
