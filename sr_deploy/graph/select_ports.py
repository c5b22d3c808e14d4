"""Make a graph with one picture in and one picture out of a graph with several ports.

A net may also give features, or take a noise level. The outputs that are not asked for are removed with the nodes
that only they need, and further inputs become constants. A net may also take its picture in cells, packed into channels outside
the graph, as Real-ESRGAN x2 does; the packing then goes into the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import PICTURE_TYPES, copy_of

_FIXED = "fixed/"
"""Prefix of the names of the values that stand for fixed inputs."""
_PACKED = "packed/"
"""Prefix of the names of the values that pack the picture into cells."""
_CELLS = {12: 2, 48: 4}
"""Channels of RGB in square cells -> side of a cell in pixels."""


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


def with_packing(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a copy of `model` that takes RGB and packs it into cells of 2x2 or 4x4 pixels itself; None if it takes no cells.

    A model takes cells if its one input is float32 [N, 12 or 48, H, W]. Their channels are taken in the order of torch's
    `pixel_unshuffle`: first the colour, then the row and the column in the cell.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    free = [value for value in model.graph.input if value.name not in weights]
    tensor = free[0].type.tensor_type if len(free) == 1 else None
    dims = tensor.shape.dim if tensor else []
    if (
        tensor is None
        or tensor.elem_type != TensorProto.FLOAT
        or len(dims) != 4
        or dims[1].dim_value not in _CELLS
    ):
        return None
    channels, name = dims[1].dim_value, free[0].name
    side = _CELLS[channels]
    made = copy_of(model)
    graph = made.graph
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    for node in nodes:
        node.input[:] = [f"{_PACKED}picture" if given == name else given for given in node.input]
    # ONNX puts the place in the cell before the colour
    order = np.arange(channels).reshape(side * side, 3).T.reshape(-1)
    graph.initializer.append(numpy_helper.from_array(order, f"{_PACKED}order"))
    del graph.node[:], graph.value_info[:]
    graph.node.append(helper.make_node("SpaceToDepth", [name], [f"{_PACKED}cells"], blocksize=side))
    graph.node.append(
        helper.make_node("Gather", [f"{_PACKED}cells", f"{_PACKED}order"], [f"{_PACKED}picture"], axis=1)
    )
    graph.node.extend(nodes)
    sizes = [axis.dim_value * side or None for axis in dims[2:]]
    count: int | str | None = dims[0].dim_value or dims[0].dim_param or None
    picture = helper.make_tensor_value_info(name, TensorProto.FLOAT, [count, 3, *sizes])
    next(value for value in graph.input if value.name == name).CopyFrom(picture)
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
