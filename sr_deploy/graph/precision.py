"""Change the precision a graph computes in. Precision is a property of the file, never of a build.

`to_fp16` keeps the ports in float32, so every runner handles both files alike. It looks at weights, not at
activations: what those do in half precision is for `sr-deploy verify` to measure on pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.record import copy_of, opset_of, read_spec, write_spec

_HALF, _FULL = TensorProto.FLOAT16, TensorProto.FLOAT
_LARGEST = float(np.finfo(np.float16).max)
_KEPT = {
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSumExp"),
    *("InstanceNormalization", "LayerNormalization", "GroupNormalization", "LpNormalization", "LRN"),
    *("GlobalAveragePool", "CumSum", "Exp", "Pow", "Softmax", "LogSoftmax"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}
"""Sums over many pixels and steep functions leave the range of half precision; scales of Q/DQ are exact."""
_MEASURES = {"Shape", "Size"}


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with weights and arithmetic in half precision, and its float32 ports.

    What half precision cannot hold (`fp16_overflows`), operators that add up many values, and those that
    have no half-precision form stay in float32, with casts around them. The record's precision becomes
    "fp16". Raises UsageError for a model that is not fp32, ModelError for one whose types are not known.
    """
    spec = read_spec(model)
    if spec is not None and spec.precision != "fp32":
        raise UsageError(f"{spec.name} is {spec.precision} already; convert the fp32 file it was made from")
    half = copy_of(model)
    _Halver(half).convert()
    return write_spec(half, spec.with_(precision="fp16")) if spec else half


def fp16_overflows(model: onnx.ModelProto) -> dict[str, float]:
    """The float32 weights that half precision cannot hold, each with its largest magnitude."""
    found = {}
    for name, tensor in _weights(model.graph):
        if tensor.data_type == _FULL:
            largest = float(np.max(np.abs(numpy_helper.to_array(tensor)), initial=0.0))
            if not largest <= _LARGEST:  # NaN too
                found[name] = largest
    return found


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")


class _Halver:
    """Rewrites the graph of `model` node by node, in order.

    A float32 value may exist in full precision (under its own name), in half (`halves`), or in both; it is
    cast where a node wants the form that is not there yet, once.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph, self.opset = model.graph, opset_of(model)
        self.too_large = fp16_overflows(model)
        self.types = _value_types(model)
        self.weights = dict(_weights(model.graph))
        self.taken = {*self.types, *self.weights}
        self.pixels = {port.name for port in model.graph.input} - set(self.weights)
        self.in_full = self.pixels | set(self.weights)
        self.halves: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def convert(self) -> None:
        for node in list(self.graph.node):
            twin = onnx.NodeProto()
            twin.CopyFrom(node)
            if twin.op_type in _MEASURES:  # of a form that is there: no cast for the sake of a shape
                twin.input[:] = [name if name in self.in_full else self.halves[name] for name in twin.input]
                self._append(twin)
            elif self._depends_on_pixels(twin) and self._fits_half(twin):
                self._halve(twin)
            else:
                for name in (*twin.input, *_captured(twin)):
                    self._full(name)
                self._append(twin)
        for port in self.graph.output:
            self._full(port.name)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused()

    def _append(self, node: onnx.NodeProto) -> None:
        self.in_full.update(node.output)
        self.nodes.append(node)

    def _depends_on_pixels(self, node: onnx.NodeProto) -> bool:
        """Whether `node` computes with pixels. Others compute sizes and constants, and need full precision."""
        if self.pixels.isdisjoint({*node.input, *_captured(node)}):
            return False
        self.pixels.update(node.output)
        return True

    def _fits_half(self, node: onnx.NodeProto) -> bool:
        """Whether all float32 results of `node` may be half, and follow from inputs that may be half."""
        standard = node.domain in ("", "ai.onnx") and defs.has(node.op_type, self.opset, "")
        if not standard or node.op_type in _KEPT or _captured(node):
            return False
        names = [name for name in (*node.input, *node.output) if name]
        if any(name not in self.types or name in self.too_large for name in names):
            return False
        schema = defs.get_schema(node.op_type, self.opset, "")
        bound = set(self._float_types(node.input, schema.inputs).values()) & _may_be_half(schema)
        results = set(self._float_types(node.output, schema.outputs).values())
        return bool(results) and results <= bound

    def _float_types(self, names: Sequence[str], formal: Sequence[Any]) -> dict[str, str]:
        """The float32 values among `names`, each with the type variable of its `formal` parameter."""
        parameters = [formal[min(index, len(formal) - 1)] for index in range(len(names))]
        pairs = zip(names, parameters, strict=True)
        return {name: parameter.type_str for name, parameter in pairs if self.types.get(name) == _FULL}

    def _halve(self, node: onnx.NodeProto) -> None:
        schema = defs.get_schema(node.op_type, self.opset, "")
        kinds, free = self._float_types(node.input, schema.inputs), _may_be_half(schema)
        node.input[:] = [self._half(n) if kinds.get(n) in free else self._full(n) for n in node.input]
        for index, name in enumerate(node.output):
            if self.types.get(name) == _FULL:
                self.halves[name] = self._fresh(name)
                node.output[index] = self.halves[name]
        self.nodes.append(node)

    def _half(self, name: str) -> str:
        if name not in self.halves:
            self.halves[name] = self._fresh(name)
            if name in self.weights:
                values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
                self.graph.initializer.append(numpy_helper.from_array(values, self.halves[name]))
            else:
                self._cast(name, self.halves[name], _HALF)
        return self.halves[name]

    def _full(self, name: str) -> str:
        if name in self.halves and name not in self.in_full:
            self._cast(self.halves[name], name, _FULL)
            self.in_full.add(name)
        return name

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind))

    def _fresh(self, name: str) -> str:
        fresh = f"{name}_fp16"
        while fresh in self.taken:
            fresh += "_"
        self.taken.add(fresh)
        return fresh

    def _drop_unused(self) -> None:
        """Remove the weights whose full-precision form nobody reads any more."""
        used = {name for node in self.nodes for name in (*node.input, *_captured(node))}
        used.update(port.name for port in self.graph.output)
        for entries in (self.graph.initializer, self.graph.input):
            dead = [e for e in entries if e.name not in used and e.name in self.weights]
            for entry in dead:
                entries.remove(entry)
        for node in [n for n in self.graph.node if n.op_type == "Constant" and n.output[0] not in used]:
            self.graph.node.remove(node)


def _value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value in the main graph, as far as inference gets."""
    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception as error:  # inference raises several kinds, and this one is what it is about
        raise ModelError(f"the types in the model cannot be told ({error}); export it again") from error
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return {name: kind for name, kind in types.items() if kind}


def _may_be_half(schema: defs.OpSchema) -> set[str]:
    """The type variables of an operator that half precision can stand for."""
    constraints = schema.type_constraints
    return {c.type_param_str for c in constraints if "tensor(float16)" in c.allowed_type_strs}


def _captured(node: onnx.NodeProto) -> set[str]:
    """What the subgraphs of `node` (If, Loop, Scan) may read of the graph around them."""
    names: set[str] = set()
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for inside in inner.node:
                names.update(inside.input, _captured(inside))
            names.update(port.name for port in inner.output)
    return names
