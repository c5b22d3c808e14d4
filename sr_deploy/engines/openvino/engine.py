"""Run a model with OpenVINO on the CPU: fp32, bf16 where the processor has it, int8.

Pixel arithmetic is grafted into the graph (`sr_deploy.graph.pixel_io`), and the runtime reads and writes the
caller's arrays in place. A compiled model is kept in the user's cache folder, so the second start neither parses
nor compiles. The file says in which precision its convolutions are computed; nothing falls back to another one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.base import Batch, Limits, check_batch
from sr_deploy.engines.openvino.skip_path import with_fp32_skip_path
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, UsageError
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec
from sr_deploy.system.cores import usable_cores
from sr_deploy.system.sources import sources_digest

if TYPE_CHECKING:
    import onnx

_OUT_OF_MEMORY = re.compile(r"bad_alloc|bad_array_new|failed to allocate|out.?of.?memory|length_error", re.I)
_MEMORY_FACTOR = 1.25
"""Measured on plain and residual nets of 256x256 to 700x700 pixels: 0.8 to 1.07 times the peak of the graph's
own results; the rest is for what was not measured."""
_SHRINK_FACTOR = 4
"""Working memory is given back when a picture needs less than this share of it."""
_VALUE_MOVERS = {"Identity", "Transpose", "Reshape", "Gather", "DepthToSpace"}
_CHANGING_MODELS = ("engine", "skip_path")
"""The modules of this package that change a model before it is compiled; its cached form depends on them."""
_OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions:
    """How OpenVINO runs a model."""

    threads: int | None = None
    """Threads one call computes with; None: the physical cores this process may use."""
    precision: Literal["fp32", "bf16"] | None = None
    """What is not quantised is computed in this; None: as the file says, see `computes_in`. bf16 on a processor
    without it is an error."""
    cache: bool = True
    """Keep the compiled model in the user's cache folder."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Further properties of OpenVINO's CPU device by their own names, such as "CPU_DENORMALS_OPTIMIZATION"."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if self.precision not in (None, "fp32", "bf16"):
            raise UsageError(f"precision must be fp32, bf16 or None, got {self.precision!r}")


class OpenVinoEngine:
    """A model in OpenVINO. Implements `sr_deploy.engines.base.Engine`.

    `model`: the path of an ONNX file, its bytes, or the model itself. `spec` stands in for the record in it.
    Raises ModelError for a model that cannot be run or has no record, MissingRuntimeError where OpenVINO, or a
    precision in the processor, is missing. What only the runtime can find wrong is raised by the first `run`.
    """

    backend = "openvino"

    def __init__(
        self,
        model: Path | bytes | onnx.ModelProto,
        options: OpenVinoOptions | None = None,
        *,
        spec: ModelSpec | None = None,
    ) -> None:
        self.options = options or OpenVinoOptions()
        self._core = _core()
        self._model = RunnableModel(model, spec)
        self.spec = self._model.facts.spec
        self.computes_in = computes_in(self.spec, self.options, self._capabilities)
        self._compiled: dict[np.dtype[Any], _Compiled] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, model: Path | bytes | onnx.ModelProto, options: Any = None, threads: int | None = None
    ) -> OpenVinoEngine:
        """What `sr_deploy.engines.open_engine` calls; `threads` stands for options of nothing else."""
        if options is not None and not isinstance(options, OpenVinoOptions):
            raise UsageError(f"the openvino backend takes OpenVinoOptions, got {type(options).__name__}")
        return cls(model, options or OpenVinoOptions(threads=threads))

    @staticmethod
    def check() -> None:
        """Raises MissingRuntimeError where OpenVINO is not installed, does not load, or has no CPU device."""
        if "CPU" not in _core().available_devices:
            raise MissingRuntimeError(f"this OpenVINO has no device for the CPU; {_INSTALL}")

    @cached_property
    def limits(self) -> Limits:
        """Batch size and working memory, told from the graph."""
        facts = self._model.facts
        peak = facts.peak_per_pixel
        return Limits(max_batch=facts.max_batch, bytes_per_pixel=peak * _MEMORY_FACTOR if peak else None)

    def prepare(self, dtype: npt.DTypeLike) -> None:
        """Compile for pictures of `dtype` now, which the first `run` would do. Raises as `run` does."""
        self._compiled_for(np.dtype(dtype))

    def run(self, batch: Batch, out: Batch | None = None) -> Batch:
        """See `Engine.run`. Raises ModelError too, for what only running shows to be wrong with the model."""
        shape = check_batch(self.spec, self.limits, batch, out)
        compiled = self._compiled_for(batch.dtype)
        try:
            result: Any = np.empty(shape, batch.dtype) if out is None else out
            source = batch.copy() if np.may_share_memory(batch, result) else np.ascontiguousarray(batch)
            if not source.flags.writeable:  # OpenVINO takes no other array without a copy
                source = source.copy()
            compiled.infer(cast("Batch", source), result)
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise self._run_error(error, batch.shape) from error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the compiled models; a call in another thread still ends well."""
        with self._lock:
            self._closed = True
            self._compiled = {}

    def __enter__(self) -> OpenVinoEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _capabilities(self) -> tuple[str, ...]:
        """What the processor computes in, in OpenVINO's words."""
        return tuple(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))

    def _compiled_for(self, dtype: np.dtype[Any]) -> _Compiled:
        """The compiled model for pictures of `dtype`, made when it is first asked for."""
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            if dtype not in self._compiled:
                self._compiled[dtype] = _Compiled(self._load(dtype))
            return self._compiled[dtype]

    def _load(self, dtype: np.dtype[Any]) -> Any:
        settings = self._settings()
        kind = f"{dtype}.{self._cache_key(settings)}.openvino"
        kept = self._model.read_cached(kind) if self.options.cache else None
        if kept:
            with suppress(RuntimeError):  # of another build of OpenVINO: compile again
                return self._core.import_model(BytesIO(kept), "CPU", settings)
        compiled = self._compile(dtype, settings)
        if self.options.cache:
            self._model.write_cached(kind, bytes(compiled.export_model().getvalue()))
        return compiled

    def _compile(self, dtype: np.dtype[Any], settings: Mapping[str, Any]) -> Any:
        graph = self._model.graph(dtype)
        try:
            model = self._core.read_model(graph)
            if dtype == np.uint8:
                _write_rounding_as_arithmetic(model)
            if self.computes_in == "bf16":
                model = with_fp32_skip_path(self._core, model)
            compiled = self._core.compile_model(model, "CPU", dict(settings))
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise ModelError(
                f"OpenVINO cannot load {self.spec.name}: {_message_of(error)}; export it with standard operators, or use "
                "--backend onnxruntime"
            ) from error
        if self.spec.precision == "int8":
            _check_int8(compiled, self.spec.name)
        return compiled

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[self.computes_in],
            "ENABLE_CPU_PINNING": False,  # threads of several engines would share the first cores
        }
        threads = self.options.threads or usable_cores()
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        return settings | dict(self.options.properties)

    def _cache_key(self, settings: Mapping[str, Any]) -> str:
        """Of everything beside the model that a compiled one depends on, this module included."""
        parts = (
            sources_digest("sr_deploy.engines.openvino", _CHANGING_MODELS),
            _runtime().__version__,
            self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            *sorted(self._capabilities),
            *(f"{name}={value}" for name, value in sorted(settings.items())),
        )
        return sha256("|".join(parts).encode("utf-8")).hexdigest()[:16]

    def _run_error(self, error: Exception, shape: tuple[int, ...]) -> Exception:
        size = (
            f"{shape[2]}x{shape[1]} pixels"
            if shape[0] == 1
            else f"{shape[0]} pictures of {shape[2]}x{shape[1]}"
        )
        if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            return OutOfMemoryError(
                f"{self.spec.name}: {size} at once do not fit into memory; use smaller tiles"
            )
        return ModelError(
            f"OpenVINO cannot run {self.spec.name} on {size}: {_message_of(error)}; "
            "if its record is wrong, run `sr-deploy stamp` on it"
        )


class _Compiled:
    """A compiled model, and how many calls are in it. Every call has a request of its own, which costs
    microseconds, so that nothing of a picture is kept."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._running = 0
        self._largest = 0

    def infer(self, source: Batch, result: Batch) -> None:
        """Compute `result` from `source`, in place."""
        tensor = _runtime().Tensor
        with self._counted_call(source.size):
            request = self._model.create_infer_request()
            request.set_input_tensor(tensor(source, shared_memory=True))
            request.set_output_tensor(tensor(result, shared_memory=True))
            request.infer()
            if request.get_output_tensor().data.ctypes.data != result.ctypes.data:
                raise ModelError(f"the graph gives {tuple(request.get_output_tensor().shape)}")

    @contextmanager
    def _counted_call(self, size: int) -> Iterator[None]:
        """Count the call in and out; before a much smaller picture than before, give memory back."""
        with self._lock:
            if not self._running and size * _SHRINK_FACTOR < self._largest:
                self._model.release_memory()
                self._largest = 0
            self._running += 1
            self._largest = max(self._largest, size)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1


def computes_in(
    spec: ModelSpec, options: OpenVinoOptions, capabilities: tuple[str, ...]
) -> Literal["fp32", "bf16", "fp16"]:
    """What the floating-point part of a model of `spec` is computed in, on a CPU with these `capabilities`.

    As the file says: fp32 in fp32 (OpenVINO itself would take bf16), bf16 in bf16. What an int8 file leaves in
    floating point is computed in bf16 where there is bf16. fp16 is computed in fp32 on a CPU without fp16
    arithmetic, as in ONNX Runtime, which only adds digits. Raises MissingRuntimeError for bf16 where it is not there.
    """
    wanted = options.precision or spec.precision
    if wanted == "bf16" and "BF16" not in capabilities:
        raise MissingRuntimeError(
            f"{spec.name}: bf16 was asked for, this processor computes in {', '.join(capabilities)}; use the fp32 "
            "file it was made from"
        )
    if wanted in ("bf16", "int8") and "BF16" in capabilities:
        return "bf16"
    return "fp16" if wanted == "fp16" and "FP16" in capabilities else "fp32"


def _core() -> Any:
    """OpenVINO's core, one for the process and never let go.

    It gives the thread that first compiles a stack for signals. Where another thread lets the core go, that stack
    is freed but not taken back, and the first thread's next signal, such as Ctrl-C, crashes the process.
    """
    return _core_of(_runtime())


@lru_cache(maxsize=1)
def _core_of(runtime: ModuleType) -> Any:
    return runtime.Core()


def check_bf16() -> None:
    """Raises MissingRuntimeError where OpenVINO is missing, or the processor computes in no bf16."""
    found = tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if "BF16" not in found:
        raise MissingRuntimeError(
            f"this processor computes in {', '.join(found)} and not in bf16; use a machine with AVX-512 BF16 or AMX"
        )


def _write_rounding_as_arithmetic(model: Any) -> None:
    """Write the rounding to uint8 at the end of `model` as arithmetic.

    Grafted as an ONNX QuantizeLinear it would be lost where it comes last (the output is then float), and fused
    into a bf16 convolution that cannot be run (both seen in OpenVINO 2026.4).
    """
    node = model.output(0).get_node().input_value(0).get_node()
    while node.get_type_name() in _VALUE_MOVERS:
        node = node.input_value(0).get_node()
    quantised = node.input_value(0).get_node() if node.get_type_name() == "Convert" else node
    if node is quantised or quantised.get_type_name() != "FakeQuantize":
        return
    opset = _opset()
    white = float(quantised.input_value(2).get_node().get_data().item())
    steps = opset.multiply(quantised.input_value(0), opset.constant(np.float32(255.0 / white)))
    whole = opset.clamp(opset.round(steps, "half_to_even"), 0.0, 255.0)
    node.output(0).replace(opset.convert(whole, "u8").output(0))
    model.validate_nodes_and_infer_types()


def _check_int8(compiled: Any, name: str) -> None:
    """Raises ModelError where no convolution of an int8 file is computed in int8."""
    convolutions = [
        op for op in compiled.get_runtime_model().get_ops() if _runtime_info(op, "layerType") == "Convolution"
    ]
    if not any(_runtime_info(op, "runtimePrecision") in ("i8", "u8") for op in convolutions):
        raise ModelError(
            f"{name} is int8, and OpenVINO {_runtime().__version__} computes none of its {len(convolutions)} "
            "convolutions so; use the fp32 file, or report this"
        )


def _runtime_info(op: Any, what: str) -> str:
    """What the runtime says of one of its operators."""
    info = op.get_rt_info()
    return str(info[what].astype(str)) if what in info else ""


_INSTALL = 'pip install "sr-deploy[openvino]"'


def _runtime() -> ModuleType:
    """OpenVINO, imported where it is needed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingRuntimeError(
            f"the openvino backend needs OpenVINO, which cannot be imported ({error}); {_INSTALL}"
        ) from error
    return openvino  # type: ignore[no-any-return]


def _opset() -> ModuleType:
    from importlib import import_module

    return import_module("openvino.opset13")


def _message_of(error: Exception, limit: int = 240) -> str:
    """What OpenVINO said, without its own source files, in one line."""
    text = re.sub(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:", "", " ".join(str(error).split()))
    text = " ".join(text.split("Summary:")[-1].split("To facilitate")[0].split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
