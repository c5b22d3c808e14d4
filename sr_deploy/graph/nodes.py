"""Where in a graph precision matters: its convolutions, what goes around them, and what comes after them.

Looks at a graph and changes nothing. A net computes detail with its convolutions and adds it to the picture
itself; the picture's way around the net and what follows the last convolution decide the last bit of every
pixel and cost next to nothing, so they stay in single precision where 8 bits of mantissa would show.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import onnx
from onnx import version_converter

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import copy_of, opset_of

CONVOLUTIONS = {"Conv", "ConvTranspose"}


@dataclass(frozen=True)
class NodeRoles:
    """The nodes of a graph, by index, in the order they are computed."""

    convolutions: tuple[int, ...]
    """Convolutions of the net itself, first to last."""
    around: frozenset[int]
    """Convolutions on the picture's own way around the net (no other one before or after), and what prepares
    their input."""
    tail: frozenset[int]
    """What is computed after the last convolution."""


def node_roles(model: onnx.ModelProto) -> NodeRoles:
    """Tell the convolutions of the net from what goes around it and comes after it."""
    nodes = list(model.graph.node)
    deep = _reached([], nodes)  # values that some convolution has been through
    feeds = _feeding(nodes)  # values that some convolution will read
    convolutions: list[int] = []
    around, tail = set[int](), set[int]()
    for index, node in enumerate(nodes):
        later = any(name in feeds for name in node.output)
        if node.op_type in CONVOLUTIONS:
            shallow = not later and not any(name in deep for name in node.input)
            (around.add if shallow else convolutions.append)(index)
        elif not later:
            tail.add(index)
    if not convolutions:  # a net of one convolution: nothing goes around it
        convolutions, around = sorted(around), set()
    around |= _only_for(around, nodes, {port.name for port in model.graph.output})
    return NodeRoles(tuple(convolutions), frozenset(around), frozenset(tail))


def _only_for(chosen: Set[int], nodes: list[onnx.NodeProto], given: Set[str]) -> set[int]:
    """The nodes whose results, none of which is in `given`, nothing reads but those of `chosen`, and these."""
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


def _reached(values: Iterable[str], nodes: list[onnx.NodeProto]) -> set[str]:
    """The results of convolutions, and of everything that follows from one or from `values`."""
    found = set(values)
    for node in nodes:
        if node.op_type in CONVOLUTIONS or not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _feeding(nodes: list[onnx.NodeProto]) -> set[str]:
    """What convolutions read, and everything that leads there."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op_type in CONVOLUTIONS or not found.isdisjoint(node.output):
            found.update(node.input)
    return found


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Constant tensors by the name of their value: initialisers, and what Constant nodes hold."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def name_of(node: onnx.NodeProto) -> str:
    """What a convolution is called to a reader: its weights' name, or its own."""
    weight = node.input[1] if len(node.input) > 1 else ""
    return weight.removesuffix(".weight") or node.name or node.output[0]


def in_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy of `model` in `opset` at least, record and all. Raises ModelError where it cannot be brought there."""
    if opset_of(model) >= opset:
        return copy_of(model)
    try:
        newer = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises RuntimeError and others, for whatever it does not know
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the model is written in opset {opset_of(model)}, and cannot be brought to {opset} ({reason}); export it "
            "again with a newer opset"
        ) from error
    del newer.metadata_props[:]
    newer.metadata_props.extend(model.metadata_props)
    return newer
