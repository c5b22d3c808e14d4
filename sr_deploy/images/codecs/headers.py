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
    width: int
    """Width in pixels as stored, before the orientation is applied."""
    height: int
    """Height in pixels as stored, before the orientation is applied."""
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


_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"\xff\xd8\xff", 0, "jpeg"),
    (b"WEBP", 8, "webp"),
    (b"II*\0", 0, "tiff"),
    (b"MM\0*", 0, "tiff"),
    (b"II+\0", 0, "tiff"),
    (b"MM\0+", 0, "tiff"),
    (b"BM", 0, "bmp"),
    (b"GIF87a", 0, "gif"),
    (b"GIF89a", 0, "gif"),
    (b"ftypavif", 4, "avif"),
    (b"ftypavis", 4, "avif"),
)
"""(bytes, their offset, format) for each supported format. The four TIFF entries are classic TIFF (42,
`*`) and BigTIFF (43, `+`) in both byte orders.
"""
_REFUSED = (
    (b"ftyphei", 4, "HEIC"),
    (b"ftyphev", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC"),
    (b"ftypmsf1", 4, "HEIC"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", 0, "JPEG XL"),
    (b"\0\0\0\x0cjP  ", 0, "JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "JPEG 2000"),
    (b"8BPS", 0, "Photoshop"),
    (b"\0\0\1\0", 0, "Windows icon"),
    (b"%PDF", 0, "PDF"),
    (b"v/1\x01", 0, "OpenEXR"),
    (b"#?RADIANCE", 0, "Radiance HDR"),
    (b"DDS ", 0, "DirectDraw"),
    (b"qoif", 0, "QOI"),
    *(
        (b"P" + kind + end, 0, name)
        for kind, name in (
            (b"4", "PBM"),
            (b"5", "PGM"),
            (b"6", "PPM"),
            (b"1", "PBM"),
            (b"2", "PGM"),
            (b"3", "PPM"),
        )
        for end in (b"\n", b" ")
    ),
    (b"PF\n", 0, "PFM"),
    (b"Pf\n", 0, "PFM"),
    (b"IIRO", 0, "camera raw"),
    (b"IIRS", 0, "camera raw"),
    (b"MMOR", 0, "camera raw"),
    (b"IIU\0", 0, "camera raw"),
    (b"FUJIFILMCCD-RAW", 0, "camera raw"),
    (b"ftypcrx ", 4, "camera raw"),
    (b"<svg", 0, "SVG"),
)
"""(bytes, their offset, name) for known formats that are not supported, to name them in the error."""


def sniff(head: bytes) -> str | None:
    """The format shown by the first bytes of a file, or None.

    64 bytes are enough. Raises UnsupportedError for a known format that is not supported.
    """
    for magic, at, name in _MAGIC:
        if head.startswith(magic, at):
            return name
    if head.startswith((b"ftypmif1", b"ftypmsf1"), 4) and b"avif" in head[16:]:  # among the compatible brands
        return "avif"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml") and b"<svg" in head:
        raise UnsupportedError("is in the format SVG, which is not supported")
    for magic, at, name in _REFUSED:
        if head.startswith(magic, at):
            raise UnsupportedError(f"is in the format {name}, which is not supported")
    return None


def refused_names() -> tuple[str, ...]:
    """Names of the known formats that are not supported, each once."""
    return tuple(dict.fromkeys(name for _, _, name in _REFUSED))


def require_bytes(data: bytes, end: int) -> None:
    """Raise DamagedError if `data` is shorter than `end` bytes."""
    if end > len(data):
        raise DamagedError(f"ends after {len(data)} bytes, in the middle of its data")
