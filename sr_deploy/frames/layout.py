"""Layouts of raw frames in memory: planes, channel order and depth, under the names that FFmpeg gives them.

This module computes shapes and makes views. Arithmetic on pixels is in `sr_deploy.frames.colour`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import AnyArray, Uint8Array

Plane = AnyArray
"""One plane: uint8 or uint16 [rows, columns], or [rows, columns, channels] if channels are interleaved."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of a raw frame. Values of more than 8 bits are stored in 16-bit words."""

    name: str
    kind: Literal["rgb", "grey", "yuv"]
    order: str = "rgb"
    """Order of the channels of interleaved RGB, one letter for each channel."""
    depth: int = 8
    """Number of bits that carry the value."""
    shift: int = 0
    """Number of bits by which the value is shifted left in its word (P010 keeps 10 bits at the top of 16).
    """
    across: int = 1
    """Number of luma columns for one chroma sample."""
    down: int = 1
    """Number of luma rows for one chroma sample."""
    paired: bool = False
    """True if U and V are interleaved in one plane, sample by sample."""
    planar: bool = False
    """True if RGB has a plane for each channel, in the order of `order`."""
    floating: bool = False
    """True if the values are float32 from 0 to 1. `depth` is then 32."""
    big_endian: bool = False
    """True if the high byte of a word comes first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of one word."""
        if self.floating:
            return np.dtype(np.float32)
        return np.dtype(np.uint8) if self.depth <= 8 else np.dtype(">u2" if self.big_endian else "<u2")

    @property
    def has_alpha(self) -> bool:
        """True if one channel is opacity."""
        return "a" in self.order

    def shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        """Return the shapes of the planes of a frame, in the order they follow each other in memory.

        Chroma of an odd width or height is rounded up, as FFmpeg does it.
        """
        if self.planar:
            return [(height, width)] * len(self.order)
        if self.kind == "rgb":
            return [(height, width, len(self.order))]
        if self.kind == "grey":
            return [(height, width)]
        small = (-(-height // self.down), -(-width // self.across))
        return [(height, width), (*small, 2)] if self.paired else [(height, width), small, small]

    def frame_bytes(self, height: int, width: int) -> int:
        """Return the number of bytes of one frame whose rows have no padding."""
        return sum(math.prod(shape) for shape in self.shapes(height, width)) * self.dtype.itemsize

    def planes(self, data: Uint8Array, height: int, width: int) -> list[Plane]:
        """Return views of the planes in `data`, the bytes of one frame. Nothing is copied."""
        views, start = [], 0
        for shape in self.shapes(height, width):
            stop = start + math.prod(shape) * self.dtype.itemsize
            views.append(data[start:stop].view(self.dtype).reshape(shape))
            start = stop
        return views


def _planar(name: str, across: int, down: int) -> list[Layout]:
    """Return the planar YUV layouts of one chroma subsampling, for 8, 10, 12 and 16 bits."""
    chroma: dict[str, Any] = {"kind": "yuv", "across": across, "down": down}
    return [
        Layout(name=name, **chroma),
        *(Layout(name=f"{name}{depth}le", depth=depth, **chroma) for depth in (10, 12, 16)),
    ]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(name="rgb24", kind="rgb"),
        Layout(name="bgr24", kind="rgb", order="bgr"),
        Layout(name="gray8", kind="grey"),
        Layout(name="rgba", kind="rgb", order="rgba"),
        Layout(name="bgra", kind="rgb", order="bgra"),
        Layout(name="rgb48le", kind="rgb", depth=16),
        Layout(name="gray10le", kind="grey", depth=10),
        Layout(name="gray12le", kind="grey", depth=12),
        Layout(name="gray16le", kind="grey", depth=16),
        *_planar("yuv420p", 2, 2),
        *_planar("yuv422p", 2, 1),
        *_planar("yuv444p", 1, 1),
        Layout(name="nv12", kind="yuv", across=2, down=2, paired=True),
        Layout(name="p010le", kind="yuv", across=2, down=2, paired=True, depth=10, shift=6),
    )
}
"""Supported layouts by name. Their order is the order in which error messages list them."""
_ALIASES = {"gray": "gray8"}
"""Names that FFmpeg uses for a layout which has another name here."""


def _rarer() -> dict[str, Layout]:
    """Return the layouts that are supported but not listed in messages, by name."""
    low, high = (8,), (9, 10, 12, 14, 16)
    made = [
        Layout(name=f"yuv{chroma}p{_suffix(depth)}", kind="yuv", depth=depth, across=across, down=down)
        for chroma, across, down in (("420", 2, 2), ("422", 2, 1), ("444", 1, 1), ("440", 1, 2))
        for depth in low + high
    ]
    made += [
        Layout(name=f"gbrp{_suffix(n)}", kind="rgb", order="gbr", depth=n, planar=True) for n in low + high
    ]
    made += [Layout(name=f"gray{n}le", kind="grey", depth=n) for n in high]
    made += [
        Layout(name=name, kind="yuv", across=across, down=down, paired=True)
        for name, across, down in (("nv16", 2, 1), ("nv24", 1, 1))
    ]
    made += [
        Layout(
            name=f"p{chroma}{bits}le", kind="yuv", depth=bits, shift=16 - bits, across=x, down=y, paired=True
        )
        for chroma, x, y in (("0", 2, 2), ("2", 2, 1), ("4", 1, 1))
        for bits in (10, 12, 16)
    ]
    made += [Layout(name=f"{order[:3]}0", kind="rgb", order=order) for order in ("bgrx", "rgbx")]
    made += [Layout(name=order, kind="rgb", order=order) for order in ("argb", "abgr")]
    made += [Layout(name=f"{order}64le", kind="rgb", order=order, depth=16) for order in ("rgba", "bgra")]
    made += [Layout(name="bgr48le", kind="rgb", order="bgr", depth=16)]
    found = LAYOUTS | {layout.name: layout for layout in made if layout.name not in LAYOUTS}
    swapped = [
        replace(layout, name=f"{name[:-2]}be", big_endian=True)
        for name, layout in found.items()
        if layout.depth > 8
    ]
    return found | {layout.name: layout for layout in swapped}


def _suffix(depth: int) -> str:
    """Return the end of FFmpeg's name of a planar format."""
    return "" if depth == 8 else f"{depth}le"


ALL_LAYOUTS = _rarer()
"""All supported layouts by name, with those too rare for error messages."""


def layout_of(name: str) -> Layout:
    """Return the layout with a name of FFmpeg's `-pix_fmt`. Raises UsageError for an unknown name."""
    found = ALL_LAYOUTS.get(_ALIASES.get(name, name))
    if found is not None:
        return found
    near = get_close_matches(name, LAYOUTS, n=1) or get_close_matches(name, ALL_LAYOUTS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"unknown frame format {name!r}; {hint}choose one of {', '.join(LAYOUTS)}")
