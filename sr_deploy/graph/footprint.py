"""Compute a graph's working memory and output size from shapes alone. Nothing is run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper, shape_inference

from sr_deploy.graph.onnx_file import copy_of, picture_io

_LARGEST_KEPT_CONSTANT = 256
"""Largest constant, in values, that shape inference gets to see. Small ones may be shapes, which it needs."""
_VIEWS = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
"""Operators that change only the shape, so that their result shares the memory of their input."""


def peak_bytes(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> int | None:
    """Return the most bytes of results alive at once in a run on an input of `shape`; None if unknown.

    This holds for a runner that computes node after node, frees a result after its last use, and computes
    nothing in place. The input and the weights are not counted. 16-bit floats count as 32-bit ones, because
    CPUs compute with those.
    """
    graph = _infer_shapes(model, shape)
    if graph is None:
        return None
    sizes = {value.name: _size(value) for value in (*graph.value_info, *graph.output)}
    sizes |= {name: 0 for node in graph.node if node.op_type in _VIEWS for name in node.output}
    if any(sizes.get(name) is None for node in graph.node for name in node.output if name):
        return None
    return _peak(graph.node, {name: size or 0 for name, size in sizes.items()})


def output_shape(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> tuple[int, ...] | None:
    """Return the shape of the output for an input of `shape`, whatever the model declares; None if unknown."""
    graph = _infer_shapes(model, shape)
    return _shape(graph.output[0]) if graph else None


def _infer_shapes(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> onnx.GraphProto | None:
    """Return the graph of `model` with the shapes of all results for an input of `shape`; None if ONNX's
    shape inference fails."""
    try:
        return shape_inference.infer_shapes(_without_weights(model, shape), data_prop=True).graph
    except Exception:  # shape inference raises many types, also for models that run
        return None


def _without_weights(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> onnx.ModelProto:
    """Return a copy of `model` for one input shape, whose large weights are inputs without values.

    Inference needs only their shapes, and copying the values would take time. Declared shapes of results
    are removed, because exporters declare the size of the picture they traced.
    """
    copied, (port, _) = copy_of(model), picture_io(model)
    weights = [t for t in copied.graph.initializer if math.prod(t.dims) > _LARGEST_KEPT_CONSTANT]
    named = {t.name for t in weights} | {port.name}
    others = [v for v in copied.graph.input if v.name not in named]
    ports = [(port.name, port.elem_type, shape), *((t.name, t.data_type, t.dims) for t in weights)]
    inputs = [*others, *(helper.make_tensor_value_info(*entry) for entry in ports)]
    del copied.graph.input[:], copied.graph.value_info[:]
    copied.graph.input.extend(inputs)
    for value in copied.graph.output:
        value.type.tensor_type.ClearField("shape")
    for tensor in weights:
        copied.graph.initializer.remove(tensor)
    return copied


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Return the axes of a tensor; None if one is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not axis.HasField("dim_value") for axis in tensor.shape.dim):
        return None
    return tuple(int(axis.dim_value) for axis in tensor.shape.dim)


def _size(value: onnx.ValueInfoProto) -> int | None:
    """Return the bytes of a tensor; None if an axis is unknown."""
    shape, elem_type = _shape(value), value.type.tensor_type.elem_type
    if shape is None:
        return None
    if elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        width = 4
    else:
        width = int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize) if elem_type else 0
    return math.prod(shape) * width


def _peak(nodes: Iterable[onnx.NodeProto], sizes: dict[str, int]) -> int:
    """Return the most bytes alive at once. A view keeps alive the value it is a view of.

    `sizes` are bytes by the name of the value; a view has none of its own.
    """
    roots: dict[str, str] = {}
    last_use: dict[str, int] = {}
    order = list(nodes)
    for index, node in enumerate(order):
        if node.op_type in _VIEWS and node.input:
            roots[node.output[0]] = roots.get(node.input[0], node.input[0])
        for name in (*node.input, *node.output):
            last_use[roots.get(name, name)] = index
    alive, peak = 0, 0
    for index, node in enumerate(order):
        alive += sum(sizes.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        ended = {roots.get(name, name) for name in (*node.input, *node.output)}
        alive -= sum(sizes.get(name, 0) for name in ended if last_use[name] == index)
    return peak
