"""View the caller's video frames as planes and upscale them as `sr-deploy pipe` does.

8-bit and 16-bit RGB and grey take the path of `sr_deploy.capi.buffers`, which reads and writes in place where
it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sr_deploy.capi.buffers import shares_memory, upscale_buffer
from sr_deploy.errors import UsageError
from sr_deploy.frames.colour import MATRICES, UNCONVERTED, Colours, Matrix, Range, Siting, usual_matrix
from sr_deploy.frames.convert import FramePixels, narrowed, pack, unpack, widened
from sr_deploy.frames.layout import Layout, Plane, layout_of
from sr_deploy.frames.pipe import upscale_picture
from sr_deploy.upscale import Upscaler

_UNKNOWN_MATRICES = (0, 2)
"""Numbers of ITU-T H.273 that name no YUV matrix: identity (RGB) and unspecified."""
_RANGES: tuple[Range | None, ...] = (None, "limited", "full")
"""Range for each number of sr_deploy.h; None: the usual one."""
_SITINGS: tuple[Siting, ...] = ("left", "center", "topleft")
"""Position of chroma for each number of sr_deploy.h."""
_PACKED = {"rgb": 0, "bgr": 1, "rgba": 3, "bgra": 4}
"""Layout of `sr_image` for each order of interleaved channels."""
_GREY = 2
"""Layout of `sr_image` for grey."""


class CFrame(NamedTuple):
    """Fields of `sr_frame`, in the order in which sr_deploy.c passes them."""

    format: str
    """Name of the layout, as FFmpeg's `-pix_fmt` takes it."""
    width: int
    height: int
    matrix: int
    """Number of the matrix in ITU-T H.273."""
    range: int
    """Index in `_RANGES`."""
    siting: int
    """Index in `_SITINGS`."""
    planes: Sequence[tuple[memoryview, int]]
    """Memory and stride in bytes of each plane."""


def upscale_video_frame(upscaler: Upscaler, small: CFrame, large: CFrame) -> None:
    """Upscale `small` into `large`, whose size has been checked.

    Raises UsageError for an unknown format or colour, planes that are too small, or memory that both share.
    """
    layout = layout_of(small.format)
    if large.format != small.format:
        raise UsageError(
            f"the output is {large.format}, but its input is {small.format}; give both the same format"
        )
    colours = _colours(small, layout)
    sources, targets = _views(small, layout, "input"), _views(large, layout, "output")
    if any(shares_memory(source, target) for source in sources for target in targets):
        raise UsageError("input and output share memory; give the output memory of its own")
    number = _GREY if layout.kind == "grey" else _PACKED.get(layout.order)
    limited_grey = layout.kind == "grey" and colours.range == "limited"
    if layout.kind != "yuv" and number is not None and _is_plain(layout) and not limited_grey:
        source, target = (plane.reshape(_pixels_shape(plane)) for plane in (sources[0], targets[0]))
        upscale_buffer(upscaler, source, target, number)
        return
    picture = unpack(sources, layout, colours)
    if limited_grey:
        picture = FramePixels(widened(picture.pixels, layout.depth))
    planes = pack(upscale_picture(upscaler, picture), layout, colours)
    if limited_grey:
        planes = [narrowed(plane, layout.depth) for plane in planes]
    for target, plane in zip(targets, planes, strict=True):
        target[...] = plane


def _is_plain(layout: Layout) -> bool:
    """Return whether the words of a layout are those of the machine, with all their bits in use."""
    return layout.depth in (8, 16) and not layout.planar and layout.dtype.isnative


def _pixels_shape(plane: Plane) -> tuple[int, int, int]:
    """Return the shape [H, W, C] for a plane of grey [H, W] or of interleaved channels."""
    return plane.shape[0], plane.shape[1], plane.shape[2] if plane.ndim == 3 else 1


def _colours(frame: CFrame, layout: Layout) -> Colours:
    """Return the meaning of a frame's values. Raises UsageError for numbers that are unknown or not converted."""
    for name, value, names in (("range", frame.range, _RANGES), ("siting", frame.siting, _SITINGS)):
        if not 0 <= value < len(names):
            raise UsageError(f"unknown {name} {value}, expected 0..{len(names) - 1}; see sr_deploy.h")
    range = _RANGES[frame.range] or ("limited" if layout.kind == "yuv" else "full")
    if layout.kind == "rgb" and range == "limited":
        raise UsageError(f"{frame.format} of limited range is not converted; convert it to full range first")
    return Colours(matrix=_matrix(frame, layout), range=range, siting=_SITINGS[frame.siting])


def _matrix(frame: CFrame, layout: Layout) -> Matrix:
    """Return the matrix of a frame, by its size if the frame names none. Raises UsageError for one that is not
    converted."""
    if layout.kind != "yuv" or frame.matrix in _UNKNOWN_MATRICES:
        return usual_matrix(frame.height, frame.width)
    if frame.matrix not in MATRICES:
        name = UNCONVERTED.get(frame.matrix, f"matrix {frame.matrix} of ITU-T H.273")
        raise UsageError(f"frames in {name} are not converted; convert them to BT.709 or BT.2020 first")
    return MATRICES[frame.matrix]


def _views(frame: CFrame, layout: Layout, which: str) -> list[Plane]:
    """Return views of the planes of a frame. Raises UsageError if one is missing or too small."""
    shapes = layout.shapes(frame.height, frame.width)
    if len(frame.planes) < len(shapes):
        raise UsageError(
            f"the {which} has {len(frame.planes)} planes, but {frame.format} has {len(shapes)}; give all of them"
        )
    return [
        _view(memory, stride, shape, layout, f"plane {index} of the {which}")
        for index, ((memory, stride), shape) in enumerate(zip(frame.planes, shapes, strict=False))
    ]


def _view(memory: memoryview, stride: int, shape: tuple[int, ...], layout: Layout, name: str) -> Plane:
    """Return a view of one plane whose rows are `stride` bytes apart."""
    size = layout.dtype.itemsize
    inner = (size,) if len(shape) == 2 else (size * shape[2], size)
    row = shape[1] * inner[0]
    if stride < row or stride % size:
        raise UsageError(
            f"{name} has rows of {stride} bytes, expected a multiple of {size} of at least {row}; give its stride"
        )
    if memory.nbytes < (needed := stride * (shape[0] - 1) + row):
        raise UsageError(f"{name} has {memory.nbytes} bytes, expected at least {needed}; give its true size")
    plane: Plane = np.ndarray(shape, layout.dtype, memory, 0, (stride, *inner))
    if not plane.flags.aligned:
        raise UsageError(f"{name} does not begin at a multiple of {size} bytes; align its memory")
    return plane


__all__ = ["CFrame", "upscale_video_frame"]
