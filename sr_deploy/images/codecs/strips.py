"""Pictures cut into strips that all cores deflate, a few at a time: what PNG and TIFF are written with."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from sr_deploy.images.codecs.ordered import in_order
from sr_deploy.system.cores import usable_cores


def _isal_zlib() -> Any:
    """ISA-L's deflate, with zlib's interface; None where there is no wheel of it for this platform."""
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib


_ISAL = _isal_zlib()
Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
_T = TypeVar("_T")

_STRIP = 1 << 19
"""Bytes of pixels deflated at a time: enough to keep a core busy, little enough to hold a few for every core."""


@dataclass(frozen=True)
class Strips:
    """Pixels [H, W, C] and alpha [H, W] or None, in runs of rows."""

    pixels: Array
    alpha: Array | None

    @property
    def samples(self) -> int:
        """Channels, opacity among them."""
        return int(self.pixels.shape[2]) + (self.alpha is not None)

    @property
    def rows(self) -> int:
        """In every strip but the last."""
        height, width, _ = self.pixels.shape
        return int(max(1, min(_STRIP // (width * self.samples * self.pixels.itemsize), height)))

    def __len__(self) -> int:
        return int(-(-self.pixels.shape[0] // self.rows))

    def span(self, i: int) -> tuple[int, int]:
        """First row and row after the last of strip `i`."""
        return i * self.rows, min((i + 1) * self.rows, self.pixels.shape[0])

    def read(self, first: int, last: int, order: Literal["<", ">"]) -> Bytes:
        """Rows `first` to `last` as bytes [rows, bytes], opacity after the colours, 16 bits in byte order `order`."""
        part = self.pixels[first:last]
        if self.alpha is not None:
            part = np.concatenate((part, self.alpha[first:last, :, None]), axis=2)
        part = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder(order))
        return part.reshape(last - first, -1).view(np.uint8)


def deflated(data: bytes, *, raw: bool) -> bytes:
    """A zlib stream (RFC 1950), or, `raw`, deflate blocks (RFC 1951) that others can follow.

    By Intel's ISA-L where there is a wheel of it: on photographs x4 a quarter of the time of what follows. By zlib
    elsewhere, at level 1 with runs only: filtered photographs hold few longer repeats, and deflate spends nine
    tenths of its time looking for them. Against level 6: an eighth of the time, a tenth more bytes.
    """
    bits = -15 if raw else 15
    packer = (
        zlib.compressobj(1, zlib.DEFLATED, bits, 9, zlib.Z_RLE)
        if _ISAL is None
        else _ISAL.compressobj(1, zlib.DEFLATED, bits)
    )
    return bytes(packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH if raw else zlib.Z_FINISH))


def packed_in_order(pack: Callable[[int], _T], count: int) -> Iterator[_T]:
    """pack(0), pack(1), ... of `count` strips, computed on all cores that may be used, eight at most."""
    return in_order(pack, count, min(usable_cores() or os.cpu_count() or 1, 8))
