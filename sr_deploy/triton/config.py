"""Triton's `config.pbtxt`: a model's configuration as a value, and its text in protobuf's text format.

The fields are those of Triton's `model_config.proto`; the tests check the text against that schema. This
module reads no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_INDENT = "  "
"""Indentation of one level of nested messages."""


class EnumName(str):
    """Name of an enumeration value, which the text format writes without quotes."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output of a model."""

    name: str
    data_type: str
    """Type by Triton's name, such as TYPE_UINT8."""
    dims: tuple[int, ...]
    """Sizes of the axes, without the batch if the model has a batch axis; -1 means any size."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of one model."""

    name: str
    """Name of the model, which is also the name of its folder."""
    backend: str
    """Triton's backend: onnxruntime, tensorrt or python."""
    max_batch: int
    """Most pictures in one call. 0: the batch size is fixed, and `dims` are whole shapes."""
    input_tensor: Tensor
    """Pixels of the picture."""
    output_tensor: Tensor
    """Pixels of the result."""
    default_file: str
    """File of the model, relative to the version's folder."""
    files_by_capability: Mapping[str, str] = field(default_factory=dict)
    """File for each compute capability, such as "9.0". Other GPUs use `default_file`."""
    kind: str = "KIND_AUTO"
    """Device of the instances: KIND_AUTO, KIND_CPU or KIND_GPU."""
    instances: int = 1
    """Number of copies of the model that run at once on each device."""
    profiles: int = 0
    """Number of optimisation profiles of a TensorRT engine; 0 for other backends."""
    keep: int = 1
    """Number of newest versions that are served."""
    queue_delay: int = 0
    """Microseconds that a picture may wait for others of its size."""
    warm_up: tuple[tuple[int, int], ...] = ()
    """(height, width) of pictures that are run before the model is ready."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Free texts by name, for the backend and for clients."""


def config_text(config: Config) -> str:
    """Return `config` as text, in ASCII. Equal values give equal texts."""
    return "\n".join(_lines(_message(config), 0)) + "\n"


def _message(config: Config) -> dict[str, Any]:
    """Return the configuration as nested dicts in the order of the text. None leaves a field out."""
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
    """Return a protobuf map as a list of entries, sorted by key."""
    return [{"key": key, "value": value} for key, value in sorted(values.items())]


def _tensor(tensor: Tensor) -> dict[str, Any]:
    """Return the message of an input or output."""
    return {"name": tensor.name, "data_type": EnumName(tensor.data_type), "dims": list(tensor.dims)}


def _batching(config: Config) -> dict[str, Any] | None:
    """Return the dynamic batching message: waiting pictures of one size go through the model together. None
    if there is only one picture in a call. An empty message enables batching without a delay."""
    if config.max_batch < 2:
        return None
    return {"max_queue_delay_microseconds": config.queue_delay} if config.queue_delay else {}


def _instances(config: Config) -> dict[str, Any]:
    """Return the instance group message. TensorRT profiles are named by their number."""
    profiles = [str(number) for number in range(config.profiles)]
    return {"kind": EnumName(config.kind), "count": config.instances, "profile": profiles}


def _warm_up(config: Config, size: tuple[int, int]) -> dict[str, Any]:
    """Return the warm-up message for one size (height, width). Triton fills the picture with random values."""
    height, width = size
    dims = [*config.input_tensor.dims[:-3], height, width, config.input_tensor.dims[-1]]
    value = {"data_type": EnumName(config.input_tensor.data_type), "dims": dims, "random_data": True}
    return {
        "name": f"{width}x{height}",
        "batch_size": 1 if config.max_batch else 0,
        "inputs": [{"key": config.input_tensor.name, "value": value}],
    }


def _lines(message: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Yield the lines of a message. Lists of scalars take one line; lists of messages repeat the field."""
    for key, value in message.items():
        if isinstance(value, list) and value and not isinstance(value[0], dict):
            yield f"{_INDENT * depth}{key}: [{', '.join(map(_scalar, value))}]"
            continue
        for item in value if isinstance(value, list) else [value]:
            yield from _field(key, item, depth)


def _field(key: str, value: Any, depth: int) -> Iterator[str]:
    """Yield the lines of one field."""
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
    """Return a scalar in the text format."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) and not isinstance(value, EnumName) else str(value)


def _quoted(text: str) -> str:
    """Return a string literal. Printable ASCII stays; other characters become octal escapes of their UTF-8
    bytes."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return '"' + "".join(plain.get(b, chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def read_parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a configuration that Triton passes back as JSON."""
    found: Mapping[str, Any] = config.get("parameters", {})
    return {key: str(value.get("string_value", "")) for key, value in found.items()}


def dims_of(*, height: int | None, width: int | None, channels: int) -> tuple[int, ...]:
    """Return the sizes of the axes of pixels without the batch. None means any size."""
    return (height or -1, width or -1, channels)
