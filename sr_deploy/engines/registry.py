"""The backends, by the names users choose them by. Each is imported when it is first asked for.

A backend's class has `open(model, options, threads)`, which makes an engine, and `check()`, which raises
MissingRuntimeError where its runtime is not there.
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

from sr_deploy.errors import MissingRuntimeError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.engines.base import Engine

AUTO = "auto"
BACKENDS = {
    "onnxruntime": "sr_deploy.engines.onnxruntime.cpu:OnnxRuntimeEngine",
    "openvino": "sr_deploy.engines.openvino.engine:OpenVinoEngine",
    "tensorrt": "sr_deploy.engines.tensorrt.engine:TensorRTEngine",
    "onnxruntime-cuda": "sr_deploy.engines.onnxruntime.gpu:CudaEngine",
    "onnxruntime-tensorrt": "sr_deploy.engines.onnxruntime.gpu:TensorRTProviderEngine",
    "nearest": "sr_deploy.engines.nearest:NearestEngine",
}
_MEASURING_LOCK = threading.Lock()
"""Threads that open a model at once would disturb each other's times, and choose differently."""
_ON_GPU = ("tensorrt", "onnxruntime-cuda")
_ON_CPU = ("onnxruntime", "openvino")
"""What "auto" chooses from, in the order of preference: a GPU where there is one, else the fastest on the CPU."""
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")
"""Of compiled engines, which TensorRT alone reads."""


def open_engine(
    model: str | Path | bytes | ModelProto,
    backend: str = AUTO,
    *,
    threads: int | None = None,
    options: Any = None,
    say: Callable[[str], None] | None = None,
) -> Engine:
    """An engine that runs `model`: the path of an ONNX file, its bytes, or the model itself.

    `options` is the backend's own options object, such as `OnnxRuntimeOptions`; `threads` stands for one that
    sets nothing else. `say` is told what "auto" chose, when it measured. Raises UsageError for an unknown
    backend or options that are not its own, ModelError for a model that cannot be run, MissingRuntimeError where
    the runtime is not there. Warns of a file that `sr-deploy verify` found wrong on this backend
    (FailedVerdictWarning).
    """
    if options is not None and threads is not None:
        raise UsageError("give either threads or options, not both; options have threads of their own")
    source = Path(model) if isinstance(model, str) else model
    chosen = choose_backend(backend, source, threads=threads, say=say)
    if isinstance(source, Path) and os.path.exists(f"{source}.verify.json"):
        from sr_deploy.engines.verdict import warn_of_failure

        warn_of_failure(source, chosen)
    engine: Engine = _engine_class(chosen).open(source, options, threads)
    return engine


def choose_backend(
    backend: str = AUTO,
    model: Path | bytes | ModelProto | None = None,
    *,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> str:
    """The backend that `backend` stands for: itself, or with "auto" the best one whose runtime is there.

    "auto" is a GPU's where one can be used. On the CPU it is the fastest for the model file, measured when that
    is met for the first time (`sr_deploy.engines.fastest`); `say` is told. Without a file, or with the cache
    turned off, it is the first that is installed. Raises UsageError for an unknown name, MissingRuntimeError
    where "auto" finds none.
    """
    if backend != AUTO:
        _check_name(backend)
        return backend
    if isinstance(model, Path) and model.suffix in ENGINE_SUFFIXES:
        return "tensorrt"
    usable = [name for name in _ON_GPU if _why_unusable(name) is None] if _has_nvidia_driver() else []
    if usable:
        return usable[0]
    if isinstance(model, Path):
        return _choose_on_cpu(model, threads, say or (lambda message: None))
    return _usable_on_cpu(1)[0]


def _choose_on_cpu(model: Path, threads: int | None, say: Callable[[str], None]) -> str:
    from sr_deploy.graph.cache import cache_folder

    if sum(map(_is_installed, _ON_CPU)) < 2 or not model.is_file() or cache_folder() is None:
        return _usable_on_cpu(1)[0]
    with _MEASURING_LOCK:
        return _choose_by_measuring(model, threads, say)


def _choose_by_measuring(model: Path, threads: int | None, say: Callable[[str], None]) -> str:
    from sr_deploy.engines.fastest import cached_choice, can_cache_choice, fastest

    chosen = cached_choice(model, threads)
    if chosen in _ON_CPU:
        return chosen
    names = _usable_on_cpu()
    if len(names) == 1 or not can_cache_choice(model):
        return names[0]
    chosen, seconds = fastest(
        model, {name: partial(_engine_class(name).open, model, None, threads) for name in names}, threads
    )
    if len(seconds) > 1:
        times = ", ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items())
        say(f"backend {chosen}: the fastest here for {model.name}, measured once ({times})")
    return chosen


def _is_installed(package: str) -> bool:
    """Whether `package` is installed; far quicker than importing it, or than asking for its version."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # whoever finds modules here says no
        return False


def _has_nvidia_driver() -> bool:
    """Whether it can be loaded: asked first, for importing what runs on its GPUs takes a while."""
    from sr_deploy.engines.nvidia import load_driver

    try:
        load_driver()
    except OSError:
        return False
    return True


def _usable_on_cpu(most: int = len(_ON_CPU)) -> list[str]:
    """Up to `most` of the CPU backends that can run here, best first."""
    reasons: dict[str, str] = {}
    found: list[str] = []
    for name in _ON_CPU:
        reason = _why_unusable(name)  # asked one after the other: importing a runtime takes long
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
    """Every backend, with None where it can run here, else with why not and what to do."""
    return {name: _why_unusable(name) for name in BACKENDS}


def _why_unusable(name: str) -> str | None:
    """Why the backend `name` cannot run here; None where it can."""
    try:
        _engine_class(name).check()
    except MissingRuntimeError as error:
        return str(error)
    return None


def _engine_class(name: str) -> Any:
    module, attribute = BACKENDS[name].split(":")
    return getattr(import_module(module), attribute)


def _check_name(name: str) -> None:
    if name in BACKENDS:
        return
    from difflib import get_close_matches

    known = [AUTO, *BACKENDS]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"there is no backend {name!r}; {hint}choose one of {', '.join(known)}")
