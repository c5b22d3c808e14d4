"""How a raw frame lies in memory: planes, order, depth, under the names ffmpeg gives them.

Geometry and views only, no arithmetic on pixels: that is `sr_deploy.frames.colour`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError

Plane = npt.NDArray[Any]
"""uint8 or uint16 [rows, columns], or [rows, columns, channels] where channels are interleaved."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A raw frame's layout. Words of more than 8 bits are little-endian."""

    name: str
    kind: Literal["rgb", "grey", "yuv"]
    order: str = "rgb"
    """Of interleaved RGB: a letter a channel."""
    depth: int = 8
    """Bits that carry the value."""
    shift: int = 0
    """Bits the value is moved up in its word."""
    across: int = 1
    """Luma columns a chroma sample stands for."""
    down: int = 1
    """Luma rows a chroma sample stands for."""
    paired: bool = False
    """U and V are one plane, sample by sample."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one word."""
        return np.dtype(np.uint8) if self.depth <= 8 else np.dtype("<u2")

    @property
    def has_alpha(self) -> bool:
        """Whether one channel is opacity."""
        return "a" in self.order

    def shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        """Of the planes of a frame, in the order they follow each other. Odd sizes round chroma up."""
        if self.kind == "rgb":
            return [(height, width, len(self.order))]
        if self.kind == "grey":
            return [(height, width)]
        small = (-(-height // self.down), -(-width // self.across))
        return [(height, width), (*small, 2)] if self.paired else [(height, width), small, small]

    def frame_bytes(self, height: int, width: int) -> int:
        """Bytes of one frame."""
        return sum(math.prod(shape) for shape in self.shapes(height, width)) * self.dtype.itemsize

    def planes(self, data: npt.NDArray[np.uint8], height: int, width: int) -> list[Plane]:
        """Views of the planes in `data`, the bytes of one frame."""
        views, start = [], 0
        for shape in self.shapes(height, width):
            stop = start + math.prod(shape) * self.dtype.itemsize
            views.append(data[start:stop].view(self.dtype).reshape(shape))
            start = stop
        return views


def _planar(name: str, across: int, down: int) -> list[Layout]:
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
_ALIASES = {"gray": "gray8"}


def layout_of(name: str) -> Layout:
    """The layout of a name as ffmpeg's `-pix_fmt` has it. Raises UsageError for one that is not known."""
    found = LAYOUTS.get(_ALIASES.get(name, name))
    if found is not None:
        return found
    near = get_close_matches(name, LAYOUTS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"there is no frame format {name!r}; {hint}choose one of {', '.join(LAYOUTS)}")
