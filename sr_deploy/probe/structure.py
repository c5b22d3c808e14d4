"""Build the structural twin of a graph, which shows every pixel that an output can depend on.

The twin is a copy of the graph through which a NaN spreads along every path of the structure, whatever the
weights and the picture are. Its weights are zero: 0 * NaN is NaN, so a dead weight hides nothing, and
nothing overflows. Activations become identities, and max pooling becomes average pooling. One line of NaN
in its input then shows the halo exactly, with all strides, dilations, shuffles and reshapes as the runtime
itself executes them. Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.onnx_file import copy_of, opset_of

_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
"""Types in which a value can be NaN; bf16 was replaced before the twin is built."""
_SHAPE_READERS = {"Shape", "Size"}
"""Operators that read only the shape of a tensor, so no pixel passes through them."""

_FIRST_INPUT_ONLY = {
    *(
        "Reshape",
        "Resize",
        "Upsample",
        "Slice",
        "Pad",
        "Expand",
        "Tile",
        "Gather",
        "Split",
        "Squeeze",
        "Unsqueeze",
    ),
    *("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "CumSum", "GridSample"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
}
"""Operators through whose first input NaN passes. The other inputs say where values go and how they are
scaled, so they must not depend on pixels."""

_ANY_INPUT = {
    *("Add", "Sub", "Mul", "Sum", "Mean", "Neg", "Identity", "Concat", "Transpose", "Flatten", "Einsum"),
    *("Conv", "ConvTranspose", "MatMul", "Gemm", "DepthToSpace", "SpaceToDepth", "LRN", "LpNormalization"),
    *("AveragePool", "GlobalAveragePool"),
}
"""Operators that spread a NaN from any input as far as they spread values; the twin keeps them."""
_POINTWISE = {
    *(
        "Relu",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Elu",
        "Selu",
        "Celu",
        "Gelu",
        "Mish",
        "Swish",
        "Clip",
    ),
    *(
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Erf",
        "Exp",
        "Log",
        "Sqrt",
        "Abs",
    ),
    *("Reciprocal", "Pow", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Dropout", "Cast", "CastLike"),
    *("QuantizeLinear", "DequantizeLinear"),
}
"""Operators in which a value depends on one value at the same place. The twin has identities instead, so
that none can turn a NaN into a number."""

_WEIGHTED = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
"""Operators whose second input, if it is constant, is set to zero in the twin."""


@dataclass(frozen=True)
class Structure:
    """The result of following a graph: its twin, or the operators that prevent one."""

    twin: onnx.ModelProto | None
    """The structural twin: float in, float out, the same shapes as the model. None if an operator cannot be
    followed."""
    unfollowed: tuple[str, ...]
    """Operators that cannot be followed; sorted."""
    has_attention: bool
    """Activations are multiplied with activations as matrices, so memory grows with the square of the
    picture."""


def structure_of(model: onnx.ModelProto, port_name: str) -> Structure:
    """Build the structural twin of `model`, whose picture input is `port_name`.

    `model` is not changed. An operator without a twin node is no error: it is named in `unfollowed`.
    """
    twin, opset = copy_of(model), opset_of(model)
    graph = twin.graph
    dependent, unfollowed, has_attention = {port_name}, set[str](), False
    nodes = []
    for node in graph.node:
        from_pixels = [name in dependent for name in node.input]
        # nodes that no pixel passes through compute shapes and constants; the twin needs them unchanged
        if not (any(from_pixels) or _subgraph_depends_on(node, dependent)) or node.op_type in _SHAPE_READERS:
            nodes.append(node)
            continue
        dependent.update(node.output)
        has_attention |= node.op_type in ("MatMul", "Einsum") and sum(from_pixels) > 1
        replacement = _twin_node(node, from_pixels, opset)
        if replacement is None:
            unfollowed.add(node.op_type)
        else:
            nodes.append(replacement)
    if unfollowed:
        return Structure(None, tuple(sorted(unfollowed)), has_attention)
    _turn_into_twin(graph, nodes, port_name)
    return Structure(twin, (), has_attention)


def _subgraph_depends_on(node: onnx.NodeProto, dependent: set[str]) -> bool:
    """Return True if a subgraph of `node` (If, Loop, Scan) reads a value in `dependent`."""
    return any(
        not dependent.isdisjoint(inner.input) or _subgraph_depends_on(inner, dependent)
        for attribute in node.attribute
        for inner in attribute.g.node
    )


def _twin_node(node: onnx.NodeProto, from_pixels: list[bool], opset: int) -> onnx.NodeProto | None:
    """Return the twin's node for `node`; None if there is none. `from_pixels` says for each input whether
    it depends on pixels."""
    if node.domain not in ("", "ai.onnx") or not any(from_pixels):
        return None
    first_only = not any(from_pixels[1:])
    if node.op_type in _ANY_INPUT or (node.op_type in _FIRST_INPUT_ONLY and first_only):
        return node
    if node.op_type in _POINTWISE and first_only:
        return helper.make_node("Identity", node.input[:1], node.output[:1])
    if node.op_type == "Where" and not from_pixels[0]:
        return node
    replace = _REPLACEMENTS.get(node.op_type)
    return replace(node, opset) if replace else None


def _softmax(node: onnx.NodeProto, opset: int) -> onnx.NodeProto | None:
    """Spread a NaN along the axis of a Softmax by the sum in a normalisation. Before opset 13 Softmax
    flattened its input to two axes; there is no twin of that."""
    if opset < 13:  # it flattened its input to two axes
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return helper.make_node("LpNormalization", node.input, node.output, axis=axis, p=1)


def _max_pool(node: onnx.NodeProto, opset: int) -> onnx.NodeProto | None:
    """Replace max pooling, in which a NaN may lose, by average pooling over the same window. AveragePool
    has dilations from opset 19 on."""
    kept = [attribute for attribute in node.attribute if attribute.name != "storage_order"]
    dilated = any(attribute.name == "dilations" and set(attribute.ints) != {1} for attribute in kept)
    if dilated and opset < 19:
        return None
    pool = helper.make_node("AveragePool", node.input, node.output[:1])
    pool.attribute.extend(kept if opset >= 19 else [a for a in kept if a.name != "dilations"])
    return pool


def _renamed(op_type: str) -> Callable[[onnx.NodeProto, int], onnx.NodeProto | None]:
    """Return a function that copies a node under another operator name."""

    def rename(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
        other = onnx.NodeProto()
        other.CopyFrom(node)
        other.op_type = op_type
        return other

    return rename


_REPLACEMENTS: dict[str, Callable[[onnx.NodeProto, int], onnx.NodeProto | None]] = {
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "MaxPool": _max_pool,
    "GlobalMaxPool": _renamed("GlobalAveragePool"),
    "ReduceMax": _renamed("ReduceMean"),
    "ReduceMin": _renamed("ReduceMean"),
    "Max": _renamed("Sum"),
    "Min": _renamed("Sum"),
    "Div": _renamed("Add"),
}
"""Operators that may turn a NaN into a number, or make a NaN out of zeros, and the operator that spreads a
NaN just as far."""


def _turn_into_twin(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], port_name: str) -> None:
    """Put `nodes` into `graph`, set its weights to zero, and make its input and output float."""
    # 0 * NaN is NaN, so zero weights pass on every NaN and compute nothing else
    weights = {name for node in nodes if node.op_type in _WEIGHTED for name in node.input[1:2]}
    for tensor in graph.initializer:
        if tensor.name in weights and tensor.data_type in _FLOAT_TYPES:
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    for value in graph.input:
        if value.name == port_name and value.type.tensor_type.elem_type not in _FLOAT_TYPES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    result = "sr_deploy_structure"
    nodes = [*nodes, helper.make_node("Cast", [graph.output[0].name], [result], to=TensorProto.FLOAT)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:], graph.output[:]
    graph.node.extend(copies)
    graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))
