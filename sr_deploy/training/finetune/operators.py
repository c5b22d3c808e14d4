"""The operators of super-resolution nets in torch, with gradients.

An operator is a function of the attributes of its node and of its inputs; inputs that are left out are None. The
definitions are those of ONNX opset 13 and later. Whole numbers (shapes, axes) are tensors as well. An attribute that is
not supported raises UsageError with the name of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from sr_deploy.errors import UsageError

Attributes = Mapping[str, Any]
"""Attributes of a node: name -> value; texts are str."""
Inputs = Sequence[Any]
"""Inputs of a node, in its order: tensors, or None for one that is left out."""
Operator = Callable[[Attributes, Inputs], Any]
"""Compute a node: one tensor, or several as a tuple."""

_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
"""Coordinates of Resize by which pixels are squares; the two differ for results of one pixel only."""


def _refuse(operator: str, what: str) -> UsageError:
    return UsageError(f"fine-tuning does not support {operator} with {what}; convert without --finetune")


def _input(x: Inputs, index: int) -> Any:
    """Return an input that may be left out, or None."""
    return x[index] if index < len(x) else None


def _numbers(tensor: Tensor) -> list[int]:
    return [int(value) for value in tensor.flatten().tolist()]


def _axes(a: Attributes, x: Inputs, index: int) -> list[int] | None:
    """Return the axes of a node, which newer opsets have as an input and older ones as an attribute."""
    given = _input(x, index)
    return _numbers(given) if given is not None else a.get("axes")


def _edges(a: Attributes, x: Inputs, operator: str) -> tuple[Any, list[int]]:
    """Return the input of a convolution with its padding done where torch has none of that form, and the rest."""
    if a.get("auto_pad", "NOTSET") != "NOTSET":
        raise _refuse(operator, f"auto_pad {a['auto_pad']}")
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    if (top, left) == (bottom, right):
        return x[0], [top, left]
    return F.pad(x[0], (left, right, top, bottom)), [0, 0]


def _conv(a: Attributes, x: Inputs) -> Tensor:
    data, edges = _edges(a, x, "Conv")
    steps, spread = a.get("strides", (1, 1)), a.get("dilations", (1, 1))
    return F.conv2d(data, x[1], _input(x, 2), tuple(steps), edges, tuple(spread), a.get("group", 1))


def _conv_transpose(a: Attributes, x: Inputs) -> Tensor:
    top, left, bottom, right = a.get("pads", (0, 0, 0, 0))
    if "output_shape" in a or a.get("auto_pad", "NOTSET") != "NOTSET" or (top, left) != (bottom, right):
        raise _refuse("ConvTranspose", "output_shape, auto_pad or different edges")
    return F.conv_transpose2d(
        x[0],
        x[1],
        _input(x, 2),
        stride=tuple(a.get("strides", (1, 1))),
        padding=(top, left),
        output_padding=tuple(a.get("output_padding", (0, 0))),
        groups=a.get("group", 1),
        dilation=tuple(a.get("dilations", (1, 1))),
    )


def _divide(a: Attributes, x: Inputs) -> Tensor:
    """Divide; whole numbers are rounded towards 0."""
    return x[0] / x[1] if x[0].is_floating_point() else torch.div(x[0], x[1], rounding_mode="trunc")


def _depth_to_space(a: Attributes, x: Inputs) -> Tensor:
    block = a["blocksize"]
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x[0], block)
    count, channels, height, width = x[0].shape
    apart: Tensor = (
        x[0].reshape(count, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    )
    return apart.reshape(count, channels // block**2, height * block, width * block)


def _space_to_depth(a: Attributes, x: Inputs) -> Tensor:
    block = a["blocksize"]
    count, channels, height, width = x[0].shape
    apart: Tensor = x[0].reshape(count, channels, height // block, block, width // block, block)
    return apart.permute(0, 3, 5, 1, 2, 4).reshape(
        count, channels * block**2, height // block, width // block
    )


def _resize(a: Attributes, x: Inputs) -> Tensor:
    """Resize rows and columns as torch does. Other forms are refused."""
    mode, placed = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    if a.get("antialias") or a.get("exclude_outside") or "axes" in a:
        raise _refuse("Resize", "antialias, exclude_outside or axes")
    size = _resized(x)
    if mode == "nearest":
        return _repeated(a, x[0], size, placed)
    names = {"linear": "bilinear", "cubic": "bicubic"}
    cubic_differs = mode == "cubic" and a.get("cubic_coeff_a", -0.75) != -0.75
    if mode not in names or placed not in (*_HALF_PIXEL, "align_corners") or cubic_differs:
        raise _refuse("Resize", f"mode {mode} and coordinates {placed}")
    return F.interpolate(x[0], size=size, mode=names[mode], align_corners=placed == "align_corners")


def _resized(x: Inputs) -> tuple[int, int]:
    """Return height and width of the result of a Resize, from its scales or its sizes."""
    scales, sizes = _input(x, 2), _input(x, 3)
    if sizes is not None and sizes.numel():
        wanted = _numbers(sizes)
    else:
        # the definition rounds down; the small number is for scales such as 1/3, which float32 does not hold
        wanted = [int(n * s + 1e-4) for n, s in zip(x[0].shape, scales.tolist(), strict=True)]
    if wanted[:2] != list(x[0].shape[:2]):
        raise _refuse("Resize", "another number of channels")
    return wanted[2], wanted[3]


def _repeated(a: Attributes, data: Tensor, size: tuple[int, int], placed: str) -> Tensor:
    """Resize by nearest neighbour, which is repeating pixels in all forms that are supported."""
    rounding = a.get("nearest_mode", "round_prefer_floor")
    whole = all(new % old == 0 for new, old in zip(size, data.shape[2:], strict=True))
    squares = placed in _HALF_PIXEL and rounding.startswith("round")
    if not whole or not (squares or (placed, rounding) == ("asymmetric", "floor")):
        raise _refuse("Resize", f"mode nearest, coordinates {placed} and rounding {rounding}")
    return F.interpolate(data, size=size, mode="nearest")


def _reshape(a: Attributes, x: Inputs) -> Tensor:
    """Reshape; 0 keeps a size unless allowzero is set."""
    shape = _numbers(x[1])
    if not a.get("allowzero"):
        shape = [size or x[0].shape[axis] for axis, size in enumerate(shape)]
    result: Tensor = x[0].reshape(shape)
    return result


def _slice(a: Attributes, x: Inputs) -> Tensor:
    starts, ends = _numbers(x[1]), _numbers(x[2])
    steps = _input(x, 4)
    axes = _axes(a, x, 3) or list(range(len(starts)))
    result: Tensor = x[0]
    for axis, start, end, step in zip(
        axes, starts, ends, [1] * len(starts) if steps is None else _numbers(steps), strict=True
    ):
        kept = range(result.shape[axis])[start:end:step]
        result = result.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=result.device))
    return result


def _split(a: Attributes, x: Inputs) -> tuple[Tensor, ...]:
    axis, sizes = a.get("axis", 0), _input(x, 1)
    if sizes is not None:
        return tuple(torch.split(x[0], _numbers(sizes), axis))
    parts = a.get("num_outputs", a["outputs"])
    return tuple(torch.split(x[0], -(-x[0].shape[axis] // parts), axis))


def _pad(a: Attributes, x: Inputs) -> Tensor:
    """Pad rows and columns, or any axes with a constant."""
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    amounts, count = _numbers(x[1]), x[0].ndim
    if a.get("mode", "constant") not in modes or len(amounts) != 2 * count or _input(x, 3) is not None:
        raise _refuse("Pad", f"mode {a.get('mode')} or axes")
    mode = modes[a.get("mode", "constant")]
    inner = 0 if mode == "constant" else 2
    if any(amounts[:inner]) or any(amounts[count : count + inner]):
        raise _refuse("Pad", f"mode {mode} of other axes than rows and columns")
    # torch begins with the last axis
    flat = [amounts[axis + end] for axis in reversed(range(inner, count)) for end in (0, count)]
    value = _input(x, 2)
    if mode == "constant":
        return F.pad(x[0], flat, value=0.0 if value is None else float(value))
    return F.pad(x[0], flat, mode=mode)


def _gather(a: Attributes, x: Inputs) -> Tensor:
    axis = a.get("axis", 0) % x[0].ndim
    size, index = x[0].shape, x[1]
    found = x[0].index_select(axis, torch.where(index < 0, index + size[axis], index).flatten())
    result: Tensor = found.reshape(*size[:axis], *index.shape, *size[axis + 1 :])
    return result


def _squeeze(a: Attributes, x: Inputs) -> Tensor:
    axes = _axes(a, x, 1)
    result: Tensor = x[0].squeeze() if axes is None else x[0].squeeze(tuple(axes))
    return result


def _unsqueeze(a: Attributes, x: Inputs) -> Tensor:
    result, axes = x[0], _axes(a, x, 1) or []
    rank = result.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        result = result.unsqueeze(axis)
    return result  # type: ignore[no-any-return]


def _cast(a: Attributes, x: Inputs) -> Tensor:
    kinds = {
        onnx.TensorProto.FLOAT: torch.float32,
        onnx.TensorProto.INT64: torch.int64,
        onnx.TensorProto.INT32: torch.int32,
    }
    if a["to"] not in kinds:
        raise _refuse("Cast", f"type {onnx.TensorProto.DataType.Name(a['to'])}")
    result: Tensor = x[0].to(kinds[a["to"]])
    return result


def _prelu(a: Attributes, x: Inputs) -> Tensor:
    return torch.where(x[0] < 0, x[0] * x[1], x[0])


OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "Add": lambda a, x: x[0] + x[1],
        "Cast": _cast,
        "Clip": lambda a, x: torch.clamp(x[0], _input(x, 1), _input(x, 2)),
        "Concat": lambda a, x: torch.cat(list(x), dim=a["axis"]),
        "Constant": lambda a, x: a["value"],
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "DepthToSpace": _depth_to_space,
        "Div": _divide,
        "Gather": _gather,
        "GlobalAveragePool": lambda a, x: x[0].mean(dim=(2, 3), keepdim=True),
        "Identity": lambda a, x: x[0],
        "LeakyRelu": lambda a, x: F.leaky_relu(x[0], a.get("alpha", 0.01)),
        "Mul": lambda a, x: x[0] * x[1],
        "PRelu": _prelu,
        "Pad": _pad,
        "Relu": lambda a, x: F.relu(x[0]),
        "Reshape": _reshape,
        "Resize": _resize,
        "Shape": lambda a, x: torch.tensor(x[0].shape[a.get("start", 0) : a.get("end")]),
        "Sigmoid": lambda a, x: torch.sigmoid(x[0]),
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Squeeze": _squeeze,
        "Sub": lambda a, x: x[0] - x[1],
        "Tanh": lambda a, x: torch.tanh(x[0]),
        "Transpose": lambda a, x: x[0].permute(a.get("perm", list(reversed(range(x[0].ndim))))),
        "Unsqueeze": _unsqueeze,
    }
)
"""Name of an operator -> the function that computes it."""
