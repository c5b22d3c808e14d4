"""The place of a GeoTIFF on a map. The numbers of its tags are those of OGC 19-008 (GeoTIFF 1.1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from sr_deploy.images.metadata.ifd import IfdError, Tag

_PIXEL_SCALE, _TIE_POINTS, _TRANSFORM, _KEYS = 33550, 33922, 34264, 34735
GEO_TAGS = (_PIXEL_SCALE, _TIE_POINTS, _TRANSFORM, _KEYS, 34736, 34737, 42112, 42113)
"""All tags of a GeoTIFF; the last two are GDAL's metadata and its value for missing data."""
_RASTER_TYPE, _POINT = (
    1025,
    2,
)  # key of the meaning of a pixel's position, and its value "centre of the pixel"
_DOUBLE = 12  # TIFF type


def geo_for_size(geo: Mapping[int, Tag], old: tuple[int, int], new: tuple[int, int]) -> dict[int, Tag]:
    """The tags of a picture of (width, height) `old` for one of `new` that shows the same area."""
    across, down = new[0] / old[0], new[1] / old[1]
    shift = 0.5 if _counts_from_centres(geo) else 0.0
    result = dict(geo)
    scale = _doubles(geo.get(_PIXEL_SCALE))
    if len(scale) >= 2:
        result[_PIXEL_SCALE] = _tag([scale[0] / across, scale[1] / down, *scale[2:]])
    points = _doubles(geo.get(_TIE_POINTS))
    for at in range(0, len(points) - 5, 6):  # each is (column, row, 0, easting, northing, height)
        points[at] = (points[at] + shift) * across - shift
        points[at + 1] = (points[at + 1] + shift) * down - shift
    if points:
        result[_TIE_POINTS] = _tag(points)
    matrix = _doubles(geo.get(_TRANSFORM))
    if len(matrix) == 16:  # a row is (per column, per row, per height, offset)
        for row in range(0, 12, 4):
            a, b = matrix[row] / across, matrix[row + 1] / down
            # centres: pixel i of the new grid lies at (i + 0.5) / factor - 0.5 of the old one
            matrix[row + 3] += shift * (a - matrix[row] + b - matrix[row + 1])
            matrix[row], matrix[row + 1] = a, b
        result[_TRANSFORM] = _tag(matrix)
    return result


def _counts_from_centres(geo: Mapping[int, Tag]) -> bool:
    """True if positions are those of the centres of pixels, not of their upper left corners."""
    try:
        keys = geo[_KEYS].numbers() if _KEYS in geo else ()
    except IfdError:
        return False
    # a header of four numbers, then per key: its number, where its value is, count, value
    return any(keys[at] == _RASTER_TYPE and keys[at + 3] == _POINT for at in range(4, len(keys) - 3, 4))


def _doubles(tag: Tag | None) -> list[float]:
    """The values of a tag of 64-bit floats; none if it is missing or of another type."""
    return list(struct.unpack(f"<{tag.count}d", tag.value)) if tag and tag.kind == _DOUBLE else []


def _tag(values: list[float]) -> Tag:
    return Tag(_DOUBLE, struct.pack(f"<{len(values)}d", *values))
