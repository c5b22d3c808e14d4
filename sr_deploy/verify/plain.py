"""Run an ONNX file exactly as it is written: operator by operator, in ONNX Runtime without its optimisations.

The other forms of a model are compared with this one. It can also return every value inside the graph, by
which NaN and infinity are followed to the operator that made them. It is slow, and meant for crops only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from sr_deploy.errors import ModelError, one_line
from sr_deploy.graph.foreign_ports import with_plain_ports
from sr_deploy.graph.onnx_file import copy_of, picture_io
from sr_deploy.graph.session import open_session, without_bf16
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.arrays import AnyArray, FloatArray, Uint8Array

_INPUT_TYPES: Mapping[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}
"""ONNX element type of a graph's input -> the NumPy type to give it."""


_HIDES_NAN = {
    "Relu",
    "LeakyRelu",
    "PRelu",
    "Clip",
    "Max",
    "Min",
    "MaxPool",
    "GlobalMaxPool",
    "ReduceMax",
    "ReduceMin",
}
"""Operators whose result may be a number although an input is NaN, depending on the runtime."""


class PlainGraph:
    """Runs `model`, described by `spec`, as it is written.

    ONNX Runtime's CPU kernels lack bf16. A model in bf16 therefore runs in fp32, with its weights rounded to
    bf16. Raises ModelError if the runtime cannot load the model, and MissingRuntimeError if ONNX Runtime is
    not installed.
    """

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec) -> None:
        model, self.spec = with_plain_ports(model, spec)
        self.model = without_bf16(inliner.inline_local_functions(model) if model.functions else model)
        self._input_port, self._output_port = picture_io(self.model, spec.name)
        self._session = open_session(self.model, spec.name, optimise=False)

    def __call__(self, pixels: Uint8Array) -> FloatArray:
        """Compute the picture of 8-bit `pixels` [h, w, C]: [h * scale, w * scale, C]. 0 is black and 1 is
        white; values are not clipped. Sizes that the model's size rule forbids are padded as `Upscaler` pads
        them. Raises ModelError if the runtime fails."""
        (result,) = self._run(self._session, self._model_input(pixels))
        return self._to_pixels(result, pixels.shape[:2])

    def values(self, pixels: Uint8Array) -> dict[str, AnyArray]:
        """Compute every value of the graph from `pixels` [h, w, C], by name, its input and output included.

        The graph is loaded anew with all values as outputs. Memory use is the sum of all of them.
        """
        extended = copy_of(self.model)
        known = {port.name for port in extended.graph.output}
        made = [name for node in extended.graph.node for name in node.output if name and name not in known]
        extended.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made)
        session = open_session(extended, self.spec.name, optimise=False)
        feed = self._model_input(pixels)
        names = [port.name for port in session.get_outputs()]
        return {**feed, **dict(zip(names, self._run(session, feed), strict=True))}

    def hidden_nan(self, pixels: Uint8Array) -> int:
        """Count the NaN values from `pixels` [h, w, C] that an operator may turn into numbers before the output.

        Runtimes differ in what they make of NaN: OpenVINO's Relu and Clip give 0 (seen in 2026.4), so a broken net
        merely has black spots there. So the inputs of such operators are counted. Memory use is that of one run.
        """
        extended = copy_of(self.model)
        counts = _count_nan_before(extended.graph, _float_values(self.model))
        if not counts:
            return 0
        extended.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in counts
        )
        session = open_session(extended, self.spec.name, optimise=False)
        values = dict(
            zip(
                (port.name for port in session.get_outputs()),
                self._run(session, self._model_input(pixels)),
                strict=True,
            )
        )
        return int(sum(float(values[name]) for name in counts))

    def _model_input(self, pixels: Uint8Array) -> dict[str, AnyArray]:
        """Pad `pixels` and convert them to the type, value range and layout of the graph's input."""
        pixels = mirrored(pixels, self.spec.size_rule)
        kind = self._input_port.elem_type
        values: AnyArray = pixels
        if kind != TensorProto.UINT8:
            black, white = self.spec.value_range
            values = pixels / np.float32(255 / (white - black)) + np.float32(black)
        if self.spec.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return {self._input_port.name: np.ascontiguousarray(values[None], _INPUT_TYPES[kind])}

    def _run(self, session: Any, feed: Mapping[str, Any]) -> list[AnyArray]:
        """Run `session` for all its outputs. Raises ModelError if the runtime fails."""
        try:
            results: list[AnyArray] = session.run(None, dict(feed))
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            raise ModelError(
                f"ONNX Runtime cannot run {self.spec.name} ({one_line(error)}); export it again"
            ) from error
        return results

    def _to_pixels(self, result: AnyArray, size: tuple[int, ...]) -> FloatArray:
        """Convert an output of the graph to [H, W, C] in 0..1, with the padding cut off."""
        picture = np.asarray(result[0], np.float32)
        if self.spec.layout == "NCHW":
            picture = picture.transpose(1, 2, 0)
        black, white = (
            (0.0, 255.0) if self._output_port.elem_type == TensorProto.UINT8 else self.spec.value_range
        )
        height, width = (n * self.spec.scale for n in size)
        picture = (picture[:height, :width] - np.float32(black)) / np.float32(white - black)
        return np.ascontiguousarray(picture, np.float32)


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of the results that hold floating-point numbers, as far as ONNX can infer it.

    Graphs also take the largest of sizes, which are integers and cannot be NaN.
    """
    inferred = shape_inference.infer_shapes(model).graph
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return {value.name for value in inferred.value_info if value.type.tensor_type.elem_type in kinds}


def _count_nan_before(graph: onnx.GraphProto, floats: set[str]) -> list[str]:
    """Add nodes to `graph` that count NaN in the results `floats` that `_HIDES_NAN` reads; returns the names of the
    counts."""
    made = {name for node in graph.node for name in node.output if name in floats}
    read = {
        name: None for node in graph.node if node.op_type in _HIDES_NAN for name in node.input if name in made
    }
    counts = []
    for name in read:
        nan, number, count = (f"sr_deploy_{kind}/{name}" for kind in ("nan", "number", "count"))
        graph.node.extend(
            [
                helper.make_node("IsNaN", [name], [nan]),
                helper.make_node("Cast", [nan], [number], to=TensorProto.FLOAT),
                helper.make_node("ReduceSum", [number], [count], keepdims=0),
            ]
        )
        counts.append(count)
    return counts


@dataclass(frozen=True)
class NotFinite:
    """NaN and infinite values in a graph, and the first operator that made some from finite inputs."""

    count: int
    """Number of NaN and infinite values made from finite inputs."""
    operator: str
    """Type and name of the first operator that made some."""
    largest: float
    """Largest magnitude among that operator's inputs."""


def not_finite(model: onnx.ModelProto, values: Mapping[str, AnyArray]) -> NotFinite | None:
    """Find the NaN and infinite values that `model` computed from one picture; None if there are none.

    `values` are those of `PlainGraph.values`. Only operators whose inputs are all finite count. A constant of
    infinity in the graph, such as an attention mask, is therefore not blamed on the operators that read it.
    """
    count, first = 0, None
    known = dict(values) | {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        inputs = [known[name] for name in node.input if name in known]
        if not all(_is_finite(value) for value in inputs):
            continue
        bad = sum(_count_bad(known[name]) for name in node.output if name in known)
        if bad and first is None:
            first = _producer(model, node), max((_largest(value) for value in inputs), default=0.0)
        count += bad
    if first is None:
        return None
    return NotFinite(count, *first)


def _producer(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Name the operator to blame for the result of `node`. A cast computes nothing: it is followed to the
    operator whose result the narrower type could not hold."""
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    while node.op_type == "Cast" and node.input[0] in makers:
        node = makers[node.input[0]]
    return f"{node.op_type} {node.name or node.output[0]!r}"


def _is_finite(value: AnyArray) -> bool:
    """Check that no value is NaN or infinite; integers and booleans never are."""
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _count_bad(value: AnyArray) -> int:
    """Count the NaN and infinite values; 0 for integers and booleans."""
    return int(value.size - np.isfinite(value).sum()) if value.dtype.kind == "f" else 0


def _largest(value: AnyArray) -> float:
    """Return the largest magnitude of floating-point values; 0 for anything else."""
    return float(np.abs(value.astype(np.float64)).max()) if value.size and value.dtype.kind == "f" else 0.0


def mirrored(pixels: Uint8Array, rule: SizeRule) -> Uint8Array:
    """Pad `pixels` [H, W, C] at the bottom and right to the size that `rule` asks for. The picture is
    mirrored, and repeated beyond that, as in `Upscaler`. Raises UsageError if the rule has a fixed size that
    is smaller than the picture."""
    height, width = pixels.shape[:2]
    tall, wide = rule.padded(height, width)
    return pixels[_mirrored(height, tall)][:, _mirrored(width, wide)]


def _mirrored(length: int, wanted: int) -> npt.NDArray[np.intp]:
    """Return the source index of each of `wanted` rows, for a picture that has `length` rows.

    The border row is not doubled. Beyond one mirror image the first row is repeated.
    """
    index = np.arange(wanted)
    return np.clip(np.where(index < length, index, 2 * (length - 1) - index), 0, None)
