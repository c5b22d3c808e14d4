"""TIFF writer: Deflate on all cores, with opacity marked as such and metadata in tags.

The file consists of the header (16 bytes are reserved), the strips, and one directory at the end.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import BinaryIO

from sr_deploy.images.codecs import tiff
from sr_deploy.images.codecs.strips import Strips, deflated, packed_in_order
from sr_deploy.images.metadata.blobs import Metadata
from sr_deploy.images.metadata.density import aspect_to_tags, to_tags
from sr_deploy.images.metadata.ifd import (
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
from sr_deploy.system.arrays import AnyArray

# Bytes of pixels that still fit into classic TIFF, whose offsets have 32 bits. The margin is for metadata and
# for data that deflate makes slightly larger.
_CLASSIC_LIMIT = 3_900_000_000


def _packed_strip(strips: Strips, i: int) -> bytes:
    """Strip `i`, deflated after horizontal differencing (TIFF 6.0, section 14).

    Each sample becomes its difference from the same channel of the pixel to the left.
    """
    first, last = strips.span(i)
    values = strips.read(first, last, "<").view(strips.pixels.dtype.newbyteorder("<"))
    values = values.reshape(last - first, -1, strips.samples)
    differences = values.copy()
    differences[:, 1:] -= values[:, :-1]
    return deflated(differences.tobytes(), raw=False)


def _exif_tags(exif: bytes | None) -> dict[int, Tag | Tags]:
    """The camera's tags and sub-directories of an EXIF block; empty if it cannot be read."""
    if not exif:
        return {}
    try:
        order, _ = byte_order(exif)
        tags = read_ifd(exif, first_offset(exif, order, False), order)
        return tiff.camera_tags(exif, tags, order, False)
    except IfdError:
        return {}


def _picture_tags(strips: Strips, offsets: list[int], sizes: list[int], big: bool) -> dict[int, Tag | Tags]:
    """The tags that describe how the pixels are stored (TIFF 6.0, sections 3 to 8 and 14)."""
    height, width, colours = strips.pixels.shape
    tags: dict[int, Tag | Tags] = {
        tiff.WIDTH: longs(width),
        tiff.HEIGHT: longs(height),
        tiff.BITS: shorts(*[8 * strips.pixels.itemsize] * strips.samples),
        tiff.COMPRESSION: shorts(8),  # Deflate, from Adobe's Photoshop supplement
        tiff.PHOTOMETRIC: shorts(2 if colours == 3 else 1),  # RGB; grey with 0 as black
        tiff.STRIP_OFFSETS: longs(*offsets, wide=big),
        tiff.ORIENTATION: shorts(1),
        tiff.SAMPLES: shorts(strips.samples),
        tiff.ROWS_PER_STRIP: longs(strips.rows),
        tiff.STRIP_BYTES: longs(*sizes, wide=big),
        tiff.PLANAR: shorts(1),  # channels interleaved
        tiff.PREDICTOR: shorts(2),  # horizontal differencing
    }
    if strips.alpha is not None:
        tags[tiff.EXTRA_SAMPLES] = shorts(2)  # unassociated alpha: colours are not multiplied by it
    return tags


def write_tiff(file: BinaryIO, pixels: AnyArray, alpha: AnyArray | None, metadata: Metadata) -> None:
    """Write pixels [H, W, 1 or 3] of 8 or 16 bits, and alpha [H, W] if not None.

    `file` must be seekable. It becomes a BigTIFF if the 4 GB of classic TIFF may not suffice. Raises
    OSError from `file`.
    """
    strips = Strips(pixels, alpha)
    big = pixels.nbytes // pixels.shape[2] * strips.samples >= _CLASSIC_LIMIT
    file.write(b"\0" * 16)  # overwritten at the end, when the offset of the directory is known
    offsets, sizes, at = [], [], 16
    for packed in packed_in_order(partial(_packed_strip, strips), len(strips)):
        file.write(packed)
        offsets.append(at)
        sizes.append(len(packed))
        at += len(packed)
    # the right operand wins: the camera's tags must not change how the pixels are stored
    tags = _exif_tags(metadata.exif) | _picture_tags(strips, offsets, sizes, big)
    if metadata.dpi:
        tags |= to_tags(metadata.dpi)
    elif metadata.aspect:
        tags |= aspect_to_tags(metadata.aspect)
    tags |= metadata.geo
    if metadata.icc:
        tags[tiff.ICC] = Tag(7, metadata.icc)  # type UNDEFINED
    if metadata.xmp:
        tags[tiff.XMP] = Tag(1, metadata.xmp)  # type BYTE
    if metadata.iptc:
        tags[tiff.IPTC] = Tag(7, metadata.iptc)
    file.write(b"\0" * (-at % 8))  # TIFF 6.0 wants directories at even offsets, BigTIFF at multiples of 8
    at += -at % 8
    file.write(pack_ifd(tags, at, big=big))
    file.seek(0)
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHI", b"II", 42, at))
