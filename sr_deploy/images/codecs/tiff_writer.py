"""TIFF, written by all cores: Deflate, with opacity said to be opacity, and the metadata in its tags."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, BinaryIO

import numpy.typing as npt

from sr_deploy.images.codecs import tiff
from sr_deploy.images.codecs.density import to_tags
from sr_deploy.images.codecs.ifd import (
    IfdError,
    Tag,
    Tags,
    byte_order,
    first_offset,
    longs,
    pack_ifd,
    read_ifd,
    shorts,
)
from sr_deploy.images.codecs.metadata import Metadata
from sr_deploy.images.codecs.strips import Strips, deflated, packed_in_order

Array = npt.NDArray[Any]
_CLASSIC_LIMIT = 3_900_000_000  # bytes of pixels that surely fit under the classic format's 4 GB


def _packed_strip(strips: Strips, i: int) -> bytes:
    """Strip `i`, deflated; of every sample the difference to the one at its left (TIFF 6.0, section 14)."""
    first, last = strips.span(i)
    values = strips.read(first, last, "<").view(strips.pixels.dtype.newbyteorder("<"))
    values = values.reshape(last - first, -1, strips.samples)
    differences = values.copy()
    differences[:, 1:] -= values[:, :-1]
    return deflated(differences.tobytes(), raw=False)


def _exif_tags(exif: bytes | None) -> dict[int, Tag | Tags]:
    if not exif:
        return {}
    try:
        order, _ = byte_order(exif)
        tags = read_ifd(exif, first_offset(exif, order, False), order)
        return tiff.camera_tags(exif, tags, order, False)
    except IfdError:
        return {}


def _picture_tags(strips: Strips, offsets: list[int], sizes: list[int], big: bool) -> dict[int, Tag | Tags]:
    height, width, colours = strips.pixels.shape
    tags: dict[int, Tag | Tags] = {
        tiff.WIDTH: longs(width),
        tiff.HEIGHT: longs(height),
        tiff.BITS: shorts(*[8 * strips.pixels.itemsize] * strips.samples),
        tiff.COMPRESSION: shorts(8),
        tiff.PHOTOMETRIC: shorts(2 if colours == 3 else 1),
        tiff.STRIP_OFFSETS: longs(*offsets, wide=big),
        tiff.ORIENTATION: shorts(1),
        tiff.SAMPLES: shorts(strips.samples),
        tiff.ROWS_PER_STRIP: longs(strips.rows),
        tiff.STRIP_BYTES: longs(*sizes, wide=big),
        tiff.PLANAR: shorts(1),
        tiff.PREDICTOR: shorts(2),
    }
    if strips.alpha is not None:
        tags[tiff.EXTRA_SAMPLES] = shorts(2)  # opacity that the colours were not multiplied by
    return tags


def write_tiff(file: BinaryIO, pixels: Array, alpha: Array | None, metadata: Metadata) -> None:
    """Write pixels [H, W, 1 or 3] of 8 or 16 bits, and alpha [H, W] where there is one.

    `file` must be seekable. It becomes a BigTIFF where the classic format's 4 GB might not do.
    """
    strips = Strips(pixels, alpha)
    big = pixels.nbytes // pixels.shape[2] * strips.samples >= _CLASSIC_LIMIT
    file.write(b"\0" * 16)  # the header, once it is known where the directory lies
    offsets, sizes, at = [], [], 16
    for packed in packed_in_order(partial(_packed_strip, strips), len(strips)):
        file.write(packed)
        offsets.append(at)
        sizes.append(len(packed))
        at += len(packed)
    tags = _exif_tags(metadata.exif) | _picture_tags(strips, offsets, sizes, big)
    if metadata.dpi:
        tags |= to_tags(metadata.dpi)
    if metadata.icc:
        tags[tiff.ICC] = Tag(7, metadata.icc)
    if metadata.xmp:
        tags[tiff.XMP] = Tag(1, metadata.xmp)
    file.write(b"\0" * (-at % 8))
    at += -at % 8
    file.write(pack_ifd(tags, at, big=big))
    file.seek(0)
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHI", b"II", 42, at))
