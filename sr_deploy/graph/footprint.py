"""What running a graph takes in memory and gives in size, told from shapes alone. Nothing is run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
from onnx import TensorProto, helper, shape_inference

from sr_deploy.graph.onnx_file import copy_of, picture_io

_LARGEST_KEPT_CONSTANT = 256  # values; smaller constants may be shapes, which inference has to see
_VIEWS = {"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


def peak_bytes(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> int | None:
    """Bytes of results alive at once, at the worst moment of a run on an input of `shape`; None: cannot tell.

    For a runner that takes node after node, frees a result after its last use and computes nothing in place.
    The input does not count, nor do weights. 16-bit floats count as 32-bit ones: CPUs compute with those.
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
    """What `model` makes of an input of `shape`, whatever it declares; None: cannot tell."""
    graph = _infer_shapes(model, shape)
    return _shape(graph.output[0]) if graph else None


def _infer_shapes(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> onnx.GraphProto | None:
    """The graph of `model` with the shapes of its results for one of the input; None: cannot tell."""
    try:
        return shape_inference.infer_shapes(_without_weights(model, shape), data_prop=True).graph
    except Exception:  # inference raises several kinds; a model that it does not know may still run
        return None


def _without_weights(model: onnx.ModelProto, shape: tuple[int, int, int, int]) -> onnx.ModelProto:
    """A copy of `model` for one shape, whose large weights are inputs: their values would only be carried.

    What it declares of its results is gone: exporters write down sizes of the picture they traced.
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
    """The axes of a tensor; None where one is not known."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or any(not axis.HasField("dim_value") for axis in tensor.shape.dim):
        return None
    return tuple(int(axis.dim_value) for axis in tensor.shape.dim)


def _size(value: onnx.ValueInfoProto) -> int | None:
    """Bytes of a tensor; None where an axis is not known."""
    shape, elem_type = _shape(value), value.type.tensor_type.elem_type
    if shape is None:
        return None
    if elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        width = 4
    else:
        width = int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize) if elem_type else 0
    return math.prod(shape) * width


def _peak(nodes: Iterable[onnx.NodeProto], sizes: dict[str, int]) -> int:
    """The most bytes alive at once. A view keeps alive what it is a view of."""
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
