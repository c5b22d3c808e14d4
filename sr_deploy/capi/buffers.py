"""View the caller's memory as arrays and upscale pixels in any channel order. Knows nothing of handles or
statuses.

Packed RGB and grey are read and written in place. Other layouts are copied once in and once out, because
the runtimes take packed RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.system.arrays import AnyArray
from sr_deploy.upscale import Upscaler

if TYPE_CHECKING:
    from sr_deploy.images.image import Image

Buffer = tuple[memoryview | int, int, int, int, int, int]
"""Memory, width, height, stride in bytes, depth and layout, as in `struct sr_image`; already checked by
sr_deploy.c. An int in place of the memory is an address on a GPU, which only `sr_deploy.capi.device` can
use."""

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
"""NumPy type for each depth: SR_U8, SR_U16, SR_F32."""
_CHANNELS = (3, 3, 1, 4, 4)
"""Number of channels for each layout: SR_RGB, SR_BGR, SR_GREY, SR_RGBA, SR_BGRA."""
_BGR, _RGBA, _BGRA = 1, 3, 4
"""Numbers of layouts that need reordering or have opacity."""
_STRIP = 64
"""Rows that are reordered at a time, so that no second copy of a whole result is needed."""


def array_of(buffer: Buffer) -> AnyArray:
    """Return the pixels [H, W, C] of a buffer as a view. Rows may have gaps."""
    memory, width, height, stride, depth, layout = buffer
    assert not isinstance(memory, int)
    dtype, channels = _DTYPES[depth], _CHANNELS[layout]
    strides = (stride, channels * dtype.itemsize, dtype.itemsize)
    pixels: AnyArray = np.ndarray((height, width, channels), dtype, memory, 0, strides)
    return pixels


def check_apart(inputs: Sequence[AnyArray], outputs: Sequence[AnyArray]) -> None:
    """Raise UsageError if an output shares memory with an input or with another output.

    Byte ranges are sorted by start, so only ranges that overlap are compared pixel by pixel.
    """
    if len(inputs) == 1 and not np.may_share_memory(inputs[0], outputs[0]):
        return  # nearly every call ends here, after half a microsecond
    spans = [(*_byte_range(a), f"input {i}", a) for i, a in enumerate(inputs)]
    spans += [(*_byte_range(a), f"output {i}", a) for i, a in enumerate(outputs)]
    spans.sort(key=lambda span: span[:2])
    open_ranges = spans[:0]  # earlier ranges that end after the start of the current one
    for span in spans:
        open_ranges = [earlier for earlier in open_ranges if earlier[1] > span[0]]
        for earlier in open_ranges:
            if "output" in earlier[2] + span[2] and shares_memory(earlier[3], span[3]):
                raise UsageError(
                    f"{earlier[2]} and {span[2]} share memory; give every output memory of its own"
                )
        open_ranges.append(span)


def upscale_buffer(upscaler: Upscaler, pixels: AnyArray, target: AnyArray, layout: int) -> None:
    """Upscale `pixels` [H, W, C] into `target` [H*scale, W*scale, C]. Both have the channel order of
    `layout`."""
    if layout in (_RGBA, _BGRA):
        _upscale_with_alpha(upscaler, pixels, target, layout)
    elif layout == _BGR:
        _upscale_bgr(upscaler, pixels, target)
    else:
        result = upscaler.upscale_pixels(pixels, target if target.flags.c_contiguous else None)
        if result is not target:
            target[...] = result


def _upscale_bgr(upscaler: Upscaler, pixels: AnyArray, target: AnyArray) -> None:
    """Upscale BGR pixels by way of RGB. A target without gaps first holds the RGB result, then is reordered
    in place."""
    from sr_deploy.images.opencv import cv2

    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    result = upscaler.upscale_pixels(rgb, target if target.flags.c_contiguous else None)
    for top in range(0, len(target), _STRIP):
        target[top : top + _STRIP] = cv2.cvtColor(result[top : top + _STRIP], cv2.COLOR_RGB2BGR)


@dataclass(frozen=True)
class _Picture:
    """Stand-in for an Image in `Upscaler.upscale`; an Image itself does not accept float32."""

    pixels: AnyArray
    """RGB [H, W, 3]."""
    alpha: AnyArray
    """Opacity [H, W]."""


def _upscale_with_alpha(upscaler: Upscaler, pixels: AnyArray, target: AnyArray, layout: int) -> None:
    """Upscale RGBA or BGRA. Opacity is enlarged as `Upscaler.upscale` does it and not by the model."""
    from sr_deploy.images.opencv import cv2

    colour = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if layout == _BGRA else cv2.COLOR_RGBA2RGB)
    picture = _Picture(colour, np.ascontiguousarray(pixels[:, :, 3]))
    large = cast(_Picture, upscaler.upscale(cast("Image", picture)))
    order = [2, 0, 1, 1, 0, 2, 3, 3] if layout == _BGRA else [0, 0, 1, 1, 2, 2, 3, 3]
    for top in range(0, len(target), _STRIP):
        rows = slice(top, top + _STRIP)
        merged = np.empty((len(target[rows]), *target.shape[1:]), target.dtype)
        cv2.mixChannels([large.pixels[rows], large.alpha[rows]], [merged], order)
        target[rows] = merged


def _byte_range(array: AnyArray) -> tuple[int, int]:
    """Return the address of the first byte, and of the byte after the last."""
    first: int = array.__array_interface__["data"][0]
    height, width, channels = array.shape
    return first, first + array.strides[0] * (height - 1) + width * channels * array.itemsize


def shares_memory(first: AnyArray, second: AnyArray) -> bool:
    """Return whether two arrays share a byte."""
    # Limit on the candidates that NumPy tries; pictures need only a few. Beyond it, sharing is assumed.
    max_work: Any = 10_000
    try:
        return bool(np.shares_memory(first, second, max_work=max_work))
    except np.exceptions.TooHardError:
        return True
