"""Which models on which backends: from names the user gave to subjects that can be measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_deploy.bench.result import BenchSubject
from sr_deploy.bench.run.session import WorkerStart
from sr_deploy.engines.registry import AUTO, BACKENDS, available_backends, choose_backend
from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.multiplications import multiply_adds_per_pixel
from sr_deploy.models import find_model, list_models, read_spec
from sr_deploy.spec import ModelSpec
from sr_deploy.system.cores import usable_cores

_CONVERTIBLE = ("fp16", "bf16")
"""Precisions that a model can be brought to without photographs."""


def find_entries(
    models: Sequence[str] = (),
    *,
    scale: int | None = None,
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    threads: Sequence[int | None] = (None,),
    streams: int = 1,
    folder: Path | None = None,
) -> list[WorkerStart]:
    """A subject for every model, precision, backend and number of threads, in this order.

    `models`: bundled names or files; none: the bundled ones of `scale`. `precisions`: none: those of the files;
    an fp32 file is converted to fp16 or bf16 where that is asked for, and written into `folder`. `backends`: none:
    all that can run here and compute a net. Raises UsageError for what does not fit together, ModelError for a file that cannot be
    used, MissingRuntimeError where a backend that was asked for is not there.
    """
    _check_backends(backends)
    subjects = []
    files = [
        made
        for path in _model_paths(models, scale)
        for made in _files_in_precisions(path, precisions, folder)
    ]
    for name, path in files:
        base = _subject_of(name, path, scale, streams)
        for backend in _backends(backends, path):
            for count in threads:
                changes = {"backend": backend, "threads": count or usable_cores()}
                subjects.append(WorkerStart(subject=BenchSubject(**{**base.__dict__, **changes}), path=path))
    if not subjects:
        raise UsageError(
            f"there is no model of precision {', '.join(precisions)}; make one with `sr-deploy convert`, or leave "
            "--precision out"
        )
    return subjects


def _files_in_precisions(
    path: Path, precisions: Sequence[str], folder: Path | None
) -> Iterator[tuple[str, Path]]:
    """The name of a model, and its file in each of `precisions` that it is in or can be brought to."""
    own = _spec(path).precision
    for precision in precisions or (own,):
        if precision == own:
            yield path.stem, path
        elif own == "fp32" and precision in _CONVERTIBLE and folder is not None:
            from sr_deploy.graph.onnx_file import load_model, save_model
            from sr_deploy.precision.convert import convert

            target = folder / f"{path.stem}-{precision}.onnx"
            save_model(convert(load_model(path), precision).model, target)
            yield path.stem, target


def _backends(names: Sequence[str], path: Path) -> list[str]:
    """What `names` stand for with the model at `path`."""
    if not names:
        return _usable_backends()
    return list(dict.fromkeys(choose_backend(name, path) for name in names))


def _check_backends(names: Sequence[str]) -> None:
    """Raises UsageError for a name that is none, MissingRuntimeError for one that is not there."""
    chosen = [choose_backend(name) for name in names if name != AUTO]
    reasons = available_backends() if chosen else {}
    for name in chosen:
        if (reason := reasons[name]) is not None:
            raise MissingRuntimeError(reason)


def _usable_backends() -> list[str]:
    """Backends that compute a net and can do so here."""
    reasons = available_backends()
    present = [name for name in BACKENDS if name != "nearest" and reasons[name] is None]
    return present or [choose_backend(AUTO)]  # which raises, and says why


def _model_paths(models: Sequence[str], scale: int | None) -> list[Path]:
    if models:
        return [find_model(name) for name in dict.fromkeys(models)]
    entries = [entry for entry in list_models() if scale in (None, entry.scale)]
    if not entries:
        known = ", ".join(str(s) for s in sorted({entry.scale for entry in list_models()}))
        raise UsageError(
            f"no bundled model has scale {scale}, there are {known}; choose one, or give a --model"
        )
    return [entry.path for entry in entries]


def _subject_of(name: str, path: Path, scale: int | None, streams: int) -> BenchSubject:
    spec = _spec(path)
    if scale is not None and spec.scale != scale:
        raise UsageError(
            f"{path.name} is a model for x{spec.scale}, asked for --scale {scale}; leave one out"
        )
    bundled = next((entry for entry in list_models() if entry.path.samefile(path)), None)
    return BenchSubject(
        model=name,
        backend="",
        precision=spec.precision,
        scale=spec.scale,
        streams=streams,
        model_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=bundled.parameters if bundled else None,
        multiply_adds_per_pixel=multiply_adds_per_pixel(path),
        quality=bundled.quality if bundled else {},
    )


def _spec(path: Path) -> ModelSpec:
    spec = read_spec(path)
    if spec is None:
        raise ModelError(
            f"model {path}: it carries no sr-deploy record; write one with: sr-deploy stamp {path}"
        )
    return spec
