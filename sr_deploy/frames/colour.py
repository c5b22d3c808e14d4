"""Convert YUV frames to RGB and back, with a named matrix, range and chroma siting. Every value is rounded
once.

The formulas are those of ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance), section "digital
representation" of each. Transfer curve and primaries are not changed: the model sees the values as they are
coded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.frames.layout import Layout, Plane
from sr_deploy.images.opencv import cv2
from sr_deploy.system.arrays import AnyArray, DoubleArray, FloatArray, Uint8Array

Matrix = Literal["bt601", "bt709", "bt2020", "fcc", "smpte240m", "ycgco"]
Range = Literal["limited", "full"]
Siting = Literal["left", "center", "topleft"]

_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
}
"""Weights of red and of blue in luma (ITU-T H.273, table 4). The weight of green is what is left to 1."""
_YCGCO = np.array([[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0, -0.5]])
"""Rows of luma, Cg and Co, which stand in the places of U and V (ITU-T H.273, matrix 8)."""
MATRICES: dict[int, Matrix] = {
    1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 8: "ycgco", 9: "bt2020"
}  # fmt: skip
"""Matrix for each ITU-T H.273 number. 5 and 6 are BT.601."""
UNCONVERTED = {
    10: "BT.2020 constant luminance",
    11: "SMPTE ST 2085",
    12: "chromaticity-derived non-constant luminance",
    13: "chromaticity-derived constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
"""Names of the matrices that are not converted, by ITU-T H.273 number."""
MATRIX_NUMBERS: dict[Matrix, int] = {
    "bt709": 1,
    "fcc": 4,
    "bt601": 6,
    "smpte240m": 7,
    "ycgco": 8,
    "bt2020": 9,
}
"""ITU-T H.273 number of each matrix. 6 (SMPTE 170M) stands for BT.601."""
_BAND = 64
"""Rows converted at a time, so that intermediate values stay in the processor's cache. Even, for 4:2:0
chroma."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """The meaning of the numbers in a YUV frame. Raises UsageError for a name that does not exist."""

    matrix: Matrix = "bt709"
    range: Range = "limited"
    """"limited": 8-bit black is 16 and white is 235. "full": 0 and 255. Deeper frames in proportion."""
    siting: Siting = "left"
    """Position of the chroma samples of 4:2:0 and 4:2:2. "left": on the left luma column, between two rows
    (MPEG-2, H.264). "center": in the middle of its pixels (JPEG, MPEG-1). "topleft": on the top left luma
    sample (BT.2020)."""

    def __post_init__(self) -> None:
        for value, kind in ((self.matrix, Matrix), (self.range, Range), (self.siting, Siting)):
            if value not in get_args(kind):
                raise UsageError(
                    f"unknown colour setting {value!r}; choose one of {', '.join(get_args(kind))}"
                )


def usual_matrix(height: int, width: int) -> Matrix:
    """Return the matrix that players assume if the file names none, as a function of the frame size in
    pixels.

    BT.601 for standard definition (up to 576 rows and less than 1280 columns), else BT.709.
    """
    return "bt709" if width >= 1280 or height > 576 else "bt601"


def to_rgb(planes: list[Plane], layout: Layout, colours: Colours) -> AnyArray:
    """Convert the planes of a YUV frame to RGB [H, W, 3]: uint8 from 8 bits, float32 in 0..1 from more.

    Values outside the RGB cube are clipped to it. Chroma is interpolated linearly.
    """
    luma = planes[0]
    height, width = luma.shape
    channels = [luma.astype(np.float32)]
    for plane in _chroma_planes(planes, layout):
        small = plane.astype(np.float32)
        if layout.down == 2:
            small = _upsampled(small, 0, height, cosited=colours.siting == "topleft")
        if layout.across == 2:
            small = _upsampled(small, 1, width, cosited=colours.siting != "center")
        channels.append(small)
    yuv: Any = cv2.merge(channels)
    if layout.shift:  # exact in float32: a division by a power of two
        yuv *= np.float32(1 / (1 << layout.shift))
    white = 255.0 if layout.depth == 8 else 1.0
    rgb: Any = cv2.transform(yuv, _yuv_to_rgb(colours.matrix, colours.range, layout.depth, white))
    clipped: AnyArray = _to_uint8(rgb) if layout.depth == 8 else np.clip(rgb, 0, 1, out=rgb)
    return clipped


def from_rgb(
    pixels: AnyArray, layout: Layout, colours: Colours, out: list[Plane] | None = None
) -> list[Plane]:
    """Convert RGB [H, W, 3] (uint8, uint16, or float32 in 0..1) to the planes of a YUV frame, rounded to
    nearest. `out` receives them if given; its rows may have padding.

    A chroma sample is the mean of the pixels around its position: a box filter for "center", weights 1, 2,
    1 along an axis on which it lies on a luma sample.
    """
    height, width = pixels.shape[:2]
    planes = out or [np.empty(shape, layout.dtype) for shape in layout.shapes(height, width)]
    luma, *small = planes
    first, second = (small[0][:, :, 0], small[0][:, :, 1]) if layout.paired else small
    matrix = _rgb_to_yuv(colours.matrix, colours.range, layout.depth, white_level(pixels))
    above = int(layout.down == 2 and colours.siting == "topleft")
    for top in range(0, height, _BAND):
        # The 1, 2, 1 filter along columns also needs the row above the band.
        bottom = min(top + _BAND, height)
        margin = min(above, top)
        yuv: Any = cv2.transform(pixels[top - margin : bottom].astype(np.float32, copy=False), matrix)
        luma[top:bottom] = _to_words(cv2.extractChannel(yuv, 0)[margin:], layout)
        for plane, channel in ((first, 1), (second, 2)):
            chroma: Any = cv2.extractChannel(yuv, channel)
            if layout.down == 2:
                chroma = _downsampled(chroma, 0, cosited=bool(above), before=margin)
            if layout.across == 2:
                chroma = _downsampled(chroma, 1, cosited=colours.siting != "center")
            plane[top // layout.down :][: chroma.shape[0]] = _to_words(chroma, layout)
    return planes


def _chroma_planes(planes: list[Plane], layout: Layout) -> tuple[Plane, Plane]:
    """Return the planes of U and V; views if the two are interleaved."""
    if layout.paired:
        return planes[1][:, :, 0], planes[1][:, :, 1]
    return planes[1], planes[2]


def white_level(pixels: AnyArray) -> float:
    """Return the value of white for the type of `pixels`."""
    return {"u1": 255.0, "u2": 65535.0}.get(pixels.dtype.str[1:], 1.0)


def _levels(range: Range, depth: int) -> tuple[float, float, float, float]:
    """Return black, span of luma, middle of chroma and span of chroma, in steps of `depth` bits. Limited
    range: 16, 219, 128 and 224 at 8 bits, shifted left for deeper frames (BT.601-7, BT.709-6)."""
    step, top = float(1 << (depth - 8)), float((1 << depth) - 1)
    middle = float(1 << (depth - 1))
    return (16 * step, 219 * step, middle, 224 * step) if range == "limited" else (0.0, top, middle, top)


@lru_cache
def _rgb_to_yuv(matrix: Matrix, range: Range, depth: int, white: float) -> FloatArray:
    """Return the 3x4 matrix from RGB in 0..`white` to coded values; the last column holds the offsets."""
    return _affine(matrix, range, depth, white).astype(np.float32)


@lru_cache
def _yuv_to_rgb(matrix: Matrix, range: Range, depth: int, white: float) -> FloatArray:
    """Return the 3x4 matrix from coded values to RGB in 0..`white`, the inverse of `_rgb_to_yuv`."""
    forward = _affine(matrix, range, depth, white)
    back = np.linalg.inv(forward[:, :3])
    return np.hstack([back, -back @ forward[:, 3:]]).astype(np.float32)


def _affine(matrix: Matrix, range: Range, depth: int, white: float) -> DoubleArray:
    """Return the 3x4 matrix of `_rgb_to_yuv` in double precision, before it is inverted or rounded to
    float32.

    U is (B - Y) / (2 (1 - Kb)) and V is (R - Y) / (2 (1 - Kr)), so that both lie in -0.5..0.5.
    """
    luma, u, v = _YCGCO if matrix == "ycgco" else _weighted(*_WEIGHTS[matrix])
    black, span, middle, chroma_span = _levels(range, depth)
    rows = np.stack([luma * span, u * chroma_span, v * chroma_span]) / white
    return np.hstack([rows, np.array([[black], [middle], [middle]])])


def _weighted(red: float, blue: float) -> tuple[DoubleArray, ...]:
    """Return the rows of luma, U and V for the weights of red and of blue."""
    luma = np.array([red, 1 - red - blue, blue])
    u = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    v = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return luma, u, v


def _to_uint8(values: FloatArray) -> Uint8Array:
    """Round to nearest (ties to even) and clip to 0..255."""
    zero: Any = 0
    result: Any = cv2.add(values, zero, dtype=cv2.CV_8U)
    return cast("Uint8Array", result.reshape(values.shape))


def _to_words(values: FloatArray, layout: Layout) -> Plane:
    """Round to nearest, clip to the depth, and shift the values to their place in the word."""
    if layout.depth == 8:
        return _to_uint8(np.ascontiguousarray(values))
    rounded = np.clip(np.rint(values), 0, (1 << layout.depth) - 1).astype(np.uint16)
    return rounded << np.uint16(layout.shift) if layout.shift else rounded


def _upsampled(small: FloatArray, axis: int, length: int, *, cosited: bool) -> FloatArray:
    """Stretch `small` [n, m] linearly to `length` samples along `axis`. If `cosited`, sample i lies on pixel
    2i; else it lies between pixels 2i and 2i + 1, so the weights are 3/4 and 1/4. The border samples are
    repeated."""
    shape = list(small.shape)
    shape[axis] *= 2
    large = np.empty(shape, np.float32)
    even, odd = large[_slice_along(axis, 0, None, 2)], large[_slice_along(axis, 1, None, 2)]
    inner, last = _slice_along(axis, 0, -1), _slice_along(axis, -1, None)
    after = small[_slice_along(axis, 1, None)]
    if cosited:
        even[...] = small
        odd[inner] = (small[inner] + after) * np.float32(0.5)
        odd[last] = small[last]
    else:
        near, far = small * np.float32(0.75), small * np.float32(0.25)
        first, rest = _slice_along(axis, 0, 1), _slice_along(axis, 1, None)
        even[rest], even[first] = near[rest] + far[inner], small[first]
        odd[inner], odd[last] = near[inner] + far[rest], small[last]
    return large[_slice_along(axis, 0, length)]


def _downsampled(large: FloatArray, axis: int, *, cosited: bool, before: int = 0) -> FloatArray:
    """Halve `large` along `axis`, the reverse of `_upsampled`. An odd length is padded with its last
    sample.

    The first `before` rows are read by the filter and give no samples of their own.
    """
    body = large[_slice_along(axis, before, None)]
    even, odd = body[_slice_along(axis, 0, None, 2)], body[_slice_along(axis, 1, None, 2)]
    if odd.shape[axis] < even.shape[axis]:
        odd = np.concatenate([odd, even[_slice_along(axis, -1, None)]], axis)
    if not cosited:
        return np.asarray((even + odd) * np.float32(0.5))
    first = large[_slice_along(axis, 0, 1)]
    previous = np.concatenate([first, odd[_slice_along(axis, 0, -1)]], axis)
    return np.asarray(even * np.float32(0.5) + (previous + odd) * np.float32(0.25))


def _slice_along(axis: int, start: int, stop: int | None, step: int = 1) -> tuple[slice, ...]:
    """Return an index that slices only `axis` and takes all of the axes before it."""
    return (*(slice(None),) * axis, slice(start, stop, step))
