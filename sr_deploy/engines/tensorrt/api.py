"""The one place that names things of TensorRT: 8.6, 10.x and 11.x behind one set of functions.

What a version lacks is asked of the version (`hasattr`), never of its number, but where one name means two things.
Every name here is checked by a test against the bindings of 8.6, 10.16 and 11.4. No CUDA: see `tensorrt_cuda`.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.profiles import Profile
from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, SrDeployError, UsageError

INSTALL = 'pip install "sr-deploy[gpu]"'
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|insufficient memory|Requested amount of GPU memory|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_HARDWARE_LEVELS = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-capability": "SAME_COMPUTE_CAPABILITY"}
Progress = Callable[[str, int, int], bool]
"""(phase, steps done, steps) -> whether to go on."""


def runtime() -> ModuleType:
    """The `tensorrt` package. Raises MissingRuntimeError where it is not installed, or does not load."""
    try:
        import tensorrt
    except Exception as error:  # its loader raises whatever the platform's linker does
        raise MissingRuntimeError(
            f"the tensorrt backend needs TensorRT, which cannot be imported ({error}); {INSTALL}"
        ) from error
    if not hasattr(tensorrt, "Builder") or not hasattr(tensorrt.IExecutionContext, "execute_async_v3"):
        found = getattr(tensorrt, "__version__", "of no known version")
        raise MissingRuntimeError(f"TensorRT here is {found}, 8.6 or later is needed; {INSTALL}")
    return tensorrt  # type: ignore[no-any-return]


def version(trt: ModuleType) -> str:
    """As "8.6.0"."""
    return str(trt.__version__)


class TensorRTLog:
    """What TensorRT says: its errors are kept, for it raises none itself. Serves several threads."""

    def __init__(self, trt: ModuleType, say: Callable[[str], None] | None = None) -> None:
        self._lock, self._say = threading.Lock(), say
        self._errors, self._warnings = deque[str](maxlen=20), deque[str](maxlen=5)
        severity = trt.ILogger.Severity
        self._error_levels, self._warning_level = (severity.INTERNAL_ERROR, severity.ERROR), severity.WARNING
        self.logger = _logger_class(trt)(self._receive)

    def _receive(self, severity: Any, text: str) -> None:
        if severity in self._error_levels:
            with self._lock:
                self._errors.append(" ".join(text.split()))
        elif severity == self._warning_level:
            with self._lock:
                self._warnings.append(" ".join(text.split()))
            if self._say is not None:
                self._say(f"TensorRT: {text}")

    def take(self) -> list[str]:
        """The errors since the last call."""
        with self._lock:
            errors = list(self._errors)
            self._errors.clear()
        return errors

    def last_message(self) -> str:
        """The last error, else the last warning: what it says when it does not even start."""
        with self._lock:
            return next((said[-1] for said in (self._errors, self._warnings) if said), "")

    def error(self, what: str, advice: str, *, smaller: str = "use smaller tiles") -> SrDeployError:
        """`what` went wrong, as an exception that says why: OutOfMemoryError where memory ran out, else ModelError.

        It ends in `advice`, or where memory ran out in `smaller`.
        """
        errors = self.take()
        why = "; ".join(dict.fromkeys(_shortened(text) for text in errors[-3:])) or "it did not say why"
        if any(_OUT_OF_MEMORY.search(text) for text in errors):
            return OutOfMemoryError(f"{what}: no memory left on the GPU ({why}); {smaller}")
        return ModelError(f"{what}: {why}; {advice}")


def _logger_class(trt: ModuleType) -> Any:
    """TensorRT's logger, with Python behind it; a class made here, for its base is only known here."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self, receive: Callable[[Any, str], None]) -> None:
            trt.ILogger.__init__(self)
            self.receive = receive

        def log(self, severity: Any, msg: str) -> None:
            self.receive(severity, msg)

    return Logger


def _shortened(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


# building


def new_builder(trt: ModuleType, log: TensorRTLog) -> Any:
    """A builder. Raises MissingRuntimeError where it does not start, with what to do about it."""
    try:
        return trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:
        raise _start_error(trt, log, error) from error


_REMEDIES = (
    (
        re.compile(r"digest|sha256|checksum", re.IGNORECASE),
        "its files are not those that NVIDIA shipped, so install TensorRT again",
    ),
    (
        re.compile(r"error: 100\b|no CUDA-capable", re.IGNORECASE),
        "no GPU was found, so see whether `nvidia-smi` lists one",
    ),
    (
        re.compile(r"error: (35|803|804)\b|insufficient|driver", re.IGNORECASE),
        "install a newer NVIDIA driver",
    ),
)
"""What TensorRT says when it does not start, and what helps."""
_DEFAULT_REMEDY = "run `sr-deploy doctor`, and install TensorRT or the NVIDIA driver again"


def _start_error(trt: ModuleType, log: TensorRTLog, error: Exception) -> MissingRuntimeError:
    why = log.last_message() or " ".join(str(error).split())
    remedy = next((advice for said, advice in _REMEDIES if said.search(why)), _DEFAULT_REMEDY)
    return MissingRuntimeError(f"TensorRT {version(trt)} does not start here ({_shortened(why)}); {remedy}")


def new_network(trt: ModuleType, builder: Any) -> Any:
    """An empty network, strongly typed where the version has that: types are then the file's, not a choice."""
    flags = trt.NetworkDefinitionCreationFlag
    wanted = [flags.STRONGLY_TYPED] if hasattr(flags, "STRONGLY_TYPED") else []
    if not wanted and hasattr(flags, "EXPLICIT_BATCH"):
        wanted = [flags.EXPLICIT_BATCH]
    return builder.create_network(sum(1 << int(flag) for flag in wanted))


def parse(trt: ModuleType, network: Any, log: TensorRTLog, graph: bytes, name: str) -> Any:
    """Read the ONNX bytes `graph` into `network`; the parser, which must outlive it.

    Raises ModelError naming the node and operator that TensorRT lacks.
    """
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        said = [_parser_error(parser.get_error(number)) for number in range(parser.num_errors)]
        said = said or log.take() or ["it did not say why"]
        raise ModelError(
            f"TensorRT {version(trt)} cannot read {name}: {'; '.join(_shortened(text) for text in said[:3])}; export it with "
            "operators that TensorRT has, or use --backend onnxruntime"
        )
    return parser


def _parser_error(error: Any) -> str:
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    node = error.node_name() if hasattr(error, "node_name") else f"number {error.node()}"
    named = f"operator {operator}, " if operator else ""
    return f"{named}node {node}: {' '.join(str(error.desc()).split())}"


def ports(network: Any) -> tuple[Any, Any]:
    """The one input and the one output of `network`. Raises ModelError for others."""
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise ModelError(
            f"TensorRT sees {network.num_inputs} inputs and {network.num_outputs} outputs, expected one picture each; "
            "export the model again"
        )
    return network.get_input(0), network.get_output(0)


def fixed_batch(network: Any) -> int | None:
    """The number of pictures a call must have; None: any."""
    count = int(next(iter(ports(network)[0].shape)))
    return None if count < 0 else count


def has_bf16(trt: ModuleType) -> bool:
    """Whether this version knows bf16 at all."""
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
    """A builder's configuration for `network`, whose file has numbers of `types`, as "fp16".

    Raises UsageError for what this version of TensorRT lacks.
    """
    config = builder.create_builder_config()
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.builder_optimization_level = options.optimisation_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector has nothing to say
    _set_flags(trt, config, options, types)
    _set_hardware(trt, config, options)
    _set_previews(trt, config)
    # convolutions need neither cuDNN nor cuBLAS, whose loading costs memory and half a second
    sources = trt.TacticSource
    config.set_tactic_sources(1 << int(sources.EDGE_MASK_CONVOLUTIONS) | 1 << int(sources.JIT_CONVOLUTIONS))
    input_name = ports(network)[0].name
    for profile in profiles:
        _add_profile(builder, config, input_name, profile, channels)
    return config


def _set_flags(trt: ModuleType, config: Any, options: BuildOptions, types: Collection[str]) -> None:
    flags = trt.BuilderFlag
    if options.tf32:
        config.set_flag(flags.TF32)
    else:
        config.clear_flag(flags.TF32)  # on by default, and not fp32
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    # typing is weak: without the flag a type is not used at all, with it wherever that is faster
    for kind in ("fp16", "bf16", "int8"):
        if kind in types and hasattr(flags, kind.upper()):
            config.set_flag(getattr(flags, kind.upper()))


def _set_hardware(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    if options.hardware_compatible == "none":
        return
    levels, wanted = trt.HardwareCompatibilityLevel, _HARDWARE_LEVELS[options.hardware_compatible]
    if not hasattr(levels, wanted):
        raise UsageError(
            f"TensorRT {version(trt)} cannot build for {options.hardware_compatible!r} hardware; use 'ampere+' or 'none'"
        )
    config.hardware_compatibility_level = getattr(levels, wanted)


def _set_previews(trt: ModuleType, config: Any) -> None:
    features = trt.PreviewFeature
    if hasattr(features, "RUNTIME_ACTIVATION_RESIZE_10_10"):  # memory that follows the shape
        config.set_preview_feature(features.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    elif hasattr(
        features, "PROFILE_SHARING_0806"
    ):  # several contexts on one profile: later versions just can
        config.set_preview_feature(features.PROFILE_SHARING_0806, True)


def _add_profile(builder: Any, config: Any, input_name: str, profile: Profile, channels: int) -> None:
    shapes = [(*shape, channels) for shape in (profile.low, profile.best, profile.high)]
    made = builder.create_optimization_profile()
    made.set_shape(input_name, *shapes)
    if config.add_optimization_profile(made) < 0:
        raise UsageError(f"TensorRT does not take the profile {profile.name} ({shapes}); give other sizes")


def use_timing_cache(config: Any, data: bytes) -> None:
    """Start from the timings in `data`, where they are of this TensorRT and this GPU."""
    for content in (data, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def timings_of(config: Any) -> bytes:
    """The timings that a build has come to know."""
    cache = config.get_timing_cache()
    return b"" if cache is None else bytes(cache.serialize())


def watch(trt: ModuleType, config: Any, progress: Progress) -> Any:
    """Let `progress` hear of the build that follows; None, and nothing changed, where the version cannot."""
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


def build(builder: Any, network: Any, config: Any, log: TensorRTLog, name: str) -> bytes:
    """The compiled engine. Raises OutOfMemoryError or ModelError with what TensorRT said."""
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
    """What loads engines. `host_code`: version-compatible engines bring code for the processor too."""
    try:
        made = trt.Runtime(log.logger)
    except (TypeError, RuntimeError) as error:
        raise _start_error(trt, log, error) from error
    if host_code:
        made.engine_host_code_allowed = True
    return made


def load(trt_runtime: Any, plan: bytes, log: TensorRTLog, name: str) -> Any:
    """The engine in `plan`. Raises ModelError or OutOfMemoryError with what TensorRT said."""
    engine = trt_runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise log.error(f"TensorRT cannot load the engine of {name}", "build it again with `sr-deploy build`")
    return engine


def port_names(trt: ModuleType, engine: Any) -> tuple[str, str]:
    """The names of the picture that goes in and of the one that comes out."""
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    input_name = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    output_name = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    if len(input_name) != 1 or len(output_name) != 1:
        raise ModelError(f"the engine has the ports {names}, expected one picture each way; build it again")
    return input_name[0], output_name[0]


def profile_count(engine: Any) -> int:
    """How many profiles the engine was built with."""
    return int(engine.num_optimization_profiles)


def new_context(trt: ModuleType, engine: Any, log: TensorRTLog) -> Any:
    """An execution context whose working memory is ours to give. Raises as `TensorRTLog.error` does."""
    if hasattr(trt, "ExecutionContextAllocationStrategy"):
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    else:
        context = engine.create_execution_context_without_device_memory()
    if context is None:
        raise log.error("TensorRT cannot make an execution context", "use fewer contexts")
    context.nvtx_verbosity = trt.ProfilingVerbosity.NONE  # marks for profilers, which cost time at every run
    return context


def set_shape(
    context: Any, input_name: str, shape: tuple[int, ...], profile: int, stream: int, log: TensorRTLog
) -> tuple[int, ...]:
    """Choose the profile and the input's shape; the output is then known, and returned by the caller's spec."""
    if context.active_optimization_profile != profile and not context.set_optimization_profile_async(
        profile, stream
    ):
        raise log.error(f"TensorRT does not take profile {profile}", "build the engine again")
    if not context.set_input_shape(input_name, shape):
        raise log.error(f"TensorRT does not take the shape {shape}", "build the engine again")
    return shape


def output_shape(context: Any, output_name: str) -> tuple[int, ...]:
    """Of the output, for the input shape that was set."""
    return tuple(int(n) for n in context.get_tensor_shape(output_name))


def memory_needed(engine: Any, context: Any, profile: int) -> int:
    """Bytes of working memory for the shape that was set, or as close above it as the version can tell."""
    if hasattr(context, "update_device_memory_size_for_shapes"):
        return int(context.update_device_memory_size_for_shapes())
    if hasattr(engine, "get_device_memory_size_for_profile"):
        return int(engine.get_device_memory_size_for_profile(profile))
    return int(engine.device_memory_size)


def give_memory(context: Any, address: int, size: int) -> None:
    """Let `context` work in the device memory at `address`."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size)
    else:
        context.device_memory = address


def bind(context: Any, name: str, address: int, log: TensorRTLog) -> None:
    """Let the port `name` lie at device memory `address`."""
    if not context.set_tensor_address(name, address):
        raise log.error(f"TensorRT does not take an address for {name}", "build the engine again")


def execute(context: Any, stream: int, log: TensorRTLog) -> None:
    """Queue one run on `stream`."""
    if not context.execute_async_v3(stream):
        raise log.error("TensorRT cannot run the engine", "build it again with `sr-deploy build`")


# inspecting


def describe_layers(trt: ModuleType, engine: Any) -> str:
    """TensorRT's own description of the layers, in JSON."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
