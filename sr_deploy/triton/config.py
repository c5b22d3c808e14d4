"""`config.pbtxt` of Triton Inference Server: what it says of one model, as a value, and as protobuf's text format.

The fields are those of Triton's `model_config.proto`; the tests hold the text against that schema. Reads no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_INDENT = "  "


class EnumName(str):
    """A name of an enumeration, which the text format has without quotes."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output of a model."""

    name: str
    data_type: str
    """As Triton names it: TYPE_UINT8."""
    dims: tuple[int, ...]
    """Without the batch where the model has one; -1: any."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What Triton has to know of one model."""

    name: str
    backend: str
    """onnxruntime, tensorrt or python."""
    max_batch: int
    """Pictures in one call; 0: the model has no batch axis of its own, and `dims` are whole shapes."""
    input_tensor: Tensor
    output_tensor: Tensor
    default_file: str
    files_by_capability: Mapping[str, str] = field(default_factory=dict)
    """Compute capability, such as "9.0" -> file."""
    kind: str = "KIND_AUTO"
    """Where instances run: KIND_AUTO, KIND_CPU or KIND_GPU."""
    instances: int = 1
    profiles: int = 0
    """Optimisation profiles of a TensorRT engine."""
    keep: int = 1
    """How many of the newest versions are served."""
    queue_delay: int = 0
    """Microseconds a picture may wait for others of its size."""
    warm_up: tuple[tuple[int, int], ...] = ()
    """(height, width) of pictures that are run before the model is ready."""
    parameters: Mapping[str, str] = field(default_factory=dict)


def config_text(config: Config) -> str:
    """`config` in the text format, ASCII, the same for equal values."""
    return "\n".join(_lines(_message(config), 0)) + "\n"


def _message(config: Config) -> dict[str, Any]:
    return {
        "name": config.name,
        "backend": config.backend,
        "default_model_filename": config.default_file,
        "cc_model_filenames": _entries(config.files_by_capability),
        "max_batch_size": config.max_batch,
        "input": [_tensor(config.input_tensor)],
        "output": [_tensor(config.output_tensor)],
        "dynamic_batching": _batching(config),
        "instance_group": [_instances(config)],
        "version_policy": {"latest": {"num_versions": config.keep}},
        "model_warmup": [_warm_up(config, size) for size in config.warm_up],
        "parameters": [
            {"key": key, "value": {"string_value": value}} for key, value in sorted(config.parameters.items())
        ],
    }


def _entries(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in sorted(values.items())]


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": EnumName(tensor.data_type), "dims": list(tensor.dims)}


def _batching(config: Config) -> dict[str, Any] | None:
    """Pictures of one size that wait together go through the model together."""
    if config.max_batch < 2:
        return None
    return {"max_queue_delay_microseconds": config.queue_delay} if config.queue_delay else {}


def _instances(config: Config) -> dict[str, Any]:
    profiles = [str(number) for number in range(config.profiles)]
    return {"kind": EnumName(config.kind), "count": config.instances, "profile": profiles}


def _warm_up(config: Config, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    dims = [*config.input_tensor.dims[:-3], height, width, config.input_tensor.dims[-1]]
    value = {"data_type": EnumName(config.input_tensor.data_type), "dims": dims, "random_data": True}
    return {
        "name": f"{width}x{height}",
        "batch_size": 1 if config.max_batch else 0,
        "inputs": [{"key": config.input_tensor.name, "value": value}],
    }


def _lines(message: Mapping[str, Any], depth: int) -> Iterator[str]:
    for key, value in message.items():
        if isinstance(value, list) and value and not isinstance(value[0], dict):
            yield f"{_INDENT * depth}{key}: [{', '.join(map(_scalar, value))}]"
            continue
        for item in value if isinstance(value, list) else [value]:
            yield from _field(key, item, depth)


def _field(key: str, value: Any, depth: int) -> Iterator[str]:
    margin = _INDENT * depth
    if value is None:
        return
    if not isinstance(value, dict):
        yield f"{margin}{key}: {_scalar(value)}"
    elif not value:
        yield f"{margin}{key} {{}}"
    else:
        yield f"{margin}{key} {{"
        yield from _lines(value, depth + 1)
        yield f"{margin}}}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) and not isinstance(value, EnumName) else str(value)


def _quoted(text: str) -> str:
    """A string literal: printable ASCII as it is, everything else as the octal escapes of its UTF-8 bytes."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return '"' + "".join(plain.get(b, chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def read_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Key -> value of the parameters in a configuration as Triton gives it back in JSON."""
    found: Mapping[str, Any] = config.get("parameters", {})
    return {key: str(value.get("string_value", "")) for key, value in found.items()}


def dims_of(*, height: int | None, width: int | None, channels: int, batch: int | None) -> tuple[int, ...]:
    """Axes of pixels as Triton counts them; None is any, but for `batch`, where None leaves the axis out."""
    axes: Sequence[int] = (height or -1, width or -1, channels)
    return (*axes,) if batch is None else (batch, *axes)
