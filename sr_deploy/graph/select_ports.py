"""Make a graph with one picture in and one picture out of a graph with several ports.

A net may also give features, or take a noise level. The outputs that are not asked for are removed with the nodes
that only they need, and further inputs become constants.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import PICTURE_TYPES, copy_of

_FIXED = "fixed/"
"""Prefix of the names of the values that stand for fixed inputs."""


def select_ports(
    model: onnx.ModelProto, *, output: str | None = None, inputs: Mapping[str, float]
) -> onnx.ModelProto:
    """Return a copy of `model` with `output` as its only output, and a number for each of `inputs`.

    An input with dynamic axes gets the number at every place, with the axes of the picture. Raises UsageError for
    names that the graph does not have, and if no picture is left among the inputs.
    """
    made = copy_of(model)
    graph = made.graph
    if output is not None:
        _keep_output(graph, output)
    weights = {tensor.name for tensor in graph.initializer}
    free = [value for value in graph.input if value.name not in weights]
    for name in inputs:
        if name not in {value.name for value in free}:
            raise UsageError(
                f"the graph has no input {name!r}; it has {', '.join(value.name for value in free) or 'none'}"
            )
    pictures = [value for value in free if value.name not in inputs]
    if inputs and not pictures:
        raise UsageError(
            "every input got a number, so none is left for the picture; leave out the picture's input"
        )
    for name, number in inputs.items():
        _fix_input(graph, next(value for value in free if value.name == name), number, pictures[0])
    _remove_dead_nodes(graph)
    return made


def _keep_output(graph: onnx.GraphProto, name: str) -> None:
    """Remove all outputs but one."""
    names = [value.name for value in graph.output]
    if name not in names:
        raise UsageError(f"the graph has no output {name!r}; it has {', '.join(names)}")
    for value in [value for value in graph.output if value.name != name]:
        graph.output.remove(value)


def _fix_input(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, number: float, picture: onnx.ValueInfoProto
) -> None:
    """Replace the input `value` by a constant."""
    tensor = value.type.tensor_type
    kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else np.dtype(np.float32)
    dims = [axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim]
    graph.input.remove(value)
    if None not in dims:
        full = np.full([size or 1 for size in dims], number, kind)
        graph.initializer.append(numpy_helper.from_array(full, value.name))
        return
    if len(dims) != len(picture.type.tensor_type.shape.dim) or tensor.elem_type not in PICTURE_TYPES:
        one = np.full([size or 1 for size in dims], number, kind)
        graph.initializer.append(numpy_helper.from_array(one, value.name))
        return
    _expand_over_picture(graph, value.name, np.full([1] * len(dims), number, kind), dims, picture.name)


def _expand_over_picture(
    graph: onnx.GraphProto, name: str, one: np.ndarray, dims: list[int | None], picture: str
) -> None:
    """Write the nodes that repeat the number `one` over the dynamic axes of the picture."""
    prefix = _FIXED + name
    # the picture's size along dynamic axes, the declared one along fixed axes
    mask = np.array([size is None for size in dims], np.int64)
    fixed = np.array([size or 0 for size in dims], np.int64)
    for part, array in (("one", one), ("mask", mask), ("fixed", fixed)):
        graph.initializer.append(numpy_helper.from_array(array, f"{prefix}/{part}"))
    nodes = [
        helper.make_node("Shape", [picture], [f"{prefix}/shape"]),
        helper.make_node("Mul", [f"{prefix}/shape", f"{prefix}/mask"], [f"{prefix}/dynamic"]),
        helper.make_node("Add", [f"{prefix}/dynamic", f"{prefix}/fixed"], [f"{prefix}/size"]),
        helper.make_node("Expand", [f"{prefix}/one", f"{prefix}/size"], [name]),
    ]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *kept])


def _remove_dead_nodes(graph: onnx.GraphProto) -> None:
    """Remove the nodes and weights that no output needs. Graphs with subgraphs keep everything."""
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        return
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(tensor)
