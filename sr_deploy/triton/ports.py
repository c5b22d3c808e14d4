"""Make an ONNX file and its configuration agree, by the rules with which Triton's ONNX Runtime backend loads them.

The backend asks ONNX Runtime for the ports of the graph and compares them with `config.pbtxt`: names and types, the
axes of an input where the graph fixes them, and every axis of an output
(`CompareDimsSupported` in https://github.com/triton-inference-server/onnxruntime_backend). A model that differs
is not loaded. So the ports are declared in full, the configuration repeats what ONNX Runtime reports of them, and
`refusal` applies the same rules before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper

from sr_deploy.errors import MissingRuntimeError, ModelError
from sr_deploy.graph.onnx_file import PIXELS, UPSCALED, Port, parse_model, picture_io
from sr_deploy.graph.pixel_io import with_port_names
from sr_deploy.graph.session import open_session
from sr_deploy.spec import ModelSpec
from sr_deploy.triton.config import Config, Tensor

_ANY = -1
"""Triton's number for an axis of any size."""
_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
"""Triton's name for each type that ONNX Runtime reports."""


@dataclass(frozen=True)
class ServedGraph:
    """An ONNX file for Triton, and its ports as ONNX Runtime reports them."""

    data: bytes
    """The file."""
    input_tensor: Tensor
    """Input, with the sizes of all four axes [N, H, W, C]."""
    output_tensor: Tensor
    """Output, with the sizes of all four axes."""

    @property
    def batches(self) -> bool:
        """True if the graph takes any number of pictures at once."""
        return self.input_tensor.dims[0] == self.output_tensor.dims[0] == _ANY

    def configured(self) -> tuple[Tensor, Tensor]:
        """Return the two ports as a configuration has to list them: without the axis N if the graph batches."""
        if self.batches:
            ports = (self.input_tensor, self.output_tensor)
            return replace(ports[0], dims=ports[0].dims[1:]), replace(ports[1], dims=ports[1].dims[1:])
        return replace(self.input_tensor, dims=(1, *self.input_tensor.dims[1:])), self.output_tensor


def served_graph(data: bytes, spec: ModelSpec) -> ServedGraph:
    """Return the graph `data`, which has pixels [N, H, W, C] at both ends, with names and shapes for Triton.

    Many exporters declare no shape of the output, or one that does not fit. It is declared anew from the spec.
    """
    model = with_port_names(parse_model(data))
    port_in, _ = picture_io(model)
    height, width = spec.size_rule.fixed or (None, None)
    _declare(model.graph.input, PIXELS, [port_in.dims[0] or "n", height or "h", width or "w", spec.channels])
    tall, wide = (side and side * spec.scale for side in (height, width))
    _declare(model.graph.output, UPSCALED, [port_in.dims[0] or "n", tall or "H", wide or "W", spec.channels])
    input_tensor, output_tensor = ports_of(model)
    return ServedGraph(bytes(model.SerializeToString(deterministic=True)), input_tensor, output_tensor)


def ports_of(model: onnx.ModelProto) -> tuple[Tensor, Tensor]:
    """Return the input and the output of `model` with all axes, as ONNX Runtime reports them.

    As the file declares them if ONNX Runtime is not installed, or has no kernels for the model on CPUs, as for bf16.
    """
    try:
        session = open_session(model, "the model")
    except (MissingRuntimeError, ModelError):
        return _declared(*picture_io(model))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    return _tensor(taken.name, _TYPES.get(taken.type, taken.type), taken.shape), _tensor(
        given.name, _TYPES.get(given.type, given.type), given.shape
    )


def _declared(*ports: Port) -> tuple[Tensor, Tensor]:
    """Return the input and the output as the file declares them."""
    taken, given = (
        _tensor(port.name, "TYPE_UINT8" if port.elem_type == TensorProto.UINT8 else "TYPE_FP32", port.dims)
        for port in ports
    )
    return taken, given


def refusal(config: Config, ports: tuple[Tensor, Tensor]) -> str | None:
    """Return why the backend would not load a graph with `ports` (all axes) under `config`; None if it would."""
    return _difference(config, config.input_tensor, ports[0], exact=False) or _difference(
        config, config.output_tensor, ports[1], exact=True
    )


def _difference(config: Config, wanted: Tensor, port: Tensor, *, exact: bool) -> str | None:
    """Compare one port of a configuration with that of the graph. Without `exact`, an axis that the graph leaves open
    may be anything."""
    if (wanted.name, wanted.data_type) != (port.name, port.data_type):
        return f"the configuration names {wanted.name} {wanted.data_type}, the graph has {port.name} {port.data_type}"
    axes = [_ANY, *wanted.dims] if config.max_batch else list(wanted.dims)
    same = len(axes) == len(port.dims) and all(
        axis == found or (found == _ANY and not exact) for axis, found in zip(axes, port.dims, strict=True)
    )
    if same and (port.dims[0] == _ANY or not config.max_batch):
        return None
    return f"the configuration gives {wanted.name} the shape {axes}, the graph gives it {list(port.dims)}"


def _declare(values: Sequence[onnx.ValueInfoProto], name: str, dims: Sequence[int | str]) -> None:
    """Declare the shape of the port `name` among `values`."""
    for value in values:
        if value.name == name:
            elem_type = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(name, elem_type, dims))


def _tensor(name: str, data_type: str, shape: Sequence[int | str | None]) -> Tensor:
    """Return a port with -1 for every axis without a number."""
    dims = tuple(axis if isinstance(axis, int) else _ANY for axis in shape)
    return Tensor(name=name, data_type=data_type, dims=dims)
