"""An ONNX file as it is written: every operator by itself, in ONNX Runtime without its optimisations.

This is what the other forms of a model are held to, and where a value that is no number is followed to the
operator that made it. Slow, and for crops only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import copy_of, picture_io
from sr_deploy.graph.session import one_line, open_session, without_bf16
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.verify.crops import Bytes
from sr_deploy.verify.measure import Floats

_INPUT_TYPES: Mapping[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
}


class PlainGraph:
    """Runs `model`, described by `spec`, as it is written.

    Where it computes in bf16, which ONNX Runtime's CPU kernels lack, its weights are what bf16 left of them and
    the arithmetic is in fp32. Raises ModelError where the runtime cannot load it, MissingRuntimeError where
    there is none.
    """

    def __init__(self, model: onnx.ModelProto, spec: ModelSpec) -> None:
        self.model = without_bf16(inliner.inline_local_functions(model) if model.functions else model)
        self.spec = spec
        self._input_port, self._output_port = picture_io(self.model, spec.name)
        self._session = open_session(self.model, spec.name, optimise=False)

    def __call__(self, pixels: Bytes) -> Floats:
        """8-bit `pixels` [h, w, C] -> [h * scale, w * scale, C]; 0..1 is black to white, not clipped.

        Sizes the model's rule does not allow are padded, as `Upscaler` does. Raises ModelError where the
        runtime fails.
        """
        (result,) = self._run(self._session, self._model_input(pixels))
        return self._to_pixels(result, pixels.shape[:2])

    def values(self, pixels: Bytes) -> dict[str, npt.NDArray[Any]]:
        """Everything the graph computes from `pixels`, by name, its input and output too."""
        extended = copy_of(self.model)
        known = {port.name for port in extended.graph.output}
        made = [name for node in extended.graph.node for name in node.output if name and name not in known]
        extended.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made)
        session = open_session(extended, self.spec.name, optimise=False)
        feed = self._model_input(pixels)
        names = [port.name for port in session.get_outputs()]
        return {**feed, **dict(zip(names, self._run(session, feed), strict=True))}

    def _model_input(self, pixels: Bytes) -> dict[str, npt.NDArray[Any]]:
        """`pixels` padded, in the type, range and layout of the input."""
        pixels = mirrored(pixels, self.spec.size_rule)
        kind = self._input_port.elem_type
        values: npt.NDArray[Any] = pixels
        if kind != TensorProto.UINT8:
            black, white = self.spec.value_range
            values = pixels / np.float32(255 / (white - black)) + np.float32(black)
        if self.spec.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return {self._input_port.name: np.ascontiguousarray(values[None], _INPUT_TYPES[kind])}

    def _run(self, session: Any, feed: Mapping[str, Any]) -> list[npt.NDArray[Any]]:
        try:
            results: list[npt.NDArray[Any]] = session.run(None, dict(feed))
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            raise ModelError(
                f"ONNX Runtime cannot run {self.spec.name} ({one_line(error)}); export it again"
            ) from error
        return results

    def _to_pixels(self, result: npt.NDArray[Any], size: tuple[int, ...]) -> Floats:
        picture = np.asarray(result[0], np.float32)
        if self.spec.layout == "NCHW":
            picture = picture.transpose(1, 2, 0)
        black, white = (
            (0.0, 255.0) if self._output_port.elem_type == TensorProto.UINT8 else self.spec.value_range
        )
        height, width = (n * self.spec.scale for n in size)
        picture = (picture[:height, :width] - np.float32(black)) / np.float32(white - black)
        return np.ascontiguousarray(picture, np.float32)


@dataclass(frozen=True)
class NotFinite:
    """Values that are NaN or infinite, and the first operator that made some of finite ones."""

    count: int
    operator: str
    """Its type and name."""
    largest: float
    """The largest magnitude that went into it."""


def not_finite(model: onnx.ModelProto, values: Mapping[str, npt.NDArray[Any]]) -> NotFinite | None:
    """What `values`, all that `model` computed of one picture, hold that is no number; None where all are numbers.

    A mask of infinity that the graph holds as a constant is not held against the operators that use it.
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
    """What to call `node`; of a cast, which computes nothing, the operator whose result it could not hold."""
    makers = {name: maker for maker in model.graph.node for name in maker.output}
    while node.op_type == "Cast" and node.input[0] in makers:
        node = makers[node.input[0]]
    return f"{node.op_type} {node.name or node.output[0]!r}"


def _is_finite(value: npt.NDArray[Any]) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _count_bad(value: npt.NDArray[Any]) -> int:
    return int(value.size - np.isfinite(value).sum()) if value.dtype.kind == "f" else 0


def _largest(value: npt.NDArray[Any]) -> float:
    return float(np.abs(value.astype(np.float64)).max()) if value.size and value.dtype.kind == "f" else 0.0


def mirrored(pixels: Bytes, rule: SizeRule) -> Bytes:
    """[H, W, C] -> as large as `rule` wants it: mirrored at the bottom and right, then repeated.

    Raises UsageError where the rule's size is fixed and smaller.
    """
    height, width = pixels.shape[:2]
    tall, wide = rule.padded(height, width)
    return pixels[_mirrored(height, tall)][:, _mirrored(width, wide)]


def _mirrored(length: int, wanted: int) -> npt.NDArray[np.intp]:
    """Indices of `wanted` rows of a picture that has `length`."""
    index = np.arange(wanted)
    return np.clip(np.where(index < length, index, 2 * (length - 1) - index), 0, None)
