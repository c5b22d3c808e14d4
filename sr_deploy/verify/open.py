"""Open the models to verify: ONNX files and bundled models on every backend present, and engine files.

Checkpoints are opened by `sr_deploy.training`, the only package that imports torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sr_deploy.engines.base import Engine
from sr_deploy.engines.registry import (
    ENGINE_SUFFIXES,
    available_backends,
    choose_backend,
    engine_backend,
    open_engine,
)
from sr_deploy.engines.verdict import FailedVerdictWarning
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.graph.onnx_file import load_model
from sr_deploy.system.chains import chain_files
from sr_deploy.verify.forms import ModelForm, chain_form, onnx_form

_BACKEND_WITHOUT_NET = "nearest"
"""Backend that repeats pixels and reads no network, so there is nothing to verify on it."""


def present_backends(asked: Sequence[str] = ()) -> list[str]:
    """List the backends in `asked`, or by default all that can run a network on this machine.

    Duplicates are removed; the order stays. Raises UsageError for an unknown name, and MissingRuntimeError if
    an asked backend cannot run here or if none can.
    """
    found = available_backends()
    for name in asked:
        choose_backend(name)  # raises for an unknown name, and proposes a near one
        if (reason := found.get(name)) is not None:
            raise MissingRuntimeError(reason)
    present = list(asked) or [
        name for name, why in found.items() if why is None and name != _BACKEND_WITHOUT_NET
    ]
    if not present:
        choose_backend()  # raises with the reasons and the install lines
    return list(dict.fromkeys(present))


def open_form(name: str, path: Path, backends: Sequence[str]) -> ModelForm:
    """Open the model file `path`, which the results call `name`, to be run on `backends`.

    A chain is verified as a whole. An engine file runs on the runtime that built it, whatever `backends` says. Raises ModelError for a file that cannot
    be used and for an ONNX file without a spec.
    """
    if path.suffix.lower() in ENGINE_SUFFIXES:
        return _compiled(name, path)
    files = chain_files(path)
    if len(files) > 1:
        forms = [open_form(str(file), file, backends) for file in files]
        return chain_form(name, forms, backends, partial(_open, path))
    return onnx_form(name, load_model(path), backends, partial(_open, path))


def _compiled(name: str, path: Path) -> ModelForm:
    """Describe an engine file; it is opened once to read its spec."""
    backend = engine_backend(path)
    with _open(path, backend) as engine:
        spec = engine.spec
    return ModelForm(name=name, spec=spec, backends=(backend,), open_engine=partial(_open, path))


def _open(path: Path, backend: str) -> Engine:
    """Open an engine; an earlier verdict does not warn here, because the file is being verified again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedVerdictWarning)
        return open_engine(path, backend)
