"""Find the type in which each convolution of a graph computes, by the names of its nodes.

A strongly typed compiler must give every convolution that type, so an engine can be checked against it.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, shape_inference

from sr_deploy.graph.onnx_file import copy_of

_OPERATORS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"}
"""Operators that multiply by weights, or values by values."""
_PRECISIONS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}
_MOVES = {"DepthToSpace", "Pad", "Reshape", "Slice", "Concat", "Transpose"}
"""Operators that move values. Whether a compiler computes in int8 behind them is its own choice."""


def with_named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` in which every node has a name of its own.

    Compilers name their layers after the nodes; a node without a name cannot be found again.
    """
    copied, used = copy_of(model), set[str]()
    for index, node in enumerate(copied.graph.node):
        if not node.name or node.name in used:
            node.name = f"{node.op_type}_at_{index}"
        used.add(node.name)
    return copied


def convolution_types(model: onnx.ModelProto) -> dict[str, str]:
    """Return "fp32", "fp16", "bf16" or "int8" for each convolution and multiplication of matrices, by node name.

    int8 means that both factors come from a DequantizeLinear. Left out are nodes of subgraphs, those whose type
    shape inference does not find, and those with operators that move values between DequantizeLinear and them.
    """
    graph = shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        if node.op_type not in _OPERATORS or len(node.input) < 2:  # Einsum of one input only adds and moves
            continue
        factors = node.input[:2]
        kind = _PRECISIONS.get(types.get(factors[0], 0)) or _PRECISIONS.get(types.get(factors[1], 0))
        direct = [_operator(makers.get(name)) == "DequantizeLinear" for name in factors]
        moved = [_source_operator(name, makers) == "DequantizeLinear" for name in factors]
        if all(direct):
            kind = "int8"
        if kind is not None and (all(direct) or not all(moved)):
            found[node.name] = kind
    return found


def _operator(node: onnx.NodeProto | None) -> str:
    """Return the operator of a node, or an empty string for a value that no node makes."""
    return node.op_type if node is not None else ""


def _source_operator(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """Return the operator that computed the value `name`, looked for in front of operators that move values."""
    while (node := makers.get(name)) is not None and node.op_type in _MOVES:
        name = node.input[0]
    return _operator(node)
