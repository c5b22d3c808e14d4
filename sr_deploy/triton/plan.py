"""Plan one ONNX model in a Triton repository: its configuration and the files of a version. Nothing is
written."""

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
from sr_deploy.triton.ports import served_graph

SPEC_PARAMETER = "sr_deploy"
"""Name of the configuration parameter that holds the model's spec as JSON, for clients."""
BACKENDS = ("onnxruntime", "python")
"""Triton's backends that can serve an ONNX file."""
MODEL_PY = 'from sr_deploy.triton import TritonPythonModel\n\n__all__ = ["TritonPythonModel"]\n'
"""Content of `model.py`, the file that Triton's Python backend loads."""
_KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
"""Triton's name for each device."""
_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
"""Triton's name for each type of pixels."""
MAX_PIXELS = 64_000_000
"""Default of the most pixels of a request. Enlarged four times they are 3 GB of RGB."""
_MAX_BATCH = 64
"""Largest batch that may be asked for."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options for serving models. Raises UsageError for values out of range."""

    backend: Literal["onnxruntime", "python"] = "onnxruntime"
    """Backend for ONNX files. Engines always use Triton's TensorRT backend."""
    version: int = 1
    """Number of the version, which is the name of its folder."""
    keep: int = 1
    """Number of newest versions that the server offers."""
    max_batch: int = 8
    """Most pictures of one size that go through the model together; 1: each by itself."""
    queue_delay: int = 0
    """Microseconds that a picture may wait for others; 0: only pictures that wait anyway are batched."""
    instances: int = 1
    """Number of copies of the model that run at once on each device."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device on which the model runs."""
    threads: int | None = None
    """Threads of a model on the CPU; None: the backend's default."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of a request to the Python backend: width times height, times the number of pictures."""
    warm_up: tuple[tuple[int, int], ...] = ((256, 256),)
    """(height, width) of pictures that are run before the server reports that it is ready."""
    overwrite: bool = False
    """Replace a version that exists."""

    def __post_init__(self) -> None:
        _check("version", self.version, 1, 1 << 31)
        _check("keep", self.keep, 1, 1 << 10)
        _check("max_batch", self.max_batch, 1, _MAX_BATCH)
        _check("queue_delay", self.queue_delay, 0, 10_000_000)
        _check("instances", self.instances, 1, 1 << 10)
        _check("max_pixels", self.max_pixels, 1, 1 << 30)
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
    """Plan of one model."""

    config: Config
    files: dict[str, bytes]
    """Content of each file of the version, by name."""
    notes: tuple[str, ...]
    """Notes for the person who runs the server or calls it."""


def plan_model(path: Path, options: ServeOptions) -> ServePlan:
    """Plan an ONNX file: with pixel I/O for Triton's ONNX Runtime, unchanged for the Python backend."""
    model = RunnableModel(path)
    spec = model.facts.spec
    in_server = options.backend == "python"
    graph = None if in_server else served_graph(model.graph(np.dtype(np.uint8)), spec)
    fields = common_fields(spec, options, "uint8", any_size=in_server)
    if graph is not None:
        fields["input_tensor"], fields["output_tensor"] = graph.configured()
    config = Config(
        name=served_name(path.stem),
        backend=options.backend,
        max_batch=options.max_batch if graph is None or graph.batches else 0,
        default_file="model.py" if in_server else "model.onnx",
        kind=_instance_kind(options),
        parameters=_parameters(spec, options, in_server=in_server),
        **fields,
    )
    if graph is None:
        files = {"model.onnx": _embedded(path), "model.py": MODEL_PY.encode()}
    else:
        files = {"model.onnx": graph.data}
    return ServePlan(config=config, files=files, notes=tuple(_notes(spec, in_server=in_server)))


def _embedded(path: Path) -> bytes:
    """Return the model as one file that contains all weights."""
    return bytes(load_model(path).SerializeToString(deterministic=True))


def _instance_kind(options: ServeOptions) -> str:
    """Return the kind of device for the instances."""
    if options.backend == "python" and options.device == "auto":
        # sr-deploy chooses the device itself. With KIND_AUTO, Triton would start an instance for every GPU.
        return "KIND_CPU"
    return _KINDS[options.device]


def common_fields(spec: ModelSpec, options: ServeOptions, pixels: str, *, any_size: bool) -> dict[str, Any]:
    """Return the fields of a configuration that do not depend on the backend, for a model that takes batches.

    `pixels` is the type of the values. `any_size` is set if the backend tiles and pads pictures itself; otherwise
    the model's size rule limits the sizes.
    """
    fixed = None if any_size else spec.size_rule.fixed
    height, width = fixed or (None, None)
    tall, wide = (side * spec.scale if side else None for side in (height, width))
    ports = (
        Tensor(
            name=name,
            data_type=_TYPES[pixels],
            dims=dims_of(height=h, width=w, channels=spec.channels),
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
    """Return the parameters for the backend, with the model's spec."""
    found = {SPEC_PARAMETER: spec.to_json()}
    if in_server:
        found["backend"] = "onnxruntime" if options.device == "cpu" else "auto"
        found["max_pixels"] = str(options.max_pixels)
    if options.threads is not None:
        found["threads" if in_server else "intra_op_thread_count"] = str(options.threads)
    if not in_server and options.device != "cpu":
        # 1 means HEURISTIC. The default tries every algorithm again for each size that was not seen before.
        found["cudnn_conv_algo_search"] = "1"
    return found


def _notes(spec: ModelSpec, *, in_server: bool) -> Iterator[str]:
    """Yield notes for the person who runs the server or calls it."""
    rule = spec.size_rule
    if in_server:
        yield 'the server\'s Python needs sr-deploy; in a checkout there: pip install ".[cpu]"'
        return
    if rule.fixed:
        yield f"pictures must have {rule.fixed[1]}x{rule.fixed[0]} pixels; --backend python takes any size"
    elif rule.multiple_of > 1 or rule.minimum > 1:
        yield (
            f"sides must be multiples of {rule.multiple_of} and at least {rule.minimum} pixels, so clients have to "
            "pad; --backend python takes any size"
        )


def served_name(text: str) -> str:
    """Return the name that clients use: `text` with only letters that are safe in a path and a URL.

    Raises UsageError if no letter is left.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
    if not name:
        raise UsageError(
            f"{text!r} has no letters that a model name may have; rename the file with ASCII letters"
        )
    return name


def _check(name: str, value: int, low: int, high: int) -> None:
    """Raise UsageError if `value` is not a whole number from `low` to `high`."""
    if isinstance(value, bool) or not low <= value <= high:
        raise UsageError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
