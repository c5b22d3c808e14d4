"""Find the subjects to measure, from the models and backends that a user names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sr_deploy.bench.result import BenchSubject
from sr_deploy.bench.run.session import WorkerStart
from sr_deploy.engines.registry import AUTO, BACKENDS, available_backends, choose_backend
from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.multiplications import multiply_adds_per_pixel
from sr_deploy.models import find_chain, list_models, read_spec
from sr_deploy.spec import ModelSpec
from sr_deploy.system.chains import chain_digest, chain_files
from sr_deploy.system.cores import usable_cores

_CONVERTIBLE = ("fp16", "bf16")
"""Precisions that an fp32 model can be converted to without calibration pictures."""


def find_entries(
    models: Sequence[str] = (),
    *,
    scale: int | None = None,
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    fast: bool = False,
    threads: Sequence[int | None] = (None,),
    streams: int = 1,
    folder: Path | None = None,
) -> list[WorkerStart]:
    """Return a subject for every model, precision, backend and number of threads, in this order.

    Args:
        models: Bundled names or files; none: the bundled models of `scale`.
        scale: Scale that the models must have; None: any.
        backends: Backend names; none: all that can run here and compute a net.
        precisions: Precisions; none: that of each file. An fp32 file is converted to fp16 or bf16 on request.
        fast: Measure the fastest form of each model, on the backend that runs it fastest, of `backends` if any are given.
        threads: Numbers of threads; None or 0: the usable cores.
        streams: Calls in flight at once.
        folder: Folder for converted models; None: no model is converted.

    Raises:
        UsageError: The options do not fit together, or nothing is left to measure.
        ModelError: A model file cannot be used.
        MissingRuntimeError: A named backend is not installed.
    """
    _check_backends(backends)
    subjects = []
    files = [
        made
        for path in _model_paths(models, scale)
        for made in _files_in_precisions(path, precisions, folder)
    ]
    for name, path in files:
        for form, backend, count in _runs_of(path, backends, threads, fast):
            base = _subject_of(name if form == path else form.stem, form, scale, streams)
            changes = {"backend": backend, "threads": count or usable_cores()}
            subjects.append(WorkerStart(subject=BenchSubject(**{**base.__dict__, **changes}), path=form))
    if not subjects:
        raise UsageError(
            f"there is no model of precision {', '.join(precisions)}; make one with `sr-deploy convert`, or leave "
            "--precision out"
        )
    return subjects


def _runs_of(
    path: Path, backends: Sequence[str], threads: Sequence[int | None], fast: bool
) -> Iterator[tuple[Path, str, int | None]]:
    """Yield the file, the backend and the number of threads of each run of the model at `path`."""
    if not fast:
        yield from ((path, backend, count) for backend in _backends(backends, path) for count in threads)
        return
    from sr_deploy.models.fast import fast_form

    for count in threads:
        for backend in backends or (AUTO,):
            found = fast_form(path, backend, threads=count or None)
            yield found.path, found.backend, count


def _files_in_precisions(
    path: Path, precisions: Sequence[str], folder: Path | None
) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of a model in each of `precisions` that it has or can be converted to."""
    own = _spec(path).precision
    files = chain_files(path)
    if len(files) > 1:
        if set(precisions) - {own}:
            raise UsageError("a chain is measured in the precision of its files; leave --precision out")
        yield "+".join(file.stem for file in files), path
        return
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
    """The backends that `names` select for the model at `path`, without duplicates."""
    if not names:
        return _usable_backends()
    return list(dict.fromkeys(choose_backend(name, path) for name in names))


def _check_backends(names: Sequence[str]) -> None:
    """Raise UsageError for an unknown name, MissingRuntimeError for a backend that cannot run here."""
    chosen = [choose_backend(name) for name in names if name != AUTO]
    reasons = available_backends() if chosen else {}
    for name in chosen:
        if (reason := reasons[name]) is not None:
            raise MissingRuntimeError(reason)


def _usable_backends() -> list[str]:
    """The backends that can run here and compute a net; "nearest" only repeats pixels."""
    reasons = available_backends()
    present = [name for name in BACKENDS if name != "nearest" and reasons[name] is None]
    return present or [choose_backend(AUTO)]  # raises, and says why no backend is usable


def _model_paths(models: Sequence[str], scale: int | None) -> list[Path]:
    """The files of `models`, or of the bundled models of `scale`.

    Raises UsageError for a scale without a model.
    """
    if models:
        return [find_chain(name) for name in dict.fromkeys(models)]
    entries = [entry for entry in list_models() if scale in (None, entry.scale)]
    if not entries:
        known = ", ".join(str(s) for s in sorted({entry.scale for entry in list_models()}))
        raise UsageError(
            f"no bundled model has scale {scale}, there are {known}; choose one of these, or give a --model"
        )
    return [entry.path for entry in entries]


def _subject_of(name: str, path: Path, scale: int | None, streams: int) -> BenchSubject:
    """The subject of a model without its backend and threads. Raises UsageError if the scale is another."""
    spec = _spec(path)
    if scale is not None and spec.scale != scale:
        raise UsageError(
            f"{path.name} is a model for x{spec.scale}, asked for --scale {scale}; leave one of them out"
        )
    files = chain_files(path)
    bundled = None
    if len(files) == 1:
        bundled = next((entry for entry in list_models() if entry.path.samefile(path)), None)
    return BenchSubject(
        model=name,
        backend="",
        precision=spec.precision,
        scale=spec.scale,
        streams=streams,
        model_sha256=chain_digest(path),
        parameters=bundled.parameters if bundled else None,
        multiply_adds_per_pixel=_multiply_adds(files),
        quality=bundled.quality if bundled else {},
    )


def _multiply_adds(files: Sequence[Path]) -> float | None:
    """The multiply-adds of a model, or of the models of a chain, per input pixel; None if one is unknown."""
    total, scale = 0.0, 1
    for file in files:
        count = multiply_adds_per_pixel(file)
        if count is None:
            return None
        total += count * scale**2
        scale *= _spec(file).scale
    return total


def _spec(path: Path) -> ModelSpec:
    """The spec in a model file. Raises ModelError if it has none."""
    spec = read_spec(path)
    if spec is None:
        raise ModelError(f"model {path}: it has no sr-deploy spec; write one with: sr-deploy stamp {path}")
    return spec
