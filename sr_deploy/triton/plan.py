"""What one ONNX model becomes in a repository of Triton: its configuration, and the files of the version. Writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import PIXELS, UPSCALED, load_model
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec
from sr_deploy.triton.config import Config, Tensor, dims_of

SPEC_PARAMETER = "sr_deploy"
"""The parameter of a configuration that holds the model's record, for clients."""
BACKENDS = ("onnxruntime", "python")
MODEL_PY = 'from sr_deploy.triton import TritonPythonModel\n\n__all__ = ["TritonPythonModel"]\n'
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_MAX_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How models are served. Raises UsageError for numbers that make no sense."""

    backend: Literal["onnxruntime", "python"] = "onnxruntime"
    """Of ONNX files; engines are TensorRT's."""
    version: int = 1
    keep: int = 1
    """How many of the newest versions the server offers."""
    max_batch: int = 8
    """Pictures of one size that go through the model together; 1: each by itself."""
    queue_delay: int = 0
    """Microseconds a picture may wait for others; 0: those that wait anyway are taken together."""
    instances: int = 1
    """Copies of the model that run at once, on every device."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: int | None = None
    """Of a model on the CPU; None: what the backend takes by itself."""
    warm_up: tuple[tuple[int, int], ...] = ((256, 256),)
    """(height, width) of pictures that are run before the server says it is ready."""
    overwrite: bool = False
    """Replace a version that is there already."""

    def __post_init__(self) -> None:
        _check("version", self.version, 1, 1 << 31)
        _check("keep", self.keep, 1, 1 << 10)
        _check("max_batch", self.max_batch, 1, _MAX_BATCH)
        _check("queue_delay", self.queue_delay, 0, 10_000_000)
        _check("instances", self.instances, 1, 1 << 10)
        if self.threads is not None:
            _check("threads", self.threads, 1, 1 << 10)
        for side in (side for size in self.warm_up for side in size):
            _check("a side of warm_up", side, 1, 1 << 14)
        if self.backend not in BACKENDS or self.device not in _KINDS:
            raise UsageError(
                f"backend must be one of {', '.join(BACKENDS)} and device one of {', '.join(_KINDS)}, got "
                f"{self.backend!r} and {self.device!r}"
            )


@dataclass(frozen=True, kw_only=True)
class ServePlan:
    """A configuration, and the files of the version."""

    config: Config
    files: dict[str, bytes]
    notes: tuple[str, ...]


def plan_model(path: Path, options: ServeOptions) -> ServePlan:
    """An ONNX file as Triton takes it: with pixel I/O; for the Python backend as it is."""
    model = RunnableModel(path)
    spec, fixed_batch = model.facts.spec, model.facts.max_batch
    in_server = options.backend == "python"
    data = _embedded(path) if in_server else model.graph(np.dtype(np.uint8))
    files = {"model.onnx": data} | ({"model.py": MODEL_PY.encode()} if in_server else {})
    batch = None if in_server or fixed_batch is None else fixed_batch
    config = Config(
        name=served_name(path.stem),
        backend=options.backend,
        max_batch=options.max_batch if batch is None else 0,
        default_file="model.py" if in_server else "model.onnx",
        kind=_instance_kind(options),
        parameters=_parameters(spec, options, in_server=in_server),
        **common_fields(spec, options, "uint8", batch, any_size=in_server),
    )
    return ServePlan(config=config, files=files, notes=tuple(_notes(spec, in_server=in_server)))


def _embedded(path: Path) -> bytes:
    """The model with all its weights in one piece."""
    return bytes(load_model(path).SerializeToString(deterministic=True))


def _instance_kind(options: ServeOptions) -> str:
    if options.backend == "python" and options.device == "auto":
        return "KIND_CPU"  # sr-deploy finds the best backend itself; Triton would start an instance for every GPU
    return _KINDS[options.device]


def common_fields(
    spec: ModelSpec, options: ServeOptions, pixels: str, batch: int | None, *, any_size: bool
) -> dict[str, Any]:
    """The part of a configuration that is the same for every backend."""
    fixed = None if any_size else spec.size_rule.fixed
    height, width = fixed or (None, None)
    tall, wide = (side * spec.scale if side else None for side in (height, width))
    ports = (
        Tensor(
            name=name,
            data_type=_TYPES[pixels],
            dims=dims_of(height=h, width=w, channels=spec.channels, batch=batch),
        )
        for name, h, w in ((PIXELS, height, width), (UPSCALED, tall, wide))
    )
    input_tensor, output_tensor = ports
    sizes = [fixed or (size if any_size else spec.size_rule.padded(*size)) for size in options.warm_up]
    return {
        "input_tensor": input_tensor,
        "output_tensor": output_tensor,
        "instances": options.instances,
        "keep": options.keep,
        "queue_delay": options.queue_delay,
        "warm_up": tuple(dict.fromkeys(sizes)),
    }


def _parameters(spec: ModelSpec, options: ServeOptions, *, in_server: bool) -> dict[str, str]:
    found = {SPEC_PARAMETER: spec.to_json()}
    if in_server:
        found["backend"] = "onnxruntime" if options.device == "cpu" else "auto"
    if options.threads is not None:
        found["threads" if in_server else "intra_op_thread_count"] = str(options.threads)
    if not in_server and options.device != "cpu":
        # 1 is HEURISTIC: the default tries every algorithm again for each size that was not seen before
        found["cudnn_conv_algo_search"] = "1"
    return found


def _notes(spec: ModelSpec, *, in_server: bool) -> Iterator[str]:
    rule = spec.size_rule
    if in_server:
        yield 'the server\'s Python needs sr-deploy: pip install "sr-deploy[cpu]"'
        return
    if rule.fixed:
        yield f"it takes pictures of {rule.fixed[1]}x{rule.fixed[0]} pixels only; --backend python takes any"
    elif rule.multiple_of > 1 or rule.minimum > 1:
        yield (
            f"it takes sizes of at least {rule.minimum} that are multiples of {rule.multiple_of}, so clients have to "
            "pad; --backend python takes any"
        )


def served_name(text: str) -> str:
    """What clients ask for: `text` in letters that are safe in a path and a URL. Raises UsageError where none is left."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
    if not name:
        raise UsageError(
            f"{text!r} leaves no name that clients could ask for; rename the file in plain letters"
        )
    return name


def _check(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number of {low} to {high}, got {value!r}")
