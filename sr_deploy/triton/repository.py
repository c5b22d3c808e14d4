"""A model repository for NVIDIA's Triton Inference Server: which files lie where, and what their configurations say.

    FOLDER/rt-x4/config.pbtxt
    FOLDER/rt-x4/1/model.onnx

Every model takes and gives pixels, uint8 [N, H, W, C], so that a client needs no arithmetic. Three backends: Triton's
own `onnxruntime`; `tensorrt`, for engines of `sr-deploy build`, one for each kind of GPU; and `python`, where sr-deploy
itself runs inside the server and cuts pictures of any size into tiles. Starts no server.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import OutputError, UsageError
from sr_deploy.system.output_folder import OutputFolders
from sr_deploy.triton.config import Config, config_text
from sr_deploy.triton.engines import plan_engines
from sr_deploy.triton.plan import ServeOptions, ServePlan, plan_model


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model in the repository."""

    name: str
    """What clients ask for."""
    version: int
    folder: Path
    """Of the model."""
    config: Config
    files: tuple[str, ...]
    """Of the version."""
    notes: tuple[str, ...] = ()
    """What whoever runs the server or calls it has to know, a sentence each."""


def write_repository(
    folder: Path,
    models: Sequence[Path] = (),
    engines: Sequence[Path] = (),
    options: ServeOptions | None = None,
) -> list[ServedModel]:
    """Write `models` (ONNX files with a record) and `engines` (with theirs) as a model repository in `folder`.

    What is there already stays, other versions of the same models included. A version appears whole or not at all.
    Engines of one model, built for several kinds of GPU, become one model of the repository.
    Raises UsageError for two models of one name, or engines that cannot be served as one; ModelError for a file that
    cannot be used; OutputError where the place cannot be written, or the version is there already.
    """
    options = options or ServeOptions()
    plans = [*(plan_model(path, options) for path in models), *plan_engines(engines, options)]
    names = [plan.config.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"several of the models are called {', '.join(twice)}, and clients ask by name; write them to "
            "repositories of their own, or rename a file"
        )
    for plan in plans:
        _check_free(folder / plan.config.name, plan, options)
    return [_write_model(folder / plan.config.name, plan, options) for plan in plans]


def _check_free(model: Path, plan: ServePlan, options: ServeOptions) -> None:
    """Raises OutputError where the version is there already, or other versions are of another backend."""
    if (model / str(options.version)).exists() and not options.overwrite:
        raise OutputError(
            f"cannot write {model / str(options.version)}: this version is there already; write another --version, or "
            "add --overwrite"
        )
    others = [number for number in _versions(model) if number != options.version]
    backend = _backend(model / "config.pbtxt")
    if others and backend not in (None, plan.config.backend):
        raise OutputError(
            f"cannot write {model}: its version {others[0]} is run by {backend}, this one by {plan.config.backend}, and all "
            "versions of a model share one configuration; write to another repository"
        )


def _versions(model: Path) -> list[int]:
    """Numbers of the versions in a model's folder, the newest first."""
    if not model.is_dir():
        return []
    return sorted((int(path.name) for path in model.iterdir() if path.name.isdecimal()), reverse=True)


def _backend(config: Path) -> str | None:
    """The backend that a configuration of ours names; None where there is none."""
    try:
        found = re.search(r'^backend: "(\w+)"$', config.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return found[1] if found else None


def _write_model(model: Path, plan: ServePlan, options: ServeOptions) -> ServedModel:
    version, folders = model / str(options.version), OutputFolders()
    folders.make(model)
    draft = model / f".sr-deploy-{os.getpid()}-{os.urandom(4).hex()}"  # the server looks at numbers alone
    try:
        (draft / "version").mkdir(parents=True)
        for name, data in plan.files.items():
            (draft / "version" / name).write_bytes(data)
        (draft / "config.pbtxt").write_text(config_text(plan.config), encoding="ascii", newline="\n")
        _swap(draft, version)
        os.replace(draft / "config.pbtxt", model / "config.pbtxt")
    except OSError as error:
        raise OutputError(
            f"cannot write {version}: {error.strerror or error}; choose another place"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        folders.remove_empty()
    newer = [number for number in _versions(model) if number > options.version]
    hidden = (
        [f"version {newer[0]} is newer, and the one that is served"] if len(newer) >= options.keep else []
    )
    return ServedModel(
        name=plan.config.name,
        version=options.version,
        folder=model,
        config=plan.config,
        files=tuple(plan.files),
        notes=(*plan.notes, *hidden),
    )


def _swap(draft: Path, version: Path) -> None:
    """Put the folder `version` of `draft` in the place of `version`; what was there comes back where that fails."""
    before = draft / "before"
    if version.exists():
        version.rename(before)
    try:
        (draft / "version").rename(version)
    except OSError:
        if before.exists():
            before.rename(version)
        raise
