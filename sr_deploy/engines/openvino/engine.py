"""Run a model with OpenVINO on the CPU: fp32, int8, and bf16 if the processor has it.

Pixel I/O is grafted onto the graph (`sr_deploy.graph.pixel_io`), and the runtime reads and writes the
caller's arrays in place. A compiled model is kept in the user's cache folder, so the second start neither
parses nor compiles. The file's precision decides what convolutions are computed in; the engine never falls
back to another precision.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from io import BytesIO
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.base import Limits, check_batch
from sr_deploy.engines.integers import from_text, to_text
from sr_deploy.engines.openvino.skip_path import lets_skip_path_read_bytes, with_fp32_skip_path
from sr_deploy.engines.planes import planes_for, settle_planes
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, UsageError, check_whole
from sr_deploy.graph.planes import planes_of
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.cores import usable_cores
from sr_deploy.system.files import sha256_of, sources_digest
from sr_deploy.system.memory import affordable_threads

if TYPE_CHECKING:
    import onnx

_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|bad_array_new|failed to allocate|can't alloc|out.?of.?memory|length_error", re.I
)
"""Matches the messages by which OpenVINO and C++ say that memory ran out."""
_MEMORY_FACTOR = 1.25
"""Working memory as a multiple of the peak of the graph's own results. On plain and residual nets of
256x256 to 700x700 pixels it was 0.8 to 1.07 (measured); the rest is a margin for nets that were not
measured."""
_SHRINK_FACTOR = 4
"""Working memory is given back when a picture is this many times smaller than the largest one so far."""
_KERNELS_KEPT = 256
"""Number of kernels that OpenVINO keeps per kind of operator: those of the last ten sizes or so of a net with 25
convolutions. It compiles kernels for every new size of a picture, 0.35 MB of them for rt-x4, and by itself keeps 5,000:
2,400 sizes took 630 MB. With none kept, two sizes in turn take twice as long (measured)."""
_VALUE_MOVERS = {"Identity", "Transpose", "Reshape", "Gather", "DepthToSpace"}
"""Operators that only move values, so that rounding may come before or after them."""
_CHANGING_MODELS = ("engine", "integers", "skip_path")
"""The modules of this package that change a model before it is compiled; the cached form depends on them. A
test checks that the tuple is complete."""
_OPENVINO_TYPES = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's names of our precisions."""


@dataclass(frozen=True, kw_only=True)
class OpenVinoOptions:
    """Options for running a model with OpenVINO. Immutable, so engines and threads may share them."""

    threads: int | None = None
    """Threads that one call computes with; None: the physical cores that this process may use."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision of everything that is not quantised; None: the file decides, see `computes_in`. bf16 is an
    error on a processor without it."""
    cache: bool = True
    """Keep the compiled model in the user's cache folder."""
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Further properties of OpenVINO's CPU device by their own names, such as "CPU_DENORMALS_OPTIMIZATION"."""

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_whole("threads", self.threads)
        if self.precision not in (None, "fp32", "bf16"):
            raise UsageError(f"precision must be fp32, bf16 or None, got {self.precision!r}")


class OpenVinoEngine:
    """A model in OpenVINO. Implements `sr_deploy.engines.base.Engine`; threads may share it.

    `model` is the path of an ONNX file, its bytes, or the model itself; `spec` replaces the spec in it.
    There is one compiled model per dtype, made when it is first needed. Raises ModelError for a model that
    cannot be run or has no spec, MissingRuntimeError if OpenVINO is missing or the processor lacks a
    precision. Faults that only the runtime finds are raised by the first `run`.
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
        self.float_convolutions: Mapping[str, str] = {}
        """Convolutions of an int8 file that OpenVINO computes in floating point -> reason; known when the first
        model is compiled."""
        self._compiled: dict[np.dtype[Any], _Compiled] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, model: Path | bytes | onnx.ModelProto, options: Any = None, threads: int | None = None
    ) -> OpenVinoEngine:
        """Open an engine; `open_engine` calls this. `threads` is used if there are no `options`."""
        if options is not None and not isinstance(options, OpenVinoOptions):
            raise UsageError(f"the openvino backend takes OpenVinoOptions, got {type(options).__name__}")
        return cls(model, options or OpenVinoOptions(threads=threads))

    @staticmethod
    def check() -> None:
        """Raise MissingRuntimeError if OpenVINO is not installed, does not load, or has no CPU device."""
        if "CPU" not in _core().available_devices:
            raise MissingRuntimeError(f"this OpenVINO has no device for the CPU; {_INSTALL}")

    @cached_property
    def limits(self) -> Limits:
        """Largest batch, and working memory computed from the graph."""
        facts = self._model.facts
        peak = facts.peak_per_pixel
        return Limits(max_batch=facts.max_batch, bytes_per_pixel=peak * _MEMORY_FACTOR if peak else None)

    def prepare(self, dtype: npt.DTypeLike) -> None:
        """Compile for pictures of `dtype` now instead of in the first `run`. Raises what `run` raises."""
        self._compiled_for(np.dtype(dtype))

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Upscale a batch; see `Engine.run`. Also raises ModelError for faults of the model that only a run
        shows."""
        shape = check_batch(self.spec, self.limits, batch, out)
        compiled = self._compiled_for(batch.dtype)
        try:
            result: Any = np.empty(shape, batch.dtype) if out is None else out
            source = batch.copy() if np.may_share_memory(batch, result) else np.ascontiguousarray(batch)
            if not source.flags.writeable:  # OpenVINO shares memory only with writable arrays
                source = source.copy()
            compiled.infer(cast("BatchArray", source), result)
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise self._run_error(error, batch.shape) from error
        return result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release the compiled models. A call that is running in another thread still completes."""
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
        """OpenVINO's names of the precisions that the processor computes in."""
        return tuple(self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))

    def _compiled_for(self, dtype: np.dtype[Any]) -> _Compiled:
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            if dtype not in self._compiled:
                self._compiled[dtype] = _Compiled(self._load(dtype))
            return self._compiled[dtype]

    def _load(self, dtype: np.dtype[Any]) -> Any:
        """Load the compiled model from the cache, or compile it and keep it there."""
        settings = self._settings()
        kind = f"{dtype}.{self._cache_key(settings)}.openvino"
        kept = self._model.read_cached(kind) if self.options.cache else None
        about = (
            self._model.read_cached(f"{kind}.integers") if kept and self.spec.precision == "int8" else b"{}"
        )
        if kept and about:
            with suppress(RuntimeError, ValueError, AttributeError):  # made by another build: compile again
                self.float_convolutions = from_text(about)
                return self._core.import_model(BytesIO(kept), "CPU", settings)
        compiled = self._compile(dtype, settings)
        if self.options.cache:
            exported = compiled.export_model()  # bytes in 2025.0, a BytesIO later
            self._model.write_cached(kind, exported if isinstance(exported, bytes) else exported.getvalue())
            if self.spec.precision == "int8":
                self._model.write_cached(f"{kind}.integers", to_text(self.float_convolutions))
        return compiled

    def _compile(self, dtype: np.dtype[Any], settings: Mapping[str, Any]) -> Any:
        """Compile the model for pictures of `dtype`. Raises ModelError if OpenVINO cannot, or if it
        computes a convolution of an int8 file in another precision and nothing explains that."""
        graph = self._model.graph(dtype, planes=True)
        try:
            compiled = self._compiled_with(graph, settings, "fused" if dtype == np.uint8 else "none")
            if compiled.output(0).get_element_type().to_dtype() != dtype:  # the rounding was lost
                compiled = self._compiled_with(graph, settings, "arithmetic")
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
                raise OutOfMemoryError(
                    f"{self.spec.name} cannot be loaded by OpenVINO: memory ran out; close other programs"
                ) from error
            raise ModelError(
                f"OpenVINO cannot load {self.spec.name}: {_message_of(error)}; export it with standard operators, or use "
                "--backend onnxruntime"
            ) from error
        if self.spec.precision == "int8":
            self.float_convolutions = self._examined(compiled, graph)
        return compiled

    def _compiled_with(
        self,
        graph: bytes,
        settings: Mapping[str, Any],
        rounding: Literal["none", "fused", "arithmetic"],
    ) -> Any:
        """Compile `graph`. `rounding` tells how bytes are made at its end; it is fused only where OpenVINO can."""
        model = self._core.read_model(graph)
        if rounding == "arithmetic" or (rounding == "fused" and not self._can_fuse_rounding(model, graph)):
            _write_rounding_as_arithmetic(model)
        if self.computes_in == "bf16":
            model = with_fp32_skip_path(self._core, model)
        return self._core.compile_model(model, "CPU", dict(settings))

    def _can_fuse_rounding(self, model: Any, graph: bytes) -> bool:
        """Return True if the rounding of planes at the end of `model` can be part of what comes before it.

        That is so in fp32, in a bf16 file behind a skip path of bytes, which is fp32, and for a last convolution in
        integers. An fp32 file that is computed in bf16 lacks the casts around its last convolution: OpenVINO would then
        fuse sum and rounding into that one, which cannot be run or gives other values (seen in 2026.4).
        May change how `model` reads its bytes.
        """
        if not any(map(planes_of, model.output(0).get_names())):
            return False
        if self.spec.precision == "int8":
            from sr_deploy.graph.onnx_file import parse_model
            from sr_deploy.graph.rewrites.carried import ends_in_integers

            return ends_in_integers(parse_model(graph))
        in_bf16 = self.computes_in == self.spec.precision == "bf16"
        return self.computes_in == "fp32" or (in_bf16 and lets_skip_path_read_bytes(model))

    def _examined(self, compiled: Any, graph: bytes) -> dict[str, str]:
        """Return `float_convolutions` for a compiled model. Raises ModelError for a convolution that nothing
        explains, and if none is computed in int8."""
        from sr_deploy.engines.openvino.integers import convolution_layers, count_integers, float_convolutions

        if not count_integers(compiled):
            raise ModelError(
                f"{self.spec.name} is int8, but OpenVINO {_runtime().__version__} computes none of its "
                f"{len(convolution_layers(compiled))} convolutions in int8; use the fp32 file, or report this"
            )
        return float_convolutions(compiled, graph, self.spec.name)

    def _settings(self) -> dict[str, Any]:
        """Return the properties to compile with; the user's own come last and win. One stream: a call uses
        all threads for one picture, so that its latency is lowest."""
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[self.computes_in],
            "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS_KEPT,
            "ENABLE_CPU_PINNING": False,  # pinned threads of several engines would all use the first cores
        }
        threads = affordable_threads(self.options.threads or usable_cores())
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        return settings | dict(self.options.properties)

    def _cache_key(self, settings: Mapping[str, Any]) -> str:
        """Hash everything beside the model that a compiled one depends on, the sources of this package
        included."""
        parts = (
            sources_digest("sr_deploy.engines.openvino", _CHANGING_MODELS),
            _runtime().__version__,
            self._core.get_property("CPU", "FULL_DEVICE_NAME"),
            *sorted(self._capabilities),
            *(f"{name}={value}" for name, value in sorted(settings.items())),
        )
        return sha256_of("|".join(parts).encode("utf-8"))[:16]

    def _run_error(self, error: Exception, shape: tuple[int, ...]) -> Exception:
        """Return the error to raise for a failed run on a batch of `shape` [N, H, W, C]: OutOfMemoryError
        or ModelError."""
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
            "if its spec is wrong, run `sr-deploy stamp` on it"
        )


class _Compiled:
    """A compiled model, and the number of calls that are running in it.

    Every call has its own request, which costs microseconds, so that nothing of a picture is kept and
    threads may call at once.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._output = next(filter(planes_of, model.output(0).get_names()), "")
        self._lock = threading.Lock()
        self._running = 0
        self._largest = 0

    def infer(self, source: BatchArray, result: BatchArray) -> None:
        """Compute `result` from `source`; both are used in place. Raises ModelError if the graph gives
        another shape."""
        tensor = _runtime().Tensor
        with self._counted_call(source.size):
            planes = planes_for(self._output, result)
            request = self._model.create_infer_request()
            request.set_input_tensor(tensor(source, shared_memory=True))
            request.set_output_tensor(tensor(planes, shared_memory=True))
            request.infer()
            if request.get_output_tensor().data.ctypes.data != planes.ctypes.data:
                raise ModelError(f"the graph gives {tuple(request.get_output_tensor().shape)}")
            settle_planes(self._output, planes, result)

    @contextmanager
    def _counted_call(self, size: int) -> Iterator[None]:
        """Count a call of `size` values while it runs.

        OpenVINO keeps the memory of the largest picture so far. It is released before a much smaller
        picture, and only while no call runs.
        """
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
    """Return the precision of the floating-point part of a model, on a CPU with `capabilities`.

    It is the file's: fp32 in fp32 (OpenVINO itself would choose bf16), bf16 in bf16. What an int8 file
    leaves in floating point is computed in bf16 if the processor has it. fp16 is computed in fp32 on a CPU
    without fp16 arithmetic, as in ONNX Runtime; that only adds digits. Raises MissingRuntimeError for bf16
    on a processor without it.
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
    """Return OpenVINO's core. There is one for the process, and it is never released. The core gives a stack
    for signal handlers to the thread that first compiles. If another thread releases the core, that stack is
    freed, but the first thread still uses it: its next signal, such as Ctrl-C, crashes the process."""
    return _core_of(_runtime())


@lru_cache(maxsize=1)
def _core_of(runtime: ModuleType) -> Any:
    """Make the core once, and keep it for the life of the process."""
    return runtime.Core()


def check_bf16() -> None:
    """Raise MissingRuntimeError if OpenVINO is missing, or if the processor does not compute in bf16."""
    found = tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    if "BF16" not in found:
        raise MissingRuntimeError(
            f"this processor computes in {', '.join(found)}, not in bf16; use a machine with AVX-512 BF16 or AMX"
        )


def _write_rounding_as_arithmetic(model: Any) -> None:
    """Replace the rounding to uint8 at the end of `model` by multiply, round, clamp and convert.

    It was grafted as an ONNX QuantizeLinear, which would be fused into a bf16 convolution that cannot be run (seen in
    OpenVINO 2026.4).
    Rounds half to even, as QuantizeLinear does.
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


_INSTALL = 'pip install "sr-deploy[openvino]"'
"""Command that installs OpenVINO."""


_IMPORTING = threading.Lock()
"""Held during the import: two threads that open their first engine at once would take each other's place in
`sys.modules`, and one would end with a KeyError."""


def _runtime() -> ModuleType:
    """Import OpenVINO without its telemetry. Raises MissingRuntimeError if it cannot be imported."""
    try:
        with _IMPORTING, _no_telemetry():
            import openvino  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            f"the openvino backend needs OpenVINO, which cannot be imported ({error}); {_INSTALL}"
        ) from error
    return openvino  # type: ignore[no-any-return]


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Context in which `openvino_telemetry` cannot be imported.

    The first import of OpenVINO (2026.4) starts its converter's telemetry, which writes a client identifier into the
    home folder and sends an event to a web service, unless the user has declined. Without that package the
    converter uses a stand-in of its own that does nothing, and so it does for the rest of the process.
    """
    name = "openvino_telemetry"
    loaded = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        yield
    finally:
        if loaded is None:
            del sys.modules[name]
        else:
            sys.modules[name] = loaded


def _opset() -> ModuleType:
    """Import the operators that rewritten nodes are made of."""
    from importlib import import_module

    return import_module("openvino.opset13")


def _message_of(error: Exception, limit: int = 240) -> str:
    """Return OpenVINO's message in one line, without its source files."""
    text = re.sub(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:", "", " ".join(str(error).split()))
    text = " ".join(text.split("Summary:")[-1].split("To facilitate")[0].split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
