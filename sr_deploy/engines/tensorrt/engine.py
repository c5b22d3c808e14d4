"""Runs a model with TensorRT on an NVIDIA GPU, from an engine file or from an ONNX file whose engine is cached.

Input and output are pixels as they are: uint8, or float32 in 0..1. All arithmetic around the network is
compiled into the engine. Calls of several threads run at the same time, each in a lane of its own
(`lane.py`). `api.py` holds the calls into TensorRT and `cuda.py` those into CUDA; this module combines them.

An engine is machine code: load only engines that you built, or whose author you trust to run programs on your
machine.
"""

from __future__ import annotations

import atexit
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sr_deploy.engines.base import Limits, check_batch
from sr_deploy.engines.registry import ENGINE_SUFFIXES
from sr_deploy.engines.tensorrt import api, build
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.cuda import (
    GpuContext,
    OwnedMemory,
    PinnedMemory,
    machine,
    order_streams,
    translated_error,
)
from sr_deploy.engines.tensorrt.device import DeviceArray, as_device_array
from sr_deploy.engines.tensorrt.lane import Lane, Lanes, LoadedEngine
from sr_deploy.engines.tensorrt.options import TensorRTOptions
from sr_deploy.engines.tensorrt.profiles import Profile, largest_size, plan_profiles
from sr_deploy.engines.tensorrt.runtimes import RTX, TENSORRT, Runtime
from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineSidecar, read_engine, require_usable
from sr_deploy.engines.tensorrt.transfer import CopyThreads, PendingResult, send
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import BatchArray

if TYPE_CHECKING:
    from onnx import ModelProto

_open_engines: weakref.WeakSet[TensorRTEngine] = weakref.WeakSet()
"""Engines that are not closed yet; they are closed when the interpreter exits."""


class TensorRTEngine:
    """A model in TensorRT. Implements `sr_deploy.engines.base.Engine`, so threads may share it.

    `model` is an engine file (`.engine`, `.plan` or `.trt`, with its sidecar beside it), or an ONNX file, its
    bytes, or the loaded model. For those, the engine is looked up in the user's cache, and built if it is
    missing. That takes minutes and happens at the first `run` or `prepare`, not here.

    Raises MissingRuntimeError without TensorRT, PyCUDA, driver or GPU. Raises ModelError for an engine of
    another model, TensorRT version or GPU, and for one that is truncated or lacks its sidecar; the message
    ends in the command that rebuilds it.
    """

    backend = "tensorrt"
    runtime: ClassVar[Runtime] = TENSORRT
    """The library that this class uses."""

    def __init__(self, model: Path | bytes | ModelProto, options: TensorRTOptions | None = None) -> None:
        self.options = options or TensorRTOptions()
        trt = api.runtime(self.runtime)
        self._trt, self._log = trt, api.TensorRTLog(trt)
        self._gpu = GpuContext(self.options.device, self.options.context, self.runtime)
        self._copy_threads = CopyThreads()
        self._lock = threading.RLock()
        self._loaded_engines: dict[str, _EngineLanes] = {}
        self._open_streams: list[_PendingRuns] = []
        self._closed = False
        self._model: _OnnxModel | _EngineFile
        if isinstance(model, Path) and model.suffix.lower() in ENGINE_SUFFIXES:
            self._model = _EngineFile(model, self.options, api.version(trt), self.runtime)
        else:
            self._model = _OnnxModel(model, self.options, self.runtime)
        self.spec: ModelSpec = self._model.spec
        self.limits = _limits(self.spec, self._model.profiles)
        if not _open_engines:
            atexit.register(_close_all)
        _open_engines.add(self)

    @classmethod
    def open(
        cls, model: Path | bytes | ModelProto, options: Any = None, threads: int | None = None
    ) -> TensorRTEngine:
        """Open an engine for `sr_deploy.engines.registry.open_engine`.

        `threads` is accepted because all backends are opened alike; it has no effect on a GPU. Raises
        UsageError if `options` are those of another backend.
        """
        if options is not None and not isinstance(options, TensorRTOptions):
            raise UsageError(f"the {cls.backend} backend takes TensorRTOptions, got {type(options).__name__}")
        return cls(model, options)

    @classmethod
    def check(cls) -> None:
        """Raises MissingRuntimeError if the library, PyCUDA, the NVIDIA driver or a usable GPU is missing."""
        build.require_tensorrt(cls.runtime)

    @property
    def record(self) -> EngineSidecar:
        """The sidecar's content for the engine that takes uint8 pixels, or else float32 pixels.

        Loads the engine, and builds it, if that has not happened yet.
        """
        kinds = [kind for kind in (build.UINT8, build.FLOAT32) if self._model.has(kind)]
        return self._loaded_engine(kinds[0]).record

    def run(self, batch: BatchArray, out: BatchArray | None = None) -> BatchArray:
        """Upscale `batch` [N, H, W, C] as `Engine.run` describes.

        Fastest if `batch` and `out` come from `empty`: the GPU then accesses them directly. Blocks while all
        lanes are busy. Raises UsageError for pixels that the engine does not take, OutOfMemoryError, or
        ModelError if TensorRT fails.
        """
        shape, loaded_engine = self._check(batch, out)
        result = np.empty(shape, batch.dtype) if out is None else out
        lane = loaded_engine.lanes.take()
        with self._running(loaded_engine, lane, batch.shape):
            self._queue_run(lane, batch, result).finish()
        loaded_engine.lanes.give_back(lane)
        return result

    def run_stream(self, batches: Iterable[BatchArray], depth: int | None = None) -> Iterator[BatchArray]:
        """Yield the results of `batches` in order, while copies in, computing and copies out overlap.

        Up to `depth` batches are in flight at once; the default and the limit are the option `contexts`. A
        batch may be overwritten as soon as the batch `depth` + 1 places later is requested. Each result is a
        new array. An iterator that is closed early, or never read to its end, releases its lanes when it or
        the engine is closed. Raises as `run` does.
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
        """Upscale an array in GPU memory and return one in GPU memory.

        `source` [N, H, W, C] is any object with `__cuda_array_interface__` or DLPack. `out` [N, H*scale,
        W*scale, C] is filled if given; otherwise memory is allocated, and released with the result.

        `stream` is the handle of the caller's CUDA stream. With it, the run starts after the work queued
        there, later work there waits for the run, and this call returns at once; the result names the stream
        (`__cuda_array_interface__`), so that readers on other streams wait for it. Without it, the result is
        complete on return. Streams that the given arrays name are waited for.

        Raises UsageError for arrays that do not fit; otherwise as `run`.
        """
        pixels_in = as_device_array(source, stream)
        shape, loaded_engine = self._check_device(pixels_in)
        pixels_out = self._output(shape, pixels_in.dtype, out)
        streams = {array.stream for array in (pixels_in, pixels_out)} - {stream}
        lane = loaded_engine.lanes.take()
        with self._running(loaded_engine, lane, pixels_in.shape):
            for other in streams:  # they may still write the caller's arrays
                if other is not None:
                    order_streams(other, lane.handle)
            self._run_device(lane, pixels_in, pixels_out, stream)
        loaded_engine.lanes.give_back(lane)
        return replace(pixels_out, stream=stream)

    def empty(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> BatchArray:
        """Return an uninitialised array in page-locked memory.

        `run` reads and writes such arrays without an intermediate copy.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._gpu.current():
            block = np.asarray(PinnedMemory(self._gpu, size))
        array: BatchArray = block.view(dtype).reshape(shape)
        return array

    def prepare(self, dtype: Any = np.uint8) -> None:
        """Load the engine for pixels of `dtype` now, building it if needed.

        Otherwise the first `run` does it. Raises as `run` and `build_engine` do.
        """
        self._loaded_engine(build.pixels_of(dtype))

    def device_memory(self) -> int:
        """Bytes of device memory held by lanes that are idle; the engine's own memory is not counted."""
        return sum(
            lane.held_bytes()
            for loaded_engine in self._loaded_engines.values()
            for lane in loaded_engine.lanes.idle()
        )

    def close(self) -> None:
        """Release everything on the GPU. Calling it again does nothing.

        Runs in other threads are allowed to finish, for up to ten seconds; later calls raise UsageError.
        Streams that nobody reads to the end are finished first, which brings their lanes back.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            loaded_engines, self._loaded_engines = list(self._loaded_engines.values()), {}
        for runs in list(self._open_streams):
            while runs:
                # a run that fails discards its lane; the others and the engines must still be released
                with suppress(Exception):
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

    # running

    def _check(self, batch: BatchArray, out: BatchArray | None) -> tuple[tuple[int, ...], _EngineLanes]:
        """Check the arrays of a run; return the shape of the result and the engine for their type."""
        shape = check_batch(self.spec, self.limits, batch, out)
        return shape, self._loaded_engine(build.pixels_of(batch.dtype))

    def _check_device(self, pixels_in: DeviceArray) -> tuple[tuple[int, ...], _EngineLanes]:
        """Check an array in GPU memory by the same rules as one in main memory."""
        # an array of that shape and type that takes no memory
        like: Any = np.broadcast_to(np.zeros((), pixels_in.dtype), pixels_in.shape)
        return self._check(like, None)

    def _queue_run(self, lane: Lane, batch: BatchArray, result: BatchArray) -> PendingResult:
        """Queue the copies and the run on the lane's stream; the CUDA context must be current."""
        source, target = lane.reserve(batch.nbytes, result.nbytes)
        send(lane, batch, source)
        lane.launch(batch.shape, result.shape, source, target)
        return PendingResult(lane, target, result, self._copy_threads)

    def _submit(
        self, loaded_engine: _EngineLanes, lane: Lane, batch: BatchArray, result: BatchArray
    ) -> tuple[_EngineLanes, Lane, PendingResult, tuple[int, ...]]:
        """Queue one run of a stream, and return what `_finish_oldest` needs."""
        with self._running(loaded_engine, lane, batch.shape):
            return loaded_engine, lane, self._queue_run(lane, batch, result), batch.shape

    def _finish_all(self, runs: _PendingRuns) -> None:
        """Finish all runs of a stream, give their lanes back, and forget the stream."""
        self._open_streams[:] = [each for each in self._open_streams if each is not runs]
        while runs:
            self._finish_oldest(runs)

    def _finish_oldest(self, runs: _PendingRuns) -> BatchArray:
        """Wait for the oldest run of a stream, give its lane back, and return the result."""
        loaded_engine, lane, pending, shape = runs.popleft()
        with self._running(loaded_engine, lane, shape):
            result = pending.finish()
        loaded_engine.lanes.give_back(lane)
        return result

    def _run_device(
        self, lane: Lane, pixels_in: DeviceArray, pixels_out: DeviceArray, stream: int | None
    ) -> None:
        """Run on device memory, ordered with the caller's stream, or waiting for the result."""
        if stream is not None:
            order_streams(stream, lane.handle)
        lane.launch(pixels_in.shape, pixels_out.shape, pixels_in.address, pixels_out.address)
        if stream is None:
            lane.stream.synchronize()
        else:
            order_streams(lane.handle, stream)

    def _output(self, shape: tuple[int, ...], dtype: np.dtype[Any], out: Any) -> DeviceArray:
        """Return the array for the result: `out` if it fits, else new device memory."""
        if out is None:
            with self._gpu.current():
                memory = OwnedMemory(self._gpu, int(np.prod(shape)) * dtype.itemsize)
            return DeviceArray(memory.address, shape, dtype, memory)
        pixels_out = as_device_array(out)
        if pixels_out.shape != shape or pixels_out.dtype != dtype:
            raise UsageError(
                f"out must be a {dtype} array {shape} on the GPU, got {pixels_out.dtype} {pixels_out.shape}"
            )
        return pixels_out

    @contextmanager
    def _running(self, loaded_engine: _EngineLanes, lane: Lane, shape: tuple[int, ...]) -> Iterator[None]:
        """Make the CUDA context current for one run.

        If the run fails, its lane is discarded, because work may still be queued in it. After a lack of
        memory the idle lanes are released too. CUDA's errors are raised as ours, with the size of the batch.
        """
        try:
            with self._gpu.current():
                yield
        except BaseException as error:
            loaded_engine.lanes.discard(lane)
            if isinstance(error, MemoryError):
                loaded_engine.lanes.trim()
            translated = translated_error(
                error, f"{self.spec.name} on {shape[0]} x {shape[2]}x{shape[1]} pixels"
            )
            if translated is None or translated is error:
                raise
            raise translated from error

    # loading

    def _loaded_engine(self, pixels: str) -> _EngineLanes:
        """Return the loaded engine for the pixel type `pixels`, loading or building it on first use.

        Holds the lock meanwhile, so threads that start together do not build twice. Raises UsageError after
        `close`.
        """
        with self._lock:
            if self._closed:
                raise UsageError("this engine is closed; make a new one")
            if pixels not in self._loaded_engines:
                plan, record = self._model.engine(pixels)
                with self._gpu.current():
                    self._loaded_engines[pixels] = _EngineLanes(self, plan, record)
            return self._loaded_engines[pixels]

    def _load(self, plan: bytes, record: EngineSidecar) -> tuple[Any, LoadedEngine]:
        """Load the engine in `plan`; returns TensorRT's runtime, which must outlive the engine, and the engine."""
        trt_runtime = api.new_runtime(self._trt, self._log, host_code=record.options.version_compatible)
        engine = api.load(trt_runtime, plan, self._log, record.spec.name)
        input_name, output_name = api.check_engine_ports(
            self._trt, engine, record.pixels, record.spec.channels
        )
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
            runtime_config=api.new_runtime_config(self._trt, engine, self._kernels(record)),
        )
        return trt_runtime, loaded

    def _kernels(self, record: EngineSidecar) -> bytes:
        """Return the kernels that earlier runs of this engine compiled on this GPU; empty for TensorRT."""
        cache = self._cache() if self.runtime is RTX else None
        return cache.kernels(record.plan_sha256, self._here) if cache else b""

    def _store_kernels(self, loaded: LoadedEngine, record: EngineSidecar) -> None:
        """Keep the compiled kernels for the next start; failures are ignored."""
        with suppress(Exception):
            kernels = api.compiled_kernels(loaded.runtime_config)
            if kernels and (cache := self._cache()):
                cache.store_kernels(record.plan_sha256, self._here, kernels)

    def _cache(self) -> EngineCache | None:
        """Return the cache, unless it is turned off. Compiled kernels are code, like engines."""
        return EngineCache.of_user(self.options.folder) if self.options.cache else None

    @cached_property
    def _here(self) -> BuildMachine:
        """The machine that runs the engine."""
        return machine(self.options.device, api.version(self._trt), self.runtime)


class TensorRTRtxEngine(TensorRTEngine):
    """A model in TensorRT for RTX: the same code on the other library.

    Its engines are built in seconds, without a GPU, for a list of compute capabilities. The kernels for a shape
    are compiled at its first run, which takes seconds. Raises as `TensorRTEngine` does.
    """

    backend = "tensorrt-rtx"
    runtime = RTX


class _EngineLanes:
    """One engine on the GPU with the lanes that run it."""

    def __init__(self, owner: TensorRTEngine, plan: bytes, record: EngineSidecar) -> None:
        self.record = record
        self._loaded: LoadedEngine | None
        self._runtime, self._loaded = owner._load(plan, record)
        self._owner, self._gpu = owner, owner._gpu
        self.lanes = Lanes(self._lane, owner.options.contexts)

    def _lane(self) -> Lane:
        """Make a lane in the engine's CUDA context."""
        with self._gpu.current():
            assert self._loaded is not None
            return Lane(self._loaded)

    def close(self) -> None:
        """Release contexts, engine and runtime, in that order; the CUDA context must be current.

        The order matters: TensorRT needs the engine to release a context, and the runtime to release an
        engine.
        """
        self.lanes.close()
        if self._loaded is not None:
            self._owner._store_kernels(self._loaded, self.record)
        self._loaded = None
        self._runtime = None


_PendingRuns = deque[tuple[_EngineLanes, Lane, PendingResult, tuple[int, ...]]]
"""Runs in flight, the oldest first: engine, lane, result and input shape."""


class _EngineFile:
    """An engine from a path that the user named. Raises ModelError if it cannot be used on this machine."""

    def __init__(self, path: Path, options: TensorRTOptions, version: str, runtime: Runtime) -> None:
        self._plan, self._record = read_engine(path)
        wanted = build.file_digest(options.model) if options.model else None
        require_usable(self._record, machine(options.device, version, runtime), path, wanted)
        self._path = path
        self.spec, self.profiles = self._record.spec, self._record.profiles

    def has(self, pixels: str) -> bool:
        """Return whether the engine takes the pixel type `pixels`."""
        return pixels == self._record.pixels

    def engine(self, pixels: str) -> tuple[bytes, EngineSidecar]:
        """Return the engine's bytes and record. Raises UsageError for another pixel type."""
        if not self.has(pixels):
            wants = "uint8" if pixels == build.UINT8 else "float"
            raise UsageError(
                f"{self._path} was built for {self._record.pixels} pixels, got {pixels}; build one with --io {wants}"
            )
        return self._plan, self._record


class _OnnxModel:
    """A model whose engines are cached, and built if they are missing."""

    def __init__(self, model: Path | bytes | ModelProto, options: TensorRTOptions, runtime: Runtime) -> None:
        from sr_deploy.graph.runnable import RunnableModel

        self._model, self._options, self._runtime = model, options, runtime
        facts = RunnableModel(model).facts
        self.spec, self._bytes_only = facts.spec, facts.bytes_only
        built = options.build
        if facts.max_batch is not None:
            built = replace(built, max_batch=facts.max_batch)
        self._build = built
        self.profiles = plan_profiles(self.spec, built)

    def has(self, pixels: str) -> bool:
        """Return whether an engine for the pixel type `pixels` can be made."""
        return pixels == build.UINT8 or not self._bytes_only

    def engine(self, pixels: str) -> tuple[bytes, EngineSidecar]:
        """Return the engine's bytes and record from the cache, building it if needed.

        Raises UsageError if the file takes 8-bit pixels only, otherwise as `engine_from_cache`.
        """
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
                runtime=self._runtime,
            )


class _model_file:  # noqa: N801 - used like a function
    """Context manager that gives the model as a file: its own path, or a temporary file of its bytes."""

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
    """Make a temporary folder; imported only when needed, to keep start-up short."""
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="sr-deploy-")


def _limits(spec: ModelSpec, profiles: tuple[Profile, ...]) -> Limits:
    """Return the limits of an engine: its largest profile, and the memory a pixel costs."""
    height, width = largest_size(profiles)
    # counted are the copies of input and output in main memory; on the GPU the profiles set the limit
    host = spec.channels * (1 + spec.scale**2)
    return Limits(
        max_height=height,
        max_width=width,
        max_batch=max(profile.high[0] for profile in profiles),
        bytes_per_pixel=float(host),
    )


def _say(message: str) -> None:
    """Print a line on stderr at once: builds take minutes, and users want to know what they wait for."""
    print(message, file=sys.stderr, flush=True)


def _close_all() -> None:
    """Close all open engines at exit, while CUDA can still be used; one that fails does not keep the others open."""
    for engine in list(_open_engines):
        with suppress(Exception):
            engine.close()
