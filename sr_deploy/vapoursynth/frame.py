"""Upscale one frame of VapourSynth: its planes, its opacity and its properties."""

from __future__ import annotations

from typing import Any

import numpy as np

from sr_deploy.errors import InputError
from sr_deploy.frames.colour import MATRIX_NUMBERS, Colours
from sr_deploy.frames.convert import FramePixels, narrowed, pack, to_depth, unit_values, unpack, widened
from sr_deploy.frames.layout import Layout, Plane
from sr_deploy.frames.pipe import upscale_picture
from sr_deploy.system.arrays import AnyArray
from sr_deploy.upscale import Upscaler
from sr_deploy.vapoursynth.formats import UNSPECIFIED, check_progressive, colours_of, layout_of_format

Frame = Any
"""A `vapoursynth.VideoFrame`."""
_ALPHA = "_Alpha"
"""Property with the opacity of a frame, which is a grey frame of its own."""


def upscale_frame(frame: Frame, upscaler: Upscaler) -> Frame:
    """Return a new frame that is larger by the model's scale, in the same format and with the same properties.

    Raises InputError for a frame whose properties say that it cannot be converted, UsageError for an unsupported
    format, and the errors of `Upscaler.upscale_pixels`.
    """
    layout = layout_of_format(frame.format)
    check_progressive(frame.props)
    colours = colours_of(frame.props, layout, frame.height, frame.width)
    pixels = _pixels(frame, layout, colours)
    opacity = frame.props.get(_ALPHA)
    alpha = None if opacity is None else _opacity(opacity, frame, pixels.dtype)
    large = upscale_picture(upscaler, FramePixels(pixels, alpha))
    made = _new_frame(frame.format, large.pixels)
    _write(made, large, layout, colours)
    made.props.update(frame.props)
    if layout.kind == "yuv" and int(frame.props.get("_Matrix", UNSPECIFIED)) == UNSPECIFIED:
        # otherwise the next filter would guess by the size, which may have crossed the limit between two matrices
        made.props["_Matrix"] = MATRIX_NUMBERS[colours.matrix]
    if opacity is not None and large.alpha is not None:
        made.props[_ALPHA] = _opacity_frame(opacity.format, large.alpha)
    return made


def _planes(frame: Frame) -> list[Plane]:
    """Return views of a frame's planes. VapourSynth pads rows."""
    return [np.asarray(frame[number]) for number in range(frame.format.num_planes)]


def _new_frame(format: Any, pixels: AnyArray) -> Frame:
    """Return an unwritten frame that has the size of `pixels` [H, W, ...]."""
    import vapoursynth

    return vapoursynth.core.create_video_frame(format, pixels.shape[1], pixels.shape[0])


def _pixels(frame: Frame, layout: Layout, colours: Colours) -> AnyArray:
    """Return the pixels of a frame in full range."""
    pixels = unpack(_planes(frame), layout, colours).pixels
    return widened(pixels, layout.depth) if _is_narrow(layout, colours) else pixels


def _write(frame: Frame, picture: FramePixels, layout: Layout, colours: Colours) -> None:
    """Write pixels into the planes of a frame."""
    planes = pack(picture, layout, colours, _planes(frame))
    if _is_narrow(layout, colours):
        for plane in planes:
            plane[...] = narrowed(plane, layout.depth)


def _is_narrow(layout: Layout, colours: Colours) -> bool:
    """Return whether values of limited range are not those of YUV, whose matrix widens them."""
    return layout.kind != "yuv" and colours.range == "limited"


def _opacity(opacity: Frame, frame: Frame, dtype: np.dtype[Any]) -> AnyArray:
    """Return the opacity [H, W] of a frame in the type of its pixels. Raises InputError if it has another size."""
    if (opacity.width, opacity.height) != (frame.width, frame.height):
        raise InputError(
            f"its opacity ({_ALPHA}) has {opacity.width}x{opacity.height} pixels and its picture {frame.width}x"
            f"{frame.height}; give it opacity of its own size, or none with std.RemoveFrameProps(clip, '{_ALPHA}')"
        )
    layout = layout_of_format(opacity.format)
    values = unit_values(_planes(opacity)[0], layout)
    depth = {"u1": 8, "u2": 16}.get(dtype.str[1:])
    wanted = Layout(name="opacity", kind="grey", depth=depth or 32, floating=depth is None)
    return np.ascontiguousarray(to_depth(values, wanted))


def _opacity_frame(format: Any, alpha: AnyArray) -> Frame:
    """Return opacity [H, W] as a grey frame."""
    made = _new_frame(format, alpha)
    pack(FramePixels(alpha[:, :, None]), layout_of_format(format), Colours(range="full"), _planes(made))
    return made
