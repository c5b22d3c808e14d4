"""The formats in which pictures are written, and what each can hold.

Here, and in the other modules that are loaded at every start, plain values are NamedTuples: defining a
frozen dataclass takes ten times as long.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from sr_deploy.errors import UsageError

JPEG_QUALITY = 95
"""Quality of JPEG where none is given."""


class Format(NamedTuple):
    """A file format that `write_image` can write."""

    name: str
    """Name, in lower case."""
    suffixes: tuple[str, ...]
    """File suffixes; the first one is used for new files."""
    max_side: int
    """Largest number of pixels along a side that common readers accept."""
    alpha: bool
    """True if it can store opacity."""
    deep: bool
    """True if it can store 16 bits per channel."""
    lossy: bool = False
    """True if a quality can be chosen."""
    max_bytes: int | None = None
    """Largest amount of pixel data in bytes, at 3 bytes per pixel; None for no limit of its own."""

    @property
    def top_quality(self) -> int:
        """The highest quality: 100; for WebP 101, which means lossless."""
        return 101 if self.name == "webp" else 100

    def holds(self, width: int, height: int) -> bool:
        """True if a file of this format can have this size in pixels."""
        return max(width, height) <= self.max_side and (
            not self.max_bytes or width * height * 3 <= self.max_bytes
        )


# 16383 is the limit of the WebP format itself; 65500 is that of libjpeg. BMP counts its bytes in 32 bits.
_FORMATS = (
    Format(name="png", suffixes=(".png",), max_side=1_000_000, alpha=True, deep=True),
    Format(name="jpeg", suffixes=(".jpg", ".jpeg"), max_side=65_500, alpha=False, deep=False, lossy=True),
    Format(name="webp", suffixes=(".webp",), max_side=16_383, alpha=True, deep=False, lossy=True),
    Format(name="tiff", suffixes=(".tif", ".tiff"), max_side=250_000, alpha=True, deep=True),
    Format(name="bmp", suffixes=(".bmp",), max_side=65_535, alpha=False, deep=False, max_bytes=2_000_000_000),
)
WRITABLE_SUFFIXES = {suffix: kind.name for kind in _FORMATS for suffix in kind.suffixes}
"""Suffix of a file name -> format that is written under it."""
READ_ONLY_SUFFIXES = {".gif": "gif", ".avif": "avif"}
"""Suffix of a file name -> format that is read, and never written."""
HEIC_SUFFIXES = {".heic": "heic", ".heif": "heic", ".hif": "heic"}
"""Suffix of a file name -> format that is read only where libvips has a decoder (`codecs.avif.reads_heic`)."""
READABLE_SUFFIXES = frozenset({*WRITABLE_SUFFIXES, *READ_ONLY_SUFFIXES})
"""Suffixes that picture files usually have.

They only serve to find pictures in a folder: reading goes by content.
"""

NAMES = {
    "png": "PNG",
    "jpeg": "JPEG",
    "webp": "WebP",
    "tiff": "TIFF",
    "bmp": "BMP",
    "gif": "GIF",
    "avif": "AVIF",
    "heic": "HEIC",
}
"""Name of a format -> the name that messages use."""
READ = ", ".join([*NAMES.values()][:-1]) + f" or (where libvips has a decoder) {NAMES['heic']}"
"""The readable formats, as messages list them."""


def formats() -> tuple[Format, ...]:
    """All formats that `write_image` can write."""
    return _FORMATS


def format_of(name: str | os.PathLike[str]) -> Format:
    """The format of a name (`png`, `jpg`), a suffix (`.png`) or a path.

    Raises UsageError if it is unknown.
    """
    text = os.fspath(name)
    suffix = (Path(text).suffix or f".{text.lstrip('.')}").lower()
    for known in _FORMATS:
        if suffix in known.suffixes:
            return known
    names = ", ".join(s for f in _FORMATS for s in f.suffixes)
    raise UsageError(f"cannot write {text!r}: the format must be one of {names}; choose one of these")


def check_writable_size(format: str, width: int, height: int) -> None:
    """Raise UsageError if a file of `format` cannot hold width x height pixels.

    The message names the formats that can.
    """
    wanted = format_of(format)
    if wanted.holds(width, height):
        return
    others = " or ".join(NAMES[f.name] for f in _FORMATS if f.holds(width, height))
    advice = f"write it as {others}" if others else "choose a smaller size"
    limit = f"{wanted.max_side} pixels a side"
    limit += f" and {wanted.max_bytes // 10**9} GB" if wanted.max_bytes else ""
    raise UsageError(
        f"a {NAMES[wanted.name]} file cannot hold {width}x{height} pixels, its limit is {limit}; {advice}"
    )
