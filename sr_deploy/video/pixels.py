"""Convert PyAV's frames to planes of a known layout and back, and interpret their colour tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sr_deploy.frames.colour import Colours, Matrix, usual_matrix
from sr_deploy.frames.convert import FramePixels, pack, unpack
from sr_deploy.frames.layout import LAYOUTS, Layout, Plane
from sr_deploy.video.pyav import Frame, pyav

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

FULL, LIMITED = 2, 1
"""Ranges as FFmpeg numbers them."""
RGB_SPACE = 0
"""ITU-T H.273 number of the matrix of RGB (identity)."""
_MATRICES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
"""Matrix for each ITU-T H.273 number. 5 and 6 are BT.601; 10 is constant luminance, for which 9 is the
nearest."""
_SPACES: dict[Matrix, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
"""ITU-T H.273 number of each matrix. 6 (SMPTE 170M) stands for BT.601."""
_FULL_RANGE = {f"yuvj{chroma}p": f"yuv{chroma}p" for chroma in ("420", "422", "444")}
"""Old pixel formats of FFmpeg that imply full range, with the format of the same layout."""
_CONVERTED = {
    "yuv410p": "yuv420p",
    "yuv411p": "yuv422p",
    "yuvj411p": "yuv422p",
    "yuv440p": "yuv444p",
    "yuvj440p": "yuv444p",
    "yuva420p": "yuv420p",
    "yuva422p": "yuv422p",
    "yuva444p": "yuv444p",
    "yuva420p10le": "yuv420p10le",
    "yuva422p10le": "yuv422p10le",
    "yuva444p10le": "yuv444p10le",
    "yuva444p12le": "yuv444p12le",
    "nv16": "yuv422p",
    "nv21": "nv12",
    "gray": "gray8",
    "rgb24": "rgb24",
}
"""Formats that libswscale converts to a supported one, losing at most opacity."""


def layout_for(pixel_format: str) -> Layout:
    """Return the layout in which frames of an FFmpeg pixel format are processed: its own, or the nearest
    that holds them.

    Unknown formats become 8- or 16-bit RGB by their depth.
    """
    name = _CONVERTED.get(pixel_format, _FULL_RANGE.get(pixel_format, pixel_format))
    if name in LAYOUTS:
        return LAYOUTS[name]
    depth = max((part.bits for part in pyav().VideoFormat(pixel_format).components), default=8)
    return LAYOUTS["rgb24" if depth <= 8 else "rgb48le"]


def colours_of(facts: VideoInfo) -> Colours:
    """Return the meaning of the values in a video's frames. Missing tags are replaced by what players
    assume."""
    full = facts.range == FULL or facts.pixel_format in _FULL_RANGE
    matrix = _MATRICES.get(facts.space) or usual_matrix(facts.height, facts.width)
    return Colours(matrix=matrix, range="full" if full else "limited", siting="left")


def space_of(colours: Colours) -> int:
    """Return the ITU-T H.273 number of the matrix."""
    return _SPACES[colours.matrix]


def to_picture(frame: Frame, layout: Layout, colours: Colours) -> FramePixels:
    """Convert a decoded frame to pixels for a model."""
    wanted = "gray" if layout.name == "gray8" else layout.name
    if frame.format.name not in (wanted, f"yuvj{layout.name[3:]}"):
        frame = frame.reformat(format=wanted)
    picture = unpack(_planes(frame, layout), layout, colours)
    # Without a copy, the pixels could be a view of memory that FFmpeg owns and uses again.
    return FramePixels(np.ascontiguousarray(picture.pixels))


def cropped(picture: FramePixels, crop: tuple[int, int, int, int]) -> FramePixels:
    """Return the pixels without the rows and columns that the container cuts off: top, bottom, left, right."""
    if not any(crop):
        return picture
    top, bottom, left, right = crop
    height, width = picture.pixels.shape[:2]
    return FramePixels(np.ascontiguousarray(picture.pixels[top : height - bottom, left : width - right]))


def to_frame(picture: FramePixels, layout: Layout, pixel_format: str, colours: Colours) -> Frame:
    """Convert pixels to a frame of `pixel_format`, whose layout is `layout`."""
    height, width = picture.pixels.shape[:2]
    frame: Frame = pyav().VideoFrame(width, height, pixel_format)
    for target, plane in zip(_planes(frame, layout), pack(picture, layout, colours), strict=True):
        target[...] = plane
    return frame


def _planes(frame: Frame, layout: Layout) -> list[Plane]:
    """Return views of a frame's planes, without the padding at the end of rows."""
    shapes = layout.shapes(frame.height, frame.width)
    return [_view(plane, shape, layout) for plane, shape in zip(frame.planes, shapes, strict=True)]


def _view(plane: Any, shape: tuple[int, ...], layout: Layout) -> Plane:
    """Return a view of one plane. FFmpeg pads rows to `line_size` bytes. Raises ValueError if the plane is
    too small."""
    words = np.frombuffer(plane, layout.dtype)
    row = plane.line_size // layout.dtype.itemsize
    across = int(np.prod(shape[1:]))
    strides = (plane.line_size, layout.dtype.itemsize)
    flat = np.lib.stride_tricks.as_strided(words, (shape[0], across), strides)
    if words.size < row * (shape[0] - 1) + across:
        raise ValueError("a frame's plane is smaller than its size says")
    return flat.reshape(shape) if len(shape) == 2 else _paired(flat, shape)


def _paired(flat: Plane, shape: tuple[int, ...]) -> Plane:
    """Return rows of interleaved samples as [rows, columns, channels], without a copy."""
    inner = (*flat.strides[:1], flat.itemsize * shape[2], flat.itemsize)
    return np.lib.stride_tricks.as_strided(flat, shape, inner)
