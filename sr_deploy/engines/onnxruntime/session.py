"""Options, sessions and error messages that all ONNX Runtime engines share.

Nothing is run here: `cpu.py` is the engine for the CPU, `gpu.py` those for NVIDIA GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from sr_deploy.errors import MissingRuntimeError, ModelError, OutOfMemoryError, UsageError, check_whole
from sr_deploy.graph.runnable import exact_int8_settings
from sr_deploy.system.cores import usable_cores
from sr_deploy.system.memory import affordable_threads

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
"""ONNX Runtime's names of its execution providers."""
_GPU_FAILURE = re.compile(r"\bCU(?:DA|DNN|BLAS|BLASLT|FFT) failure \d+")
"""Finds a failure of the GPU, its driver or its libraries in ONNX Runtime's message. The model is not its cause."""
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|failed to allocate|out.?of.?memory|alloc_failed|CUDA failure 2\b", re.IGNORECASE
)
"""Matches the messages by which ONNX Runtime, C++ and CUDA say that memory ran out."""


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeOptions:
    """Options for running a model with ONNX Runtime. Immutable, so engines and threads may share them.

    Raises UsageError for threads below 1 and for no providers.
    """

    threads: int | None = None
    """Threads that one call computes with; None: the physical cores that this process may use."""
    providers: tuple[str, ...] = (CPU,)
    """Execution providers, best first. It is an error if one of them is missing."""
    provider_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of each provider, by the provider's name."""
    memory_arena: bool = True
    """Keep working memory between calls, as much as the largest call so far needed. Without it a call takes
    1.2 to 1.7 times as long (measured), because it fetches fresh pages."""
    graph_optimisation: Literal["none", "basic", "extended", "all"] = "all"
    """ONNX Runtime's optimisation level."""
    spinning: bool = True
    """Let idle threads spin between two operators, which is ONNX Runtime's default. On an idle machine
    calls took 0.84 times as long with it (measured); on a machine busy with other work, 1.04 to 1.12 times."""
    session_config: Mapping[str, str] = field(default_factory=dict)
    """Further session settings by ONNX Runtime's own keys, such as "session.disable_cpu_ep_fallback"."""

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_whole("threads", self.threads)
        if not self.providers:
            raise UsageError(f"providers must name at least one execution provider, such as {CPU}")


def runtime() -> ModuleType:
    """Import ONNX Runtime. Raises MissingRuntimeError if it cannot be imported."""
    try:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            f"the onnxruntime backend needs ONNX Runtime, which cannot be imported ({error}); {install_line(CPU)}"
        ) from error
    return onnxruntime  # type: ignore[no-any-return]


def check_providers(names: Sequence[str]) -> None:
    """Raise MissingRuntimeError for a provider that this build of ONNX Runtime lacks. ONNX Runtime itself
    would silently use the CPU."""
    there = runtime().get_available_providers()
    for name in names:
        if name not in there:
            raise MissingRuntimeError(
                f"{name} was asked for, this ONNX Runtime has {', '.join(there)}; {install_line(name)}"
            )


def install_line(provider: str) -> str:
    """Return the command that installs an execution provider."""
    return f'pip install "sr-deploy[{"cpu" if provider == CPU else "onnxruntime-gpu"}]"'


def session_options(options: OnnxRuntimeOptions) -> Any:
    """Return `options` as ONNX Runtime's SessionOptions, with the setting against int8 overflow
    where the processor needs it.

    The user's `session_config` comes last and wins. Raises MissingRuntimeError without ONNX Runtime.
    """
    ort = runtime()
    made = ort.SessionOptions()
    made.log_severity_level = 4  # errors are raised, so they need not be printed too
    made.intra_op_num_threads = affordable_threads(options.threads or usable_cores()) or 0
    made.enable_cpu_mem_arena = options.memory_arena
    if options.providers == (CPU,):
        # a plan for one size makes the second picture of that size fetch the memory again (measured)
        made.enable_mem_pattern = False
    made.graph_optimization_level = {
        "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[options.graph_optimisation]
    settings = {
        "session.intra_op.allow_spinning": str(int(options.spinning)),
        "session.force_spinning_stop": "1",  # after a run, so that no thread spins while the result is encoded
        **exact_int8_settings(),
        **options.session_config,
    }
    for key, value in settings.items():
        made.add_session_config_entry(key, value)
    return made


def message_of(error: Exception, limit: int = 240) -> str:
    """Return ONNX Runtime's message in one line, without its error code and its source files."""
    text = re.sub(
        r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S*onnxruntime_src\S* ", "", " ".join(str(error).split())
    )
    return text if len(text) <= limit else text[: limit - 3] + "..."


def open_session(
    graph: bytes, options: Any, providers: Sequence[tuple[str, Mapping[str, Any]]], name: str
) -> Any:
    """Open a session of `graph` in which all `providers` have started.

    `name` stands in messages. Raises ModelError for a graph that ONNX Runtime cannot load,
    MissingRuntimeError if a provider does not start: ONNX Runtime itself would go on with the next one.
    """
    try:
        session = runtime().InferenceSession(
            graph,
            options,
            providers=[provider for provider, _ in providers],
            provider_options=[dict(settings) for _, settings in providers],
            enable_fallback=0,
        )
    except Exception as error:  # ONNX Runtime's errors share no other base class
        if _GPU_FAILURE.search(str(error)):
            raise MissingRuntimeError(
                f"ONNX Runtime cannot use the GPU: {message_of(error)}; check `nvidia-smi`, or use --backend auto"
            ) from error
        raise ModelError(
            f"ONNX Runtime cannot load {name}: {message_of(error)}; export it with standard operators"
        ) from error
    for provider, _ in providers:
        if provider not in session.get_providers():
            raise MissingRuntimeError(
                f"{provider} is installed but did not start; see `sr-deploy doctor`, or {install_line(provider)}"
            )
    return session


def quiet_run_options() -> Any:
    """Return run options under which errors are raised, but not printed as well."""
    options = runtime().RunOptions()
    options.log_severity_level = 4
    return options


def run_error(error: Exception, name: str, shape: Sequence[int]) -> Exception:
    """Return the error to raise for a failed run on a batch of `shape` [N, H, W, C].

    OutOfMemoryError if the message says that memory ran out, else ModelError. `name` is the model's.
    """
    size = (
        f"{shape[2]}x{shape[1]} pixels" if shape[0] == 1 else f"{shape[0]} pictures of {shape[2]}x{shape[1]}"
    )
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return OutOfMemoryError(f"{name}: {size} at once do not fit into memory; use smaller tiles")
    return ModelError(
        f"ONNX Runtime cannot run {name} on {size}: {message_of(error)}; "
        "if its spec is wrong, run `sr-deploy stamp` on it"
    )
