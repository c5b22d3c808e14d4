"""The backends by the names that users choose. Each is imported when it is first asked for.

A backend's class has `open(model, options, threads)`, which returns an engine, and `check()`, which raises
MissingRuntimeError if its runtime cannot run here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError, check_function, check_whole
from sr_deploy.system.memory import prepare_for_limit

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.engines.base import Engine

AUTO = "auto"
"""The name that stands for the best backend that can run here."""
BACKENDS = {
    "onnxruntime": "sr_deploy.engines.onnxruntime.cpu:OnnxRuntimeEngine",
    "openvino": "sr_deploy.engines.openvino.engine:OpenVinoEngine",
    "tensorrt": "sr_deploy.engines.tensorrt.engine:TensorRTEngine",
    "tensorrt-rtx": "sr_deploy.engines.tensorrt.engine:TensorRTRtxEngine",
    "onnxruntime-cuda": "sr_deploy.engines.onnxruntime.gpu:CudaEngine",
    "onnxruntime-tensorrt": "sr_deploy.engines.onnxruntime.gpu:TensorRTProviderEngine",
    "nearest": "sr_deploy.engines.nearest:NearestEngine",
}
"""Backend -> "module:class". Text, because importing a runtime takes long."""
MEASURING_LOCK = threading.Lock()
"""Only one thread measures at a time. Threads that open a model at once would disturb each other's times
and choose differently."""
GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Backends that compute on an NVIDIA GPU."""
_ON_GPU = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda")
"""GPU backends from which "auto" chooses, best first. They come before those of the CPU."""
_ON_CPU = ("onnxruntime", "openvino")
"""CPU backends from which "auto" chooses, best first where none is measured."""
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
"""Suffixes of compiled engine files, which only TensorRT and TensorRT for RTX read."""


def open_engine(
    model: str | Path | bytes | ModelProto,
    backend: str = AUTO,
    *,
    threads: int | None = None,
    options: Any = None,
    say: Callable[[str], None] | None = None,
) -> Engine:
    """Open an engine that runs `model`: the path of an ONNX file, its bytes, or the model itself.

    A path such as `a.onnx+b.onnx` that is no file opens a chain, which runs one model after the other. `options` is the backend's own options object, such as `OnnxRuntimeOptions`; `threads` may be given
    instead of it. `say` is called with one line if "auto" measured, and with one if the engine computes
    convolutions of an int8 file in floating point. May be called from several threads.

    Raises UsageError for an unknown backend, for options of another one, and for both options and threads;
    ModelError for a model that cannot be run; MissingRuntimeError if the runtime is missing. Warns
    (FailedVerdictWarning) of a file that `sr-deploy verify` found wrong on this backend.
    """
    if options is not None and threads is not None:
        raise UsageError("give either threads or options, not both; options have their own threads field")
    if threads is not None:
        check_whole("threads", threads)
    check_function("say", say)
    source = Path(model) if isinstance(model, str) else model
    _check_model(source)
    if isinstance(source, Path) and "+" in str(source) and not source.exists():
        return _open_chain(source, backend, threads, options, say)
    prepare_for_limit()
    chosen = choose_backend(backend, source, threads=threads, say=say)
    if isinstance(source, Path) and os.path.exists(f"{source}.verify.json"):
        from sr_deploy.engines.verdict import warn_of_failure

        warn_of_failure(source, chosen)
    engine: Engine = _engine_class(chosen).open(source, options, threads)
    if say is not None and hasattr(engine, "say"):
        engine.say = say
    return engine


def _open_chain(
    model: Path, backend: str, threads: int | None, options: Any, say: Callable[[str], None] | None
) -> Engine:
    """Open the engines of a chain, each on `backend`, as one engine. "auto" chooses for each model."""
    from sr_deploy.engines.chain import ChainEngine
    from sr_deploy.system.chains import chain_files

    files = chain_files(model)
    if len(files) == 1:  # the error says that there is no such file
        chosen = choose_backend(backend, model, threads=threads, say=say)
        only: Engine = _engine_class(chosen).open(model, options, threads)
        return only
    engines: list[Engine] = []
    try:
        for file in files:
            engines.append(open_engine(file, backend, threads=threads, options=options, say=say))
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return ChainEngine(engines)


def choose_backend(
    backend: str = AUTO,
    model: Path | bytes | ModelProto | None = None,
    *,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Return `backend`, or for "auto" the best backend that can run here.

    "auto" prefers a GPU. On the CPU it takes the backend that is fastest for the model file, measured when
    the file is first seen (`sr_deploy.engines.fastest`); `say` is told. Without a file, or with the cache
    off, it takes the first backend that is installed. Raises UsageError for an unknown name,
    MissingRuntimeError if "auto" finds no backend.
    """
    if backend != AUTO:
        _check_name(backend)
        return backend
    if isinstance(model, Path) and model.suffix in ENGINE_SUFFIXES:
        return engine_backend(model)
    usable = [name for name in _ON_GPU if _why_unusable(name) is None] if _has_nvidia_driver() else []
    if usable:
        return usable[0]
    if isinstance(model, Path):
        return _choose_on_cpu(model, threads, say or (lambda message: None))
    return usable_on_cpu(1)[0]


def engine_backend(path: Path) -> str:
    """Return the backend that reads the engine file `path`, as its sidecar says; "tensorrt" without a sidecar."""
    # by name, as backends are: the package of the engines imports this module
    sidecar = import_module("sr_deploy.engines.tensorrt.sidecar")
    try:
        return str(sidecar.read_sidecar(path).machine.runtime)
    except ModelError:  # opening the engine then says what is wrong with the sidecar
        return "tensorrt"


def _choose_on_cpu(model: Path, threads: int | None, say: Callable[[str], None]) -> str:
    from sr_deploy.graph.cache import cache_folder

    if sum(map(_is_installed, _ON_CPU)) < 2 or not model.is_file() or cache_folder() is None:
        return usable_on_cpu(1)[0]
    with MEASURING_LOCK:
        return _choose_by_measuring(model, threads, say)


def _choose_by_measuring(model: Path, threads: int | None, say: Callable[[str], None]) -> str:
    """Return the cached choice for a file, or measure now."""
    from sr_deploy.engines.fastest import cached_choice, can_cache_choice, fastest

    chosen = cached_choice(model, threads)
    if chosen in _ON_CPU:
        return chosen
    names = usable_on_cpu()
    if len(names) == 1 or not can_cache_choice(model):
        return names[0]
    chosen, seconds, wrong = fastest(
        model, {name: partial(_engine_class(name).open, model, None, threads) for name in names}, threads
    )
    for name, difference in wrong.items():
        say(f"backend {name} is not used for {model.name}: {difference}; see `sr-deploy verify`")
    if len(seconds) > 1:
        times = ", ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items())
        what = "the fastest here" if not wrong else "the fastest here of those that agree"
        say(f"backend {chosen}: {what} for {model.name}, measured once ({times})")
    return chosen


def _is_installed(package: str) -> bool:
    """Return True if `package` is installed. Much faster than importing it or asking for its version."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # raised by import hooks that do not know the package
        return False


def _has_nvidia_driver() -> bool:
    """Return True if NVIDIA's driver library can be loaded. Asked first, because importing the GPU runtimes
    takes a while."""
    from sr_deploy.engines.nvidia import load_driver

    try:
        load_driver()
    except OSError:
        return False
    return True


def usable_on_cpu(most: int = len(_ON_CPU)) -> list[str]:
    """Return up to `most` CPU backends that can run here, best first.

    Raises MissingRuntimeError with the reason for each backend if there are none.
    """
    reasons: dict[str, str] = {}
    found: list[str] = []
    for name in _ON_CPU:
        reason = _why_unusable(name)  # one by one, and only as many as needed: importing a runtime takes long
        if reason is not None:
            reasons[name] = reason
        else:
            found.append(name)
        if len(found) == most:
            break
    if found:
        return found
    raise MissingRuntimeError(
        "no backend can run here: " + "; ".join(f"{n}: {r}" for n, r in reasons.items())
    )


def available_backends() -> dict[str, str | None]:
    """Return every backend with None if it can run here, else with the reason and what to do."""
    return {name: _why_unusable(name) for name in BACKENDS}


def _why_unusable(name: str) -> str | None:
    """Return the reason why the backend `name` cannot run here; None if it can."""
    try:
        _engine_class(name).check()
    except MissingRuntimeError as error:
        return str(error)
    return None


def _engine_class(name: str) -> Any:
    """Import the class of a backend."""
    module, attribute = BACKENDS[name].split(":")
    return getattr(import_module(module), attribute)


def _check_model(model: object) -> None:
    """Raise UsageError unless `model` is of a type that engines open. Knows a ModelProto without importing onnx."""
    if not isinstance(model, (Path, bytes)) and not hasattr(model, "graph"):
        raise UsageError(
            f"model must be the name of a bundled model, a path, the bytes of an ONNX file or an onnx.ModelProto, got "
            f"{type(model).__name__}; `sr-deploy models` lists the names"
        )


def _check_name(name: str) -> None:
    """Raise UsageError for an unknown backend, with the name that is closest to it."""
    if not isinstance(name, str):
        raise UsageError(f"backend must be one of {', '.join([AUTO, *BACKENDS])}, got {name!r:.60}")
    if name in BACKENDS:
        return
    from difflib import get_close_matches

    known = [AUTO, *BACKENDS]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"there is no backend {name!r}; {hint}choose one of {', '.join(known)}")
