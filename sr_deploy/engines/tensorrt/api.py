"""The only module that uses the `tensorrt` package: one set of functions for versions 8.6, 10.x and 11.x.

TensorRT for RTX (`tensorrt_rtx`) has the names of 11.x and is served by the same functions.

Differences between versions are found with `hasattr` on the name that is about to be used, not by comparing
version numbers.

`tests/engines/tensorrt/test_names.py` checks every TensorRT name used here against the bindings of 8.6, 10.16
and 11.4, and of TensorRT for RTX 1.7. It recognises TensorRT objects by the names of local variables (`config`, `network`, `context` and
so on), so keep to those names.

CUDA itself is used in `cuda.py`, not here. Functions that take an `engine` or a `context` need the CUDA
context to be current in the calling thread.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import Profile
from sr_deploy.engines.tensorrt.runtimes import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    RTX,
    TENSORRT,
    Runtime,
    runtime_of,
)
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, SrDeployError, UsageError

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|insufficient memory|Requested amount of GPU memory|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
"""Matches the messages of TensorRT and CUDA when GPU memory runs out.

TensorRT reports such a failure as an ordinary logged error, so its text is the only sign.
"""
_WORKSPACE = re.compile(
    r"workspace limit|insufficient workspace|increase the (allowed )?workspace|allowed workspace size",
    re.IGNORECASE,
)
"""Matches the errors of a build whose scratch memory was limited too far. TensorRT 8.6 and 10 call that
"insufficient memory" too, so this pattern is tried first."""
_TYPES = re.compile(r"Could not infer output types")
"""Matches the error of a build whose operators do not exist in the types of the file. TensorRT for RTX 1.7.1 gives
it for a transposed convolution in bf16."""
_OTHER_PRECISION = "use a file of another precision"
_MORE_WORKSPACE = "build with a larger --workspace, or without it"
_HARDWARE_LEVELS = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}
"""Members of TensorRT's `HardwareCompatibilityLevel`, by the values of `BuildOptions.hardware_compatible`."""
BuildProgress = Callable[[str, int, int], bool]
"""Callback (phase, steps done, steps in all) -> bool; False asks TensorRT to stop the build."""


def runtime(which: Runtime = TENSORRT) -> ModuleType:
    """Import and return the package of `which`.

    Raises MissingRuntimeError if it is not installed, cannot be loaded, or is older than TensorRT 8.6. Such
    versions lack `execute_async_v3`, which all runs use.
    """
    try:
        found = _import_first(which.modules)
    except Exception as error:  # not only ImportError: its loader passes on whatever the linker raises
        raise MissingRuntimeError(f"{which.missing} ({error}); {which.install}") from error
    if not hasattr(found, "Builder") or not hasattr(found.IExecutionContext, "execute_async_v3"):
        number = getattr(found, "__version__", "of unknown version")
        raise MissingRuntimeError(
            f"the installed {which.product} is {number}, 8.6 or later is needed; {which.install}"
        )
    return found


def _import_first(names: Sequence[str]) -> ModuleType:
    """Import the first of `names` that is installed. Raises ImportError of the last if none is."""
    for name in names[:-1]:
        try:
            return import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name != name:  # it is installed, but lacks something itself
                raise
    return import_module(names[-1])


def version(trt: ModuleType) -> str:
    """Version of the package, for example "8.6.0"."""
    return str(trt.__version__)


def which_runtime(trt: ModuleType) -> Runtime:
    """Return which of the two runtimes the package `trt` is."""
    return runtime_of(getattr(trt, "__name__", ""))


def title(trt: ModuleType) -> str:
    """Name and version for messages: "TensorRT 10.16.1"."""
    return f"{which_runtime(trt).product} {version(trt)}"


class Messages:
    """Everything that one package logs in this process, by thread.

    TensorRT has one logger per process: while any builder or runtime exists, a second logger is ignored, with
    a warning (seen in TensorRT for RTX 1.7.1). So there is one logger, which is never released, and each
    `TensorRTLog` takes from here what its own thread caused.
    """

    def __init__(self, trt: ModuleType) -> None:
        """Make the logger. 50 errors and 50 warnings are kept at most, so that memory does not grow."""
        self._lock = threading.Lock()
        self._kept = {kind: deque[tuple[int, str]](maxlen=50) for kind in ("error", "warning", "layers")}
        self.logs = weakref.WeakSet[TensorRTLog]()
        severity = trt.ILogger.Severity
        self._error_levels, self._warning_level = (severity.INTERNAL_ERROR, severity.ERROR), severity.WARNING
        # looked up at each message, so that a measurement can listen too
        self.logger = _logger_class(trt)(lambda severity, text: self.receive(severity, text))

    def receive(self, severity: Any, text: str) -> None:
        """Take one message. Line breaks are removed from errors and warnings, since errors are one line."""
        if severity in self._error_levels:
            self._keep("error", " ".join(text.split()))
        elif severity == self._warning_level:
            self._keep("warning", " ".join(text.split()))
            for log in tuple(self.logs):
                log.hear(text)
        elif text.startswith("Layers:"):
            self._keep("layers", text)

    def _keep(self, kind: str, text: str) -> None:
        """Keep a message with the thread it came from."""
        with self._lock:
            self._kept[kind].append((threading.get_ident(), text))

    def take(self, kind: str) -> list[str]:
        """Return the messages of `kind` that this thread caused, oldest first, and forget them.

        Messages of threads that are not Python's belong to whoever asks: TensorRT starts threads of its own.
        """
        with self._lock:
            mine = self._is_mine()
            found = [text for thread, text in self._kept[kind] if mine(thread)]
            kept = [entry for entry in self._kept[kind] if not mine(entry[0])]
            self._kept[kind].clear()
            self._kept[kind].extend(kept)
        return found

    def forget(self) -> None:
        """Drop the messages of this thread alone, which is about to end. Later they would belong to whoever asks."""
        with self._lock:
            for kept in self._kept.values():
                others = [entry for entry in kept if entry[0] != threading.get_ident()]
                kept.clear()
                kept.extend(others)

    def last(self, kind: str) -> str:
        """Return the last message of `kind` that this thread caused, or an empty string; nothing is used up."""
        with self._lock:
            mine = self._is_mine()
            return next((text for thread, text in reversed(self._kept[kind]) if mine(thread)), "")

    @staticmethod
    def _is_mine() -> Callable[[int], bool]:
        """Return a function that tells whether a thread is this one, or none of Python's."""
        others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        return lambda thread: thread not in others


_messages: weakref.WeakKeyDictionary[Any, Messages] = weakref.WeakKeyDictionary()
"""The messages of each package that was used. Real packages live as long as the process."""
_messages_lock = threading.Lock()


def _messages_of(trt: ModuleType) -> Messages:
    """Return the messages of the package `trt`, making its logger at the first call."""
    with _messages_lock:
        if trt not in _messages:
            _messages[trt] = Messages(trt)
        return _messages[trt]


class TensorRTLog:
    """Collects what TensorRT logs, and turns its errors into exceptions.

    TensorRT's Python calls return None or False on failure and give the reason only to the logger. May be
    used by several threads; each takes the errors of its own calls.
    """

    def __init__(self, trt: ModuleType, say: Callable[[str], None] | None = None) -> None:
        """Make the log. `say` receives each warning; without it, warnings are only kept."""
        self._messages, self._say = _messages_of(trt), say
        self._title = which_runtime(trt).product
        if say is not None:
            self._messages.logs.add(self)
        self.logger = self._messages.logger

    def hear(self, text: str) -> None:
        """Pass a warning on."""
        if self._say is not None:
            self._say(f"{self._title}: {text}")

    def take(self) -> list[str]:
        """Return the errors of this thread since the last call, oldest first, and forget them."""
        return self._messages.take("error")

    def take_layers(self) -> str:
        """Return the description of the layers that the last build in this thread logged, and forget it.

        TensorRT logs it at VERBOSE after a build with the verbosity DETAILED. Empty if there is none.
        """
        return "".join(self._messages.take("layers")[-1:])

    def forget(self) -> None:
        """Drop everything that this thread caused, at the end of its work."""
        self._messages.forget()

    def last_message(self) -> str:
        """Return the last error, or else the last warning, or an empty string.

        Nothing is used up. Meant for a TensorRT that fails to start, where a warning may be all there is.
        """
        return self._messages.last("error") or self._messages.last("warning")

    def error(self, what: str, advice: str, *, smaller: str = "use smaller tiles") -> SrDeployError:
        """Make an exception that says what failed, why, and what to do; the logged errors are used up.

        Returns OutOfMemoryError, ending in `smaller`, if the logged errors show that GPU memory ran out;
        otherwise ModelError, ending in `advice`, or in advice about the workspace if that was too small, or about
        the precision if TensorRT lacks an operator in it. Only the last three errors are quoted, each once and shortened, so that the message stays one readable line.
        """
        errors = self.take()
        why = "; ".join(dict.fromkeys(_shortened(text) for text in errors[-3:])) or "TensorRT gave no reason"
        if any(_WORKSPACE.search(text) for text in errors):
            return ModelError(
                f"{what}: the scratch memory for kernels is too small ({why}); {_MORE_WORKSPACE}"
            )
        if any(_OUT_OF_MEMORY.search(text) for text in errors):
            return OutOfMemoryError(f"{what}: no memory left on the GPU ({why}); {smaller}")
        if any(_TYPES.search(text) for text in errors):
            advice = _OTHER_PRECISION
        return ModelError(f"{what}: {why}; {advice}")


def _logger_class(trt: ModuleType) -> Any:
    """Return a subclass of TensorRT's logger that passes messages on.

    The class is made at run time, because its base class is known only after `tensorrt` has been imported.
    """

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self, receive: Callable[[Any, str], None]) -> None:
            trt.ILogger.__init__(self)
            self.receive = receive

        def log(self, severity: Any, msg: str) -> None:
            self.receive(severity, msg)

    return Logger


def _shortened(text: str, limit: int = 300) -> str:
    """Cut `text` to at most `limit` characters, so that an error stays readable."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


# building


def new_builder(trt: ModuleType, log: TensorRTLog) -> Any:
    """Create a builder.

    Raises MissingRuntimeError with the reason and a remedy if TensorRT does not start.
    """
    try:
        return trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:
        raise _start_error(trt, log, error) from error


_REMEDIES = (
    (
        re.compile(r"digest|sha256|checksum", re.IGNORECASE),
        "its files differ from those that NVIDIA ships, so install TensorRT again",
    ),
    (
        re.compile(r"error: 100\b|no CUDA-capable", re.IGNORECASE),
        "no GPU was found, so check whether `nvidia-smi` lists one",
    ),
    (
        re.compile(r"error: (35|803|804)\b|insufficient|driver", re.IGNORECASE),
        "install a newer NVIDIA driver",
    ),
)
"""Patterns of start-up errors, each with the advice that fits; the first match wins.

The digest error (`validateCaskKLibDigest`) is what 8.6.0 logged on an H100 with an altered library. The
numbers are CUDA errors: 100 no device, 35 driver too old, 803 and 804 driver and CUDA do not fit together.
"""
_DEFAULT_REMEDY = "run `sr-deploy doctor`, and install TensorRT or the NVIDIA driver again"
"""Advice for a start-up error that no pattern matches."""


def _start_error(trt: ModuleType, log: TensorRTLog, error: Exception) -> MissingRuntimeError:
    """Make the exception for a TensorRT that does not start, from its log or else from `error`."""
    why = log.last_message() or " ".join(str(error).split())
    remedy = next((advice for pattern, advice in _REMEDIES if pattern.search(why)), _DEFAULT_REMEDY)
    return MissingRuntimeError(f"{title(trt)} does not start here ({_shortened(why)}); {remedy}")


def new_network(trt: ModuleType, builder: Any) -> Any:
    """Create an empty network, strongly typed if the version supports that.

    In a strongly typed network every layer computes in the type that the file gives. TensorRT 8.6 has weak
    typing only, and needs EXPLICIT_BATCH to read ONNX files. Version 11 has neither weak typing nor
    EXPLICIT_BATCH; it accepts STRONGLY_TYPED and ignores it.
    """
    flags = trt.NetworkDefinitionCreationFlag
    chosen = [flags.STRONGLY_TYPED] if hasattr(flags, "STRONGLY_TYPED") else []
    if not chosen and hasattr(flags, "EXPLICIT_BATCH"):
        chosen = [flags.EXPLICIT_BATCH]
    return builder.create_network(sum(1 << int(flag) for flag in chosen))


def is_strongly_typed(trt: ModuleType) -> bool:
    """Return whether networks of this version are strongly typed: every layer computes in the type of the file."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def parse(trt: ModuleType, network: Any, log: TensorRTLog, graph: bytes, name: str) -> Any:
    """Read the ONNX file `graph` (its bytes) into `network`, and return the parser.

    Keep the parser for as long as the network is used: it owns the memory of the weights. `name` is the
    model's name, for messages. Raises ModelError with the node and the operator that TensorRT cannot read.
    """
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        messages = [_parser_error(parser.get_error(number)) for number in range(parser.num_errors)]
        logged = log.take()  # used up here, or the next error in this thread would quote them
        messages = messages or logged or ["TensorRT gave no reason"]
        raise ModelError(
            f"{title(trt)} cannot read {name}: {'; '.join(_shortened(text) for text in messages[:3])}; export it with "
            "operators that TensorRT supports, or use --backend onnxruntime"
        )
    return parser


def _parser_error(error: Any) -> str:
    """Describe one parser error in one line; 8.6 gives the node's number instead of its name."""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    node = error.node_name() if hasattr(error, "node_name") else f"number {error.node()}"
    named = f"operator {operator}, " if operator else ""
    return f"{named}node {node}: {' '.join(str(error.desc()).split())}"


def ports(network: Any) -> tuple[Any, Any]:
    """Return the input and the output tensor of `network`.

    Raises ModelError unless there is exactly one of each.
    """
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise ModelError(
            f"TensorRT finds {network.num_inputs} inputs and {network.num_outputs} outputs, expected one of each; "
            "export the model again"
        )
    return network.get_input(0), network.get_output(0)


_PIXEL_TYPES = {"uint8": "UINT8", "float32": "FLOAT"}
"""Members of TensorRT's `DataType`, by the type of the pixels."""


def check_ports(trt: ModuleType, network: Any, pixels: str, channels: int, names: tuple[str, str]) -> None:
    """Raises ModelError unless the parsed network has the ports that were handed to TensorRT.

    They are called `names` (input, output) and take pixels [N, H, W, `channels`] of the type `pixels`. TensorRT's
    parser makes an int8 port of bytes that come from a QuantizeLinear and only warns, so pixels above 127 would
    saturate. TensorRT 8.6 knows no types before the build; there `check_engine_ports` is the check.
    """
    strong = is_strongly_typed(trt)
    for port, name in zip(ports(network), names, strict=True):
        found = (port.name, tuple(port.shape), _type_name(port.dtype) if strong else _PIXEL_TYPES[pixels])
        _check_port(f"{title(trt)} reads the graph with", found, name, pixels, channels)


def check_engine_ports(trt: ModuleType, engine: Any, pixels: str, channels: int) -> tuple[str, str]:
    """Return the names of the ports of a loaded engine.

    Raises ModelError unless there is one input and one output for pixels [N, H, W, `channels`] of the type
    `pixels`.
    """
    names = port_names(trt, engine)
    for name in names:
        found = (name, tuple(engine.get_tensor_shape(name)), _type_name(engine.get_tensor_dtype(name)))
        _check_port("the engine has", found, name, pixels, channels)
    return names


def _check_port(
    what: str, found: tuple[str, tuple[int, ...], str], name: str, pixels: str, channels: int
) -> None:
    """Raises ModelError unless `found` (name, shape, type) is the port `name` for such pixels."""
    _, shape, kind = found
    if (found[0], kind, len(shape), shape[-1:]) != (name, _PIXEL_TYPES[pixels], 4, (channels,)):
        raise ModelError(
            f"{what} a port {found[0]} of type {kind} and shape {list(shape)}, expected {name} of type "
            f"{_PIXEL_TYPES[pixels]} and shape [N, H, W, {channels}]; such an engine would compute wrong pixels, so export "
            "the model again with `--io float`"
        )


def _type_name(dtype: Any) -> str:
    """Name of a TensorRT type, such as "UINT8"."""
    return str(dtype).rpartition(".")[2]


def fixed_batch(network: Any) -> int | None:
    """Return the batch size that the network is fixed to, or None if it accepts any."""
    count = int(next(iter(ports(network)[0].shape)))
    return None if count < 0 else count


def has_bf16(trt: ModuleType) -> bool:
    """Return whether this version of TensorRT has the type bf16; 8.6 does not."""
    return hasattr(trt.DataType, "BF16")


def configure(
    trt: ModuleType,
    builder: Any,
    network: Any,
    options: BuildOptions,
    profiles: Sequence[Profile],
    channels: int,
    types: Collection[str],
) -> Any:
    """Create the builder's configuration for `network`.

    `profiles` are added in the given order, so their numbers in the engine are their positions. `channels` is
    the size of the last axis of the input [N, H, W, C]. `types` are the precisions that the file contains
    ("fp32", "fp16", "bf16", "int8"); they matter only where typing is weak.

    Raises UsageError for options that this version of TensorRT cannot serve.
    """
    config = builder.create_builder_config()
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it, the inspector gives names only
    _set_flags(trt, config, options, types)
    _set_hardware(trt, config, options)
    _set_capabilities(trt, config, options)
    _set_previews(trt, config)
    # convolutions need neither cuDNN nor cuBLAS, and loading those costs memory and half a second
    sources = trt.TacticSource
    config.set_tactic_sources(1 << int(sources.EDGE_MASK_CONVOLUTIONS) | 1 << int(sources.JIT_CONVOLUTIONS))
    input_name = ports(network)[0].name
    for profile in profiles:
        _add_profile(builder, config, input_name, profile, channels)
    return config


def _set_flags(trt: ModuleType, config: Any, options: BuildOptions, types: Collection[str]) -> None:
    """Set the flags for TF32, version compatibility and, where typing is weak, the precisions in `types`."""
    flags = trt.BuilderFlag
    if options.tf32:
        config.set_flag(flags.TF32)
    else:
        # TensorRT turns it on by default, but it rounds factors to 10 bits, so it is not fp32
        config.clear_flag(flags.TF32)
    if which_runtime(trt) is RTX and (options.version_compatible or options.hardware_compatible != "none"):
        # its engines run on their own version only, and on all GPUs of the chosen capabilities
        raise UsageError(
            f"{title(trt)} has no --version-compatible and no --hardware-compatible; use --capabilities to choose GPUs"
        )
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    # Weak typing: without the flag a type is never used; with it, wherever TensorRT finds it faster.
    # Strongly typed networks refuse these flags, and version 11 has none.
    for kind in ("fp16", "bf16", "int8"):
        if kind in types and hasattr(flags, kind.upper()):
            config.set_flag(getattr(flags, kind.upper()))


def _set_hardware(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    """Set the range of GPUs the engine is for. Raises UsageError if this version cannot build for it."""
    if options.hardware_compatible == "none":
        return
    levels, level = trt.HardwareCompatibilityLevel, _HARDWARE_LEVELS[options.hardware_compatible]
    if not hasattr(levels, level):
        raise UsageError(
            f"{title(trt)} cannot build for {options.hardware_compatible!r} hardware; use 'ampere+' or 'none'"
        )
    config.hardware_compatibility_level = getattr(levels, level)


def _set_capabilities(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    """Set the compute capabilities that the engine is for; only TensorRT for RTX can choose them.

    Without a choice it gets `DEFAULT_CAPABILITIES`: more of them cost neither time nor space (0.2 s and 700 KiB
    for rt-x4 with one and with five, in 1.7.1). `ComputeCapability.CURRENT` would fail where there is no GPU.
    """
    if not hasattr(trt, "ComputeCapability"):
        if options.capabilities:
            raise UsageError(
                f"{title(trt)} builds for the GPU of this machine only; leave out --capabilities, or use --runtime tensorrt-rtx"
            )
        return
    names = options.capabilities or DEFAULT_CAPABILITIES
    members = [getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}", None) for name in names]
    if options.capabilities and None in members:
        raise UsageError(
            f"{title(trt)} cannot build for {names[members.index(None)]}; use {', '.join(CAPABILITIES)}"
        )
    chosen = [member for member in members if member is not None]
    config.num_compute_capabilities = len(chosen)
    for number, member in enumerate(chosen):
        config.set_compute_capability(member, number)


def _set_previews(trt: ModuleType, config: Any) -> None:
    """Turn on preview features for working memory and for shared profiles.

    RUNTIME_ACTIVATION_RESIZE_10_10 makes working memory follow the actual shape instead of the largest shape
    of a profile. PROFILE_SHARING_0806 lets several contexts use one profile in 8.6; later versions always
    allow that.
    """
    features = trt.PreviewFeature  # a feature that has become standard is no longer listed
    if hasattr(features, "RUNTIME_ACTIVATION_RESIZE_10_10"):
        config.set_preview_feature(features.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    elif hasattr(features, "PROFILE_SHARING_0806"):
        config.set_preview_feature(features.PROFILE_SHARING_0806, True)


def _add_profile(builder: Any, config: Any, input_name: str, profile: Profile, channels: int) -> None:
    """Add one optimisation profile. Raises UsageError if TensorRT refuses its shapes."""
    shapes = [(*shape, channels) for shape in (profile.low, profile.best, profile.high)]
    optimisation_profile = builder.create_optimization_profile()
    optimisation_profile.set_shape(input_name, *shapes)
    if config.add_optimization_profile(optimisation_profile) < 0:
        raise UsageError(f"TensorRT refuses the profile {profile.name} ({shapes}); choose other sizes")


def use_timing_cache(config: Any, data: bytes) -> None:
    """Let the build start from the kernel timings in `data`, as returned by `timings_of`.

    Timings belong to one GPU and one version of TensorRT. If TensorRT refuses them, the build starts with an
    empty cache: ignoring the mismatch would be unsafe.
    """
    if is_rtx_config(config):  # it times no kernels; the calls exist but do nothing and warn (1.7.1)
        return
    for content in (data, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def is_rtx_config(config: Any) -> bool:
    """Return whether a builder's configuration is one of TensorRT for RTX."""
    return hasattr(config, "num_compute_capabilities")


def timings_of(config: Any) -> bytes:
    """Return the kernel timings known after a build, as bytes for `use_timing_cache`; empty if there are none."""
    cache = None if is_rtx_config(config) else config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


def watch(trt: ModuleType, config: Any, progress: BuildProgress) -> Any:
    """Attach `progress` to the build that follows, and return the monitor.

    The caller must keep the monitor until the build has ended: TensorRT holds no reference to it. Versions
    before 10 have no progress monitor; then nothing happens and None is returned.
    """
    if not hasattr(config, "progress_monitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress(phase_name, step + 1, self.steps.get(phase_name, 0))

    config.progress_monitor = Monitor()
    return config.progress_monitor


def unwatch(config: Any) -> None:
    """Detach what `watch` attached. The configuration would otherwise keep it, and all it refers to, alive."""
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = None


def build(builder: Any, network: Any, config: Any, log: TensorRTLog, name: str) -> bytes:
    """Compile `network` and return the engine as bytes. `name` is the model's name, for messages.

    Takes minutes and cannot be interrupted except through `watch`. Raises OutOfMemoryError or ModelError with
    TensorRT's reason.
    """
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error(
            f"TensorRT cannot build an engine of {name}",
            "build with other --sizes, or --level 2",
            smaller="build with smaller --sizes and a smaller --tile",
        )
    return bytes(plan)


# running


def new_runtime(trt: ModuleType, log: TensorRTLog, *, host_code: bool) -> Any:
    """Create the TensorRT runtime that loads engines; it must outlive every engine it loads.

    `host_code` permits engines that contain code for the CPU, which version-compatible engines do. Permitting
    it means trusting the engine like a program, so it is off for all others.

    Raises MissingRuntimeError if TensorRT does not start.
    """
    try:
        trt_runtime = trt.Runtime(log.logger)
    except (TypeError, RuntimeError) as error:
        raise _start_error(trt, log, error) from error
    if host_code:
        trt_runtime.engine_host_code_allowed = True
    return trt_runtime


def load(trt_runtime: Any, plan: bytes, log: TensorRTLog, name: str) -> Any:
    """Load the engine in `plan` (TensorRT's word for the bytes of an engine). `name` is the model's name.

    Loading runs code from `plan`: pass only bytes that are trusted and complete. Raises ModelError or
    OutOfMemoryError with TensorRT's reason.
    """
    engine = trt_runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise log.error(f"TensorRT cannot load the engine of {name}", "build it again with `sr-deploy build`")
    return engine


def port_names(trt: ModuleType, engine: Any) -> tuple[str, str]:
    """Return the names of the input and the output tensor. Raises ModelError unless there is one of each."""
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    input_name = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    output_name = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(input_name) != 1 or len(output_name) != 1:
        raise ModelError(
            f"the engine has the tensors {names}, expected one input and one output; build it again"
        )
    return input_name[0], output_name[0]


def profile_count(engine: Any) -> int:
    """Return the number of optimisation profiles in `engine`."""
    return int(engine.num_optimization_profiles)


def new_runtime_config(trt: ModuleType, engine: Any, kernels: bytes) -> Any:
    """Return the settings for contexts of TensorRT for RTX; None for TensorRT, whose contexts need none.

    TensorRT for RTX compiles kernels for a shape at its first run. `kernels` are those of earlier runs, as returned
    by `compiled_kernels`; it refuses them itself if GPU, driver or version differ. Kernels are compiled eagerly:
    the default runs slower ones until a thread of its own has compiled better ones, and a CUDA graph that was
    recorded meanwhile would keep the slower ones for ever. The CUDA context must be current.
    """
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return None
    runtime_config = engine.create_runtime_config()
    strategies = trt.ExecutionContextAllocationStrategy
    runtime_config.set_execution_context_allocation_strategy(strategies.USER_MANAGED)
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
    runtime_cache = runtime_config.create_runtime_cache()
    if kernels:
        runtime_cache.deserialize(kernels)
    runtime_config.set_runtime_cache(runtime_cache)
    return runtime_config


def compiled_kernels(runtime_config: Any) -> bytes:
    """Return the kernels that were compiled so far, for `new_runtime_config`; empty for TensorRT."""
    if runtime_config is None:
        return b""
    runtime_cache = runtime_config.get_runtime_cache()
    return bytes(runtime_cache.serialize())


def can_record(context: Any, stream: int) -> bool:
    """Return whether a run of `context` may be recorded as a CUDA graph; only TensorRT for RTX can tell."""
    return not hasattr(context, "is_stream_capturable") or bool(context.is_stream_capturable(stream))


def new_context(trt: ModuleType, engine: Any, log: TensorRTLog, runtime_config: Any = None) -> Any:
    """Create an execution context without working memory; the caller provides it with `give_memory`.

    `runtime_config` is that of `new_runtime_config`. Raises OutOfMemoryError or ModelError with TensorRT's reason.

    Lanes grow one buffer for all their contexts, instead of one allocation by TensorRT for each.
    """
    if runtime_config is not None:
        context = engine.create_execution_context(runtime_config)
    elif hasattr(trt, "ExecutionContextAllocationStrategy"):
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    else:
        context = engine.create_execution_context_without_device_memory()
    if context is None:
        raise log.error("TensorRT cannot create an execution context", "use fewer contexts")
    context.nvtx_verbosity = trt.ProfilingVerbosity.NONE  # markers for profilers cost time in every run
    return context


def set_shape(
    context: Any, input_name: str, shape: tuple[int, ...], profile: int, stream: int, log: TensorRTLog
) -> tuple[int, ...]:
    """Choose profile number `profile` and set the input shape [N, H, W, C]; returns `shape`.

    A change of profile is queued on `stream`; it is skipped if the profile is already active.

    Raises ModelError if TensorRT refuses the profile or the shape.
    """
    if context.active_optimization_profile != profile and not context.set_optimization_profile_async(
        profile, stream
    ):
        raise log.error(f"TensorRT refuses profile {profile}", "build the engine again")
    if not context.set_input_shape(input_name, shape):
        raise log.error(f"TensorRT refuses the shape {shape}", "build the engine again")
    return shape


def output_shape(context: Any, output_name: str) -> tuple[int, ...]:
    """Return the shape [N, H*scale, W*scale, C] of the output for the input shape that was set."""
    return tuple(int(n) for n in context.get_tensor_shape(output_name))


def memory_needed(engine: Any, context: Any, profile: int) -> int:
    """Return the bytes of working memory that `context` needs.

    From TensorRT 10 on this is the need of the shape that was set. Versions without that call report the need
    of the profile, or (8.6) of the largest profile of the engine.
    """
    if hasattr(context, "update_device_memory_size_for_shapes"):
        return int(context.update_device_memory_size_for_shapes())
    if hasattr(engine, "get_device_memory_size_for_profile"):
        return int(engine.get_device_memory_size_for_profile(profile))
    return int(engine.device_memory_size)


def give_memory(context: Any, address: int, size: int) -> None:
    """Let `context` use the `size` bytes of device memory at `address`; 8.6 takes no size."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size)
    else:
        context.device_memory = address


def bind(context: Any, name: str, address: int, log: TensorRTLog) -> None:
    """Place the tensor `name` at the device address `address`. Raises ModelError if TensorRT refuses it."""
    if not context.set_tensor_address(name, address):
        raise log.error(f"TensorRT refuses the address of {name}", "build the engine again")


def execute(context: Any, stream: int, log: TensorRTLog) -> None:
    """Queue one run of the engine on `stream`, without waiting for it.

    Raises OutOfMemoryError or ModelError with TensorRT's reason.
    """
    if not context.execute_async_v3(stream):
        raise log.error("TensorRT cannot run the engine", "build it again with `sr-deploy build`")


# inspecting


def describe_layers(trt: ModuleType, engine: Any) -> str:
    """Return TensorRT's description of the layers as text, meant to be JSON (see `layers.py`).

    Contains details only if the engine was built with the verbosity DETAILED, which `configure` sets.
    """
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
