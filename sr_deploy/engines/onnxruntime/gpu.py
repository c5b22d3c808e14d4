"""Run a model with ONNX Runtime on an NVIDIA GPU, by its CUDA or its TensorRT provider.

There is one session per shape of picture. Sizes are then constants, which ONNX Runtime would else compute
on the CPU; so the whole graph runs on the GPU, its buffers stay there, and a run is replayed as one CUDA
graph. A node that the provider lacks is an error: nothing silently moves to the CPU. Engines that TensorRT
compiles are cached under our own key, because the provider's own cache does not notice another model,
version or GPU. These engines have not been run on a GPU yet: their tests cover everything that needs none.
"""

from __future__ import annotations

import ctypes
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sr_deploy.engines.base import Limits, check_batch
from sr_deploy.engines.nvidia import load_driver
from sr_deploy.engines.onnxruntime.libraries import require_libraries
from sr_deploy.engines.onnxruntime.session import (
    CUDA,
    TENSORRT,
    OnnxRuntimeOptions,
    check_providers,
    open_session,
    quiet_run_options,
    run_error,
    runtime,
    session_options,
)
from sr_deploy.errors import MissingRuntimeError, UsageError
from sr_deploy.graph.cache import trusted_cache_folder
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.own_files import distrust_reason, make_private_folder, open_own

if TYPE_CHECKING:
    import onnx

Provider = tuple[str, dict[str, str]]
"""An execution provider's name and its settings."""
_AXES = ("n", "h", "w")
"""Names of the axes [N, H, W] that grafted pixel I/O declares."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeGpuOptions:
    """Options for running a model with ONNX Runtime on a GPU. Immutable.

    Raises UsageError for a negative device and for less than one shape.
    """

    device: int = 0
    """Number of the GPU, as CUDA counts."""
    cuda_graph: bool = True
    """Replay the run of a shape as one CUDA graph."""
    tf32: bool = False
    """Let fp32 convolutions use TF32, which has only 10 bits of mantissa."""
    memory_limit: int | None = None
    """Bytes of device memory that a session may take; None: no limit."""
    shapes: int = 4
    """Largest number of sessions kept, one per shape. Each holds the weights and its buffers."""
    cache: bool = True
    """Keep the engines that TensorRT compiles in the user's cache folder."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """Further settings of the provider by ONNX Runtime's own names, such as "cudnn_conv_algo_search"."""

    def __post_init__(self) -> None:
        if self.device < 0 or self.shapes < 1:
            raise UsageError(
                f"device must be 0 or more and shapes 1 or more, got device {self.device}, shapes {self.shapes}"
            )


class _GpuEngine(ABC):
    """The common part of both engines. Implements `sr_deploy.engines.base.Engine`; threads may share it.

    Raises ModelError for a model that cannot be run or has no spec; MissingRuntimeError if ONNX Runtime
    lacks the provider, or if the provider does not start: no driver, no GPU, other CUDA libraries.
    """

    backend: ClassVar[str]
    provider: ClassVar[str]
    """The provider that must be there; it computes the net."""

    def __init__(
        self, model: Path | bytes | onnx.ModelProto, options: OnnxRuntimeGpuOptions | None = None
    ) -> None:
        self.options = options or OnnxRuntimeGpuOptions()
        self.check()
        self._model = RunnableModel(model)
        self.spec: ModelSpec = self._model.facts.spec
        self._shapes = RecentlyUsed(self.options.shapes)
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, model: Path | bytes | onnx.ModelProto, options: Any = None, threads: int | None = None
    ) -> _GpuEngine:
        """Open an engine; `open_engine` calls this. `threads` concerns the CPU and is ignored."""
        if options is not None and not isinstance(options, OnnxRuntimeGpuOptions):
            raise UsageError(
                f"the {cls.backend} backend takes OnnxRuntimeGpuOptions, got {type(options).__name__}"
            )
        return cls(model, options)

    @classmethod
    def check(cls) -> None:
        """Raise MissingRuntimeError if ONNX Runtime, its provider, a library, the driver or a GPU is missing."""
        check_providers([cls.provider])
        check_gpu(cls.backend)
        require_libraries(cls.provider)

    @cached_property
    def limits(self) -> Limits:
        """Largest batch, and working memory computed from the graph."""
        facts = self._model.facts
        return Limits(max_batch=facts.max_batch, bytes_per_pixel=facts.peak_per_pixel)

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Upscale a batch; see `Engine.run`. Also raises ModelError for faults of the model that only a run
        shows."""
        shape = check_batch(self.spec, self.limits, batch, out)
        shape_session = self._shape_session(batch.dtype, batch.shape, shape)
        try:
            return shape_session.run(np.ascontiguousarray(batch), out)  # type: ignore[arg-type]
        except Exception as error:  # ONNX Runtime's errors have no closer base class
            raise run_error(error, self.spec.name, batch.shape) from error

    def close(self) -> None:
        """Release the sessions. A call that is running in another thread still completes."""
        with self._lock:
            self._closed = True
            self._shapes.clear()

    def __enter__(self) -> _GpuEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shape_session(
        self, dtype: np.dtype[Any], input_shape: tuple[int, ...], output_shape: tuple[int, ...]
    ) -> ShapeSession:
        """Return the session and buffers for one dtype and shape; made when first needed, under the lock.

        The session that was not used for longest is released if there are too many.
        """
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            key = (dtype, input_shape)
            shape_session: ShapeSession | None = self._shapes.find(key)
            if shape_session is None:
                session = self._session(dtype, input_shape)
                shape_session = ShapeSession(
                    session, "cuda", self.options.device, dtype, input_shape, output_shape
                )
                self._shapes.add(key, shape_session)
            return shape_session

    def _session(self, dtype: np.dtype[Any], input_shape: tuple[int, ...]) -> Any:
        """Make the session for one dtype and shape."""
        graph = self._model.graph(dtype, for_tensorrt=self.provider == TENSORRT)
        return open_session(graph, gpu_session_options(input_shape), self.providers(graph), self.spec.name)

    @abstractmethod
    def providers(self, graph: bytes) -> list[Provider]:
        """Return the execution providers for `graph`, best first, each with its settings."""


class CudaEngine(_GpuEngine):
    """A model in ONNX Runtime's CUDA provider."""

    backend = "onnxruntime-cuda"
    provider = CUDA

    def providers(self, graph: bytes) -> list[Provider]:
        """Return the CUDA provider alone."""
        return [(CUDA, cuda_settings(self.options))]


class TensorRTProviderEngine(_GpuEngine):
    """A model in ONNX Runtime's TensorRT provider, with CUDA for operators that TensorRT lacks."""

    backend = "onnxruntime-tensorrt"
    provider = TENSORRT

    def providers(self, graph: bytes) -> list[Provider]:
        """Return the TensorRT provider, then the CUDA provider."""
        folder = None
        if self.options.cache:
            key = tensorrt_key(graph, self.options, runtime().__version__, gpu_identity())
            folder = tensorrt_cache_folder(key)
        # TensorRT records the whole run in a CUDA graph of its own
        rest = cuda_settings(self.options) | {"enable_cuda_graph": "0"}
        return [(TENSORRT, tensorrt_settings(self.options, self.spec, folder)), (CUDA, rest)]


def check_gpu(asking: str) -> None:
    """Raise MissingRuntimeError if the driver shows no GPU to this process. Starts nothing on one.

    `asking` is the backend that needs a GPU, for the message.
    """
    count = ctypes.c_int(0)
    try:
        driver = load_driver()
        failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except OSError as error:
        raise MissingRuntimeError(
            f"{asking} needs NVIDIA's driver, which cannot be loaded ({error}); install it, or use --backend auto"
        ) from error
    if failed or not count.value:
        why = f"CUDA error {failed}" if failed else "it lists none"
        raise MissingRuntimeError(
            f"{asking} needs a GPU, and the driver shows none to this process ({why}); check `nvidia-smi`, or use "
            "--backend auto"
        )


class ShapeSession:
    """A session for one shape, and its buffers on `device`.

    The buffers belong to the session, so a lock lets only one run at a time in. `input_shape` and
    `output_shape` are [N, H, W, C].
    """

    def __init__(
        self,
        session: Any,
        device: str,
        number: int,
        dtype: np.dtype[Any],
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
    ) -> None:
        make = runtime().OrtValue.ortvalue_from_shape_and_type
        self._session, self._lock = session, threading.Lock()
        self._source = make(input_shape, dtype.type, device, number)
        self._result = make(output_shape, dtype.type, device, number)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._source)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._result)

    def run(self, batch: BatchArray, out: BatchArray | None) -> BatchArray:
        """Copy `batch` to the device, run, and copy the result back, into `out` if it is given."""
        with self._lock:
            self._source.update_inplace(batch)
            self._session.run_with_iobinding(self._binding, quiet_run_options())
            result: BatchArray = self._result.numpy()
            if out is None and not self._is_own_buffer(result):
                return result
            made: Any = np.empty_like(result) if out is None else out
            np.copyto(made, result)
            return made  # type: ignore[no-any-return]

    def _is_own_buffer(self, array: BatchArray) -> bool:
        """Return True if `array` is the session's buffer itself, as it is on a CPU; the caller must not get
        it."""
        return bool(array.ctypes.data == self._result.data_ptr())


class RecentlyUsed:
    """Keeps the `most` values that were used last, by key. Not thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Any, Any] = OrderedDict()

    def find(self, key: Any) -> Any:
        """Return the value of `key` and mark it as used; None if there is none."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def add(self, key: Any, value: Any) -> None:
        """Keep `value`; releases the value that was not used for longest if there are too many."""
        self._held[key] = value
        while len(self._held) > self._most:
            self._held.popitem(last=False)

    def clear(self) -> None:
        """Release all values."""
        self._held.clear()


def gpu_session_options(input_shape: tuple[int, ...]) -> Any:
    """Return session options under which the whole graph runs on the GPU, for pictures of `input_shape`.

    N, H and W become constants, so that ONNX Runtime computes no sizes, which it would do on the CPU.
    """
    # a node without a GPU kernel is then an error, where ONNX Runtime would run it on the CPU
    options = session_options(OnnxRuntimeOptions(session_config={"session.disable_cpu_ep_fallback": "1"}))
    for axis, size in zip(_AXES, input_shape[:3], strict=True):
        options.add_free_dimension_override_by_name(axis, size)
    return options


def cuda_settings(options: OnnxRuntimeGpuOptions) -> dict[str, str]:
    """Return the settings for ONNX Runtime's CUDA provider; the user's own settings come last and win.

    Values are text, as ONNX Runtime takes them.
    """
    settings = {
        "device_id": str(options.device),
        "use_tf32": str(int(options.tf32)),
        "enable_cuda_graph": str(int(options.cuda_graph)),
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles the arena, however little is needed
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
    }
    if options.memory_limit is not None:
        settings["gpu_mem_limit"] = str(options.memory_limit)
    return settings | dict(options.provider_options)


def tensorrt_settings(options: OnnxRuntimeGpuOptions, spec: ModelSpec, folder: Path | None) -> dict[str, str]:
    """Return the settings for ONNX Runtime's TensorRT provider. The file's precision is allowed and no
    other; engines are cached in `folder`."""
    settings = {
        "device_id": str(options.device),
        "trt_cuda_graph_enable": str(options.cuda_graph),
        "trt_fp16_enable": str(spec.precision == "fp16"),
        "trt_bf16_enable": str(spec.precision == "bf16"),
        "trt_int8_enable": str(spec.precision == "int8"),
    }
    if options.memory_limit is not None:
        settings["trt_max_workspace_size"] = str(options.memory_limit)
    if folder is not None:
        settings |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(folder),
        }
    return settings | dict(options.provider_options)


def tensorrt_key(graph: bytes, options: OnnxRuntimeGpuOptions, version: str, gpu: str) -> str:
    """Return the cache key of a compiled engine: a hash of all that it depends on, which is the graph, the
    options, the runtime's version and the GPU."""
    head = f"{version}|{gpu}|{options!r}|".encode()
    return sha256(head + graph).hexdigest()[:32]


def tensorrt_cache_folder(key: str) -> Path | None:
    """Return the folder for the engines of `key`; it is made. None if caching is off, the folder cannot be made,
    or others may write to it or have put files there: TensorRT reads engines from it, which are code."""
    graphs = trusted_cache_folder()
    if graphs is None:
        return None
    folder = graphs.parent / "onnxruntime-tensorrt" / key
    try:
        make_private_folder(folder)
        if distrust_reason(folder) is not None:
            return None
        for file in folder.iterdir():
            os.close(open_own(file))
    except OSError:
        return None
    return folder


def gpu_identity() -> str:
    """Return the name and driver of the GPUs as nvidia-smi prints them; "unknown" if it fails."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return " ".join(found.stdout.split()) if found.returncode == 0 else "unknown"
