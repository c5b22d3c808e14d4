"""Convert PyAV's frames to planes of a known layout and back, and interpret their colour tags."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_deploy.errors import InputError
from sr_deploy.frames.colour import MATRICES, MATRIX_NUMBERS, UNCONVERTED, Colours, usual_matrix
from sr_deploy.frames.convert import (
    FramePixels,
    narrowed,
    pack,
    to_depth,
    top_of,
    unit_values,
    unpack,
    widened,
)
from sr_deploy.frames.layout import ALL_LAYOUTS, Layout, Plane
from sr_deploy.system.arrays import AnyArray
from sr_deploy.video.pyav import Frame, pyav

if TYPE_CHECKING:
    from sr_deploy.video.source import VideoInfo

FULL, LIMITED = 2, 1
"""Ranges as FFmpeg numbers them."""
RGB_SPACE = 0
"""ITU-T H.273 number of the matrix of RGB (identity)."""
_FULL_RANGE = {f"yuvj{chroma}p": f"yuv{chroma}p" for chroma in ("420", "422", "444", "440")}
"""Old pixel formats of FFmpeg that imply full range, with the format of the same layout."""
_CONVERTED = {
    "yuv410p": "yuv420p",
    "yuv411p": "yuv422p",
    "yuvj411p": "yuv422p",
    "uyyvyy411": "yuv422p",
    "nv21": "nv12",
    "nv42": "nv24",
    "nv20le": "yuv422p10le",
    "ya8": "gray8",
    "monow": "gray8",
    "monob": "gray8",
    "ya16le": "gray16le",
    "ya16be": "gray16le",
    "grayf32le": "gray16le",
    "xyz12le": "rgb48le",
    "x2rgb10le": "gbrp10le",
    "x2bgr10le": "gbrp10le",
}
"""Formats that libswscale converts to a supported one, losing at most opacity. 4:1:0 and 4:1:1 get more chroma
samples, since only every second column or row is handled here."""


_PACKED_ALPHA = {"rgba", "bgra", "argb", "abgr", "rgba64le", "rgba64be", "bgra64le", "bgra64be"}
"""Formats that store opacity beside the colours of each pixel."""


@lru_cache
def layout_for(pixel_format: str) -> Layout:
    """Return the layout in which frames of an FFmpeg pixel format are processed: its own, or the nearest
    that holds them.

    YUV stays YUV with its chroma and depth, since libswscale converts to RGB with a matrix of its own choice.
    Unknown formats become 8- or 16-bit RGB by their depth.
    """
    opaque = pixel_format.replace("yuva", "yuv").replace("gbrap", "gbrp")
    name = _CONVERTED.get(pixel_format, _FULL_RANGE.get(opaque, "gray8" if opaque == "gray" else opaque))
    found = ALL_LAYOUTS.get(name)
    if found is not None and not found.has_alpha and found.order != "rgbx":
        return found
    format = pyav().VideoFormat(pixel_format, 64, 64)
    depth = max((part.bits for part in format.components), default=8)
    parts = format.components
    if not format.is_rgb and not format.has_palette and len(parts) >= 3 and depth <= 16:
        chroma = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}.get(
            (64 // parts[1].width, 64 // parts[1].height)
        )
        if chroma is not None:  # packed, or with chroma in another order
            deep = next(bits for bits in (8, 10, 12, 16) if bits >= depth)
            return ALL_LAYOUTS[f"yuv{chroma}p" + ("" if deep == 8 else f"{deep}le")]
    return ALL_LAYOUTS["rgb24" if depth <= 8 else "rgb48le"]


def alpha_format(pixel_format: str, takes: list[str]) -> str | None:
    """Return the pixel format of `takes` that adds opacity to `pixel_format`; None if there is none."""
    packed = {"bgr0": ["bgra", "rgba"], "rgb24": ["rgba", "argb", "bgra"], "rgb48le": ["rgba64le"]}
    planar = [pixel_format.replace("yuv", "yuva").replace("gbrp", "gbrap"), "yuva444p10le"]
    return next(
        (name for name in packed.get(pixel_format, planar) if name in takes and has_alpha(name)), None
    )


def has_alpha(pixel_format: str) -> bool:
    """Return whether the frames of a pixel format have opacity that can be read and written here."""
    opaque = pixel_format.replace("yuva", "yuv").replace("gbrap", "gbrp")
    # gbrapf32le and the like have no layout here: their opacity would be read as words of 16 bits
    return (opaque != pixel_format and opaque in ALL_LAYOUTS) or pixel_format in _PACKED_ALPHA


def frame_layout(pixel_format: str) -> Layout:
    """Return the layout in which frames of `pixel_format` are made: with opacity if it is packed with the colours."""
    return ALL_LAYOUTS[pixel_format] if pixel_format in _PACKED_ALPHA else layout_for(pixel_format)


def can_write(pixel_format: str) -> bool:
    """Return whether frames of a pixel format can be made: it has a layout of its own, without opacity."""
    return pixel_format == "gray" or layout_for(pixel_format).name == pixel_format


def colours_of(facts: VideoInfo) -> Colours:
    """Return the meaning of the values in a video's frames. Missing tags are replaced by what players
    assume. Raises InputError for a matrix that is not converted."""
    if facts.space in UNCONVERTED and layout_for(facts.pixel_format).kind == "yuv":
        raise InputError(
            f"{facts.path}: its colours are stored as {UNCONVERTED[facts.space]}, which is not converted; convert it to "
            "BT.709 or BT.2020 first, for example with ffmpeg's zscale"
        )
    full = facts.range == FULL or facts.pixel_format in _FULL_RANGE
    matrix = MATRICES.get(facts.space) or usual_matrix(facts.height, facts.width)
    return Colours(matrix=matrix, range="full" if full else "limited", siting=facts.siting or "left")


def space_of(colours: Colours) -> int:
    """Return the ITU-T H.273 number of the matrix."""
    return MATRIX_NUMBERS[colours.matrix]


def to_picture(frame: Frame, layout: Layout, colours: Colours, *, alpha: bool = False) -> FramePixels:
    """Convert a decoded frame to pixels for a model, with its opacity if `alpha`."""
    if alpha:
        return FramePixels(to_picture(frame, layout, colours).pixels, _alpha_of(frame, layout))
    wanted = "gray" if layout.name == "gray8" else layout.name
    name = frame.format.name
    own = _FULL_RANGE.get(name, name.replace("yuva", "yuv").replace("gbrap", "gbrp"))
    if own != wanted:
        frame = frame.reformat(format=wanted)
    picture = unpack(_planes(frame, layout), layout, colours)
    if layout.kind == "grey" and colours.range == "limited":
        return FramePixels(widened(picture.pixels, layout.depth))
    # Without a copy, the pixels could be a view of memory that FFmpeg owns and uses again.
    return FramePixels(np.ascontiguousarray(picture.pixels))


def _alpha_of(frame: Frame, layout: Layout) -> AnyArray:
    """Return the opacity of a frame [H, W], in the type of the pixels that its layout gives."""
    own = ALL_LAYOUTS.get(frame.format.name)
    if own is not None and own.has_alpha:
        (plane,) = _planes(frame, own)
        return np.ascontiguousarray(unit_values(plane[:, :, own.order.index("a")], own))
    values = unit_values(_view(frame.planes[3], (frame.height, frame.width), layout), layout)
    if layout.kind == "yuv" and layout.depth == 16:  # deep YUV becomes float
        values = values.astype(np.float32) / np.float32(65535)
    return np.ascontiguousarray(values)


def cropped(picture: FramePixels, crop: tuple[int, int, int, int]) -> FramePixels:
    """Return the pixels without the rows and columns that the container cuts off: top, bottom, left, right."""
    if not any(crop):
        return picture
    top, bottom, left, right = crop
    height, width = picture.pixels.shape[:2]
    rows, columns = slice(top, height - bottom), slice(left, width - right)
    alpha = None if picture.alpha is None else np.ascontiguousarray(picture.alpha[rows, columns])
    return FramePixels(np.ascontiguousarray(picture.pixels[rows, columns]), alpha)


def to_frame(
    picture: FramePixels, layout: Layout, pixel_format: str, colours: Colours, captioned: Frame | None = None
) -> Frame:
    """Convert pixels to a frame of `pixel_format`, whose layout is `layout`.

    If `captioned` has closed captions, the frame gets its side data. PyAV 18.1 copies side data only when it
    scales a frame, whose pixels are then replaced.
    """
    height, width = picture.pixels.shape[:2]
    if captioned is not None and any(one.type.name == "A53_CC" for one in captioned.side_data):
        frame: Frame = captioned.reformat(width, height, pixel_format, interpolation="POINT")
        frame.pict_type = 0  # the encoder chooses the kind of picture
    else:
        frame = pyav().VideoFrame(width, height, pixel_format)
    planes = pack(picture, layout, colours)
    if layout.kind == "grey" and colours.range == "limited":
        planes = [narrowed(plane, layout.depth) for plane in planes]
    for target, plane in zip(_planes(frame, layout), planes, strict=True):
        target[...] = plane
    if pixel_format.startswith(("yuva", "gbrap")):
        alpha = top_of(layout) if picture.alpha is None else to_depth(picture.alpha, layout)
        _view(frame.planes[3], (height, width), layout)[...] = alpha
    return frame


def _planes(frame: Frame, layout: Layout) -> list[Plane]:
    """Return views of a frame's planes, without the padding at the end of rows."""
    shapes = layout.shapes(frame.height, frame.width)
    # A plane of opacity may follow.
    return [_view(plane, shape, layout) for plane, shape in zip(frame.planes, shapes, strict=False)]


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
