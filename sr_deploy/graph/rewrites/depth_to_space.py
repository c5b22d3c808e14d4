"""Recover DepthToSpace from the Reshape, Transpose and Reshape that sub-pixel convolution is often written as.

Runtimes have a fast kernel for DepthToSpace, and pixel I/O moves the rounding in front of it. A transpose of six axes has
neither. The rewrite is exact; `recover_depth_to_space` changes nothing it is not sure of.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from sr_deploy.graph.onnx_file import copy_of

_MODES: dict[tuple[int, ...], str] = {(0, 1, 4, 2, 5, 3): "CRD", (0, 3, 4, 1, 5, 2): "DCR"}
"""Order of the six axes -> mode of DepthToSpace. CRD is torch's pixel_shuffle: [n, c, r, r, h, w] before the transpose;
DCR is TensorFlow's depth_to_space: [n, r, r, c, h, w]."""


def recover_depth_to_space(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with DepthToSpace in place of its long forms; `model` itself where it has none."""
    if not any(_permutation(node) in _MODES for node in model.graph.node):
        return model
    changed = copy_of(model)
    graph = changed.graph
    shapes = _shapes(changed)
    makers = {name: node for node in graph.node for name in node.output}
    uses = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    found = False
    for last in graph.node:
        transpose = makers.get(last.input[0]) if last.op_type == "Reshape" else None
        first = makers.get(transpose.input[0]) if transpose is not None else None
        if transpose is None or first is None or first.op_type != "Reshape":
            continue
        block = _block_size(first, transpose, last, shapes, makers, graph)
        if block is None or any(uses.count(node.output[0]) != 1 for node in (first, transpose)):
            continue
        found = True
        mode = _MODES[_permutation(transpose)]
        shuffle = helper.make_node(
            "DepthToSpace", [first.input[0]], [last.output[0]], name=last.name, blocksize=block, mode=mode
        )
        last.CopyFrom(shuffle)
    if found:
        _drop_unused(graph)
    return changed if found else model


def _permutation(node: onnx.NodeProto) -> tuple[int, ...]:
    """Return the order of axes of a Transpose; empty for another operator."""
    if node.op_type != "Transpose":
        return ()
    return next((tuple(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), ())


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Return the shape of every value that ONNX can infer; None for an unknown size."""
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {
        value.name: [axis.dim_value or None for axis in value.type.tensor_type.shape.dim]
        for value in values
        if value.type.tensor_type.HasField("shape")
    }


def _block_size(
    first: onnx.NodeProto,
    transpose: onnx.NodeProto,
    last: onnx.NodeProto,
    shapes: dict[str, list[int | None]],
    makers: dict[str, onnx.NodeProto],
    graph: onnx.GraphProto,
) -> int | None:
    """Return the block size if the three nodes are a DepthToSpace; None if they are not, or that is unknown."""
    mode = _MODES.get(_permutation(transpose))
    before = shapes.get(first.input[0], [])
    after = shapes.get(last.output[0], _elements(last.input[1], makers, graph))
    if mode is None or len(before) != 4 or len(after) != 4 or before[1] is None:
        return None
    parts = _elements(first.input[1], makers, graph)
    if len(parts) != 6:
        return None
    tall, wide, channels = (parts[2], parts[3], parts[1]) if mode == "CRD" else (parts[1], parts[2], parts[3])
    if tall is None or tall != wide or tall < 2:
        return None
    if channels in (None, -1):
        channels = before[1] // tall**2
    return (
        tall
        if channels is not None and channels * tall**2 == before[1] and after[1] in (None, -1, channels)
        else None
    )


def _elements(name: str, makers: dict[str, onnx.NodeProto], graph: onnx.GraphProto) -> list[int | None]:
    """Return the elements of a 1-D integer value; None for each that is computed. Empty where the length is unknown."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return [int(value) for value in numpy_helper.to_array(tensor).ravel()]
    node = makers.get(name)
    if node is None:
        return []
    if node.op_type == "Constant":
        for attribute in node.attribute:
            if attribute.name == "value":
                return [int(value) for value in numpy_helper.to_array(attribute.t).ravel()]
            if attribute.name in ("value_ints", "value_int"):
                return [int(value) for value in (attribute.ints or [attribute.i])]
    if node.op_type == "Concat":
        # each part is one size; a computed one may only be known to have one element
        return [element for part in node.input for element in (_elements(part, makers, graph) or [None])]
    if node.op_type in ("Cast", "Unsqueeze", "Identity"):
        return _elements(node.input[0], makers, graph)
    return []


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose results nobody reads any more, and the constants of them."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(node.input)
        needed.update(_names_inside(node))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(tensor)


def _names_inside(node: onnx.NodeProto) -> set[str]:
    """Return the names that the graphs inside a node (If, Loop, Scan) read."""
    return {
        name
        for attribute in node.attribute
        if attribute.HasField("g")
        for inner in attribute.g.node
        for name in (*inner.input, *_names_inside(inner))
    }
