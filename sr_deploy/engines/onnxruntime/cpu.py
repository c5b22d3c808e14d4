"""Run a model with ONNX Runtime on the CPU, or with other execution providers of it.

Pixel I/O is grafted onto the graph (`sr_deploy.graph.pixel_io`), and the runtime reads and writes the
caller's arrays in place, so a call costs what the net costs. The nodes of the model itself are not changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.base import Limits, check_batch
from sr_deploy.engines.integers import from_text, summary, to_text
from sr_deploy.engines.onnxruntime.session import (
    CPU,
    OnnxRuntimeOptions,
    check_providers,
    open_session,
    quiet_run_options,
    run_error,
    runtime,
    session_options,
)
from sr_deploy.engines.planes import planes_for, settle_planes
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray
from sr_deploy.system.files import sha256_of, sources_digest

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxRuntimeEngine", "OnnxRuntimeOptions"]

_ARENA_FACTOR = 1.6
"""Memory of the arena as a multiple of the peak of the graph's own results. On plain nets of 256x256 to
700x700 pixels it was 1.43 to 1.57 (measured): the arena grows in large steps, and it holds the copies that
blocked layouts need."""


class OnnxRuntimeEngine:
    """A model in ONNX Runtime. Implements `sr_deploy.engines.base.Engine`; threads may share it.

    `model` is the path of an ONNX file, its bytes, or the model itself; `spec` replaces the spec in it.
    There is one session per dtype, made when it is first needed. Raises ModelError for a model that cannot
    be run or has no spec, MissingRuntimeError if ONNX Runtime or a provider is missing. Faults that only
    the runtime finds are raised by the first `run`: ModelError too for an int8 file of which a convolution is
    computed in floating point and nothing in its graph explains that.
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
        check_providers(self.options.providers)
        self._model = RunnableModel(model, spec)
        self.spec = self._model.facts.spec
        self.float_convolutions: Mapping[str, str] = {}
        """Convolutions of an int8 file that ONNX Runtime computes in floating point -> reason; known when the
        first session is made."""
        self.say: Callable[[str], None] | None = None
        """Called once with a line for the user if several of those are float."""
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
        """Open an engine; `open_engine` calls this. `threads` is used if there are no `options`."""
        if options is not None and not isinstance(options, OnnxRuntimeOptions):
            raise UsageError(
                f"the onnxruntime backend takes OnnxRuntimeOptions, got {type(options).__name__}"
            )
        return cls(model, options or OnnxRuntimeOptions(threads=threads))

    @staticmethod
    def check() -> None:
        """Raise MissingRuntimeError if ONNX Runtime is not installed or does not load."""
        runtime()

    @cached_property
    def limits(self) -> Limits:
        """Largest batch, and working memory computed from the graph."""
        facts = self._model.facts
        peak = facts.peak_per_pixel
        return Limits(max_batch=facts.max_batch, bytes_per_pixel=peak * _ARENA_FACTOR if peak else None)

    def prepare(self, dtype: npt.DTypeLike) -> None:
        """Make the session for pictures of `dtype` now instead of in the first `run`. Raises what `run`
        raises."""
        self._session(np.dtype(dtype))

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Upscale a batch; see `Engine.run`. Also raises ModelError for faults of the model that only a run
        shows."""
        shape = check_batch(self.spec, self.limits, batch, out)
        session = self._session(batch.dtype)
        try:
            result = np.empty(shape, batch.dtype) if out is None else out
            # the runtime writes `result` while it may still read the input
            source = batch.copy() if np.may_share_memory(batch, result) else np.ascontiguousarray(batch)
            # a binding hands over addresses, so neither the input nor the result is copied
            output = session.get_outputs()[0].name
            planes = planes_for(output, result)
            binding = session.io_binding()
            for bind, name, pixels in (
                (binding.bind_input, session.get_inputs()[0].name, source),
                (binding.bind_output, output, planes),
            ):
                bind(name, "cpu", 0, pixels.dtype.type, pixels.shape, pixels.ctypes.data)
            session.run_with_iobinding(binding, quiet_run_options())
            settle_planes(output, planes, result)
        except Exception as error:  # ONNX Runtime's errors have no closer base class
            raise run_error(error, self.spec.name, batch.shape) from error
        return result

    def close(self) -> None:
        """Release the sessions. A call that is running in another thread still completes."""
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
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            if dtype not in self._sessions:
                self._sessions[dtype] = self._make_session(dtype)
            return self._sessions[dtype]

    def _make_session(self, dtype: np.dtype[Any]) -> Any:
        """Make the session for pictures of `dtype`. Raises ModelError for bf16 on the CPU."""
        options = self.options
        # each provider with its settings; an empty mapping leaves ONNX Runtime's defaults
        named = [(name, options.provider_options.get(name, {})) for name in options.providers]
        if self.spec.precision == "bf16" and options.providers == (CPU,):
            raise ModelError(
                f"{self.spec.name} is bf16, in which ONNX Runtime computes no convolution on a CPU; use --backend "
                "openvino, or the fp32 file it was made from"
            )
        graph = self._model.graph(dtype, planes=True)
        session = open_session(graph, session_options(options), named, self.spec.name)
        if self.spec.precision == "int8" and self._fuses_integers:
            self.float_convolutions = self._examined(graph, dtype)
            line = summary(self.float_convolutions, self.spec.name, "ONNX Runtime")
            if line and self.say:
                self.say(line)
                self.say = None
        return session

    @property
    def _fuses_integers(self) -> bool:
        """True if the options let ONNX Runtime compute quantised convolutions in integers, on the CPU."""
        options = self.options
        return (
            options.providers == (CPU,)
            and options.graph_optimisation in ("extended", "all")
            and options.session_config.get("session.disable_quant_qdq") != "1"
        )

    def _examined(self, graph: bytes, dtype: np.dtype[Any]) -> dict[str, str]:
        """Return `float_convolutions` for `graph`, from the cache if they are there. Raises ModelError for a
        convolution that nothing explains."""
        kind = f"{dtype}.{self._examination_key()}.integers"
        kept = self._model.read_cached(kind)
        if kept:
            with suppress(ValueError, AttributeError):
                return from_text(kept)
        from sr_deploy.engines.onnxruntime.integers import float_convolutions

        def open_with_file(path: str) -> None:
            options = session_options(self.options)
            options.optimized_model_filepath = path
            open_session(graph, options, [(CPU, {})], self.spec.name)

        found = float_convolutions(graph, open_with_file, self.spec.name)
        self._model.write_cached(kind, to_text(found))
        return found

    def _examination_key(self) -> str:
        """Hash everything beside the model that ONNX Runtime's optimised graph depends on."""
        parts = (
            sources_digest("sr_deploy.engines.onnxruntime", ("integers",)),
            runtime().__version__,
            self.options.graph_optimisation,
            *(f"{key}={value}" for key, value in sorted(self.options.session_config.items())),
        )
        return sha256_of("|".join(parts).encode("utf-8"))[:16]
