"""Headers of YUV4MPEG2 (y4m) streams and frames, as mjpegtools defines the format and FFmpeg extends it.

This module handles text only. `layout` describes the bytes between the headers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.colour import Range, Siting
from sr_deploy.frames.layout import ALL_LAYOUTS, Layout

MAGIC = b"YUV4MPEG2"
"""First word of every y4m stream."""
LONGEST_LINE = 4096
"""Most bytes read for a header. Real headers have fewer than 200."""

_DEPTHS = (9, 10, 12, 14, 16)
"""Depths of YUV above 8 bits. FFmpeg 5.1 writes those other than 10 only with -strict -1, and has no mono14."""
_LAYOUT_BY_CHROMA: dict[str, tuple[str, Siting | None]] = {
    "420": ("yuv420p", "center"),
    "420jpeg": ("yuv420p", "center"),
    "420mpeg2": ("yuv420p", "left"),
    "420paldv": ("yuv420p", "topleft"),
    "422": ("yuv422p", None),
    "444": ("yuv444p", None),
    **{
        f"{chroma}p{depth}": (f"yuv{chroma}p{depth}le", None)
        for chroma in ("420", "422", "444")
        for depth in _DEPTHS
    },
    "mono": ("gray8", None),
    **{f"mono{depth}": (f"gray{depth}le", None) for depth in _DEPTHS if depth != 14},
}
"""Layout for each value of parameter C, and the position of the chroma samples if the value tells it."""
_CHROMA_BY_SITING: dict[Siting, str] = {"center": "420jpeg", "left": "420mpeg2", "topleft": "420paldv"}
"""Value of parameter C for 8-bit 4:2:0. Only for this layout does the value tell the position of chroma."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """Contents of the first line of a stream."""

    width: int
    height: int
    layout: Layout
    siting: Siting | None = None
    """Position of the chroma samples; None: the header does not say."""
    range: Range | None = None
    """Range of the values, from FFmpeg's parameter XCOLORRANGE; None: the header does not say."""
    rate: str = "25:1"
    """Frames per second as a ratio; 0:0 means unknown."""
    interlacing: str = "p"
    """"p": progressive, "?": unknown; any other letter means interlaced."""
    aspect: str = "0:0"
    """Ratio of width to height of a pixel; 0:0 means unknown."""
    extra: tuple[str, ...] = field(default=())
    """Other X parameters, passed on unchanged."""

    def to_line(self) -> bytes:
        """Return the header as ASCII bytes, with the newline at its end. Raises UsageError for a layout y4m
        cannot name."""
        words = [
            MAGIC.decode("ascii"),
            f"W{self.width}",
            f"H{self.height}",
            f"F{self.rate}",
            f"I{self.interlacing}",
            f"A{self.aspect}",
            f"C{_chroma_name(self.layout, self.siting)}",
            *self.extra,
        ]
        if self.range is not None:
            words.append(f"XCOLORRANGE={self.range.upper()}")
        return (" ".join(words) + "\n").encode("ascii")


def parse_header(line: bytes) -> Header:
    """Parse the first line of a stream. Raises InputError that names the part that cannot be used.

    XYSCSS is dropped: FFmpeg writes it as a copy of C, which would contradict a changed C. A missing C
    means 4:2:0, as mjpegtools defines it.
    """
    words = line.decode("ascii", "replace").split()
    if not words or words[0] != MAGIC.decode("ascii"):
        raise InputError(
            f"the stream begins with {line[:16]!r} instead of YUV4MPEG2; name its format with --format"
        )
    given = {word[0]: word[1:] for word in words[1:] if word[0] != "X"}
    extras = [word for word in words[1:] if word[0] == "X"]
    name, siting = _LAYOUT_BY_CHROMA.get(given.get("C", "420"), (None, None))
    if name is None:
        raise InputError(
            f"the stream has the unknown chroma format C{given['C']}; convert it, for example with ffmpeg's -pix_fmt yuv420p"
        )
    ranges: dict[str, Range] = {"XCOLORRANGE=FULL": "full", "XCOLORRANGE=LIMITED": "limited"}
    return Header(
        width=_number(given, "W"),
        height=_number(given, "H"),
        layout=ALL_LAYOUTS[name],
        siting=siting,
        range=next((ranges[word] for word in extras if word in ranges), None),
        rate=given.get("F", "25:1"),
        interlacing=given.get("I", "p"),
        aspect=given.get("A", "0:0"),
        extra=tuple(word for word in extras if not word.startswith(("XCOLORRANGE=", "XYSCSS="))),
    )


def can_hold(layout: Layout) -> bool:
    """Return whether y4m has a name for `layout`."""
    return any(layout.name == name for name, _ in _LAYOUT_BY_CHROMA.values())


def _chroma_name(layout: Layout, siting: Siting | None) -> str:
    """Return the value of parameter C. Raises UsageError if there is none."""
    if layout.name == "yuv420p":
        return _CHROMA_BY_SITING[siting or "left"]
    for chroma, (name, _) in _LAYOUT_BY_CHROMA.items():
        if name == layout.name:
            return chroma
    known = ", ".join(sorted({name for name, _ in _LAYOUT_BY_CHROMA.values()}))
    raise UsageError(f"y4m cannot hold {layout.name}; choose one of {known}")


def _number(given: dict[str, str], letter: str) -> int:
    text = given.get(letter, "")
    if not (text.isdecimal() and len(text) < 7 and int(text) > 0):
        raise InputError(
            f"the stream's header has {letter}{text!r}, expected a size in pixels; make the stream again"
        )
    return int(text)
