"""Rewrite a graph so that it has bytes (uint8) at its ports alone, as TensorRT requires.

TensorRT has no uint8 inside a graph. Its parser takes a QuantizeLinear to uint8 for one to int8 and only
warns: pixels above 127 then saturate, and the output port becomes int8. It refuses to move bytes (Transpose and
the like). So every inner value of bytes becomes a float32 that holds the same whole number, and the one cast
to uint8 is the last node. Results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import copy_of

_WHOLE = "/whole"
"""Ending of the name of a float32 value that stands for a value of bytes."""
_MOVES = {
    *("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
    *("Clip", "Max", "Min", "Where"),
}
"""Operators that move or select values, so that they do the same with whole numbers in float32."""
_ROUNDED = {"Round", "Floor", "Ceil"}
"""Operators whose results are whole numbers, so that a cast to bytes rounds nothing."""


def has_inner_bytes(model: onnx.ModelProto) -> bool:
    """Return True if `model` computes on bytes, or moves them, anywhere but in a cast at a port."""
    return _Rewriter(model).is_needed


def with_bytes_at_ports(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` whose inner values of bytes are whole numbers in float32.

    The ports keep their names and types. Needs opset 13 or later in a model that has inner bytes; others are
    returned as a plain copy. Raises ModelError that names an operator which computes on bytes and has no float
    form here, such as ConvInteger.
    """
    copied = copy_of(model)
    rewriter = _Rewriter(copied)
    if rewriter.is_needed:
        rewriter.rewrite()
    return copied


@dataclass
class _Values:
    """Types and ranks of the values of a graph, as far as shape inference finds them."""

    types: dict[str, int] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Values:
        """Infer them. Values that inference does not reach are missing."""
        graph = shape_inference.infer_shapes(model).graph
        found = cls()
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            found.types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                found.ranks[value.name] = len(tensor.shape.dim)
        for constant in graph.initializer:
            found.types[constant.name], found.ranks[constant.name] = constant.data_type, len(constant.dims)
        return found


class _Rewriter:
    """Rewrites the graph of `model` in place, node by node, in order."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.inputs = {p.name for p in self.graph.input if p.type.tensor_type.elem_type == TensorProto.UINT8}
        self.outputs = {
            p.name for p in self.graph.output if p.type.tensor_type.elem_type == TensorProto.UINT8
        }
        self.bytes = self._byte_values()
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.nodes: list[onnx.NodeProto] = []
        # inferred only for a graph that is rewritten: inference takes longer than the rest
        self.values = _Values.of(model) if self.is_needed else _Values()

    def _byte_values(self) -> set[str]:
        """Return the names of all values of bytes: ports, constants, and results of nodes."""
        found = self.inputs | {
            name for name, tensor in self.constants.items() if tensor.data_type == TensorProto.UINT8
        }
        for node in self.graph.node:
            if _makes_bytes(node, found):
                found.update(node.output)
        return found

    @property
    def is_needed(self) -> bool:
        """True if a node reads or makes bytes and is no cast at a port."""
        return any(self._touches(node) and not self._is_port_cast(node) for node in self.graph.node)

    def _touches(self, node: onnx.NodeProto) -> bool:
        """Return True if `node` reads or makes bytes, or has a subgraph that reads them."""
        return bool(self.bytes.intersection((*node.input, *node.output, *_captured(node))))

    def _is_port_cast(self, node: onnx.NodeProto) -> bool:
        """Return True for a cast from an input port, and for one to an output port that nothing else reads."""
        if node.op_type != "Cast":
            return False
        if node.output[0] in self.bytes:
            read = any(node.output[0] in (*other.input, *_captured(other)) for other in self.graph.node)
            return node.output[0] in self.outputs and node.input[0] not in self.bytes and not read
        return node.input[0] in self.inputs

    def rewrite(self) -> None:
        """Write the new nodes, and drop constants of bytes, which nothing reads any more."""
        for node in self.graph.node:
            if self._touches(node) and not self._is_port_cast(node):
                self._write(node)
            else:
                self.nodes.append(_copy(node))
        for name in sorted(self.outputs):
            if not (name in self.makers and self._is_port_cast(self.makers[name])):
                self._op("Cast", self._whole(name), out=name, to=TensorProto.UINT8)
        self._replace_lists()

    def _replace_lists(self) -> None:
        """Put the new nodes and constants into the graph, each value's cast in front of its first reader."""
        floats = [
            _float_constant(tensor)
            for tensor in self.graph.initializer
            if tensor.data_type == TensorProto.UINT8
        ]
        kept = [_copy(t) for t in self.graph.initializer if t.data_type != TensorProto.UINT8]
        casts = [
            helper.make_node("Cast", [n], [n + _WHOLE], name=n + _WHOLE, to=TensorProto.FLOAT)
            for n in sorted(self.inputs)
        ]
        read = {name for node in self.nodes for name in (*node.input, *_captured(node))}
        casts = [cast for cast in casts if cast.output[0] in read]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend([*casts, *self.nodes])
        self.graph.initializer.extend([*kept, *(tensor for tensor in floats if tensor.name in read)])

    def _write(self, node: onnx.NodeProto) -> None:
        """Write the float form of `node`."""
        if self.bytes.intersection(_captured(node)):
            raise _refusal(node)
        writers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Cast": self._write_cast,
            "Constant": self._write_constant,
            "QuantizeLinear": self._write_quantise,
            "DequantizeLinear": self._write_dequantise,
        }
        if node.op_type in writers:
            writers[node.op_type](node)
        elif node.op_type in _MOVES | {"Shape", "Size"} or _is_nearest(node):
            moved = _copy(node)
            moved.input[:] = [self._whole(name) for name in node.input]
            moved.output[:] = [self._whole(name) for name in node.output]
            self.nodes.append(moved)
        else:
            raise _refusal(node)

    def _write_cast(self, node: onnx.NodeProto) -> None:
        """Write a cast from bytes as a cast from floats, and one to bytes as rounding down."""
        source, result = node.input[0], node.output[0]
        if result not in self.bytes:
            self._op("Cast", self._whole(source), out=result, to=_attribute(node, "to"))
            return
        if source in self.bytes or self.values.types.get(source) == TensorProto.BOOL:
            self._op("Cast", self._whole(source), out=self._whole(result), to=TensorProto.FLOAT)
            return
        value = self._float(source)
        maker = self.makers.get(source)
        is_whole = maker is not None and maker.op_type in _ROUNDED
        self._op("Identity" if is_whole else "Floor", value, out=self._whole(result))

    def _write_constant(self, node: onnx.NodeProto) -> None:
        """Write a constant of bytes as one of floats."""
        values = numpy_helper.to_array(_attribute(node, "value")).astype(np.float32)
        self._op("Constant", out=self._whole(node.output[0]), value=numpy_helper.from_array(values))

    def _write_quantise(self, node: onnx.NodeProto) -> None:
        """Write y = clip(round(x / scale) + zero point) in float32, as the ONNX standard defines it."""
        data, scale, *zero = node.input
        value = self._op("Div", self._float(data), self._per_axis(node, scale, self._float(scale)))
        value = self._op("Round", value)
        if zero and zero[0] and not self._is_zero(zero[0]):
            value = self._op("Add", value, self._per_axis(node, zero[0], self._whole(zero[0])))
        low, high = self._constant(0.0), self._constant(255.0)
        self._op("Clip", value, low, high, out=self._whole(node.output[0]))

    def _write_dequantise(self, node: onnx.NodeProto) -> None:
        """Write y = (x - zero point) * scale in float32, and cast it to the type of the scale."""
        data, scale, *zero = node.input
        value = self._whole(data)
        if zero and zero[0] and not self._is_zero(zero[0]):
            value = self._op("Sub", value, self._per_axis(node, zero[0], self._whole(zero[0])))
        kind = self.values.types.get(scale, TensorProto.FLOAT)
        steps = self._per_axis(node, scale, self._float(scale))
        if kind == TensorProto.FLOAT:
            self._op("Mul", value, steps, out=node.output[0])
        else:
            self._op("Cast", self._op("Mul", value, steps), out=node.output[0], to=kind)

    def _per_axis(self, node: onnx.NodeProto, name: str, value: str) -> str:
        """Reshape a scale or zero point so that it applies along its axis of the data of `node`.

        `value` is the float form of the input `name`. A scalar stays as it is. Raises ModelError for scales of
        blocks, and where the number of axes is not known.
        """
        rank, axes = self.values.ranks.get(name), self.values.ranks.get(node.input[0])
        if rank == 0 or (name in self.constants and list(self.constants[name].dims) == [1]):
            return value
        if rank != 1 or axes is None or _attribute(node, "block_size", 0):
            raise _refusal(node)
        axis = _attribute(node, "axis", 1) % axes
        shape = [-1 if index == axis else 1 for index in range(axes)]
        return self._op("Reshape", value, self._constant(shape, np.int64))

    def _is_zero(self, name: str) -> bool:
        """Return True if the zero point `name` is a constant of zeros."""
        return name in self.constants and not numpy_helper.to_array(self.constants[name]).any()

    def _whole(self, name: str) -> str:
        """Return the float32 value that stands for the value of bytes `name`; other names are unchanged."""
        return name + _WHOLE if name in self.bytes else name

    def _float(self, name: str) -> str:
        """Return the value `name` as float32."""
        if self.values.types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT:
            return name
        return self._op("Cast", name, to=TensorProto.FLOAT)

    def _op(self, op_type: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node; returns the name of its result."""
        node = f"bytes/{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [out or node], name=node, **attributes))
        return out or node

    def _constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """Add a constant to the graph; returns its name."""
        name = f"bytes/constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name


def _makes_bytes(node: onnx.NodeProto, known: set[str]) -> bool:
    """Return True if the results of `node` are bytes, given the values of bytes `known` that precede it."""
    if node.op_type == "Cast":
        return bool(_attribute(node, "to") == TensorProto.UINT8)
    if node.op_type == "Constant":
        tensor = _attribute(node, "value")
        return tensor is not None and tensor.data_type == TensorProto.UINT8
    if node.op_type == "QuantizeLinear":
        if len(node.input) > 2 and node.input[2]:
            return node.input[2] in known
        return _attribute(node, "output_dtype", 0) in (0, TensorProto.UINT8)
    if node.op_type == "DynamicQuantizeLinear":
        return True
    return (node.op_type in _MOVES or _is_nearest(node)) and bool(known.intersection(_data_inputs(node)))


def _data_inputs(node: onnx.NodeProto) -> list[str]:
    """Return the inputs whose type is that of the result: all of a concatenation, the second of Where, ..."""
    if node.op_type in ("Concat", "Max", "Min"):
        return list(node.input)
    return list(node.input[1:2] if node.op_type == "Where" else node.input[:1])


def _is_nearest(node: onnx.NodeProto) -> bool:
    """Return True for a Resize or Upsample that copies the nearest value, which computes nothing."""
    return node.op_type in ("Resize", "Upsample") and _attribute(node, "mode", b"nearest") == b"nearest"


def _attribute(node: onnx.NodeProto, name: str, otherwise: Any = None) -> Any:
    """Return an attribute of `node`, or `otherwise`."""
    found = next((a for a in node.attribute if a.name == name), None)
    return otherwise if found is None else helper.get_attribute_value(found)


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """Yield all names that the subgraphs of `node` read, among them those of outer values."""
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for each in inner.node:
                yield from each.input
                yield from _captured(each)


def _float_constant(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return a constant of bytes as float32, under the name of its float form."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name + _WHOLE)


def _copy(message: Any) -> Any:
    """Copy a protobuf message, so that it stays valid when the list it comes from is cleared."""
    return type(message).FromString(message.SerializeToString())


def _refusal(node: onnx.NodeProto) -> ModelError:
    """Make the error for a node that has no float form."""
    return ModelError(
        f"the operator {node.op_type} (node {node.name or node.output[0]}) computes on bytes, which TensorRT cannot do; "
        "export the model in float, or use --backend onnxruntime"
    )
