"""YUV4MPEG2 (y4m): the header of a stream and of its frames, as mjpegtools defines it and ffmpeg extends it.

Only the text is handled here; the bytes between the headers are `layout`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.colour import Range, Siting
from sr_deploy.frames.layout import LAYOUTS, Layout

MAGIC = b"YUV4MPEG2"
LONGEST_LINE = 4096
"""Bytes of a header; real ones have less than 200."""

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
        for depth in (10, 12, 16)
    },
    "mono": ("gray8", None),
    **{f"mono{depth}": (f"gray{depth}le", None) for depth in (10, 12, 16)},
}
"""What C stands for: a layout, and where chroma lies in it, where it says so."""
_CHROMA_BY_SITING: dict[Siting, str] = {"center": "420jpeg", "left": "420mpeg2", "topleft": "420paldv"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the first line of a stream says."""

    width: int
    height: int
    layout: Layout
    siting: Siting | None = None
    """None: the header does not say."""
    range: Range | None = None
    rate: str = "25:1"
    """Frames in seconds, as in the header; 0:0 is unknown."""
    interlacing: str = "p"
    aspect: str = "0:0"
    """Width to height of a pixel; 0:0 is unknown."""
    extra: tuple[str, ...] = field(default=())
    """X parameters that mean nothing here and are handed on."""

    def to_line(self) -> bytes:
        """The header, with the newline at its end."""
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
    """Read the first line of a stream. Raises InputError naming what cannot be used in it."""
    words = line.decode("ascii", "replace").split()
    if not words or words[0] != MAGIC.decode("ascii"):
        raise InputError(f"the stream begins with {line[:16]!r} and not with YUV4MPEG2; name its --format")
    given = {word[0]: word[1:] for word in words[1:] if word[0] != "X"}
    extras = [word for word in words[1:] if word[0] == "X"]
    name, siting = _LAYOUT_BY_CHROMA.get(given.get("C", "420"), (None, None))
    if name is None:
        raise InputError(
            f"the stream's chroma C{given['C']} is not known; convert it, such as with ffmpeg's -pix_fmt yuv420p"
        )
    ranges: dict[str, Range] = {"XCOLORRANGE=FULL": "full", "XCOLORRANGE=LIMITED": "limited"}
    return Header(
        width=_number(given, "W"),
        height=_number(given, "H"),
        layout=LAYOUTS[name],
        siting=siting,
        range=next((ranges[word] for word in extras if word in ranges), None),
        rate=given.get("F", "25:1"),
        interlacing=given.get("I", "p"),
        aspect=given.get("A", "0:0"),
        extra=tuple(word for word in extras if not word.startswith(("XCOLORRANGE=", "XYSCSS="))),
    )


def can_hold(layout: Layout) -> bool:
    """Whether y4m has a name for `layout`."""
    return any(layout.name == name for name, _ in _LAYOUT_BY_CHROMA.values())


def _chroma_name(layout: Layout, siting: Siting | None) -> str:
    if layout.name == "yuv420p":
        return _CHROMA_BY_SITING[siting or "left"]
    for chroma, (name, _) in _LAYOUT_BY_CHROMA.items():
        if name == layout.name:
            return chroma
    known = ", ".join(sorted({name for name, _ in _LAYOUT_BY_CHROMA.values()}))
    raise UsageError(f"y4m has no {layout.name}; choose one of {known}")


def _number(given: dict[str, str], letter: str) -> int:
    text = given.get(letter, "")
    if not (text.isdecimal() and len(text) < 7 and int(text) > 0):
        raise InputError(
            f"the stream's header has {letter}{text!r} for a size in pixels; make the stream again"
        )
    return int(text)
