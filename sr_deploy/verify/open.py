"""Open what is to be verified: ONNX files and bundled models on every backend present, and compiled engines.

Checkpoints are opened by `sr_deploy.training`, which alone knows torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sr_deploy.engines.base import Engine
from sr_deploy.engines.registry import ENGINE_SUFFIXES, available_backends, choose_backend, open_engine
from sr_deploy.engines.verdict import FailedVerdictWarning
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.graph.onnx_file import load_model
from sr_deploy.models import find_model
from sr_deploy.verify.forms import ModelForm, onnx_form

_COMPILED_BACKEND = "tensorrt"
_BACKEND_WITHOUT_NET = "nearest"


def present_backends(asked: Sequence[str] = ()) -> list[str]:
    """The backends that are `asked` for, by default all that run nets here.

    Raises UsageError for an unknown name, MissingRuntimeError where the runtime of one is not there, or none is.
    """
    found = available_backends()
    for name in asked:
        choose_backend(name)
        if (reason := found.get(name)) is not None:
            raise MissingRuntimeError(reason)
    present = list(asked) or [
        name for name, why in found.items() if why is None and name != _BACKEND_WITHOUT_NET
    ]
    if not present:
        choose_backend()  # raises with the reasons and the install lines
    return list(dict.fromkeys(present))


def open_form(model: str, backends: Sequence[str]) -> ModelForm:
    """The bundled model or the model file `model`, to be run on `backends`; a compiled engine on its own.

    Raises ModelError for a file that cannot be used, or an ONNX file without a record.
    """
    path = find_model(model)
    if path.suffix.lower() in ENGINE_SUFFIXES:
        return _compiled(model, path)
    return onnx_form(model, load_model(path), backends, partial(_open, path))


def _compiled(name: str, path: Path) -> ModelForm:
    with _open(path, _COMPILED_BACKEND) as engine:
        spec = engine.spec
    return ModelForm(name=name, spec=spec, backends=(_COMPILED_BACKEND,), open_engine=partial(_open, path))


def _open(path: Path, backend: str) -> Engine:
    """An engine, without the warning of an earlier verdict: it is being looked into."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedVerdictWarning)
        return open_engine(path, backend)
