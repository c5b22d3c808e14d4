"""The caller's memory as arrays, and pixels of any order of channels through an Upscaler. No handles, no statuses.

Packed RGB and grey go through where they lie. Everything else is copied once in and once out, because the
runtimes want packed RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError
from sr_deploy.upscale import Upscaler

if TYPE_CHECKING:
    from sr_deploy.images.image import Image

Pixels = npt.NDArray[Any]
Buffer = tuple[memoryview | int, int, int, int, int, int]
"""Bytes, width, height, stride, depth and layout, as `struct sr_image` has them; checked by sr_deploy.c. A number is
an address on a GPU, which only `sr_deploy.capi.device` can use."""

_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))
_CHANNELS = (3, 3, 1, 4, 4)
_BGR, _RGBA, _BGRA = 1, 3, 4
_STRIP = 64  # rows that are turned around at a time


def array_of(buffer: Buffer) -> Pixels:
    """The pixels [H, W, C] in a buffer, without a copy, rows as far apart as they are there."""
    memory, width, height, stride, depth, layout = buffer
    assert not isinstance(memory, int)
    dtype, channels = _DTYPES[depth], _CHANNELS[layout]
    strides = (stride, channels * dtype.itemsize, dtype.itemsize)
    pixels: Pixels = np.ndarray((height, width, channels), dtype, memory, 0, strides)
    return pixels


def check_apart(inputs: Sequence[Pixels], outputs: Sequence[Pixels]) -> None:
    """Raise UsageError where an output shares memory with an input or with another output."""
    if len(inputs) == 1 and not np.may_share_memory(inputs[0], outputs[0]):
        return  # what nearly every call is, in half a microsecond
    spans = [(*_byte_range(a), f"input {i}", a) for i, a in enumerate(inputs)]
    spans += [(*_byte_range(a), f"output {i}", a) for i, a in enumerate(outputs)]
    spans.sort(key=lambda span: span[:2])
    open_ranges = spans[:0]  # those before whose end is still ahead
    for span in spans:
        open_ranges = [earlier for earlier in open_ranges if earlier[1] > span[0]]
        for earlier in open_ranges:
            if "output" in earlier[2] + span[2] and _overlaps(earlier[3], span[3]):
                raise UsageError(
                    f"{earlier[2]} and {span[2]} share memory; give every output memory of its own"
                )
        open_ranges.append(span)


def upscale_buffer(upscaler: Upscaler, pixels: Pixels, target: Pixels, layout: int) -> None:
    """`pixels` [H, W, C], larger, into `target` [H*scale, W*scale, C]; both in the order of `layout`."""
    if layout in (_RGBA, _BGRA):
        _upscale_with_alpha(upscaler, pixels, target, layout)
    elif layout == _BGR:
        _upscale_bgr(upscaler, pixels, target)
    else:
        result = upscaler.upscale_pixels(pixels, target if target.flags.c_contiguous else None)
        if result is not target:
            target[...] = result


def _upscale_bgr(upscaler: Upscaler, pixels: Pixels, target: Pixels) -> None:
    from sr_deploy.images.opencv import cv2

    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    result = upscaler.upscale_pixels(rgb, target if target.flags.c_contiguous else None)
    for at in range(0, len(target), _STRIP):
        target[at : at + _STRIP] = cv2.cvtColor(result[at : at + _STRIP], cv2.COLOR_RGB2BGR)


@dataclass(frozen=True)
class _Picture:
    """What `Upscaler.upscale` uses of an Image, which holds no float32."""

    pixels: Pixels
    alpha: Pixels


def _upscale_with_alpha(upscaler: Upscaler, pixels: Pixels, target: Pixels, layout: int) -> None:
    from sr_deploy.images.opencv import cv2

    colour = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if layout == _BGRA else cv2.COLOR_RGBA2RGB)
    picture = _Picture(colour, np.ascontiguousarray(pixels[:, :, 3]))
    large = cast(_Picture, upscaler.upscale(cast("Image", picture)))
    order = [2, 0, 1, 1, 0, 2, 3, 3] if layout == _BGRA else [0, 0, 1, 1, 2, 2, 3, 3]
    for at in range(0, len(target), _STRIP):
        rows = slice(at, at + _STRIP)
        merged = np.empty((len(target[rows]), *target.shape[1:]), target.dtype)
        cv2.mixChannels([large.pixels[rows], large.alpha[rows]], [merged], order)
        target[rows] = merged


def _byte_range(array: Pixels) -> tuple[int, int]:
    """Address of the first byte, and of the first one behind the last."""
    first: int = array.__array_interface__["data"][0]
    height, width, channels = array.shape
    return first, first + array.strides[0] * (height - 1) + width * channels * array.itemsize


def _overlaps(first: Pixels, second: Pixels) -> bool:
    """Whether a byte belongs to both. Two parts of one large picture, side by side, share none."""
    most: Any = 10_000  # candidates; for pictures a handful decide it
    try:
        return bool(np.shares_memory(first, second, max_work=most))
    except np.exceptions.TooHardError:
        return True
