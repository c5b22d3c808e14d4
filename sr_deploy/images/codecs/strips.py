"""Pictures cut into strips that all cores compress, a few at a time. The PNG and TIFF writers use it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from sr_deploy.images.codecs.ordered import in_order
from sr_deploy.system.arrays import AnyArray, Uint8Array
from sr_deploy.system.cores import usable_cores


def _isal_zlib() -> Any:
    """ISA-L's deflate, with the interface of zlib; None on platforms without a wheel of it."""
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib


_ISAL = _isal_zlib()
_T = TypeVar("_T")

_STRIP = 1 << 19
"""Bytes of pixels per strip: enough to keep a core busy, and few enough to hold several strips per core."""


@dataclass(frozen=True)
class Strips:
    """Pixels [H, W, C] and alpha [H, W] or None, cut into runs of rows."""

    pixels: AnyArray
    """Array [H, W, 1 or 3] of uint8 or uint16."""
    alpha: AnyArray | None
    """Opacity [H, W] of the same type, or None."""

    @property
    def samples(self) -> int:
        """Number of channels, including opacity."""
        return int(self.pixels.shape[2]) + (self.alpha is not None)

    @property
    def rows(self) -> int:
        """Number of rows per strip; the last strip may have fewer."""
        height, width, _ = self.pixels.shape
        return int(max(1, min(_STRIP // (width * self.samples * self.pixels.itemsize), height)))

    def __len__(self) -> int:
        """Number of strips."""
        return int(-(-self.pixels.shape[0] // self.rows))

    def span(self, i: int) -> tuple[int, int]:
        """First row of strip `i`, and the row after its last one."""
        return i * self.rows, min((i + 1) * self.rows, self.pixels.shape[0])

    def read(self, first: int, last: int, order: Literal["<", ">"]) -> Uint8Array:
        """Rows `first` to `last` (exclusive) as bytes [rows, bytes].

        Opacity comes after the colours; 16-bit samples are in byte order `order`.
        """
        part = self.pixels[first:last]
        if self.alpha is not None:
            part = np.concatenate((part, self.alpha[first:last, :, None]), axis=2)
        part = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder(order))
        return part.reshape(last - first, -1).view(np.uint8)


def deflated(data: bytes, *, raw: bool) -> bytes:
    """Compress `data` to a zlib stream (RFC 1950), or with `raw` to deflate blocks (RFC 1951).

    Raw blocks end on a byte boundary and are not final, so blocks of several strips can be
    concatenated.

    Intel's ISA-L is used if there is a wheel of it; on photographs upscaled x4 it takes a quarter of
    the time of zlib. Otherwise zlib is used at level 1 with run-length matching only (Z_RLE): filtered
    photographs contain few longer repeats, and deflate spends nine tenths of its time looking for them.
    Compared with level 6 this takes an eighth of the time and a tenth more bytes.
    """
    bits = -15 if raw else 15  # a window of 2**15 bytes; negative: without zlib's header and checksum
    packer = (
        zlib.compressobj(1, zlib.DEFLATED, bits, 9, zlib.Z_RLE)
        if _ISAL is None
        else _ISAL.compressobj(1, zlib.DEFLATED, bits)
    )
    return bytes(packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH if raw else zlib.Z_FINISH))


def packed_in_order(pack: Callable[[int], _T], count: int) -> Iterator[_T]:
    """pack(0), pack(1), ... of `count` strips in order, computed on all usable cores, eight at most."""
    return in_order(pack, count, min(usable_cores() or os.cpu_count() or 1, 8))
