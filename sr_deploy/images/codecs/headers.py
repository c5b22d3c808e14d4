"""`PictureHeader`, the facts in a picture file before it is decoded, and recognition of formats by content.

The parsers, one module per format, are pure Python on bytes and allocate no pixels. A header with false
sizes is therefore refused before a decoder sees it. Decoders turn a truncated file into grey rows
without an error, so every parser follows the structure of its file to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sr_deploy.images.metadata.blobs import Metadata

SizeCheck = Callable[[int, int], None]
"""Function (width, height) that raises an error if the size is invalid or too large."""


class DamagedError(Exception):
    """The file is damaged, or its header declares what its data cannot hold.

    The message completes the sentence "this picture ...". `read_image` turns it into an ImageError.
    """


class UnsupportedError(Exception):
    """The file is intact, but of a kind that is not supported.

    The message is used like that of DamagedError.
    """


_NO_METADATA = Metadata()


class PictureHeader(NamedTuple):
    """Result of parsing a picture file to its end, before anything is decoded."""

    format: str
    """Name of the format, as in `formats.NAMES`."""
    payload: bytes
    """Bytes for the decoder: the first picture, without the parts that the decoder should not see."""
    frames: int = 1
    """Number of frames or pages."""
    ink: bool = False
    """True if the colours are CMYK."""
    metadata: Metadata = _NO_METADATA
    """Metadata as stored; the orientation is not applied."""
    orientation: int | None = None
    """Orientation that the EXIF block is overruled by; None if it counts."""
    premultiplied: bool = False
    """True if the colours were multiplied by their opacity."""
    quality: int | None = None
    """Quality (1 to 100) that a JPEG seems to be written with; None where it cannot be told."""
    lossless: bool = False
    """True for a WebP that was compressed without loss."""
    notes: tuple[str, ...] = ()
    """Notes on what of the file is not used, one clause each."""


_MAGIC: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "png": (0, (b"\x89PNG\r\n\x1a\n",)),
    "jpeg": (0, (b"\xff\xd8\xff",)),
    "webp": (8, (b"WEBP",)),
    "tiff": (0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "bmp": (0, (b"BM",)),
    "gif": (0, (b"GIF87a", b"GIF89a")),
    "avif": (4, (b"ftypavif", b"ftypavis")),
    "heic": (4, (b"ftyphei", b"ftyphev")),
}
"""Format -> offset of its first bytes, and what they may be. Those of TIFF are classic TIFF (42, `*`) and BigTIFF
(43, `+`) in both byte orders.
"""
_REFUSED: tuple[tuple[str, int, tuple[bytes, ...]], ...] = (
    ("JPEG XL", 0, (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    ("JPEG 2000", 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("Photoshop", 0, (b"8BPS",)),
    ("Windows icon", 0, (b"\0\0\1\0",)),
    ("PDF", 0, (b"%PDF",)),
    ("OpenEXR", 0, (b"v/1\x01",)),
    ("Radiance HDR", 0, (b"#?RADIANCE",)),
    ("DirectDraw", 0, (b"DDS ",)),
    ("QOI", 0, (b"qoif",)),
    ("PBM", 0, (b"P4\n", b"P4 ", b"P1\n", b"P1 ")),
    ("PGM", 0, (b"P5\n", b"P5 ", b"P2\n", b"P2 ")),
    ("PPM", 0, (b"P6\n", b"P6 ", b"P3\n", b"P3 ")),
    ("PFM", 0, (b"PF\n", b"Pf\n")),
    ("camera raw", 0, (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW")),
    ("camera raw", 4, (b"ftypcrx ",)),
    ("SVG", 0, (b"<svg",)),
)
"""(name, offset, first bytes) of known formats that are not supported, to name them in the error."""


def sniff(head: bytes) -> str | None:
    """The format shown by the first bytes of a file, or None.

    64 bytes are enough. Raises UnsupportedError for a known format that is not supported.
    """
    for kind, (at, magic) in _MAGIC.items():
        if head.startswith(magic, at):
            return kind
    if head.startswith((b"ftypmif1", b"ftypmsf1"), 4):
        return "avif" if b"avif" in head[16:] else "heic"  # among the compatible brands
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml") and b"<svg" in head:
        raise UnsupportedError("is in the format SVG, which is not supported")
    for name, at, magic in _REFUSED:
        if head.startswith(magic, at):
            raise UnsupportedError(f"is in the format {name}, which is not supported")
    return None


def refused_names() -> tuple[str, ...]:
    """Names of the known formats that are not supported, each once."""
    return tuple(dict.fromkeys(name for name, _, _ in _REFUSED))


def require_bytes(data: bytes, end: int) -> None:
    """Raise DamagedError if `data` is shorter than `end` bytes."""
    if end > len(data):
        raise DamagedError(f"ends after {len(data)} bytes, in the middle of its data")
