"""The backends, by the names users choose them by. Each is imported when it is first asked for.

A backend's class has `open(model, options, threads)`, which makes an engine, and `check()`, which raises
MissingRuntimeError where its runtime is not there.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_deploy.errors import MissingRuntimeError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.engines.base import Engine

AUTO = "auto"
BACKENDS = {
    "onnxruntime": "sr_deploy.engines.onnxruntime:OnnxRuntimeEngine",
    "nearest": "sr_deploy.engines.nearest:NearestEngine",
}
"""Best first, but for `nearest`, which runs no net and is never chosen by itself."""


def open_engine(
    model: str | Path | bytes | ModelProto,
    backend: str = AUTO,
    *,
    threads: int | None = None,
    options: Any = None,
) -> Engine:
    """An engine that runs `model`: the path of an ONNX file, its bytes, or the model itself.

    `options` is the backend's own options object, such as `OnnxRuntimeOptions`; `threads` stands for one that
    sets nothing else. Raises UsageError for an unknown backend or options that are not its own, ModelError
    for a model that cannot be run, MissingRuntimeError where the runtime is not there.
    """
    if options is not None and threads is not None:
        raise UsageError("give either threads or options, not both; options have threads of their own")
    source = Path(model) if isinstance(model, str) else model
    engine: Engine = _engine_class(choose_backend(backend)).open(source, options, threads)
    return engine


def choose_backend(backend: str = AUTO) -> str:
    """The backend that `backend` stands for: itself, or with "auto" the best one whose runtime is there.

    Raises UsageError for an unknown name, MissingRuntimeError where "auto" finds none.
    """
    if backend != AUTO:
        _check_name(backend)
        return backend
    reasons = {name: why for name, why in available_backends().items() if name != "nearest"}
    for name, reason in reasons.items():
        if reason is None:
            return name
    raise MissingRuntimeError(
        "no backend can run here: " + "; ".join(f"{n}: {r}" for n, r in reasons.items())
    )


def available_backends() -> dict[str, str | None]:
    """Every backend, with None where it can run here, else with why not and what to do."""
    found: dict[str, str | None] = {}
    for name in BACKENDS:
        try:
            _engine_class(name).check()
            found[name] = None
        except MissingRuntimeError as error:
            found[name] = str(error)
    return found


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
