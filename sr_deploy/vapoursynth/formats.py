"""The layouts of VapourSynth's formats, and the meaning of the colours that frame properties give.

Nothing here imports VapourSynth: formats and properties are read by their names, and its enumerations are integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.colour import MATRICES, UNCONVERTED, Colours, Matrix, Range, Siting, usual_matrix
from sr_deploy.frames.layout import Layout

Format = Any
"""A `vapoursynth.VideoFormat`."""
Properties = Mapping[str, Any]
"""The properties of a frame, as VapourSynth names them."""

_GREY, _RGB, _YUV = 1, 2, 3
"""Colour families, as VapourSynth numbers them."""
_FLOAT = 1
"""Sample type of floating point, as VapourSynth numbers it."""
_RGB_MATRIX, UNSPECIFIED = 0, 2
"""ITU-T H.273 numbers of the matrix of RGB, and of one that is not known."""
_SUPPORTED = "RGB, GRAY and YUV of 8 to 16 bits, RGBS and GRAYS"
_SITINGS: dict[tuple[bool, bool], dict[int, Siting]] = {
    (True, True): {0: "left", 1: "center", 2: "topleft"},
    (True, False): {0: "left", 1: "center", 2: "left", 3: "center", 4: "left", 5: "center"},
    (False, True): {0: "left", 1: "left", 2: "topleft", 3: "topleft"},
}
"""Chroma location for each number of `_ChromaLocation`, by the axes (columns, rows) on which chroma is halved. Along an
axis on which it is not halved, the location has no meaning."""


def layout_of_format(format: Format) -> Layout:
    """Return the layout of a clip's frames. Raises UsageError for a format that is not supported."""
    values = (format.color_family, format.sample_type, format.bits_per_sample)
    return _layout(format.name, *map(int, values), format.subsampling_w, format.subsampling_h)


@lru_cache
def _layout(name: str, family: int, sample_type: int, bits: int, across: int, down: int) -> Layout:
    """Return the layout of a format that is given by its parts. Subsampling is in powers of two."""
    floating = sample_type == _FLOAT
    kinds: dict[int, Any] = {_GREY: "grey", _RGB: "rgb", _YUV: "yuv"}
    right_depth = bits == 32 and family != _YUV if floating else bits <= 16
    if family not in kinds or not right_depth or max(across, down) > 1:
        raise UsageError(
            f"clips of format {name} cannot be upscaled, only {_SUPPORTED}; convert the clip first, for example with "
            f"resize.Bicubic(clip, format=vs.{_nearest(family)})"
        )
    return Layout(
        name=name.lower(),
        kind=kinds[family],
        depth=bits,
        across=1 << across,
        down=1 << down,
        planar=family == _RGB,
        floating=floating,
    )


def _nearest(family: int) -> str:
    """Return a supported format that holds the frames of an unsupported one of a colour family."""
    return {_GREY: "GRAYS", _YUV: "YUV444P16"}.get(family, "RGBS")


def colours_of(properties: Properties, layout: Layout, height: int, width: int) -> Colours:
    """Return the meaning of the values in a frame. What its properties leave open is as VapourSynth's own filters
    assume; the matrix is the one that players assume for the size.

    Raises InputError for a matrix or a chroma location that is not converted.
    """
    range = _range(properties, layout)
    if layout.kind != "yuv":
        return Colours(range=range)
    matrix = _matrix(properties) or usual_matrix(height, width)
    return Colours(matrix=matrix, range=range, siting=_siting(properties, layout))


def _range(properties: Properties, layout: Layout) -> Range:
    """Return the range of a frame's values. Without a property, RGB is full and the others are limited.

    `_Range` is numbered as in ITU-T H.273. Older sources set `_ColorRange`, with the opposite numbers.
    """
    if layout.floating:
        return "full"  # floating values have no headroom: 0 is black and 1 is white
    if "_Range" in properties:
        return "full" if properties["_Range"] == 1 else "limited"
    if "_ColorRange" in properties:
        return "full" if properties["_ColorRange"] == 0 else "limited"
    return "full" if layout.kind == "rgb" else "limited"


def _matrix(properties: Properties) -> Matrix | None:
    """Return the matrix that a YUV frame names, or None. Raises InputError for one that is not converted."""
    number = int(properties.get("_Matrix", UNSPECIFIED))
    if number == UNSPECIFIED:
        return None
    if number in MATRICES:
        return MATRICES[number]
    name = "that of RGB" if number == _RGB_MATRIX else UNCONVERTED.get(number, "unknown")
    raise InputError(
        f"its matrix (_Matrix={number}) is {name}, which is not converted from YUV; convert the clip to BT.709 first, "
        'for example with resize.Bicubic(clip, matrix_s="709"), or set the right matrix with std.SetFrameProps'
    )


def _siting(properties: Properties, layout: Layout) -> Siting:
    """Return the position of chroma samples. Raises InputError for one that is not converted."""
    number = int(properties.get("_ChromaLocation", 0))
    known = _SITINGS.get((layout.across == 2, layout.down == 2))
    if known is None:  # 4:4:4: every pixel has its chroma
        return "left"
    if number in known:
        return known[number]
    raise InputError(
        f"its chroma samples (_ChromaLocation={number}) are where none are converted from; move them first, for example "
        'with resize.Bicubic(clip, chromaloc_s="left")'
    )


def check_progressive(properties: Properties) -> None:
    """Raise InputError for a frame that is marked as interlaced, because a model blurs the two fields together."""
    if properties.get("_FieldBased", 0):
        raise InputError(
            f"it is interlaced (_FieldBased={int(properties['_FieldBased'])}), and upscaling would blur it; deinterlace the "
            "clip first, or clear a wrong mark with std.SetFieldBased(clip, 0)"
        )
