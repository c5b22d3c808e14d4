"""Compiles an ONNX model into an engine of TensorRT, or of TensorRT for RTX, with its sidecar. Runs no pictures.

A build is one long call into TensorRT. It runs in a thread of its own, so that Ctrl-C is handled while it
lasts. Nothing is written until the whole build, including the check of its precision, has succeeded. The
caller decides where the result is stored.
"""

from __future__ import annotations

import hashlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.cuda import GpuContext, machine, translated_error
from sr_deploy.engines.tensorrt.layers import precisions, require_precision, require_types
from sr_deploy.engines.tensorrt.onnx_types import stored_types
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.engines.tensorrt.runtimes import CAPABILITIES, RTX, TENSORRT, TURING, Runtime
from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineSidecar, digest, engine_key, sidecar_path
from sr_deploy.errors import MissingRuntimeError, ModelError, OutputError, UsageError
from sr_deploy.spec import ModelSpec
from sr_deploy.system.files import write_whole
from sr_deploy.version import __version__

UINT8, FLOAT32 = "uint8", "float32"
"""The two forms of pixel I/O that an engine can have: 0..255 or 0..1."""
_DEFAULTS = BuildOptions()
_POLL_SECONDS = 0.2
"""Interval at which the main thread looks for Ctrl-C during a build."""
_CANCEL_SECONDS = 5.0
"""Time an interrupted build gets to stop by itself.

The builder asks only between its steps whether to go on, and versions before 10 never ask. After that time
the thread is left behind; it is a daemon, so the program can still end.
"""


@dataclass(frozen=True, kw_only=True)
class BuildSource:
    """A model ready to be compiled: its graph with pixel I/O, and the file it came from."""

    graph: bytes
    """The ONNX file as bytes; input and output are [N, H, W, C]."""
    spec: ModelSpec
    """The model's spec, before pixel I/O was grafted on."""
    pixels: str
    """Type of input and output: "uint8" or "float32"."""
    sha256: str
    """SHA-256 of the model file, in hex."""
    name: str
    """Path of the model file as the user gave it, used in the command that rebuilds the engine."""
    ports: tuple[str, str] = ("pixels", "upscaled")
    """Names of the input and the output of the graph."""
    convolutions: Mapping[str, str] = field(default_factory=dict)
    """The type in which each convolution of the graph computes, by the name of its node."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """The result of a build."""

    plan: bytes
    """The engine; "plan" is TensorRT's word for its bytes."""
    record: EngineSidecar
    """Content of the sidecar."""
    timings: bytes
    """Kernel timings, to be kept for the next build on this machine."""
    layers: str
    """TensorRT's description of the layers, meant to be JSON."""


def source_of(
    path: Path, pixels: str = UINT8, spec: ModelSpec | None = None, *, shuffle_late: bool = True
) -> BuildSource:
    """Prepare the model file `path` for a build.

    `pixels` is the type of input and output. `spec` replaces the spec in the file. `shuffle_late` moves a
    last convolution in front of the PixelShuffle that precedes it (`sr_deploy.graph.rewrites.subpixel`), where it
    costs less.

    Raises ModelError if the file cannot be read, is no usable model, or holds no spec and none is given.
    """
    from sr_deploy.graph.convolution_types import convolution_types, with_named_nodes
    from sr_deploy.graph.onnx_file import load_model, picture_io, require_spec
    from sr_deploy.graph.pixel_io import with_float_io, with_pixel_io
    from sr_deploy.graph.rewrites.int8_form import spelled_for_tensorrt
    from sr_deploy.graph.rewrites.subpixel import convolve_before_shuffle
    from sr_deploy.graph.rewrites.weights_qdq import quantise_weights_in_graph

    model = quantise_weights_in_graph(spelled_for_tensorrt(load_model(path)))
    spec = spec or require_spec(model, str(path))
    model = convolve_before_shuffle(model) if shuffle_late else model
    graft = with_pixel_io if pixels == UINT8 else with_float_io
    model = with_named_nodes(graft(model, spec, for_tensorrt=True))
    port_in, port_out = picture_io(model)
    return BuildSource(
        graph=model.SerializeToString(deterministic=True),
        spec=spec,
        pixels=pixels,
        sha256=file_digest(path),
        name=str(path),
        ports=(port_in.name, port_out.name),
        convolutions=convolution_types(model),
    )


def file_digest(path: Path) -> str:
    """SHA-256 of the file `path`, in hex. Raises ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            found = hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path} ({error.strerror}); check the path") from error
    return found.hexdigest()


def key_of(sha256: str, pixels: str, options: BuildOptions, here: BuildMachine) -> str:
    """The key under which the cache stores the engine of a model built on the machine `here`."""
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
    runtime: Runtime = TENSORRT,
) -> BuiltEngine:
    """Compile `source` with `runtime`: TensorRT on GPU number `device`, or TensorRT for RTX, which needs no GPU.

    TensorRT blocks for minutes, TensorRT for RTX for seconds. `context` is "primary" or "current", as in
    `TensorRTOptions`. `timings` are those of earlier builds on this machine. `progress(phase, done, steps)` is
    called from the build's thread, only from TensorRT 10 on. `say` receives TensorRT's warnings. `check_precision` can be turned off to examine an
    engine that would be refused.

    Raises MissingRuntimeError without TensorRT, PyCUDA, driver or GPU; ModelError for an operator that
    TensorRT lacks, or if the layers compute in another precision than the model's; OutOfMemoryError;
    UsageError for options that this version of TensorRT cannot serve.
    """
    options = options or BuildOptions()
    trt = api.runtime(runtime)
    here = build_machine(trt, device, runtime)
    current: Callable[[], AbstractContextManager[None]] = nullcontext
    if not runtime.builds_without_gpu:
        current = GpuContext(device, context).current
    task = _Build(trt, current, source, options, timings, progress, say)
    start = time.perf_counter()
    _run_in_thread(task)
    task.raise_error()
    record = EngineSidecar(
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
        task.check_precision()
    return BuiltEngine(plan=task.plan, record=record, timings=task.timings, layers=task.layers)


def build_machine(trt: Any, device: int, runtime: Runtime) -> BuildMachine:
    """Describe what an engine depends on that is built here with the package `trt` of `runtime`.

    Raises MissingRuntimeError where the build needs a GPU and there is none.
    """
    if runtime.builds_without_gpu:
        return BuildMachine.without_gpu(runtime, api.version(trt))
    return machine(device, api.version(trt))


class _Build:
    """One build, to be run in a thread.

    Afterwards either `plan`, `layers` and `timings` hold the result, or `error` holds what was raised.
    Setting `cancelled` from another thread stops the build after TensorRT's current step. `done` is set at the
    end.
    """

    def __init__(
        self,
        trt: Any,
        current: Callable[[], AbstractContextManager[None]],
        source: BuildSource,
        options: BuildOptions,
        timings: bytes,
        progress: Callable[[str, int, int], None] | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self.trt, self.current, self.source, self.options, self.timings = (
            trt,
            current,
            source,
            options,
            timings,
        )
        self.progress, self.say = progress, say
        self.profiles = plan_profiles(source.spec, options)
        self.plan, self.layers = b"", ""
        self.error: BaseException | None = None
        self.cancelled = False
        self.done = threading.Event()

    def __call__(self) -> None:
        """Run the build and keep any exception, which a thread would otherwise lose."""
        try:
            log = api.TensorRTLog(self.trt, self.say)
            try:
                with self.current():
                    self._build(log)
            finally:
                log.forget()
        except BaseException as error:
            # the traceback would keep builder, network and configuration alive as long as the error
            traceback.clear_frames(error.__traceback__)
            self.error = error
        finally:
            self.done.set()

    def raise_error(self) -> None:
        """Raise the exception that ended the build, if there was one; CUDA's errors become ours."""
        if self.error is None:
            return
        translated = translated_error(self.error, f"building {self.source.spec.name}")
        if translated is None or translated is self.error:  # an error must not become its own cause
            raise self.error
        raise translated from self.error

    def _build(self, log: api.TensorRTLog) -> None:
        """Read the graph, configure the builder and compile.

        A batch size that is fixed in the graph replaces `max_batch` in the profiles.
        """
        trt, source = self.trt, self.source
        _check_types(trt, source, self.options)
        builder = api.new_builder(trt, log)
        network = api.new_network(trt, builder)
        parser = api.parse(trt, network, log, source.graph, source.spec.name)
        api.check_ports(trt, network, source.pixels, source.spec.channels, source.ports)
        batch = api.fixed_batch(network)
        if batch is not None:
            self.profiles = plan_profiles(source.spec, replace(self.options, max_batch=batch))
        types = {source.spec.precision} | stored_types(source.graph)
        config = api.configure(
            trt, builder, network, self.options, self.profiles, source.spec.channels, types
        )
        api.use_timing_cache(config, self.timings)
        monitor = api.watch(trt, config, self._on_progress)
        try:
            self.plan = api.build(builder, network, config, log, source.spec.name)
            self.timings = api.timings_of(config)
        finally:
            api.unwatch(config)  # the configuration holds the monitor, which reaches this object
            del monitor, parser  # must live until here: TensorRT holds no reference to either
        self.layers = log.take_layers()
        if not api.which_runtime(trt).builds_without_gpu:
            self._inspect(log)

    def _inspect(self, log: api.TensorRTLog) -> None:
        """Load the new engine, which proves that it loads, and ask TensorRT what its layers compute in."""
        trt_runtime = api.new_runtime(self.trt, log, host_code=self.options.version_compatible)
        engine = api.load(trt_runtime, self.plan, log, self.source.spec.name)
        api.check_engine_ports(self.trt, engine, self.source.pixels, self.source.spec.channels)
        self.layers = api.describe_layers(self.trt, engine)
        del engine

    def check_precision(self) -> None:
        """Raises ModelError unless the engine computes in the types of the file.

        In a strongly typed network that holds for every single convolution. With weak typing (8.6) half of them
        must compute in the precision of the file.
        """
        source, name = self.source, self.source.spec.name
        asked = source.spec.precision
        count = list(source.convolutions.values()).count(asked)
        if api.is_strongly_typed(self.trt):  # first, because its message names the convolutions
            require_types(self.layers, source.convolutions, name)
        require_precision(precisions(self.layers), asked, name, convolutions=count)

    def _on_progress(self, phase: str, done: int, steps: int) -> bool:
        """Pass progress on. Returns False, which stops the build, once it has been cancelled."""
        if self.progress is not None and not self.cancelled:
            self.progress(phase, done, steps)
        return not self.cancelled


def _check_types(trt: Any, source: BuildSource, options: BuildOptions = _DEFAULTS) -> None:
    """Check, before minutes are spent on a build, that the precision of `source` can come out of it.

    Looks at the file's bytes, not at the parsed network: TensorRT 8.6 reports every value as FLOAT until the
    engine is built.

    Raises UsageError for a precision that this version of TensorRT, or a GPU in `options`, lacks; ModelError for
    an fp16 spec over fp32 weights.
    """
    if source.spec.precision == "bf16" and not api.has_bf16(trt):
        raise UsageError(
            f"{source.spec.name} is bf16, which {api.title(trt)} lacks; use an fp16 file, or TensorRT 10 or later"
        )
    if TURING in options.capabilities and source.spec.precision in ("bf16", "int8"):
        raise UsageError(
            f"{source.spec.name} is {source.spec.precision}, which {api.title(trt)} lacks for compute capability {TURING}; leave "
            f"{TURING} out of --capabilities, or use an fp16 file"
        )
    if source.spec.precision == "int8" and source.convolutions and "int8" not in source.convolutions.values():
        raise ModelError(
            f"{source.spec.name} is int8, but has no convolution that TensorRT can compute in int8: both factors must come "
            "from a DequantizeLinear of int8 with zero point 0; make the file with `sr-deploy convert --precision int8`"
        )
    stored = stored_types(source.graph)
    if source.spec.precision == "fp16" and "fp32" in stored and "fp16" not in stored:
        raise ModelError(
            f"the spec of {source.spec.name} says fp16, but its weights are fp32; convert it again with `sr-deploy convert`"
        )


def _run_in_thread(task: _Build) -> None:
    """Run `task` in a thread until it ends. An exception here, such as Ctrl-C, cancels it and is re-raised."""
    thread = threading.Thread(target=task, name="sr-deploy-build", daemon=True)
    thread.start()
    try:
        # not join: after an interrupted one, Python 3.10 to 3.12 take the thread for ended while it still runs,
        # and the process aborts when it exits
        while not task.done.wait(_POLL_SECONDS):
            pass
    except BaseException:  # Ctrl-C included
        task.cancelled = True
        task.done.wait(_CANCEL_SECONDS)
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
    runtime: Runtime = TENSORRT,
) -> tuple[bytes, EngineSidecar]:
    """Return the engine of a model and its record from `cache`; build and store it if it is missing.

    `sha256` is that of the model file. `source` is called only if a build is needed, because preparing the
    graph needs the onnx package. Among several processes that ask for the same engine, one builds and the
    others wait. Without `cache`, every call builds.

    Raises ModelError if the engine is missing and `build_missing` is off; otherwise the errors of
    `build_engine`.
    """
    here = build_machine(api.runtime(runtime), device, runtime)
    options = _for_gpu(options, device, runtime)
    key = key_of(sha256, pixels, options, here)
    if cache and (found := cache.find(key)):
        return found
    if not build_missing:
        raise ModelError(
            f"there is no engine of this model for {here.title}{_on(here.gpu)}; run `sr-deploy build` once"
        )
    with cache.locked(key) if cache else nullcontext():
        # look again: another process may have built it while this one waited for the lock
        if cache and (found := cache.find(key)):
            return found
        prepared = source()
        if say:
            long = "seconds" if runtime.builds_without_gpu else "minutes"
            say(
                f"building an engine of {prepared.spec.name} for {here.gpu or here.title}; this takes {long}, but only once"
            )
        timings = cache.timings(here) if cache else b""
        built = build_engine(
            prepared,
            options,
            device=device,
            context=context,
            timings=timings,
            progress=progress,
            runtime=runtime,
        )
        if cache:
            cache.store(key, built.plan, built.record)
            cache.store_timings(here, built.timings)
        return built.plan, built.record


def _for_gpu(options: BuildOptions, device: int, runtime: Runtime) -> BuildOptions:
    """Return `options` with the compute capability of GPU number `device` if no default engine runs on it."""
    if runtime is not RTX or options.capabilities:
        return options
    capability = ".".join(map(str, machine(device, "", runtime).capability))
    return replace(options, capabilities=(TURING,)) if capability == TURING else options


def _on(gpu: str) -> str:
    """Clause about the GPU for a message; empty if the engine depends on none."""
    return f" on {gpu}" if gpu else ""


def write_engine(path: Path, plan: bytes, record: EngineSidecar) -> None:
    """Write an engine to `path` and its sidecar beside it, each completely or not at all.

    Existing files are replaced. Raises OutputError if either cannot be written.
    """
    from sr_deploy.system.output_file import checked_target

    target = checked_target(path, overwrite=True)
    try:
        sidecar_path(target).unlink(missing_ok=True)  # an old sidecar must not lie beside a new engine
        write_whole(target, plan)
        write_whole(sidecar_path(target), record.to_json().encode("utf-8"))
    except OSError as error:
        raise OutputError(
            f"cannot write {path} ({error.strerror or error}); free some disk space or choose another folder"
        ) from error


def pixels_of(dtype: Any) -> str:
    """Name of the pixel type for arrays of `dtype`: "uint8", or "float32" for every other type."""
    return UINT8 if np.dtype(dtype) == np.uint8 else FLOAT32


def require_tensorrt(runtime: Runtime = TENSORRT) -> None:
    """Raises MissingRuntimeError unless `runtime`, PyCUDA, the NVIDIA driver and a GPU it runs on are present."""
    from sr_deploy.engines.tensorrt.cuda import driver

    api.runtime(runtime)
    cuda = driver(runtime)
    if runtime is RTX:
        _require_rtx_gpu(cuda)


def _require_rtx_gpu(cuda: Any) -> None:
    """Raises MissingRuntimeError if TensorRT for RTX has no kernels for any GPU of this machine."""
    found = [cuda.Device(number).compute_capability() for number in range(cuda.Device.count())]
    names = [f"{major}.{minor}" for major, minor in found]
    if not set(names) & set(CAPABILITIES):
        raise MissingRuntimeError(
            f"{RTX.product} runs on GPUs of compute capability {', '.join(CAPABILITIES)}, this machine has "
            f"{', '.join(names)}; use --backend tensorrt"
        )


def require_builder(runtime: Runtime = TENSORRT) -> None:
    """Raises MissingRuntimeError unless engines of `runtime` can be built here."""
    if runtime.builds_without_gpu:
        api.runtime(runtime)
    else:
        require_tensorrt(runtime)
