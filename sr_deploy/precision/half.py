"""Convert the floating-point type that a graph computes in: to fp16 or bf16.

Inputs and outputs stay float32, so that every runner treats all files alike.

- fp16 ends at 65504. Weights beyond that are found here; the caller finds the values that overflow on
  pictures (`sr_deploy.precision.calibrate`).
- bf16 has the range of float32 but only 8 significant bits, too few for a pixel of 8 bits that passes through
  several operators. So the picture's way around the network, and all that follows the last convolution, stay
  in float32. The file is written in opset 22, the first whose convolutions take bf16.

int8 is in `sr_deploy.precision.quantise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper, shape_inference

from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.nodes import in_opset, node_roles
from sr_deploy.graph.onnx_file import copy_of, opset_of, read_spec, remove_weights, write_spec
from sr_deploy.system.arrays import FloatArray

LARGEST_FP16 = float(np.finfo(np.float16).max)
"""Largest finite fp16 number, 65504."""
_FULL = TensorProto.FLOAT
"""ONNX element type of single precision."""
_BF16_OPSET = 22
"""First opset whose convolutions take bf16."""
_TYPES: dict[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
"""ONNX element type -> its name in operator schemas."""
_SUFFIXES: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
"""ONNX element type -> suffix of the names of converted values."""
_FP32_OPERATORS = {
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSumExp"),
    *("InstanceNormalization", "LayerNormalization", "GroupNormalization", "LpNormalization", "LRN"),
    *("GlobalAveragePool", "CumSum", "Exp", "Pow", "Softmax", "LogSoftmax"),
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
}
"""Operators that stay in float32. Sums over many pixels and steep functions leave the range of half
precision; the scales of Q/DQ must stay exact."""
_SHAPE_OPERATORS = {"Shape", "Size"}
"""Operators that read only the shape of a value, which is the same in every type."""


def to_fp16(model: onnx.ModelProto, *, too_large: Set[str] = frozenset()) -> onnx.ModelProto:
    """Return `model` with fp16 weights and arithmetic, and float32 inputs and outputs.

    What fp16 cannot hold (`fp16_overflows`, and the values named in `too_large`), operators that sum many
    values and those without an fp16 form stay in float32, with casts around them. The precision in the spec
    becomes "fp16". Raises UsageError for a model that is not fp32, and ModelError for one whose types cannot
    be inferred.
    """
    half = _checked_copy(model)
    _HalfPrecisionConverter(half, TensorProto.FLOAT16, too_large | set(fp16_overflows(model))).convert()
    return _with_precision(half, "fp16")


def to_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the weights and arithmetic of its network in bf16, and float32 inputs and outputs.

    The precision in the spec becomes "bf16". Raises UsageError for a model that is not fp32, and ModelError
    for one whose types cannot be inferred or that cannot be brought to opset 22.
    """
    converted = in_opset(_checked_copy(model), _BF16_OPSET)
    # ONNX 1.17, which brought opset 22, has IR version 10
    converted.ir_version = max(converted.ir_version, 10)
    places, nodes = node_roles(converted), converted.graph.node
    precise = {name for index in places.tail | places.skip_path for name in nodes[index].output}
    _HalfPrecisionConverter(converted, TensorProto.BFLOAT16, precise).convert()
    return _with_precision(converted, "bf16")


def _checked_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy an fp32 model. Raises UsageError if its spec says another precision."""
    spec = read_spec(model)
    if spec is not None and spec.precision != "fp32":
        raise UsageError(f"{spec.name} is already {spec.precision}; convert the fp32 file it was made from")
    return copy_of(model)


def _with_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Write `precision` into the spec of `model`, in place, if it has a spec."""
    spec = read_spec(model)
    return write_spec(model, spec.with_(precision=precision)) if spec else model


def fp16_overflows(model: onnx.ModelProto) -> dict[str, float]:
    """Return the float32 weights that fp16 cannot hold: name -> largest magnitude, which may be NaN."""
    found = {}
    for name, tensor in _weights(model.graph):
        if tensor.data_type == _FULL:
            largest = float(np.max(np.abs(numpy_helper.to_array(tensor)), initial=0.0))
            if not largest <= LARGEST_FP16:  # written so that NaN is found
                found[name] = largest
    return found


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield name and tensor of all constants: initializers and `Constant` nodes."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")


class _HalfPrecisionConverter:
    """Rewrites the graph of `model` node by node in the type `kind`, but for the values in `precise`.

    A float32 value may exist in full precision under its own name, in half precision under its name in
    `halves`, or in both. It is cast at most once, where a node needs the form that does not exist yet.
    """

    def __init__(self, model: onnx.ModelProto, kind: int, precise: Set[str]) -> None:
        self.graph, self.opset = model.graph, opset_of(model)
        self.kind, self.precise = kind, precise
        self.types = _value_types(model)
        self.weights = dict(_weights(model.graph))
        self.taken = {*self.types, *self.weights}
        self.pixels = {port.name for port in model.graph.input} - set(self.weights)
        self.in_full = self.pixels | set(self.weights)
        self.halves: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def convert(self) -> None:
        """Convert the graph in place."""
        for node in list(self.graph.node):
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            if copied.op_type in _SHAPE_OPERATORS:  # reads whichever form exists: no cast for a shape
                copied.input[:] = [
                    name if name in self.in_full else self.halves[name] for name in copied.input
                ]
                self._append(copied)
            elif self._depends_on_pixels(copied) and self._fits_half(copied):
                self._convert_node(copied)
            else:
                for name in (*copied.input, *_captured(copied)):
                    self._full_name(name)
                self._append(copied)
        for port in self.graph.output:
            self._full_name(port.name)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)
        self._drop_unused()

    def _append(self, node: onnx.NodeProto) -> None:
        """Append a node whose results are in full precision."""
        self.in_full.update(node.output)
        self.nodes.append(node)

    def _depends_on_pixels(self, node: onnx.NodeProto) -> bool:
        """Return True if `node` computes with pixels, and note its results. Other nodes compute sizes and
        constants, such as the scales of a resize, and need full precision."""
        if self.pixels.isdisjoint({*node.input, *_captured(node)}):
            return False
        self.pixels.update(node.output)
        return True

    def _fits_half(self, node: onnx.NodeProto) -> bool:
        """Return True if all float32 results of `node` may be in half precision.

        That takes a standard operator whose results share a type with inputs that may be in half precision.
        """
        standard = node.domain in ("", "ai.onnx") and defs.has(node.op_type, self.opset, "")
        if not standard or node.op_type in _FP32_OPERATORS or _captured(node):
            return False
        names = [name for name in (*node.input, *node.output) if name]
        if any(name not in self.types or name in self.precise for name in names):
            return False
        schema = defs.get_schema(node.op_type, self.opset, "")
        bound = set(self._float_types(node.input, schema.inputs).values()) & _type_variables_allowing(
            self.kind, schema
        )
        results = set(self._float_types(node.output, schema.outputs).values())
        return bool(results) and results <= bound

    def _float_types(self, names: Sequence[str], formal: Sequence[Any]) -> dict[str, str]:
        """Return the float32 values among `names`, each with the type variable of its `formal` parameter."""
        parameters = [formal[min(index, len(formal) - 1)] for index in range(len(names))]
        pairs = zip(names, parameters, strict=True)
        return {name: parameter.type_str for name, parameter in pairs if self.types.get(name) == _FULL}

    def _convert_node(self, node: onnx.NodeProto) -> None:
        """Append a node that computes in half precision."""
        schema = defs.get_schema(node.op_type, self.opset, "")
        kinds, free = (
            self._float_types(node.input, schema.inputs),
            _type_variables_allowing(self.kind, schema),
        )
        node.input[:] = [
            self._half_name(n) if kinds.get(n) in free else self._full_name(n) for n in node.input
        ]
        for index, name in enumerate(node.output):
            if self.types.get(name) == _FULL:
                self.halves[name] = self._unused_name(name)
                node.output[index] = self.halves[name]
        self.nodes.append(node)

    def _half_name(self, name: str) -> str:
        """Return the name of a value's half-precision form, which is made if needed."""
        if name not in self.halves:
            self.halves[name] = self._unused_name(name)
            if name in self.weights:
                values = numpy_helper.to_array(self.weights[name])
                self.graph.initializer.append(_half_tensor(values, self.kind, self.halves[name]))
            else:
                self._add_cast(name, self.halves[name], self.kind)
        return self.halves[name]

    def _full_name(self, name: str) -> str:
        """Return the name of a value's full-precision form, which is made if needed."""
        if name in self.halves and name not in self.in_full:
            self._add_cast(self.halves[name], name, _FULL)
            self.in_full.add(name)
        return name

    def _add_cast(self, source: str, target: str, kind: int) -> None:
        """Append a cast of `source` to the type `kind`."""
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind))

    def _unused_name(self, name: str) -> str:
        """Return a name for the half-precision form of `name` that no value has."""
        fresh = f"{name}_{_SUFFIXES[self.kind]}"
        while fresh in self.taken:
            fresh += "_"
        self.taken.add(fresh)
        return fresh

    def _drop_unused(self) -> None:
        """Remove the constants whose full-precision form nothing reads any more."""
        used = {name for node in self.nodes for name in (*node.input, *_captured(node))}
        used.update(port.name for port in self.graph.output)
        remove_weights(self.graph, self.weights.keys() - used)
        for node in [n for n in self.graph.node if n.op_type == "Constant" and n.output[0] not in used]:
            self.graph.node.remove(node)


def _value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every value in the main graph that can be inferred. Raises ModelError."""
    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception as error:  # inference raises several types without a common base class
        raise ModelError(f"the types in the model cannot be inferred ({error}); export it again") from error
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    return {name: kind for name, kind in types.items() if kind}


def _half_tensor(values: FloatArray, kind: int, name: str) -> onnx.TensorProto:
    if kind == TensorProto.FLOAT16:
        return numpy_helper.from_array(values.astype(np.float16), name)
    # bf16 is the upper half of float32. NumPy has no such type, so the bits are rounded here: ties go to even
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return helper.make_tensor(name, kind, values.shape, upper.tobytes(), raw=True)


def _type_variables_allowing(kind: int, schema: defs.OpSchema) -> set[str]:
    """Return the type variables of an operator that may stand for the type `kind`."""
    wanted = f"tensor({_TYPES[kind]})"
    return {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}


def _captured(node: onnx.NodeProto) -> set[str]:
    """Return the names that the subgraphs of `node` (If, Loop, Scan) may read from the graph around them."""
    names: set[str] = set()
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for inside in inner.node:
                names.update(inside.input, _captured(inside))
            names.update(port.name for port in inner.output)
    return names
