"""Run an ONNX model without a spec on a picture: a session, and a runner that hides type and layout.

The CPU is always used. Pictures are float32 [H, W, C] in the model's own value range. The conclusions from
the runs are drawn in `sr_deploy.probe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sr_deploy.errors import MissingRuntimeError, ModelError, one_line
from sr_deploy.graph.onnx_file import Port, constant_tensors, copy_of
from sr_deploy.graph.runnable import quiet_session
from sr_deploy.system.arrays import FloatArray

_NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT8: np.dtype(np.uint8),
}
"""NumPy type of each element type; bf16, which NumPy lacks, is replaced before (`without_bf16`)."""


_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
"""Attributes of nodes that hold an element type."""


class RuntimeDiedError(Exception):
    """The process that runs the model ended or took too long. The message completes "ONNX Runtime ..."."""


class RefusedInputError(Exception):
    """The runtime did not take an input. The message is the runtime's, in one line. Never leaves the probe."""


def detect_precision(model: onnx.ModelProto) -> str:
    """Return the precision of a model without a spec: fp32, fp16, bf16 or int8.

    A graph that quantises is int8; otherwise the type of most weights decides, and fp32 where there are
    none.
    """
    if any(
        "QuantizeLinear" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node
    ):
        return "int8"
    counts: dict[int, int] = {}
    for tensor in constant_tensors(model):
        counts[tensor.data_type] = counts.get(tensor.data_type, 0) + int(np.prod(tuple(tensor.dims) or (1,)))
    kinds: dict[int, str] = {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.BFLOAT16: "bf16",
    }
    floats = {kind: count for kind, count in counts.items() if kind in kinds}
    return kinds[max(floats, key=lambda kind: floats[kind])] if floats else "fp32"


def without_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` itself, or a copy in fp32 if it uses bf16, for which ONNX Runtime has no CPU kernels."""
    return _widened(model, {TensorProto.BFLOAT16})


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` itself, or a copy in fp32 if it uses fp16 or bf16. Values are rounded as they were in the file."""
    return _widened(model, {TensorProto.FLOAT16, TensorProto.BFLOAT16})


def _widened(model: onnx.ModelProto, narrow: set[int]) -> onnx.ModelProto:
    """Return `model` itself, or a copy in which the types `narrow` are fp32."""
    if narrow.isdisjoint(_types_in(model)):
        return model
    copied = copy_of(model)
    del copied.graph.value_info[:]
    for tensor in constant_tensors(copied):
        if tensor.data_type in narrow:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*copied.graph.input, *copied.graph.output):
        if value.type.tensor_type.elem_type in narrow:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in copied.graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in narrow:
                attribute.i = TensorProto.FLOAT
    return copied


def _types_in(model: onnx.ModelProto) -> set[int]:
    """Return the element types of the constants, the inputs and the attributes of `model`."""
    kinds = {tensor.data_type for tensor in constant_tensors(model)}
    kinds |= {value.type.tensor_type.elem_type for value in model.graph.input}
    return kinds | {a.i for node in model.graph.node for a in node.attribute if a.name in _TYPE_ATTRIBUTES}


def open_session(model: onnx.ModelProto, name: str, *, optimise: bool = True) -> Any:
    """Open an ONNX Runtime session on the CPU that prints nothing and keeps no memory between runs.

    `optimise=False` runs the graph as it stands. Raises ModelError if the runtime cannot load the graph,
    MissingRuntimeError if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            'probing a model needs ONNX Runtime, which is not installed; pip install "sr-deploy[cpu]"'
        ) from error
    try:
        return quiet_session(onnxruntime, model.SerializeToString(), optimise=optimise)
    except Exception as error:  # ONNX Runtime's errors share no base class but this one
        raise ModelError(
            f"model {name!r} cannot be loaded by ONNX Runtime ({one_line(error)}); export it again with standard operators"
        ) from error


@dataclass(frozen=True)
class SessionRunner:
    """Runs a session on pictures [H, W, C] in the model's own value range; gives [H', W', C'] float32."""

    session: Any
    """An ONNX Runtime session."""
    port: Port
    """The picture input of the model."""
    layout: str
    """Order of the model's axes: "NCHW" or "NHWC"."""

    def __call__(self, picture: FloatArray) -> FloatArray:
        """Run the model. Raises RefusedInputError if the runtime fails or the result is not 4-D."""
        result = self.raw(picture)
        if result.ndim != 4:
            raise RefusedInputError(f"the output is {result.ndim}-D, of shape {list(result.shape)}")
        upscaled: FloatArray = result[0] if self.layout == "NHWC" else result[0].transpose(1, 2, 0)
        return upscaled

    def raw(self, picture: FloatArray) -> FloatArray:
        """Return the output tensor in the model's own layout, cast to float32."""
        tensor = picture if self.layout == "NHWC" else picture.transpose(2, 0, 1)
        if self.takes_bytes:
            tensor = np.clip(np.rint(tensor), 0, 255)
        with np.errstate(over="ignore", invalid="ignore"):  # the brightest test pictures overflow fp16
            feed = {self.port.name: np.ascontiguousarray(tensor[None], _NUMPY_TYPES[self.port.elem_type])}
        try:
            (result,) = self.session.run(None, feed)
        except RuntimeDiedError as error:
            what = f"{error} at {picture.shape[1]}x{picture.shape[0]} pixels"
            self.session.died(what)
            raise RefusedInputError(f"ONNX Runtime {what}") from error
        except ModelError:  # the probe gave up
            raise
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            raise RefusedInputError(one_line(error)) from error
        output: FloatArray = np.asarray(result, np.float32)
        return output

    @property
    def takes_bytes(self) -> bool:
        """True if the input is uint8; pictures are then rounded and clipped to 0..255."""
        return self.port.elem_type == TensorProto.UINT8
