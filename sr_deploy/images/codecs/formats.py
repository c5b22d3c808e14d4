"""The formats that pictures are written in, and what each can hold.

Here and in the other modules that every start loads, plain records are NamedTuples: making a frozen dataclass
takes ten times as long.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from sr_deploy.errors import UsageError


class Format(NamedTuple):
    """A kind of file that `write_image` makes."""

    name: str
    suffixes: tuple[str, ...]
    max_side: int
    """Pixels along the longer side, as far as common readers go."""
    alpha: bool
    deep: bool
    """Takes 16 bits a channel."""
    lossy: bool = False
    max_bytes: int | None = None
    """Of pixels, at 3 bytes each."""

    @property
    def top_quality(self) -> int:
        """The largest quality it knows: 100, and 101, lossless, for WebP."""
        return 101 if self.name == "webp" else 100

    def holds(self, width: int, height: int) -> bool:
        """Whether a file can have this size."""
        return max(width, height) <= self.max_side and (
            not self.max_bytes or width * height * 3 <= self.max_bytes
        )


_FORMATS = (
    Format(name="png", suffixes=(".png",), max_side=1_000_000, alpha=True, deep=True),
    Format(name="jpeg", suffixes=(".jpg", ".jpeg"), max_side=65_500, alpha=False, deep=False, lossy=True),
    Format(name="webp", suffixes=(".webp",), max_side=16_383, alpha=True, deep=False, lossy=True),
    Format(name="tiff", suffixes=(".tif", ".tiff"), max_side=250_000, alpha=True, deep=True),
    Format(name="bmp", suffixes=(".bmp",), max_side=65_535, alpha=False, deep=False, max_bytes=2_000_000_000),
)
WRITABLE_SUFFIXES = {suffix: kind.name for kind in _FORMATS for suffix in kind.suffixes}
"""From the end of a file's name to the format that is written under it."""
READABLE_SUFFIXES = frozenset({*WRITABLE_SUFFIXES, ".gif"})
"""What pictures are usually named; they are read by content all the same."""

NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WebP", "tiff": "TIFF", "bmp": "BMP", "gif": "GIF"}
READ = "PNG, JPEG, WebP, TIFF, BMP or GIF"


def formats() -> tuple[Format, ...]:
    """What `write_image` can make."""
    return _FORMATS


def format_of(name: str | os.PathLike[str]) -> Format:
    """The format of a name (`png`, `jpg`), a suffix (`.png`) or a path. Raises UsageError for an unknown one."""
    text = os.fspath(name)
    suffix = (Path(text).suffix or f".{text.lstrip('.')}").lower()
    for known in _FORMATS:
        if suffix in known.suffixes:
            return known
    names = ", ".join(s for f in _FORMATS for s in f.suffixes)
    raise UsageError(f"cannot write {text!r}: pictures are written as one of {names}; choose one of these")


def check_writable_size(format: str, width: int, height: int) -> None:
    """Raise UsageError, naming formats that will do, where a file of `format` cannot hold width x height pixels."""
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
