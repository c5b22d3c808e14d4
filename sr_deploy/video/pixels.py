"""PyAV's frames as planes of a known layout, and back; and what their colour tags mean."""

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
"""H.273's numbers, as FFmpeg has them."""
RGB_SPACE = 0
_MATRICES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020", 10: "bt2020"}
_SPACES: dict[Matrix, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
_FULL_RANGE = {f"yuvj{chroma}p": f"yuv{chroma}p" for chroma in ("420", "422", "444")}
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
"""Formats libswscale turns into one of ours, losing at most opacity."""


def layout_for(pixel_format: str) -> Layout:
    """The layout frames of an FFmpeg pixel format are worked on in: their own, or the nearest that holds them."""
    name = _CONVERTED.get(pixel_format, _FULL_RANGE.get(pixel_format, pixel_format))
    if name in LAYOUTS:
        return LAYOUTS[name]
    depth = max((part.bits for part in pyav().VideoFormat(pixel_format).components), default=8)
    return LAYOUTS["rgb24" if depth <= 8 else "rgb48le"]


def colours_of(facts: VideoInfo) -> Colours:
    """What the numbers of its frames mean; where the file does not say, what players take them to mean."""
    full = facts.range == FULL or facts.pixel_format in _FULL_RANGE
    matrix = _MATRICES.get(facts.space) or usual_matrix(facts.height, facts.width)
    return Colours(matrix=matrix, range="full" if full else "limited", siting="left")


def space_of(colours: Colours) -> int:
    """H.273's number for the matrix."""
    return _SPACES[colours.matrix]


def to_picture(frame: Frame, layout: Layout, colours: Colours) -> FramePixels:
    """A decoded frame as pixels for a net."""
    wanted = "gray" if layout.name == "gray8" else layout.name
    if frame.format.name not in (wanted, f"yuvj{layout.name[3:]}"):
        frame = frame.reformat(format=wanted)
    picture = unpack(_planes(frame, layout), layout, colours)
    # without a copy it would be a view of memory that is FFmpeg's
    return FramePixels(np.ascontiguousarray(picture.pixels))


def to_frame(picture: FramePixels, layout: Layout, pixel_format: str, colours: Colours) -> Frame:
    """Pixels as a frame of `pixel_format`, whose layout is `layout`."""
    height, width = picture.pixels.shape[:2]
    frame: Frame = pyav().VideoFrame(width, height, pixel_format)
    for target, plane in zip(_planes(frame, layout), pack(picture, layout, colours), strict=True):
        target[...] = plane
    return frame


def _planes(frame: Frame, layout: Layout) -> list[Plane]:
    """Views of the planes, without the padding at the end of their rows."""
    shapes = layout.shapes(frame.height, frame.width)
    return [_view(plane, shape, layout) for plane, shape in zip(frame.planes, shapes, strict=True)]


def _view(plane: Any, shape: tuple[int, ...], layout: Layout) -> Plane:
    words = np.frombuffer(plane, layout.dtype)
    row = plane.line_size // layout.dtype.itemsize
    across = int(np.prod(shape[1:]))
    strides = (plane.line_size, layout.dtype.itemsize)
    flat = np.lib.stride_tricks.as_strided(words, (shape[0], across), strides)
    if words.size < row * (shape[0] - 1) + across:
        raise ValueError("a frame's plane is smaller than its size says")
    return flat.reshape(shape) if len(shape) == 2 else _paired(flat, shape)


def _paired(flat: Plane, shape: tuple[int, ...]) -> Plane:
    inner = (*flat.strides[:1], flat.itemsize * shape[2], flat.itemsize)
    return np.lib.stride_tricks.as_strided(flat, shape, inner)
