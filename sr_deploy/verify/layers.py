"""Which layer of a model differs from that of its reference: by its weights, and by what it computes.

Layers are the operators with weights. They are paired in order where both graphs have as many of the same
shapes, else by the names of their weights; graphs that cannot be paired are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Values = npt.NDArray[np.float64]

_WEIGHTED_OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_UNCHANGING = ("Identity", "Cast")
_PIXEL_IO_PREFIX = "core/"  # what pixel I/O puts before the names of the graph it is grafted onto


@dataclass(frozen=True)
class _LayerTolerance:
    """What rounding to a precision does, relative to the norm of the values."""

    gain: float
    weights: float
    results: float


_LAYER_TOLERANCES: Mapping[str, _LayerTolerance] = MappingProxyType(
    {
        "fp32": _LayerTolerance(1e-4, 1e-4, 1e-3),
        "fp16": _LayerTolerance(1e-3, 2e-3, 1e-2),
        "bf16": _LayerTolerance(3e-3, 1e-2, 5e-2),
        "int8": _LayerTolerance(1e-2, 5e-2, 3e-1),
    }
)
_SCALED_BY = "times the reference's"
_OTHER_NET_SHARE = 0.5
"""Of the layers: where more differ, it is another net and no layer is to blame."""


@dataclass(frozen=True)
class Layer:
    """An operator with weights."""

    label: str
    """Its type and name, and that of its weights."""
    weight_name: str
    weight: Values
    bias: Values | None
    result: str
    """The name of what it computes."""


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """The layers of `model`, in the order they are computed; weights as they are used, dequantised."""
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
    """The constants of a graph, through the operators that pass them on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def origin(self, name: str) -> str:
        """The name of the tensor that `name` is made of."""
        node = self._makers.get(name)
        passed = node is not None and node.op_type in (*_UNCHANGING, "DequantizeLinear", "Transpose")
        return self.origin(node.input[0]) if node is not None and passed else name

    def value(self, name: str) -> Values | None:
        """What `name` holds; None where it is computed from pixels, or in a way not known here."""
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
    def _computed(node: onnx.NodeProto, inputs: Sequence[Values]) -> Values | None:
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


def _dequantised(inputs: Sequence[Values], axis: int) -> Values:
    """ONNX's DequantizeLinear, per tensor or per axis."""
    value, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else np.zeros_like(scale)
    shape = [-1 if i == axis % max(value.ndim, 1) else 1 for i in range(value.ndim)] if scale.size > 1 else []
    return np.asarray((value - zero.reshape(shape)) * scale.reshape(shape), np.float64)


def pair_layers(ours: Sequence[Layer], theirs: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """The layers of two graphs that stand for each other; empty where that cannot be told."""
    if [layer.weight.shape for layer in ours] == [layer.weight.shape for layer in theirs]:
        return list(zip(ours, theirs, strict=True))
    named = {layer.weight_name: layer for layer in theirs if layer.weight_name}
    both = [(layer, named[layer.weight_name]) for layer in ours if layer.weight_name in named]
    return [(a, b) for a, b in both if a.weight.shape == b.weight.shape]


def weight_culprits(pairs: Sequence[tuple[Layer, Layer]], precision: str) -> list[str]:
    """The layers whose weights differ by more than `precision` explains; one line for all where most do."""
    found = _differences(pairs, precision)
    if len(pairs) > 2 and len(found) > _OTHER_NET_SHARE * len(pairs):
        return [
            f"the weights of {len(found)} of {len(pairs)} layers differ from the reference's, first {found[0]}: "
            "it was made from another checkpoint"
        ]
    return found


def scaled_layers(pairs: Sequence[tuple[Layer, Layer]], precision: str) -> list[str]:
    """The one layer whose weights are those of the reference times a factor; none where several differ.

    Two or more may make up for each other: so do layers that were balanced before they were quantised.
    """
    found = _differences(pairs, precision)
    return found if len(found) == 1 and _SCALED_BY in found[0] else []


def _differences(pairs: Sequence[tuple[Layer, Layer]], precision: str) -> list[str]:
    """One clause for every layer whose weights or bias differ."""
    clauses = (_weight_difference(ours, theirs, _LAYER_TOLERANCES[precision]) for ours, theirs in pairs)
    return [clause for clause in clauses if clause]


def _weight_difference(ours: Layer, theirs: Layer, allowed: _LayerTolerance) -> str:
    """One clause; empty where the two agree."""
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


def _fit_gain(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[float, float, float]:
    """The factor from `b` to `a` by least squares, what it leaves over, and the difference, both relative to `b`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.square(b).sum())
    gain = float((a * b).sum()) / norm
    rest, difference = (float(np.square(a - factor * b).sum() / norm) ** 0.5 for factor in (gain, 1.0))
    return gain, rest / max(1.0, abs(gain)), difference


def result_culprit(
    pairs: Sequence[tuple[Layer, Layer]],
    ours: Mapping[str, npt.NDArray[Any]],
    theirs: Mapping[str, npt.NDArray[Any]],
    precision: str,
) -> str:
    """Where, among layers of equal weights, the results of one picture begin to differ.

    In lower precision all differ a little: where none differs by more than that, the one at which the error
    grows most. Empty where all agree.
    """
    errors = _relative_errors(pairs, ours, theirs)
    for number, (label, error) in enumerate(errors):
        if not error <= _LAYER_TOLERANCES[precision].results:
            before = errors[number - 1][0] if number else "the input"
            return f"results agree up to {before} and differ by {100 * error:.2g} % at {label}: look between the two"
    if precision == "fp32" or not errors:
        return ""
    earlier = [0.0, *(error for _, error in errors)]
    growth, label = max(
        (error - before, label) for (label, error), before in zip(errors, earlier, strict=False)
    )
    return (
        f"no layer is wrong, {precision} itself costs too much: the error grows most, by {100 * growth:.2g} % of the "
        f"values, at {label}; keep that one in a higher precision"
    )


def _relative_errors(
    pairs: Sequence[tuple[Layer, Layer]],
    ours: Mapping[str, npt.NDArray[Any]],
    theirs: Mapping[str, npt.NDArray[Any]],
) -> list[tuple[str, float]]:
    """Of every layer whose result both computed: its label, and how far the two are apart, relative to theirs."""
    errors = []
    for layer, other in pairs:
        a, b = ours.get(layer.result), theirs.get(other.result)
        if a is not None and b is not None and a.shape == b.shape and np.any(b):
            errors.append((layer.label, _fit_gain(a, b)[2]))
    return errors
