"""Opening an engine by a bundled model's name. `sr_deploy.engines.registry` below knows files only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_deploy.engines import registry
from sr_deploy.models import find_chain

if TYPE_CHECKING:
    from onnx import ModelProto

    from sr_deploy.engines.base import Engine


def open_engine(
    model: str | Path | bytes | ModelProto,
    backend: str = registry.AUTO,
    *,
    threads: int | None = None,
    options: Any = None,
    say: Callable[[str], None] | None = None,
) -> Engine:
    """Open an engine that runs `model`: a bundled model's name, an ONNX or engine file, its bytes, or the model itself.

    Models joined by "+" ("dejpeg.onnx+4x.onnx") run one after the other, as one engine. `options` is the backend's own options object, such as `OnnxRuntimeOptions`; `threads` is short for options that
    set nothing else. `say` is called with what `backend="auto"` chose. Close the engine, or use it in a `with`
    statement. Raises UsageError for an unknown backend or options of another one, ModelError for an unknown name or
    a model that cannot be run, MissingRuntimeError where the runtime is not installed. Warns of a file that
    `sr-deploy verify` found wrong on this backend (FailedVerdictWarning).
    """
    source = find_chain(model) if isinstance(model, (str, Path)) else model
    return registry.open_engine(source, backend, threads=threads, options=options, say=say)
