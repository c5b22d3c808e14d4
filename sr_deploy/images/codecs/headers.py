"""What a picture file says before it is decoded: the record of it, and how its kind is told by content.

The parsers, one module a format, are pure Python on bytes and allocate no pixels: a header that lies is
refused before a decoder sees it. Decoders turn a truncated file into grey rows without a word, so every
parser walks its container to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

SizeCheck = Callable[[int, int], None]


class DamagedError(Exception):
    """The file is broken; the message completes the sentence "this picture ...". Never leaves the package."""


class UnsupportedError(Exception):
    """The file is whole, but of a kind that is not read; same use of the message."""


class PictureHeader(NamedTuple):
    """A picture file, walked to its end."""

    format: str
    width: int
    height: int
    payload: bytes
    """What to hand to the decoder: the first picture, without what it has no business to see."""
    frames: int = 1
    grey: bool = False
    """Stored as one colour channel, whatever the decoder makes of it."""
    key: tuple[int, ...] | None = None
    """The one colour that is transparent, at full depth (PNG tRNS of grey and RGB pictures)."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down; None: it does not say."""
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None


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
)
_REFUSED = (
    (b"ftypavif", 4, "AVIF"),
    (b"ftypavis", 4, "AVIF"),
    (b"ftyphei", 4, "HEIC"),
    (b"ftyphev", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC or AVIF"),
    (b"ftypmsf1", 4, "HEIC or AVIF"),
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
    (b"P4\n", 0, "PBM"),
    (b"P5\n", 0, "PGM"),
    (b"P6\n", 0, "PPM"),
)


def sniff(head: bytes) -> str | None:
    """The format that the first bytes of a file show, or None. Raises UnsupportedError for a known other one."""
    for magic, at, name in _MAGIC:
        if head.startswith(magic, at):
            return name
    for magic, at, name in _REFUSED:
        if head.startswith(magic, at):
            raise UnsupportedError(f"is of the kind {name}, which is not read here")
    return None


def require_bytes(data: bytes, end: int) -> None:
    """Raise DamagedError where `data` is shorter than `end` bytes."""
    if end > len(data):
        raise DamagedError(f"ends after {len(data)} bytes, in the middle of its data")
