"""Count the multiplications of a net from its graph. Nothing is run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from sr_deploy.spec import ModelSpec

_SIDE = 64
"""Side in pixels of the picture for which shapes are inferred, unless the size is fixed."""


def multiply_adds_per_pixel(path: Path) -> float | None:
    """Return the multiply-adds of the convolutions and matrix products in a model file, per input pixel.

    None if the file has no spec, or if the shape of one of their values cannot be inferred.
    """
    from sr_deploy.graph.onnx_file import load_model, require_spec

    try:
        model = load_model(path)
        return multiply_adds(model, require_spec(model, str(path)))
    except Exception:  # a file that cannot be used is reported elsewhere
        return None


def multiply_adds(model: onnx.ModelProto, spec: ModelSpec) -> float | None:
    """Return the multiply-adds of `model` per input pixel; None if the shape of a value cannot be inferred."""
    try:
        height, width = spec.size_rule.fixed or spec.size_rule.padded(_SIDE, _SIDE)
        channels = spec.channels
        nchw = (1, channels, height, width)
        shapes = _shapes(model, (1, height, width, channels) if spec.layout == "NHWC" else nchw)
    except Exception:  # shape inference raises many types, also for models that run
        return None
    counts = [_multiply_adds(node, shapes) for node in model.graph.node]
    known = [count for count in counts if count is not None]
    return sum(known) / (height * width) if len(known) == len(counts) else None


def _shapes(model: onnx.ModelProto, picture: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that can be inferred for a picture of shape `picture`, by the name of the value."""
    from onnx import helper, shape_inference

    from sr_deploy.graph.onnx_file import copy_of, picture_io

    copied, (port, _) = copy_of(model), picture_io(model)
    others = [value for value in copied.graph.input if value.name != port.name]
    del copied.graph.input[:], copied.graph.value_info[:]
    copied.graph.input.extend([helper.make_tensor_value_info(port.name, port.elem_type, picture), *others])
    for value in copied.graph.output:
        value.type.tensor_type.ClearField("shape")  # exporters declare the size of the picture they traced
    graph = shape_inference.infer_shapes(copied, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes[value.name] = tuple(int(axis.dim_value) for axis in axes)
    return shapes


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int | None:
    """Return the multiply-adds of one node; 0 for other operators, None if a shape is unknown.

    Every value of a convolution's result needs one product per weight of its output channel; in a
    transposed convolution, every value of the input does.
    """
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        return 0
    first, second, result = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if first is None or second is None or result is None:
        return None
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    return math.prod(result) * first[-1]
