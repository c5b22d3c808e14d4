"""Shuffle the planes of a net into pixels: PixelShuffle, and channels last, in one pass over bytes.

`graph.pixel_io` leaves the last PixelShuffle of a net to this module. ONNX Runtime and OpenVINO would transpose twice,
one byte at a time, which took a third of the time of rt-x4 in int8.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.graph.planes import planes_of
from sr_deploy.system.arrays import BatchArray

_GROUPS: dict[int, npt.DTypeLike] = {4: np.float32, 2: np.uint16}
"""Number of bytes -> a type of OpenCV's that holds them, so that groups of bytes are interleaved as one value."""
_WORTH_LOADING = 32 << 20
"""Bytes that NumPy shuffles before OpenCV, three times as fast, is loaded for it: loading takes 20 ms."""
_total = [0]
"""Bytes shuffled by this process so far. Threads may count a call twice or not at all, which does no harm."""


def planes_for(output: str, out: BatchArray) -> BatchArray:
    """Return the array that a graph with the output called `output` writes: `out` itself, or one for its planes.

    `out` is [N, H, W, C]. A fresh array is needed for each call, because threads share engines.
    """
    found = planes_of(output)
    if found is None:
        return out
    block, _ = found
    count, height, width, channels = out.shape
    return np.empty((count, block**2 * channels, height // block, width // block), out.dtype)


def settle_planes(output: str, planes: BatchArray, out: BatchArray) -> None:
    """Shuffle what a graph with the output called `output` has written into `out`; nothing for an output of pixels."""
    found = planes_of(output)
    if found is not None:
        shuffle_planes(planes, *found, out)


def shuffle_planes(planes: BatchArray, block: int, pixel_last: bool, out: BatchArray) -> None:
    """Shuffle `planes` [N, block * block * C, H, W] into `out` [N, H * block, W * block, C], both uint8.

    The planes are ordered (row, column, C) if `pixel_last`, else (C, row, column).
    """
    count, size, height, width = planes.shape
    channels = size // block**2
    order = np.arange(size)
    if not pixel_last:
        order = order.reshape(channels, -1).T.ravel()
    rows = out.reshape(count, height, block, width, block * channels)
    interleave = _with_opencv if _worth_loading(out.nbytes) else _with_numpy
    for picture, result in zip(planes, rows, strict=True):
        for row, chosen in enumerate(order.reshape(block, -1).tolist()):
            interleave([picture[index] for index in chosen], result[:, row])


def _worth_loading(size: int) -> bool:
    """Return True if OpenCV is loaded, or if `size` bytes and those before are worth loading it."""
    _total[0] += size
    return "cv2" in sys.modules or _total[0] > _WORTH_LOADING


def _with_numpy(planes: list[BatchArray], out: BatchArray) -> None:
    """Interleave `planes` [H, W] into `out` [H, W, planes]."""
    for index, plane in enumerate(planes):
        out[:, :, index] = plane


def _with_opencv(planes: list[BatchArray], out: BatchArray) -> None:
    """Do the same with OpenCV: groups of two or four planes first, then the groups, each as one value."""
    from sr_deploy.images.opencv import cv2

    size = next((size for size in _GROUPS if len(planes) % size == 0 and len(planes) > size), None)
    target: Any = out
    if size is not None:
        parts = [planes[first : first + size] for first in range(0, len(planes), size)]
        planes = [cv2.merge(part).view(_GROUPS[size])[..., 0] for part in parts]
        target = out.view(_GROUPS[size])
    merged = cv2.merge(planes, target)
    if merged is not target:  # OpenCV made its own array
        target[...] = merged
