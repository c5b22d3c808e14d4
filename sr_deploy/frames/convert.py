"""Convert raw frames to the pixels an Upscaler takes, and its results back to raw frames.

`layout` describes the formats; `colour` does the arithmetic of YUV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from sr_deploy.frames.colour import Colours, from_rgb, to_rgb, white_level
from sr_deploy.frames.layout import Layout, Plane
from sr_deploy.images.opencv import cv2
from sr_deploy.system.arrays import AnyArray


@dataclass(frozen=True)
class FramePixels:
    """One frame in the form a model takes."""

    pixels: AnyArray
    """RGB [H, W, 3] or grey [H, W, 1]; uint8, uint16, or float32 in 0..1."""
    alpha: AnyArray | None = None
    """Opacity [H, W] of the same type; None: the frame is opaque."""


def unpack(planes: list[Plane], layout: Layout, colours: Colours) -> FramePixels:
    """Convert the planes of a frame to pixels, without a copy if the layout is that of the pixels.

    RGB and 16-bit grey keep their type. YUV deeper than 8 bits and grey of 10 or 12 bits become float32,
    because 8- or 16-bit RGB could not hold them without a second rounding.
    """
    if layout.kind == "yuv":
        return FramePixels(to_rgb(planes, layout, colours))
    if layout.planar:
        colours_apart = [_native(planes[layout.order.index(c)]) for c in "rgb"]
        # five to forty times as fast as NumPy's stack
        return FramePixels(unit_values(cast("AnyArray", cv2.merge(colours_apart)), layout))
    (plane,) = (_native(plane) for plane in planes)
    if layout.kind == "grey":
        return FramePixels(unit_values(plane, layout)[:, :, None])
    if layout.order == "rgb":
        return FramePixels(plane)
    colour = np.ascontiguousarray(plane[:, :, [layout.order.index(c) for c in "rgb"]])
    return FramePixels(
        colour, np.ascontiguousarray(plane[:, :, layout.order.index("a")]) if layout.has_alpha else None
    )


def pack(
    picture: FramePixels, layout: Layout, colours: Colours, out: list[Plane] | None = None
) -> list[Plane]:
    """Convert pixels to the planes of a frame. Values are rounded to nearest.

    `out` receives the planes if given; its rows may have padding. Otherwise every plane is C-contiguous.

    A grey picture becomes grey RGB or YUV. A colour picture in a grey frame becomes the luma of
    `colours.matrix`. Opacity is dropped if the layout has no channel for it, and is full if only the layout
    has one.
    """
    if layout.kind == "yuv":
        return from_rgb(_three_channels(picture.pixels), layout, colours, out)
    planes = _packed(picture, layout, colours)
    if out is None:
        return planes
    for target, plane in zip(out, planes, strict=True):
        target[...] = plane
    return out


def _packed(picture: FramePixels, layout: Layout, colours: Colours) -> list[Plane]:
    """Return the planes of a frame that is not YUV."""
    if layout.kind == "grey":
        return [_grey_plane(picture.pixels, layout, colours)]
    pixels = to_depth(_three_channels(picture.pixels), layout)
    if layout.planar:
        channels = cv2.split(pixels.astype(layout.dtype.newbyteorder("="), copy=False))
        return [np.ascontiguousarray(channels["rgb".index(c)], layout.dtype) for c in layout.order]
    if layout.order == "rgb":
        return [np.ascontiguousarray(pixels, layout.dtype)]
    result = np.empty((*pixels.shape[:2], len(layout.order)), layout.dtype)
    for i, channel in enumerate("rgb"):
        result[:, :, layout.order.index(channel)] = pixels[:, :, i]
    if len(layout.order) == 4:  # opacity, or padding
        last = next(i for i, channel in enumerate(layout.order) if channel in "ax")
        seen = picture.alpha is not None and layout.has_alpha
        result[:, :, last] = (
            to_depth(picture.alpha, layout) if seen and picture.alpha is not None else top_of(layout)
        )
    return [result]


def _three_channels(pixels: AnyArray) -> AnyArray:
    """Return pixels [H, W, 3]; grey is repeated."""
    return pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2)


def top_of(layout: Layout) -> int:
    """Return the largest value of a layout's words."""
    return (1 << layout.depth) - 1


def _native(plane: Plane) -> Plane:
    """Return a plane in the byte order of the machine, without a copy if it has it already."""
    return plane.astype(plane.dtype.newbyteorder("="), copy=False)


def unit_values(plane: Plane, layout: Layout) -> AnyArray:
    """Return the values of a grey plane or of RGB as they are for 8 and 16 bits, else as float32 in 0..1.

    Values beyond the depth, which a 16-bit word can hold, are clipped to 1; floating ones to 0..1.
    """
    if layout.floating:
        return np.clip(plane, np.float32(0), np.float32(1))
    if layout.depth in (8, 16):
        return _native(plane)
    top = np.float32((1 << layout.depth) - 1)
    values: AnyArray = np.minimum(plane.astype(np.float32) / top, np.float32(1))
    return values


def _grey_plane(pixels: AnyArray, layout: Layout, colours: Colours) -> Plane:
    if pixels.shape[2] == 3:
        # Grey frames are full range, whatever range YUV frames of the stream have.
        luma = Layout(name="luma", kind="yuv", depth=layout.depth, big_endian=layout.big_endian)
        full = Colours(matrix=colours.matrix, range="full")
        return from_rgb(pixels, luma, full)[0]
    return np.ascontiguousarray(to_depth(pixels[:, :, 0], layout), layout.dtype)


def to_depth(pixels: AnyArray, layout: Layout) -> AnyArray:
    """Scale full-range values to `layout.depth` bits. Returns the same array if the depth is already right."""
    if layout.floating:
        return _floating(pixels)
    top = (1 << layout.depth) - 1
    white = white_level(pixels)
    if white == top:
        return pixels
    rounded: AnyArray = np.rint(pixels.astype(np.float32) * np.float32(top / white)).astype(layout.dtype)
    return rounded


def _floating(pixels: AnyArray) -> AnyArray:
    """Scale full-range values to float32 from 0 to 1. Returns the same array if it is float32 already."""
    white = white_level(pixels)
    return pixels if white == 1 else pixels.astype(np.float32) / np.float32(white)


def widened(grey: AnyArray, depth: int) -> AnyArray:
    """Return grey values of limited range in full range, in the same type. `depth` is that of the frame."""
    white = white_level(grey)
    black, span, top = _limits(depth)
    values = np.clip(
        (grey.astype(np.float32) * np.float32(top / white) - black) * np.float32(white / span), 0, white
    )
    wide: AnyArray = (values if white == 1 else np.rint(values)).astype(grey.dtype)
    return wide


def narrowed(plane: Plane, depth: int) -> Plane:
    """Return a grey plane of full range in limited range."""
    black, span, top = _limits(depth)
    narrow: Plane = np.rint(plane.astype(np.float32) * np.float32(span / top) + black).astype(plane.dtype)
    return narrow


def _limits(depth: int) -> tuple[np.float32, int, int]:
    """Return black, the span and the largest value of limited range: 16 and 219 for 8 bits, shifted left for more
    (BT.709-6)."""
    return np.float32(16 << (depth - 8)), 219 << (depth - 8), (1 << depth) - 1
