"""Write constant int8 weights as TensorRT before 10 wants them: floats that the graph quantises.

Our quantised (Q/DQ) files hold int8 weights with a DequantizeLinear. TensorRT folds a QuantizeLinear of
constant floats into the same int8 weights, and versions before 10 read no others. The values are the same
to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.onnx_file import copy_of, remove_weights

_FLOATS, _STEPS = "/floats", "/steps"
"""Name endings of the float weights and of the int8 values that are made from them."""


def quantise_weights_in_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` whose constant int8 tensors are floats behind a QuantizeLinear.

    Only tensors that a DequantizeLinear with a constant scale reads are changed; the QuantizeLinear uses
    that scale. Int8 constants that nothing else reads are removed. Constant int32 tensors, which quantisers
    write for biases, become floats without either node: TensorRT dequantises no int32.
    """
    copied = copy_of(model)
    tensors = {tensor.name: tensor for tensor in copied.graph.initializer}
    before: list[tuple[int, onnx.NodeProto]] = []
    folded: list[int] = []
    for index, node in enumerate(copied.graph.node):
        if node.op_type != "DequantizeLinear" or node.input[1] not in tensors:
            continue
        kept = tensors.get(node.input[0])
        if kept is not None and kept.data_type == TensorProto.INT8:
            before.append((index, _make_quantiser(copied.graph, node, kept, tensors)))
        elif kept is not None and kept.data_type == TensorProto.INT32:
            copied.graph.initializer.append(
                numpy_helper.from_array(_dequantised(node, kept, tensors), node.output[0])
            )
            folded.append(index)
    nodes = [None if index in folded else node for index, node in enumerate(copied.graph.node)]
    for index, made in reversed(before):
        nodes.insert(index, made)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes if node is not None]
    del copied.graph.node[:]
    copied.graph.node.extend(copies)
    _drop_unread(copied.graph, {made.output[0].removesuffix(_STEPS) for _, made in before})
    return copied


def _make_quantiser(
    graph: onnx.GraphProto, node: onnx.NodeProto, kept: onnx.TensorProto, tensors: dict[str, onnx.TensorProto]
) -> onnx.NodeProto:
    """Make the QuantizeLinear that gives the int8 values of `kept`, and let `node` read its result.

    One scale serves the whole tensor, or each index along `axis` has its own. The floats have the type of
    the scale; a product of an int8 value and its scale quantises back to the same value.
    """
    values = _dequantised(node, kept, tensors)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    floats, name = f"{kept.name}{_FLOATS}", f"{kept.name}{_STEPS}"
    graph.initializer.append(numpy_helper.from_array(values, floats))
    made = helper.make_node("QuantizeLinear", [floats, *node.input[1:]], [name], name=name, axis=axis)
    node.input[0] = name
    return made


def _dequantised(
    node: onnx.NodeProto, kept: onnx.TensorProto, tensors: dict[str, onnx.TensorProto]
) -> npt.NDArray[Any]:
    """Return what the DequantizeLinear `node` makes of the constant `kept`, in the type of its scale."""
    steps, scale = numpy_helper.to_array(kept), numpy_helper.to_array(tensors[node.input[1]])
    zero = (
        numpy_helper.to_array(tensors[node.input[2]]) if len(node.input) > 2 and node.input[2] else np.int8(0)
    )
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    axis = min(axis, steps.ndim - 1)  # a bias has one axis; the standard's default, 1, would be outside
    shape = [-1 if index == axis % steps.ndim else 1 for index in range(steps.ndim)] if scale.ndim else []
    wide = (steps.astype(np.float32) - np.reshape(zero, shape if np.ndim(zero) else ())) * scale.reshape(
        shape
    )
    return wide.astype(scale.dtype)  # type: ignore[no-any-return]


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove the initialisers in `names` that no node reads."""
    read = {name for node in graph.node for name in node.input}
    remove_weights(graph, names - read)
