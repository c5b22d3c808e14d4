"""Our own translations of torch operators to ONNX, where those of torch's exporter compute something else.

Seen in torch 2.13 and 2.14: `interpolate(scale_factor=s, antialias=True)` becomes a Resize by sizes. torch places the
samples by `s`; ONNX places them by the ratio of the rounded sizes. For sizes that `s` does not divide, the picture
is then shifted by up to one output pixel. A Resize by scales places them as torch does.

`interpolate(mode="area")` is an adaptive average pooling. With symbolic sizes torch 2.13 makes one AveragePool of it, which
drops the last row and column of odd sizes; torch 2.14 makes a GatherND that reads beyond the picture. Here it becomes two
multiplications with matrices of window weights, which are exact for every size.

`torch.sort(x, stable=...)` has no translation in torch 2.13 and 2.14. Here it becomes a TopK of all values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return torch operator -> function that builds its ONNX nodes, for `custom_translation_table`."""
    operators = torch.ops.aten
    return {
        operators._upsample_bilinear2d_aa.default: _resize("linear"),
        operators._upsample_bicubic2d_aa.default: _resize("cubic"),
        operators._adaptive_avg_pool2d.default: _adaptive_average,
        operators.sort.stable: _sort,
    }


def _operators() -> Any:
    """Return the operators of ONNX as functions that add nodes to the graph being made."""
    from onnxscript import opset18

    return opset18


def _sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Translate a sort along `dim`; gives the values and their indices. Equal values keep their order.

    Integers are made unique by their index first, so that no runtime has to keep an order.
    """
    op = _operators()
    count = op.Shape(x, start=dim, end=dim + 1 or None)
    if not x.dtype.is_integer():
        return op.TopK(x, count, axis=dim, largest=int(descending), sorted=1)
    axis = dim if dim >= 0 else dim + len(x.shape)
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    number = op.Squeeze(count)
    place = op.Range(zero, number, one)
    place = op.Sub(op.Sub(number, one), place) if descending else place
    if behind := len(x.shape) - 1 - axis:
        place = op.Unsqueeze(place, op.Constant(value_ints=list(range(1, behind + 1))))
    unique = op.Add(op.Mul(op.Cast(x, to=7), number), place)
    _, indices = op.TopK(unique, count, axis=dim, largest=int(descending), sorted=1)
    return op.GatherElements(x, indices, axis=dim), indices


def _adaptive_average(x: Any, output_size: Any) -> Any:
    """Translate an adaptive average pooling of [N, C, H, W] to `output_size` (height, width)."""
    op = _operators()
    tall, wide = (_window_weights(x, axis, output_size[axis - 2]) for axis in (2, 3))
    return op.MatMul(op.MatMul(tall, x), op.Transpose(wide, perm=[1, 0]))


def _window_weights(x: Any, axis: int, count: Any) -> Any:
    """Return the matrix [count, size of the axis] that averages the windows of an adaptive pooling along an axis.

    Window i covers the pixels from floor(i * size / count) to ceil((i + 1) * size / count), as torch defines it.
    """
    op = _operators()
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    size = op.Squeeze(op.Shape(x, start=axis, end=axis + 1))
    if isinstance(count, int):
        count = op.Constant(value_int=count)
    count = op.Squeeze(op.Cast(count, to=7))
    index = op.Range(zero, count, one)
    start = op.Div(op.Mul(index, size), count)
    # a division of integers rounds down, so count - 1 is added to round up
    end = op.Div(op.Add(op.Mul(op.Add(index, one), size), op.Sub(count, one)), count)
    start, end = (op.Unsqueeze(edge, op.Constant(value_ints=[1])) for edge in (start, end))
    pixel = op.Range(zero, size, one)
    inside = op.And(op.GreaterOrEqual(pixel, start), op.Less(pixel, end))
    return op.Div(op.Cast(inside, to=1), op.Cast(op.Sub(end, start), to=1))


def _resize(mode: str) -> Callable[..., Any]:
    """Return the translation of a resampling with antialiasing, in Resize's `mode`."""
    op = _operators()

    def resize(
        x: Any,
        output_size: Any,
        align_corners: bool,
        scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Any:
        options = {
            "mode": mode,
            "antialias": 1,
            "coordinate_transformation_mode": "align_corners" if align_corners else "half_pixel",
            # with antialiasing torch's cubic kernel is PIL's, of a = -0.5; without it, OpenCV's, of -0.75
            "cubic_coeff_a": -0.5,
            "exclude_outside": 1,
        }
        if scales_h is not None and scales_w is not None:
            scales = op.Constant(value_floats=[1.0, 1.0, float(scales_h), float(scales_w)])
            return op.Resize(x, None, scales, None, **options)
        lead = op.Shape(x, start=0, end=2)
        sizes = op.Concat(lead, op.Cast(output_size, to=7), axis=0)
        return op.Resize(x, None, None, sizes, **options)

    return resize
