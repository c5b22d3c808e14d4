"""Find the layer of a model that differs from the reference's, by its weights and by what it computes.

Layers are the operators with weights. If both graphs have layers of the same shapes in the same order, they
are paired in that order, else by the names of their weights. Graphs that cannot be paired are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from onnx import numpy_helper

from sr_deploy.system.arrays import AnyArray, DoubleArray

_WEIGHTED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input is their weights."""
_UNCHANGING = ("Identity", "Cast")
"""Operators that pass a constant on without changing it, but for its type."""
_PIXEL_IO_PREFIX = "core/"
"""Prefix that pixel I/O gives to the names of the graph it is grafted onto."""


@dataclass(frozen=True)
class _LayerTolerance:
    """Differences that rounding to a precision explains, relative to the norm of the reference's values.

    Larger ones are taken for a fault. The limits are generous multiples of half a rounding step: fp16 keeps
    11 significant bits, bf16 keeps 8, and int8 has 127 steps on each side of zero.
    """

    gain: float
    """Largest deviation from 1 of the factor between the weights."""
    weights: float
    """Largest difference of the weights that remains after the factor."""
    results: float
    """Largest difference of what a layer computes, which adds up over all layers before it."""


_LAYER_TOLERANCES: Mapping[str, _LayerTolerance] = MappingProxyType(
    {
        "fp32": _LayerTolerance(1e-4, 1e-4, 1e-3),
        "fp16": _LayerTolerance(1e-3, 2e-3, 1e-2),
        "bf16": _LayerTolerance(3e-3, 1e-2, 5e-2),
        "int8": _LayerTolerance(1e-2, 5e-2, 3e-1),
    }
)
"""Precision of the coarser of the two forms -> its limits."""
_SCALED_BY = "times the reference's"
"""Phrase by which `scaled_layers` recognises a layer that differs by a factor only."""
_OTHER_NET_SHARE = 0.5
"""Share of the layers, 0..1. If more differ, the weights are those of another network,
and no single layer is named."""


@dataclass(frozen=True)
class Layer:
    """An operator with weights."""

    label: str
    """Type and name of the operator, and the name of its weights."""
    weight_name: str
    """Name of the tensor the weights are stored in, without the prefix of pixel I/O."""
    weight: DoubleArray
    """Weights as the operator uses them, in float64: dequantised and transposed."""
    bias: DoubleArray | None
    """Bias in float64; None if there is none or if it is computed."""
    result: str
    """Name of the value that the operator computes."""


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """List the layers of `model` in the order they are computed, with dequantised weights."""
    constants = _Constants(model)
    layers = []
    for node in model.graph.node:
        if node.op_type not in _WEIGHTED_OPERATORS or len(node.input) < 2:
            continue
        weight = constants.value(node.input[1])
        if weight is None:
            continue
        bias = constants.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        name = constants.origin(node.input[1]).removeprefix(_PIXEL_IO_PREFIX)
        label = f"{node.op_type} {(node.name or node.output[0]).removeprefix(_PIXEL_IO_PREFIX)!r}"
        label += f" ({name})" if name else ""
        layers.append(Layer(label, name, weight, bias, node.output[0]))
    return layers


class _Constants:
    """Constants of a graph, followed through the operators that pass them on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def origin(self, name: str) -> str:
        """Return the name of the stored tensor that the value `name` is made from."""
        node = self._makers.get(name)
        passed = node is not None and node.op_type in (*_UNCHANGING, "DequantizeLinear", "Transpose")
        return self.origin(node.input[0]) if node is not None and passed else name

    def value(self, name: str) -> DoubleArray | None:
        """Return the constant `name`; None if it depends on pixels or on an unknown operator."""
        if name in self._tensors:
            return np.asarray(numpy_helper.to_array(self._tensors[name]), np.float64)
        node = self._makers.get(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            return None if tensor is None else np.asarray(numpy_helper.to_array(tensor), np.float64)
        inputs = [self.value(name) for name in node.input if name]
        known = [value for value in inputs if value is not None]
        return self._computed(node, known) if known and len(known) == len(inputs) else None

    @staticmethod
    def _computed(node: onnx.NodeProto, inputs: Sequence[DoubleArray]) -> DoubleArray | None:
        """Compute `node` from constant inputs; None for an operator that is not handled here."""
        if node.op_type in _UNCHANGING:
            return inputs[0]
        settings = {a.name: a for a in node.attribute}
        if node.op_type == "Transpose":
            order = tuple(settings["perm"].ints) if "perm" in settings else None
            return np.transpose(inputs[0], order)
        if node.op_type == "DequantizeLinear":
            axis = settings["axis"].i if "axis" in settings else 1
            return _dequantised(inputs, int(axis))
        return None


def _dequantised(inputs: Sequence[DoubleArray], axis: int) -> DoubleArray:
    """Compute ONNX's DequantizeLinear, (value - zero point) * scale, per tensor or along `axis`. The zero
    point is 0 if the operator has no third input."""
    value, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else np.zeros_like(scale)
    shape = [-1 if i == axis % max(value.ndim, 1) else 1 for i in range(value.ndim)] if scale.size > 1 else []
    return np.asarray((value - zero.reshape(shape)) * scale.reshape(shape), np.float64)


def pair_layers(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Pair the layers of two graphs; empty if they cannot be paired safely.

    Pairing by order comes first, because an exporter may rename weights.
    """
    if [layer.weight.shape for layer in ours] == [layer.weight.shape for layer in theirs]:
        return list(zip(ours, theirs, strict=True))
    named = {layer.weight_name: layer for layer in theirs if layer.weight_name}
    both = [(layer, named[layer.weight_name]) for layer in ours if layer.weight_name in named]
    return [(a, b) for a, b in both if a.weight.shape == b.weight.shape]


def weight_culprits(pairs: Sequence[tuple[Layer, Layer]], precision: str) -> list[str]:
    """Name the layers whose weights differ by more than `precision` explains, one clause each.

    Where most layers differ there is one clause for all of them.
    """
    found = _differences(pairs, precision)
    if len(pairs) > 2 and len(found) > _OTHER_NET_SHARE * len(pairs):
        return [
            f"the weights of {len(found)} of {len(pairs)} layers differ from the reference's, first {found[0]}: "
            "the file was made from another checkpoint"
        ]
    return found


def scaled_layers(pairs: Sequence[tuple[Layer, Layer]], precision: str) -> list[str]:
    """Name the one layer whose weights are the reference's times a factor; empty if several differ.

    Several scaled layers may cancel each other out: channels are balanced that way before int8 quantisation.
    """
    found = _differences(pairs, precision)
    return found if len(found) == 1 and _SCALED_BY in found[0] else []


def _differences(pairs: Sequence[tuple[Layer, Layer]], precision: str) -> list[str]:
    """Return one clause for every pair of layers whose weights or bias differ."""
    clauses = (_weight_difference(ours, theirs, _LAYER_TOLERANCES[precision]) for ours, theirs in pairs)
    return [clause for clause in clauses if clause]


def _weight_difference(ours: Layer, theirs: Layer, allowed: _LayerTolerance) -> str:
    """Describe the difference of two layers in one clause; empty if they agree within `allowed`."""
    for what, a, b in (("weights", ours.weight, theirs.weight), ("bias", ours.bias, theirs.bias)):
        if a is None or b is None or a.size != b.size or not np.any(b):
            continue
        gain, rest, difference = _fit_gain(a, b.reshape(a.shape))
        if abs(gain - 1) > allowed.gain and rest <= allowed.weights:
            verb = "are" if what == "weights" else "is"
            return f"the {what} of {ours.label} {verb} {gain:.4g} {_SCALED_BY}"
        if difference > allowed.weights:
            ending = "" if what == "weights" else "s"
            return (
                f"the {what} of {ours.label} differ{ending} from the reference's by {100 * difference:.2g} %"
            )
    return ""


def _fit_gain(a: AnyArray, b: AnyArray) -> tuple[float, float, float]:
    """Fit `gain * b` to `a` by least squares: gain, norm of the rest, norm of `a - b`, relative to `b`'s."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.square(b).sum())
    gain = float((a * b).sum()) / norm
    rest, difference = (float(np.square(a - factor * b).sum() / norm) ** 0.5 for factor in (gain, 1.0))
    return gain, rest / max(1.0, abs(gain)), difference


def result_culprit(
    pairs: Sequence[tuple[Layer, Layer]],
    ours: Mapping[str, AnyArray],
    theirs: Mapping[str, AnyArray],
    precision: str,
) -> str:
    """Say where the results of one picture begin to differ, among layers of equal weights.

    In lower precision all results differ a little. If none differs by more than the precision explains, the
    layer at which the error grows most is named. Empty if all agree. `ours` and `theirs` hold the values of
    the two graphs by name.
    """
    errors = _relative_errors(pairs, ours, theirs)
    for number, (label, error) in enumerate(errors):
        if not error <= _LAYER_TOLERANCES[precision].results:
            before = errors[number - 1][0] if number else "the input"
            return f"results agree up to {before} and differ by {100 * error:.2g} % at {label}: look between the two layers"
    if precision == "fp32" or not errors:
        return ""
    earlier = [0.0, *(error for _, error in errors)]
    growth, label = max(
        (error - before, label) for (label, error), before in zip(errors, earlier, strict=False)
    )
    return (
        f"no layer is wrong, but {precision} itself costs too much: the error grows most, by {100 * growth:.2g} % of the "
        f"values, at {label}; keep that layer in a higher precision"
    )


def _relative_errors(
    pairs: Sequence[tuple[Layer, Layer]],
    ours: Mapping[str, AnyArray],
    theirs: Mapping[str, AnyArray],
) -> list[tuple[str, float]]:
    """List the label and relative error of every layer whose result both graphs computed.

    A layer whose result is all zero is left out, because nothing is relative to it.
    """
    errors = []
    for layer, other in pairs:
        a, b = ours.get(layer.result), theirs.get(other.result)
        if a is not None and b is not None and a.shape == b.shape and np.any(b):
            errors.append((layer.label, _fit_gain(a, b)[2]))
    return errors
