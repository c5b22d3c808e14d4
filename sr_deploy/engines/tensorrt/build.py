"""ONNX to a compiled TensorRT engine with its record. Nothing is run; where the result is kept is the caller's to say.

A build is one long call into TensorRT, so it happens in a thread of its own: Ctrl-C is heard while it goes on, and
nothing is written before all of it, the check of its precision included, has gone well.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.cuda import GpuContext, machine, translated_error
from sr_deploy.engines.tensorrt.layers import precisions, require_precision
from sr_deploy.engines.tensorrt.onnx_types import stored_types
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineRecord, digest, engine_key, record_path
from sr_deploy.errors import MissingRuntimeError, ModelError, OutputError, UsageError
from sr_deploy.spec import ModelSpec
from sr_deploy.system.files import write_whole
from sr_deploy.version import __version__

UINT8, FLOAT32 = "uint8", "float32"
_POLL_SECONDS = 0.2
_CANCEL_SECONDS = 5.0
"""Seconds an interrupted build is given to stop by itself."""


@dataclass(frozen=True, kw_only=True)
class BuildSource:
    """A model as it is built: its graph with pixel I/O, and where that came from."""

    graph: bytes
    """ONNX, [N, H, W, C] in and out."""
    spec: ModelSpec
    pixels: str
    """"uint8" or "float32": the type of the ports."""
    sha256: str
    """Of the model file."""
    name: str
    """Of the model file, as the user named it."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """What a build gave."""

    plan: bytes
    record: EngineRecord
    timings: bytes
    """What is to be kept for the next build on this machine."""
    layers: str
    """TensorRT's description of the layers, in JSON."""


def source_of(
    path: Path, pixels: str = UINT8, spec: ModelSpec | None = None, *, shuffle_late: bool = True
) -> BuildSource:
    """The model file `path`, ready to be built.

    `shuffle_late` takes a last convolution through the PixelShuffle before it (`sr_deploy.graph.subpixel`).
    Raises ModelError as `load_model` does, and for a model without a record.
    """
    from sr_deploy.graph.onnx_file import load_model, require_spec
    from sr_deploy.graph.pixel_io import with_float_io, with_pixel_io
    from sr_deploy.graph.subpixel import convolve_before_shuffle
    from sr_deploy.graph.weights_qdq import quantise_weights_in_graph

    model = quantise_weights_in_graph(load_model(path))
    spec = spec or require_spec(model, str(path))
    model = convolve_before_shuffle(model) if shuffle_late else model
    graft = with_pixel_io if pixels == UINT8 else with_float_io
    graph = graft(model, spec, for_tensorrt=True).SerializeToString(deterministic=True)
    return BuildSource(graph=graph, spec=spec, pixels=pixels, sha256=file_digest(path), name=str(path))


def file_digest(path: Path) -> str:
    """SHA-256 of the file `path`, in hex. Raises ModelError where it cannot be read."""
    try:
        with path.open("rb") as file:
            found = hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path} ({error.strerror}); check the path") from error
    return found.hexdigest()


def key_of(sha256: str, pixels: str, options: BuildOptions, here: BuildMachine) -> str:
    """What the engine of a model is cached under."""
    return engine_key(sha256, pixels, options, here, __version__)


def build_engine(
    source: BuildSource,
    options: BuildOptions | None = None,
    *,
    device: int = 0,
    context: str = "primary",
    timings: bytes = b"",
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    check_precision: bool = True,
) -> BuiltEngine:
    """Compile `source` on GPU number `device`.

    `progress(phase, done, steps)` is called as far as the version of TensorRT tells. Raises MissingRuntimeError
    without TensorRT, PyCUDA, driver or GPU, ModelError for an operator that TensorRT lacks or an engine in another
    precision than the model's, OutOfMemoryError, UsageError for options that this version cannot serve.
    """
    options = options or BuildOptions()
    trt = api.runtime()
    gpu = GpuContext(device, context)
    here = machine(device, api.version(trt))
    task = _Build(trt, gpu, source, options, timings, progress, say)
    start = time.perf_counter()
    _run_in_thread(task)
    task.raise_error()
    record = EngineRecord(
        spec=source.spec,
        pixels=source.pixels,
        model_sha256=source.sha256,
        model_name=source.name,
        options=options,
        machine=here,
        profiles=task.profiles,
        plan_sha256=digest(task.plan),
        plan_size=len(task.plan),
        precisions=precisions(task.layers),
        build_seconds=round(time.perf_counter() - start, 3),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        sr_deploy=__version__,
    )
    if check_precision:
        require_precision(dict(record.precisions), source.spec.precision, source.spec.name)
    return BuiltEngine(plan=task.plan, record=record, timings=task.timings, layers=task.layers)


class _Build:
    """One build, done in a thread; what it gave is in `plan`, `layers` and `timings`, or `error` says why not."""

    def __init__(
        self,
        trt: Any,
        gpu: GpuContext,
        source: BuildSource,
        options: BuildOptions,
        timings: bytes,
        progress: Callable[[str, int, int], None] | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.trt, self.gpu, self.source, self.options, self.timings = trt, gpu, source, options, timings
        self.progress, self.say = progress, say
        self.profiles = plan_profiles(source.spec, options)
        self.plan, self.layers = b"", ""
        self.error: BaseException | None = None
        self.cancelled = False

    def __call__(self) -> None:
        try:
            with self.gpu.current():
                self._build()
        except BaseException as error:
            self.error = error

    def raise_error(self) -> None:
        """Raises what went wrong."""
        if self.error is None:
            return
        error = self.error
        raise (translated_error(error, f"building {self.source.spec.name}") or error) from error

    def _build(self) -> None:
        trt, source = self.trt, self.source
        _check_types(trt, source)
        log = api.TensorRTLog(trt, self.say)
        builder = api.new_builder(trt, log)
        network = api.new_network(trt, builder)
        parser = api.parse(trt, network, log, source.graph, source.spec.name)
        batch = api.fixed_batch(network)
        if batch is not None:
            self.profiles = plan_profiles(source.spec, replace(self.options, max_batch=batch))
        types = {source.spec.precision} | stored_types(source.graph)
        config = api.configure(
            trt, builder, network, self.options, self.profiles, source.spec.channels, types
        )
        api.use_timing_cache(config, self.timings)
        monitor = api.watch(trt, config, self._on_progress)
        self.plan = api.build(builder, network, config, log, source.spec.name)
        self.timings = api.timings_of(config)
        del monitor, parser  # kept until here: TensorRT holds no reference to either
        self._inspect(log)

    def _inspect(self, log: api.TensorRTLog) -> None:
        """Load what was built, which shows that it can be, and ask what its layers compute in."""
        trt_runtime = api.new_runtime(self.trt, log, host_code=self.options.version_compatible)
        engine = api.load(trt_runtime, self.plan, log, self.source.spec.name)
        self.layers = api.describe_layers(self.trt, engine)
        del engine

    def _on_progress(self, phase: str, done: int, steps: int) -> bool:
        if self.progress is not None and not self.cancelled:
            self.progress(phase, done, steps)
        return not self.cancelled


def _check_types(trt: Any, source: BuildSource) -> None:
    """Raises UsageError for a precision that this version lacks, ModelError for a file that is not what its record says.

    Asked of the file, for the network says nothing of it: TensorRT 8.6 calls all values FLOAT until it has built them.
    """
    if source.spec.precision == "bf16" and not api.has_bf16(trt):
        raise UsageError(
            f"{source.spec.name} is bf16, which TensorRT {api.version(trt)} lacks; use an fp16 file, or TensorRT 10"
        )
    stored = stored_types(source.graph)
    if source.spec.precision == "fp16" and "fp32" in stored and "fp16" not in stored:
        raise ModelError(
            f"{source.spec.name} is recorded as fp16, but its weights are fp32; convert it again with `sr-deploy convert`"
        )


def _run_in_thread(task: _Build) -> None:
    thread = threading.Thread(target=task, name="sr-deploy-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    except BaseException:  # Ctrl-C: the builder asks after every step whether to go on
        task.cancelled = True
        thread.join(_CANCEL_SECONDS)
        raise


def engine_from_cache(
    source: Callable[[], BuildSource],
    sha256: str,
    pixels: str,
    options: BuildOptions,
    *,
    device: int,
    context: str,
    cache: EngineCache | None,
    build_missing: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[bytes, EngineRecord]:
    """The engine of a model and its record: from `cache`, else built and kept there.

    Two processes that ask for the same one build it once. `source` is only called where it has to be built.
    Raises ModelError where it is not there and `build_missing` is off; else as `build_engine`.
    """
    here = machine(device, api.version(api.runtime()))
    key = key_of(sha256, pixels, options, here)
    if cache and (found := cache.find(key)):
        return found
    if not build_missing:
        raise ModelError(
            f"there is no engine of this model for TensorRT {here.tensorrt} on {here.gpu}; run `sr-deploy build` once"
        )
    with cache.locked(key) if cache else nullcontext():
        if cache and (found := cache.find(key)):
            return found
        made = source()
        if say:
            say(f"building an engine of {made.spec.name} for {here.gpu}, once; this takes minutes")
        timings = cache.timings(here) if cache else b""
        built = build_engine(
            made, options, device=device, context=context, timings=timings, progress=progress
        )
        if cache:
            cache.store(key, built.plan, built.record)
            cache.store_timings(here, built.timings)
        return built.plan, built.record


def write_engine(path: Path, plan: bytes, record: EngineRecord) -> None:
    """Write an engine and its record beside it, each whole or not at all. Raises OutputError."""
    from sr_deploy.system.output_file import checked_target

    target = checked_target(path, overwrite=True)
    try:
        record_path(target).unlink(missing_ok=True)  # an old record must not stand beside a new engine
        write_whole(target, plan)
        write_whole(record_path(target), record.to_json().encode("utf-8"))
    except OSError as error:
        raise OutputError(
            f"cannot write {path} ({error.strerror or error}); make room on the disk or choose another place"
        ) from error


def pixels_of(dtype: Any) -> str:
    """How engines name the type of a picture."""
    return UINT8 if np.dtype(dtype) == np.uint8 else FLOAT32


def require_tensorrt() -> None:
    """Raises MissingRuntimeError where nothing can be built or run here."""
    from sr_deploy.engines.tensorrt.cuda import driver

    try:
        api.runtime()
    except MissingRuntimeError:
        raise
    driver()
