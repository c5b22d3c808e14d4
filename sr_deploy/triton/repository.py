"""Write a model repository for NVIDIA's Triton Inference Server.

    FOLDER/rt-x4/config.pbtxt
    FOLDER/rt-x4/1/model.onnx

Every model takes and returns pixels, uint8 [N, H, W, C], so a client needs no arithmetic. There are three
backends: Triton's `onnxruntime`; `tensorrt`, for engines of `sr-deploy build`, one for each kind of GPU;
and `python`, where sr-deploy runs in the server and tiles pictures of any size. This module starts no
server.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import ModelError, OutputError, UsageError
from sr_deploy.graph.onnx_file import parse_model
from sr_deploy.system.output_folder import OutputFolders
from sr_deploy.triton.config import Config, config_text
from sr_deploy.triton.engines import plan_engines
from sr_deploy.triton.plan import ServeOptions, ServePlan, plan_model
from sr_deploy.triton.ports import ports_of, refusal


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model in the repository."""

    name: str
    """Name by which clients call the model."""
    version: int
    folder: Path
    """Folder of the model, which holds its versions."""
    config: Config
    files: tuple[str, ...]
    """Names of the files of the version."""
    notes: tuple[str, ...] = ()
    """Notes for the person who runs the server or calls it, one sentence each."""


def write_repository(
    folder: Path,
    models: Sequence[Path] = (),
    engines: Sequence[Path] = (),
    options: ServeOptions | None = None,
) -> list[ServedModel]:
    """Write `models` (ONNX files with a spec) and `engines` (with their records) as a model repository in
    `folder`.

    Existing models and other versions stay. A version appears completely or not at all, so a running server
    never sees half of one. Engines of one model for several kinds of GPU become one model.

    Raises UsageError for two models with one name or engines that cannot be served as one, ModelError for
    an unusable file, and OutputError if the folder cannot be written or the version exists.
    """
    options = options or ServeOptions()
    plans = [*(plan_model(path, options) for path in models), *plan_engines(engines, options)]
    names = [plan.config.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"several models are called {', '.join(twice)}, but clients call a model by its name; write them to "
            "separate repositories, or rename a file"
        )
    for plan in plans:
        _check_free(folder / plan.config.name, plan, options)
    return [_write_model(folder / plan.config.name, plan, options) for plan in plans]


def _check_free(model: Path, plan: ServePlan, options: ServeOptions) -> None:
    """Raise OutputError if the version exists, or if other versions use another backend."""
    if (model / str(options.version)).exists() and not options.overwrite:
        raise OutputError(
            f"cannot write {model / str(options.version)}: this version exists already; give another --version, or "
            "add --overwrite"
        )
    others = [number for number in _versions(model) if number != options.version]
    backend = _backend(model / "config.pbtxt")
    if others and backend not in (None, plan.config.backend):
        raise OutputError(
            f"cannot write {model}: its version {others[0]} uses the backend {backend} and this one {plan.config.backend}, but all "
            "versions of a model share one configuration; write to another repository"
        )
    _check_served(model, plan, options)


def _check_served(model: Path, plan: ServePlan, options: ServeOptions) -> None:
    """Raise an error if the server's ONNX Runtime backend would refuse a version under the new configuration.

    ModelError for the new version, OutputError for another one that is served beside it.
    """
    name = plan.config.default_file
    if plan.config.backend != "onnxruntime":
        return
    if reason := _refusal(plan.config, plan.files[name]):
        raise ModelError(f"{plan.config.name} cannot be served: {reason}; export the model again")
    served = sorted({options.version, *_versions(model)}, reverse=True)[: options.keep]
    for number in served:
        file = model / str(number) / name
        if number == options.version or not file.is_file():
            continue
        if reason := _refusal(plan.config, file.read_bytes()):
            raise OutputError(
                f"cannot write {model / str(options.version)}: all versions share one configuration, and it does not fit "
                f"version {number} ({reason}); write to another repository, or serve fewer versions with --keep"
            )


def _refusal(config: Config, data: bytes) -> str | None:
    """Return why the backend would not load the ONNX file `data` under `config`; None if it would."""
    return refusal(config, ports_of(parse_model(data)))


def _versions(model: Path) -> list[int]:
    """Return the numbers of the versions in a model's folder, newest first."""
    if not model.is_dir():
        return []
    return sorted((int(path.name) for path in model.iterdir() if path.name.isdecimal()), reverse=True)


def _backend(config: Path) -> str | None:
    """Return the backend named in a configuration that sr-deploy wrote, or None."""
    try:
        found = re.search(r'^backend: "(\w+)"$', config.read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return found[1] if found else None


def _write_model(model: Path, plan: ServePlan, options: ServeOptions) -> ServedModel:
    """Write a version into a draft folder and move it into place. Raises OutputError.

    The configuration is replaced last, because it may name files of the new version.
    """
    version, folders = model / str(options.version), OutputFolders()
    folders.make(model)
    # The server ignores folders whose names are not numbers.
    draft = model / f".sr-deploy-{os.getpid()}-{os.urandom(4).hex()}"
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
    hidden = [f"version {newer[0]} is newer and is served instead"] if len(newer) >= options.keep else []
    return ServedModel(
        name=plan.config.name,
        version=options.version,
        folder=model,
        config=plan.config,
        files=tuple(plan.files),
        notes=(*plan.notes, *hidden),
    )


def _swap(draft: Path, version: Path) -> None:
    """Move the version out of `draft` into its place. If that fails, the old version is restored."""
    before = draft / "before"
    if version.exists():
        version.rename(before)
    try:
        (draft / "version").rename(version)
    except OSError:
        if before.exists():
            before.rename(version)
        raise
