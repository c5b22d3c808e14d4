"""Run a model with ONNX Runtime: on the CPU, or on whatever its execution providers reach.

Pixel arithmetic is grafted into the graph (`sr_deploy.graph.pixel_io`), and the runtime reads and writes the
caller's arrays in place, so a call costs what the net costs. Nothing of the graph's own is changed here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sr_deploy.cores import usable_cores
from sr_deploy.engines.base import Batch, Limits, check_batch
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, UsageError
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

CPU = "CPUExecutionProvider"
_OUT_OF_MEMORY = re.compile(r"bad_alloc|failed to allocate|out.?of.?memory|alloc_failed", re.IGNORECASE)
_ARENA = 1.6
"""Measured on plain nets of 256x256 to 700x700 pixels: the arena takes 1.43 to 1.57 times the peak of the
graph's own results, for it grows in large steps and holds the copies that blocked layouts need."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """How ONNX Runtime runs a model."""

    threads: int | None = None
    """Threads one call computes with; None: the physical cores this process may use."""
    providers: tuple[str, ...] = (CPU,)
    """Execution providers, best first. One that is asked for and not there is an error."""
    provider_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each provider is set up with, by its name."""
    memory_arena: bool = True
    """Keep working memory between calls, as large as the largest so far. Off, a call takes 1.2 to 1.7 times
    as long (measured), in fetching fresh pages."""
    graph_optimisation: Literal["none", "basic", "extended", "all"] = "all"
    spinning: bool = True
    """Let idle threads spin between two operators, as ONNX Runtime does by itself. On an idle machine calls
    took 0.84 times as long with it (measured); on one that is busy with other work, 1.04 to 1.12 times."""
    session_config: Mapping[str, str] = field(default_factory=dict)
    """Further session settings by ONNX Runtime's own keys, such as "session.disable_cpu_ep_fallback"."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if not self.providers:
            raise UsageError(f"providers must name at least one execution provider, such as {CPU}")


class OnnxRuntimeEngine:
    """A model in ONNX Runtime. Implements `sr_deploy.engines.base.Engine`.

    `model`: the path of an ONNX file, its bytes, or the model itself. `spec` stands in for the record in it.
    Raises ModelError for a model that cannot be run or has no record, MissingRuntimeError where ONNX Runtime
    or a provider is missing. What only the runtime can find wrong is raised by the first `run`.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        model: Path | bytes | onnx.ModelProto,
        options: OnnxRuntimeOptions | None = None,
        *,
        spec: ModelSpec | None = None,
    ) -> None:
        self.options = options or OnnxRuntimeOptions()
        _check_providers(self.options)
        self._model = RunnableModel(model, spec)
        self.spec = self._model.facts.spec
        self._sessions: dict[np.dtype[Any], Any] = {}
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls,
        model: Path | bytes | onnx.ModelProto,
        options: Any = None,
        threads: int | None = None,
    ) -> OnnxRuntimeEngine:
        """What `sr_deploy.engines.open_engine` calls; `threads` stands for options of nothing else."""
        if options is not None and not isinstance(options, OnnxRuntimeOptions):
            raise UsageError(
                f"the onnxruntime backend takes OnnxRuntimeOptions, got {type(options).__name__}"
            )
        return cls(model, options or OnnxRuntimeOptions(threads=threads))

    @staticmethod
    def check() -> None:
        """Raises MissingRuntimeError where ONNX Runtime is not installed, or does not load."""
        _runtime()

    @cached_property
    def limits(self) -> Limits:
        """Batch size and working memory, told from the graph."""
        facts = self._model.facts
        peak = facts.peak_per_pixel
        return Limits(max_batch=facts.max_batch, bytes_per_pixel=peak * _ARENA if peak else None)

    def run(self, batch: Batch, out: Batch | None = None) -> Batch:
        """See `Engine.run`. Raises ModelError too, for what only running shows to be wrong with the model."""
        shape = check_batch(self.spec, self.limits, batch, out)
        session = self._session(batch.dtype)
        try:
            result = np.empty(shape, batch.dtype) if out is None else out
            source = batch.copy() if np.may_share_memory(batch, result) else np.ascontiguousarray(batch)
            binding = session.io_binding()
            for bind, name, pixels in (
                (binding.bind_input, session.get_inputs()[0].name, source),
                (binding.bind_output, session.get_outputs()[0].name, result),
            ):
                bind(name, "cpu", 0, pixels.dtype.type, pixels.shape, pixels.ctypes.data)
            session.run_with_iobinding(binding, self._quiet())
        except Exception as error:  # ONNX Runtime's errors share no other base class
            raise self._run_error(error, batch.shape) from error
        return result

    def close(self) -> None:
        """Let go of the sessions; a call in another thread still ends well."""
        with self._lock:
            self._closed = True
            self._sessions = {}

    def __enter__(self) -> OnnxRuntimeEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _session(self, dtype: np.dtype[Any]) -> Any:
        """The session for pictures of `dtype`, made when it is first asked for."""
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            if dtype not in self._sessions:
                self._sessions[dtype] = self._created(self._model.graph(dtype))
            return self._sessions[dtype]

    def _created(self, graph: bytes) -> Any:
        providers = self.options.providers
        extra = [dict(self.options.provider_options.get(name, {})) for name in providers]
        try:
            session = _runtime().InferenceSession(
                graph,
                session_options(self.options),
                providers=list(providers),
                provider_options=extra,
                enable_fallback=0,
            )
        except Exception as error:  # ONNX Runtime's errors share no other base class
            raise ModelError(
                f"ONNX Runtime cannot load {self.spec.name}: {_said(error)}; export it with standard operators"
            ) from error
        for name in providers:
            if name not in session.get_providers():
                raise MissingRuntimeError(
                    f"{name} is installed but did not start; see `sr-deploy doctor`, or {_install(name)}"
                )
        return session

    @staticmethod
    def _quiet() -> Any:
        """Run options under which errors are raised and not printed too."""
        options = _runtime().RunOptions()
        options.log_severity_level = 4
        return options

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
            f"ONNX Runtime cannot run {self.spec.name} on {size}: {_said(error)}; "
            "if its record is wrong, run `sr-deploy stamp` on it"
        )


def _runtime() -> ModuleType:
    """ONNX Runtime, imported where it is needed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            f"the onnxruntime backend needs ONNX Runtime, which cannot be imported ({error}); {_install(CPU)}"
        ) from error
    return onnxruntime  # type: ignore[no-any-return]


def _check_providers(options: OnnxRuntimeOptions) -> None:
    """Raises MissingRuntimeError for a provider this build of ONNX Runtime lacks: it would use the CPU."""
    there = _runtime().get_available_providers()
    for name in options.providers:
        if name not in there:
            raise MissingRuntimeError(
                f"{name} was asked for, this ONNX Runtime has {', '.join(there)}; {_install(name)}"
            )


def _install(provider: str) -> str:
    return f'pip install "sr-deploy[{"cpu" if provider == CPU else "gpu"}]"'


def session_options(options: OnnxRuntimeOptions) -> Any:
    """ONNX Runtime's own form of `options`."""
    ort = _runtime()
    made = ort.SessionOptions()
    made.log_severity_level = 4  # what goes wrong is raised
    made.intra_op_num_threads = options.threads or usable_cores() or 0
    made.enable_cpu_mem_arena = options.memory_arena
    made.graph_optimization_level = {
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[options.graph_optimisation]
    settings = {"session.intra_op.allow_spinning": str(int(options.spinning)), **options.session_config}
    for key, value in settings.items():
        made.add_session_config_entry(key, value)
    return made


def _said(error: Exception, limit: int = 240) -> str:
    """What ONNX Runtime said, without its code and its own source files, in one line."""
    text = re.sub(
        r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S*onnxruntime_src\S* ", "", " ".join(str(error).split())
    )
    return text if len(text) <= limit else text[: limit - 3] + "..."
