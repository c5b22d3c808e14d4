"""Run a model with TensorRT on an NVIDIA GPU: from an engine file, or from an ONNX file whose engine is kept.

Pixels go in and come out as they are (uint8, or float32 in 0..1); the arithmetic around the net is compiled into the
engine. Calls of several threads run at once, each in a lane of its own (`tensorrt_lane`). What TensorRT is called
is in `tensorrt_api`, what CUDA is called in `tensorrt_cuda`; this module brings them together.

An engine is machine code: load only those you built, or had from somebody whose programs you would run.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_deploy.engines.base import Batch, Limits, check_batch
from sr_deploy.engines.registry import ENGINE_SUFFIXES
from sr_deploy.engines.tensorrt import api, build
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.cuda import (
    GpuContext,
    OwnedMemory,
    machine,
    order_streams,
    pinned_empty,
    translated_error,
)
from sr_deploy.engines.tensorrt.device import DeviceArray, as_device_array
from sr_deploy.engines.tensorrt.lane import Lane, Lanes, LoadedEngine
from sr_deploy.engines.tensorrt.options import TensorRTOptions
from sr_deploy.engines.tensorrt.profiles import Profile, largest_size, plan_profiles
from sr_deploy.engines.tensorrt.sidecar import EngineRecord, read_engine, require_usable
from sr_deploy.engines.tensorrt.transfer import CopyThreads, PendingResult, send
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from onnx import ModelProto

_open_engines: weakref.WeakSet[TensorRTEngine] = weakref.WeakSet()


class TensorRTEngine:
    """A model in TensorRT. Implements `sr_deploy.engines.base.Engine`.

    `model`: an engine file (`.engine`, `.plan`, `.trt`, with its record beside it), or an ONNX file, its bytes, or
    the model itself, whose engine is looked up in the user's cache and built where it is not there.
    Raises MissingRuntimeError without TensorRT, PyCUDA, driver or GPU; ModelError for an engine of another model,
    version or GPU, a truncated one, or one without its record, with the command that rebuilds it.
    """

    backend = "tensorrt"

    def __init__(self, model: Path | bytes | ModelProto, options: TensorRTOptions | None = None) -> None:
        self.options = options or TensorRTOptions()
        trt = api.runtime()
        self._trt, self._log = trt, api.TensorRTLog(trt)
        self._gpu = GpuContext(self.options.device, self.options.context)
        self._copy_threads = CopyThreads()
        self._lock = threading.RLock()
        self._loaded_engines: dict[str, _EngineLanes] = {}
        self._open_streams: list[_PendingRuns] = []
        self._closed = False
        self._model: _OnnxModel | _EngineFile
        if isinstance(model, Path) and model.suffix.lower() in ENGINE_SUFFIXES:
            self._model = _EngineFile(model, self.options, api.version(trt))
        else:
            self._model = _OnnxModel(model, self.options)
        self.spec: ModelSpec = self._model.spec
        self.limits = _limits(self.spec, self._model.profiles)
        if not _open_engines:
            atexit.register(_close_all)
        _open_engines.add(self)

    @classmethod
    def open(
        cls, model: Path | bytes | ModelProto, options: Any = None, threads: int | None = None
    ) -> TensorRTEngine:
        """What `sr_deploy.engines.open_engine` calls; `threads` are the CPU's and change nothing here."""
        if options is not None and not isinstance(options, TensorRTOptions):
            raise UsageError(f"the tensorrt backend takes TensorRTOptions, got {type(options).__name__}")
        return cls(model, options)

    @staticmethod
    def check() -> None:
        """Raises MissingRuntimeError where TensorRT, PyCUDA, the driver or a GPU is missing."""
        build.require_tensorrt()

    @property
    def record(self) -> EngineRecord:
        """Of the engine for 8-bit pictures, else of the one there is; it is loaded, and built, where needed."""
        kinds = [kind for kind in (build.UINT8, build.FLOAT32) if self._model.has(kind)]
        return self._loaded_engine(kinds[0]).record

    def run(self, batch: Batch, out: Batch | None = None) -> Batch:
        """See `Engine.run`. Fastest with `batch` and `out` from `empty`, which the GPU reads and writes itself."""
        shape, loaded_engine = self._check(batch, out)
        result = np.empty(shape, batch.dtype) if out is None else out
        lane = loaded_engine.lanes.take()
        with self._running(loaded_engine, lane, batch.shape):
            self._queue_run(lane, batch, result).finish()
        loaded_engine.lanes.give_back(lane)
        return result

    def run_stream(self, batches: Iterable[Batch], depth: int | None = None) -> Iterator[Batch]:
        """The results of `batches`, in order, with copying in, computing and copying out overlapped.

        Up to `depth` (default: the option `contexts`) are on their way at once; each is read before the next but
        `depth` is asked for. Ends well when it is closed early.
        """
        depth = min(depth or self.options.contexts, self.options.contexts)
        runs: _PendingRuns = deque()
        self._open_streams.append(runs)
        try:
            for batch in batches:
                shape, loaded_engine = self._check(batch, None)
                if len(runs) >= depth:
                    yield self._finish_oldest(runs)
                while (lane := loaded_engine.lanes.take(wait=not runs)) is None:
                    yield self._finish_oldest(runs)
                runs.append(self._submit(loaded_engine, lane, batch, np.empty(shape, batch.dtype)))
            while runs:
                yield self._finish_oldest(runs)
        finally:
            self._finish_all(runs)

    def run_device(self, source: Any, out: Any = None, stream: int | None = None) -> DeviceArray:
        """As `run`, for arrays on the GPU: anything with `__cuda_array_interface__`, or DLPack.

        `stream`: CUDA's handle of the caller's stream. The run waits for what is queued there, and what is queued
        there later waits for the run; this call does not wait. Without one, the result is whole on return.
        `out` [N, H*scale, W*scale, C] is filled where given. Raises UsageError for arrays that do not fit.
        """
        taken = as_device_array(source, stream)
        shape, loaded_engine = self._check_device(taken)
        given = self._output(shape, taken.dtype, out)
        lane = loaded_engine.lanes.take()
        with self._running(loaded_engine, lane, taken.shape):
            self._run_device(lane, taken, given, stream)
        loaded_engine.lanes.give_back(lane)
        return given

    def empty(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> Batch:
        """An array in page-locked memory: `run` reads from it and writes into it without a copy between."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._gpu.current():
            block = pinned_empty(self._gpu.cuda, size)
        array: Batch = block[:size].view(dtype).reshape(shape)
        return array

    def prepare(self, dtype: Any = np.uint8) -> None:
        """Load, and where needed build, what pictures of `dtype` need; else the first `run` does."""
        self._loaded_engine(build.pixels_of(dtype))

    def device_memory(self) -> int:
        """Bytes of device memory that the idle lanes hold, TensorRT's own aside."""
        return sum(
            lane.held_bytes()
            for loaded_engine in self._loaded_engines.values()
            for lane in loaded_engine.lanes.idle()
        )

    def close(self) -> None:
        """Release everything on the GPU; calls in other threads still end well. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loaded_engines, self._loaded_engines = list(self._loaded_engines.values()), {}
        for runs in list(self._open_streams):  # of streams that nobody reads to the end
            self._finish_all(runs)
        with self._gpu.current():
            for loaded_engine in loaded_engines:
                loaded_engine.close()
        self._copy_threads.close()
        _open_engines.discard(self)

    def __enter__(self) -> TensorRTEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # one run

    def _check(self, batch: Batch, out: Batch | None) -> tuple[tuple[int, ...], _EngineLanes]:
        shape = check_batch(self.spec, self.limits, batch, out)
        return shape, self._loaded_engine(build.pixels_of(batch.dtype))

    def _check_device(self, taken: DeviceArray) -> tuple[tuple[int, ...], _EngineLanes]:
        like: Any = np.broadcast_to(
            np.zeros((), taken.dtype), taken.shape
        )  # its shape and type, and no memory
        return self._check(like, None)

    def _queue_run(self, lane: Lane, batch: Batch, result: Batch) -> PendingResult:
        """Queue all of a run; the CUDA context is current."""
        source, target = lane.reserve(batch.nbytes, result.nbytes)
        send(lane, batch, source)
        lane.launch(batch.shape, result.shape, source, target)
        return PendingResult(lane, target, result, self._copy_threads)

    def _submit(
        self, loaded_engine: _EngineLanes, lane: Lane, batch: Batch, result: Batch
    ) -> tuple[_EngineLanes, Lane, PendingResult, tuple[int, ...]]:
        with self._running(loaded_engine, lane, batch.shape):
            return loaded_engine, lane, self._queue_run(lane, batch, result), batch.shape

    def _finish_all(self, runs: _PendingRuns) -> None:
        """Bring what is still on its way to an end, and its lanes back."""
        self._open_streams[:] = [each for each in self._open_streams if each is not runs]
        while runs:
            self._finish_oldest(runs)

    def _finish_oldest(self, runs: _PendingRuns) -> Batch:
        loaded_engine, lane, pending, shape = runs.popleft()
        with self._running(loaded_engine, lane, shape):
            result = pending.finish()
        loaded_engine.lanes.give_back(lane)
        return result

    def _run_device(self, lane: Lane, taken: DeviceArray, given: DeviceArray, stream: int | None) -> None:
        if stream is not None:
            order_streams(stream, lane.handle)
        lane.launch(taken.shape, given.shape, taken.address, given.address)
        if stream is None:
            lane.stream.synchronize()
        else:
            order_streams(lane.handle, stream)

    def _output(self, shape: tuple[int, ...], dtype: np.dtype[Any], out: Any) -> DeviceArray:
        if out is None:
            with self._gpu.current():
                memory = OwnedMemory(self._gpu, int(np.prod(shape)) * dtype.itemsize)
            return DeviceArray(memory.address, shape, dtype, memory)
        given = as_device_array(out)
        if given.shape != shape or given.dtype != dtype:
            raise UsageError(
                f"out must be a {dtype} array {shape} on the GPU, got {given.dtype} {given.shape}"
            )
        return given

    @contextmanager
    def _running(self, loaded_engine: _EngineLanes, lane: Lane, shape: tuple[int, ...]) -> Iterator[None]:
        """With the CUDA context current; a run that fails in here gives up its lane, and says what it was on."""
        try:
            with self._gpu.current():
                yield
        except BaseException as error:
            loaded_engine.lanes.discard(lane)
            if isinstance(error, MemoryError):
                loaded_engine.lanes.trim()
            known = translated_error(error, f"{self.spec.name} on {shape[0]} x {shape[2]}x{shape[1]} pixels")
            if known is None or known is error:
                raise
            raise known from error

    # what is loaded

    def _loaded_engine(self, pixels: str) -> _EngineLanes:
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            if pixels not in self._loaded_engines:
                plan, record = self._model.engine(pixels)
                with self._gpu.current():
                    self._loaded_engines[pixels] = _EngineLanes(self, plan, record)
            return self._loaded_engines[pixels]

    def _load(self, plan: bytes, record: EngineRecord) -> tuple[Any, LoadedEngine]:
        """TensorRT's runtime, which must outlive the engine, and the engine in it."""
        made = api.new_runtime(self._trt, self._log, host_code=record.options.version_compatible)
        engine = api.load(made, plan, self._log, record.spec.name)
        input_name, output_name = api.port_names(self._trt, engine)
        profiles = record.profiles[: api.profile_count(engine)]
        loaded = LoadedEngine(
            trt=self._trt,
            gpu=self._gpu,
            engine=engine,
            log=self._log,
            input_name=input_name,
            output_name=output_name,
            profiles=profiles,
            graphs=self.options.graphs,
            shapes_kept=self.options.shapes_kept,
        )
        return made, loaded


class _EngineLanes:
    """One engine on the GPU, with its lanes."""

    def __init__(self, owner: TensorRTEngine, plan: bytes, record: EngineRecord) -> None:
        self.record = record
        self._loaded: LoadedEngine | None
        self._runtime, self._loaded = owner._load(plan, record)
        self._gpu = owner._gpu
        self.lanes = Lanes(self._lane, owner.options.contexts)

    def _lane(self) -> Lane:
        with self._gpu.current():
            assert self._loaded is not None
            return Lane(self._loaded)

    def close(self) -> None:
        """Contexts before the engine, the engine before the runtime; the CUDA context is current."""
        self.lanes.close()
        self._loaded = None
        self._runtime = None


_PendingRuns = deque[tuple[_EngineLanes, Lane, PendingResult, tuple[int, ...]]]
"""Runs that are on their way, the oldest first."""


class _EngineFile:
    """An engine from an explicit path."""

    def __init__(self, path: Path, options: TensorRTOptions, version: str) -> None:
        self._plan, self._record = read_engine(path)
        wanted = build.file_digest(options.model) if options.model else None
        require_usable(self._record, machine(options.device, version), path, wanted)
        self._path = path
        self.spec, self.profiles = self._record.spec, self._record.profiles

    def has(self, pixels: str) -> bool:
        return pixels == self._record.pixels

    def engine(self, pixels: str) -> tuple[bytes, EngineRecord]:
        if not self.has(pixels):
            wants = "uint8" if pixels == build.UINT8 else "float"
            raise UsageError(
                f"{self._path} was built for {self._record.pixels} pictures, got {pixels}; build one with --io {wants}"
            )
        return self._plan, self._record


class _OnnxModel:
    """A model whose engines are kept in the cache, and built where they are not there."""

    def __init__(self, model: Path | bytes | ModelProto, options: TensorRTOptions) -> None:
        from sr_deploy.graph.runnable import RunnableModel

        self._model, self._options = model, options
        facts = RunnableModel(model).facts
        self.spec, self._bytes_only = facts.spec, facts.bytes_only
        built = options.build
        if facts.max_batch is not None:
            from dataclasses import replace

            built = replace(built, max_batch=facts.max_batch)
        self._build = built
        self.profiles = plan_profiles(self.spec, built)

    def has(self, pixels: str) -> bool:
        return pixels == build.UINT8 or not self._bytes_only

    def engine(self, pixels: str) -> tuple[bytes, EngineRecord]:
        if not self.has(pixels):
            raise UsageError(
                f"{self.spec.name} was exported with uint8 pixel I/O and takes 8-bit pictures only; "
                "use a file exported with `--io float`"
            )
        options = self._options
        cache = EngineCache.of_user(options.folder, _say) if options.cache else None
        with _model_file(self._model) as path:
            return build.engine_from_cache(
                partial(build.source_of, path, pixels, self.spec),
                build.file_digest(path),
                pixels,
                self._build,
                device=options.device,
                context=options.context,
                cache=cache,
                build_missing=options.build_missing,
                say=_say,
            )


class _model_file:  # noqa: N801 - used as a function
    """The model as a file: itself, or a temporary one of its bytes."""

    def __init__(self, model: Path | bytes | ModelProto) -> None:
        self._model, self._folder = model, None if isinstance(model, Path) else _temporary()

    def __enter__(self) -> Path:
        if isinstance(self._model, Path):
            return self._model
        assert self._folder is not None
        path = Path(self._folder.name) / "model.onnx"
        data = (
            self._model
            if isinstance(self._model, bytes)
            else self._model.SerializeToString(deterministic=True)
        )
        path.write_bytes(data)
        return path

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _temporary() -> Any:
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="sr-deploy-")


def _limits(spec: ModelSpec, profiles: tuple[Profile, ...]) -> Limits:
    height, width = largest_size(profiles)
    # what grows with a picture here is its copies in main memory; on the GPU, profiles set the bounds
    host = spec.channels * (1 + spec.scale**2)
    return Limits(
        max_height=height,
        max_width=width,
        max_batch=max(profile.high[0] for profile in profiles),
        bytes_per_pixel=float(host),
    )


def _say(message: str) -> None:
    """A build takes minutes, and whoever waits wants to know for what."""
    print(message, file=sys.stderr, flush=True)


def _close_all() -> None:
    """At the end of the interpreter, while CUDA is still there."""
    for engine in list(_open_engines):
        engine.close()
