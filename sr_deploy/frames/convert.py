"""Raw frames to the pixels an Upscaler takes, and its results to raw frames. Formats are `layout`'s, colours `colour`'s."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.frames.colour import Colours, from_rgb, to_rgb
from sr_deploy.frames.layout import Layout, Plane

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class FramePixels:
    """One frame as a net takes it."""

    pixels: Pixels
    """[H, W, 3] RGB or [H, W, 1] grey; uint8, uint16, or float32 in 0..1."""
    alpha: Pixels | None = None
    """[H, W] of the same type."""


def unpack(planes: list[Plane], layout: Layout, colours: Colours) -> FramePixels:
    """The planes of a frame as pixels; where the layout is the pixels' own, without a copy.

    RGB and 16-bit grey keep their type. YUV and grey of 10 and 12 bits become float32: no 8- or 16-bit RGB
    holds them without a second rounding.
    """
    if layout.kind == "yuv":
        return FramePixels(to_rgb(planes, layout, colours))
    (plane,) = planes
    if layout.kind == "grey":
        return FramePixels(_grey_values(plane, layout)[:, :, None])
    if layout.order == "rgb":
        return FramePixels(plane)
    colour = np.ascontiguousarray(plane[:, :, [layout.order.index(c) for c in "rgb"]])
    return FramePixels(colour, np.ascontiguousarray(plane[:, :, 3]) if layout.has_alpha else None)


def pack(picture: FramePixels, layout: Layout, colours: Colours) -> list[Plane]:
    """Pixels as the planes of a frame, each C-contiguous; rounded to nearest. Opacity without a place is dropped.

    A grey picture becomes grey RGB or YUV; a colour picture becomes the luma of `colours.matrix` in a grey frame.
    """
    if layout.kind == "yuv":
        return from_rgb(_three_channels(picture.pixels), layout, colours)
    if layout.kind == "grey":
        return [_grey_plane(picture.pixels, layout, colours)]
    pixels = _to_depth(_three_channels(picture.pixels), layout)
    if layout.order == "rgb":
        return [np.ascontiguousarray(pixels)]
    result = np.empty((*pixels.shape[:2], len(layout.order)), layout.dtype)
    for i, channel in enumerate("rgb"):
        result[:, :, layout.order.index(channel)] = pixels[:, :, i]
    if layout.has_alpha:
        opaque = np.asarray(255 if layout.depth == 8 else 65535, layout.dtype)
        result[:, :, 3] = opaque if picture.alpha is None else _to_depth(picture.alpha, layout)
    return [result]


def _three_channels(pixels: Pixels) -> Pixels:
    return pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)


def _grey_values(plane: Plane, layout: Layout) -> Pixels:
    if layout.depth in (8, 16):
        return plane
    top = np.float32((1 << layout.depth) - 1)
    grey: Pixels = np.minimum(plane.astype(np.float32) / top, np.float32(1))
    return grey


def _grey_plane(pixels: Pixels, layout: Layout, colours: Colours) -> Plane:
    if pixels.shape[2] == 3:
        luma = Layout(name="luma", kind="yuv", depth=layout.depth)
        full = Colours(matrix=colours.matrix, range="full")
        return from_rgb(pixels, luma, full)[0]
    return np.ascontiguousarray(_to_depth(pixels[:, :, 0], layout))


def _to_depth(pixels: Pixels, layout: Layout) -> Pixels:
    """Full-range values in `layout.depth` bits."""
    top = (1 << layout.depth) - 1
    white = {"u1": 255, "u2": 65535}.get(pixels.dtype.str[1:], 1)
    if white == top:
        return pixels
    rounded: Pixels = np.rint(pixels.astype(np.float32) * np.float32(top / white)).astype(layout.dtype)
    return rounded
