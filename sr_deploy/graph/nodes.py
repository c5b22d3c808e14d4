"""Find the nodes of a graph in which precision matters: convolutions, skip path and tail.

A net computes detail with its convolutions and adds it to the picture itself. The skip path, which takes
the picture around the net, and the tail after the last convolution decide the last bit of every pixel and
cost next to nothing. So both stay in fp32 where 8 bits of mantissa would show. Graphs are read here; only
`in_opset` makes a changed copy.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, version_converter

from sr_deploy.errors import ModelError
from sr_deploy.graph.old_resize import hide_old_resizes, write_hidden_resizes
from sr_deploy.graph.onnx_file import copy_of, opset_of

CONVOLUTIONS = {"Conv", "ConvTranspose"}
"""Operators that count as convolutions."""


@dataclass(frozen=True)
class NodeRoles:
    """The nodes of a graph by their role. Nodes are given by their index, in the order they are computed."""

    convolutions: tuple[int, ...]
    """Convolutions of the net itself, first to last."""
    skip_path: frozenset[int]
    """Convolutions of the skip path (with no other convolution before or after them), and the nodes that
    only prepare their input."""
    tail: frozenset[int]
    """Nodes after the last convolution."""


def node_roles(model: onnx.ModelProto) -> NodeRoles:
    """Return which nodes are convolutions of the net, which its skip path, and which its tail. In a net of
    one convolution, that convolution is the net, and there is no skip path."""
    nodes = list(model.graph.node)
    after_convolution = _values_after_convolutions(nodes)
    before_convolution = _values_before_convolutions(nodes)
    convolutions: list[int] = []
    skip_path, tail = set[int](), set[int]()
    for index, node in enumerate(nodes):
        later = any(name in before_convolution for name in node.output)
        if node.op_type in CONVOLUTIONS:
            shallow = not later and not any(name in after_convolution for name in node.input)
            (skip_path.add if shallow else convolutions.append)(index)
        elif not later:
            tail.add(index)
    if not convolutions:  # a net of one convolution has no skip path
        convolutions, skip_path = sorted(skip_path), set()
    skip_path |= _nodes_only_read_by(skip_path, nodes, {port.name for port in model.graph.output})
    return NodeRoles(tuple(convolutions), frozenset(skip_path), frozenset(tail))


def _nodes_only_read_by(chosen: Set[int], nodes: list[onnx.NodeProto], given: Set[str]) -> set[int]:
    """Return the nodes whose results are read only by `chosen`, or by other such nodes.

    A node with a result in `given`, the outputs of the graph, does not count.
    """
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            readers.setdefault(name, set()).add(index)
    found = set[int]()
    for index in reversed(range(len(nodes))):
        results = set(nodes[index].output)
        read = set[int]().union(*(readers.get(name, set()) for name in results))
        if read and read <= chosen | found and not results & given:
            found.add(index)
    return found


def _values_after_convolutions(nodes: list[onnx.NodeProto]) -> set[str]:
    """Return the names of the values that depend on a convolution."""
    found = set[str]()
    for node in nodes:
        if node.op_type in CONVOLUTIONS or not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _values_before_convolutions(nodes: list[onnx.NodeProto]) -> set[str]:
    """Return the names of the values on which a convolution depends."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in CONVOLUTIONS or not found.isdisjoint(node.output):
            found.update(node.input)
    return found


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the constant tensors by the name of their value: initialisers, and tensors of Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name, as Python values; texts are bytes."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def name_of(node: onnx.NodeProto) -> str:
    """Return the name by which a reader knows a convolution: its weights' name, else its own."""
    weight = node.input[1] if len(node.input) > 1 else ""
    return weight.removesuffix(".weight") or node.name or node.output[0]


def in_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of `model` in `opset` or a later one, metadata included.

    Raises ModelError if ONNX's version converter cannot convert the model.
    """
    if opset_of(model) >= opset:
        return copy_of(model)
    try:
        newer = version_converter.convert_version(hide_old_resizes(model, opset_of(model)), opset)
    except Exception as error:  # the converter raises RuntimeError and other types
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the model has opset {opset_of(model)} and cannot be converted to {opset} ({reason}); export it "
            "again with a newer opset"
        ) from error
    write_hidden_resizes(newer)
    del newer.metadata_props[:]
    newer.metadata_props.extend(model.metadata_props)  # the spec is in there
    return newer
