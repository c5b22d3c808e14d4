"""Run an undescribed ONNX on a picture: a session, and a callable that hides type and layout.

Everything here is about running; what the runs tell is for the other probe modules to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from sr_deploy.errors import MissingRuntimeError, ModelError
from sr_deploy.graph.onnx_file import Port, constant_tensors, copy_of
from sr_deploy.graph.runnable import EXACT_INT8

Picture = npt.NDArray[np.float32]

_NUMPY_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT8: np.dtype(np.uint8),
}


_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


class RefusedInputError(Exception):
    """The runtime did not take this input; the message is its own, in one line. Never leaves the probe."""


def detect_precision(model: onnx.ModelProto) -> str:
    """fp32, fp16, bf16 or int8: what most of the weights are kept in, and int8 where the graph quantizes."""
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
    """`model`, or where it computes in bf16, which ONNX Runtime's CPU kernels lack, a copy that does in fp32."""
    if not _uses_bf16(model):
        return model
    copied = copy_of(model)
    del copied.graph.value_info[:]
    for tensor in constant_tensors(copied):
        if tensor.data_type == TensorProto.BFLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*copied.graph.input, *copied.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in copied.graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    return copied


def _uses_bf16(model: onnx.ModelProto) -> bool:
    kinds = {tensor.data_type for tensor in constant_tensors(model)}
    kinds |= {value.type.tensor_type.elem_type for value in model.graph.input}
    kinds |= {a.i for node in model.graph.node for a in node.attribute if a.name in _TYPE_ATTRIBUTES}
    return TensorProto.BFLOAT16 in kinds


def open_session(model: onnx.ModelProto, name: str, *, optimise: bool = True) -> Any:
    """An ONNX Runtime session on the CPU that keeps quiet and keeps no memory between runs.

    Raises ModelError where the runtime cannot load the graph, MissingRuntimeError where there is no runtime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            'probing a model needs ONNX Runtime, which is not installed; pip install "sr-deploy[cpu]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry(*EXACT_INT8)
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it would try the same again, and print about it
        )
    except Exception as error:  # ONNX Runtime's errors share no base class but this one
        raise ModelError(
            f"model {name!r} cannot be loaded by ONNX Runtime ({one_line(error)}); export it again with standard operators"
        ) from error


def one_line(error: BaseException, limit: int = 160) -> str:
    """The message of `error` without line breaks, cut to `limit` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


@dataclass(frozen=True)
class SessionRunner:
    """Calls a session with pictures [H, W, C] in the model's own value range; returns [H', W', C'] float32."""

    session: Any
    port: Port
    layout: str

    def __call__(self, picture: Picture) -> Picture:
        """Raises RefusedError where the runtime fails or the result is no picture."""
        result = self.raw(picture)
        if result.ndim != 4:
            raise RefusedInputError(f"the output is {result.ndim}-D, of shape {list(result.shape)}")
        upscaled: Picture = result[0] if self.layout == "NHWC" else result[0].transpose(1, 2, 0)
        return upscaled

    def raw(self, picture: Picture) -> Picture:
        """The output tensor as the model gives it, cast to float32."""
        tensor = picture if self.layout == "NHWC" else picture.transpose(2, 0, 1)
        if self.takes_bytes:
            tensor = np.clip(np.rint(tensor), 0, 255)
        with np.errstate(over="ignore", invalid="ignore"):  # fp16 cannot hold the wildest pictures
            feed = {self.port.name: np.ascontiguousarray(tensor[None], _NUMPY_TYPES[self.port.elem_type])}
        try:
            (result,) = self.session.run(None, feed)
        except Exception as error:  # ONNX Runtime's errors share no base class but this one
            raise RefusedInputError(one_line(error)) from error
        output: Picture = np.asarray(result, np.float32)
        return output

    @property
    def takes_bytes(self) -> bool:
        """Whether the input is uint8."""
        return self.port.elem_type == TensorProto.UINT8
