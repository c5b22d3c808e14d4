"""The form of a model that is fastest on this machine: fp32, or a file in bf16 or int8 beside it.

A form is the file `NAME-bf16.onnx` or `NAME-int8.onnx`, as `sr-deploy convert` names it, in the folder of `NAME.onnx`. The
forms of bundled models are in the folder `forms`. A form counts only if it was made from the same checkpoint or from that
very file, and if its loss was measured, which a bundled model's card or the notes of the conversion tell, and is at most
0.1 dB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sr_deploy.engines import registry
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.models import find_model, forms_folder, is_bundled, read_card, read_metadata, read_spec
from sr_deploy.spec import ModelSpec
from sr_deploy.system.files import digest_of
from sr_deploy.system.json_values import parse_json

FORMS = ("bf16", "int8")
"""Precisions that a form may have, the more exact one first."""
_LARGEST_LOSS = 0.1
"""Largest loss of PSNR, in dB, of a form that is used."""
_NOTES_KEY = "sr_deploy_conversion"
"""Metadata key of the notes of a conversion; `precision.convert.NOTES_KEY`, whose module needs onnx."""


@dataclass(frozen=True, kw_only=True)
class FastForm:
    """The form and the backend that are fastest for a model."""

    path: Path
    """The file: that of the model itself, or of one of its forms."""
    backend: str
    precision: str


def forms_of(path: Path, say: Callable[[str], None] | None = None) -> dict[str, Path]:
    """Return the forms of the fp32 model at `path` that may be used: precision -> file, the more exact one first.

    `say` gets a line for each file that has the name of a form and is not used, with the reason.
    """
    spec = read_spec(path)
    if spec is None or spec.precision != "fp32":
        return {}
    found = {}
    for precision in FORMS:
        form = forms_folder(path) / f"{path.stem}-{precision}.onnx"
        if not form.is_file():
            continue
        try:
            reason = _why_unfit(form, path, spec, precision)
        except ModelError as error:
            reason = str(error)
        if reason is None:
            found[precision] = form
        elif say is not None:
            say(f"fast: {form.name} is not used: {reason}")
    return found


def _why_unfit(form: Path, path: Path, spec: ModelSpec, precision: str) -> str | None:
    """Return the reason why the file `form` is no form of the model at `path`, or costs too much; None if it is one."""
    other, notes = read_spec(form), _notes_of(form)
    if other is None or other.precision != precision or other.scale != spec.scale:
        return f"it is no {precision} model of scale {spec.scale}"
    same_checkpoint = spec.checkpoint_sha256 is not None and other.checkpoint_sha256 == spec.checkpoint_sha256
    if not same_checkpoint and notes.get("source") != digest_of(path):
        return f"it was not made from {path.name} as it is now; convert that again"
    loss = _loss_of(path, precision, form, notes)
    if loss is None:
        return "its loss was not measured; convert again with --data"
    return None if loss <= _LARGEST_LOSS else f"it costs {loss:.2f} dB, and {_LARGEST_LOSS:g} dB are allowed"


def fast_form(
    model: str | Path,
    backend: str = registry.AUTO,
    *,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> FastForm:
    """Find the fastest form of `model` on `backend`; "auto" tries every CPU backend.

    Forms are measured on a small picture, and a form whose picture differs from that of fp32 by more than its precision
    explains is dropped. The choice is kept in the cache folder. `say` gets a line with the times when something was
    measured, and one if there is nothing to choose from. A GPU runs the model itself.

    Raises UsageError for a chain, and the errors of `find_model` and `open_engine`.
    """
    say = say or (lambda message: None)
    path = _single(model)
    chosen = registry.choose_backend(backend, path if backend != registry.AUTO else None, threads=threads)
    forms = forms_of(path, say)
    if chosen in registry.GPU_BACKENDS or not forms:
        reason = f"{chosen} runs it" if forms else "there is no bf16 or int8 form of it"
        say(f"fast: {path.name} as it is, because {reason}")
        chosen = registry.choose_backend(backend, path, threads=threads, say=say)
        return FastForm(path=path, backend=chosen, precision="fp32")
    backends = registry.usable_on_cpu() if backend == registry.AUTO else [chosen]
    return _fastest({"fp32": path, **forms}, backends, threads, say)


def _fastest(
    files: dict[str, Path], backends: list[str], threads: int | None, say: Callable[[str], None]
) -> FastForm:
    """Return the fastest of `files` on `backends`, from the cache if it is there."""
    from sr_deploy.engines.fastest import fastest_form

    labels = {f"{precision} {name}": (precision, name) for precision in files for name in backends}
    opened = {
        label: partial(registry.open_engine, files[precision], name, threads=threads)
        for label, (precision, name) in labels.items()
    }
    with registry.MEASURING_LOCK:
        label, seconds, wrong = fastest_form(list(files.values()), opened, threads)
    for name, difference in wrong.items():
        say(f"fast: {name} is not used: {difference}")
    if seconds:
        times = ", ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in seconds.items())
        say(f"fast: {label}, measured once ({times})")
    precision, backend = labels[label]
    return FastForm(path=files[precision], backend=backend, precision=precision)


def _single(model: str | Path) -> Path:
    """Return the file of a model. Raises UsageError for a chain."""
    if "+" in str(model) and not Path(model).exists():
        raise UsageError(f"{model}: the fastest form of a chain cannot be chosen; give one model")
    return find_model(model)


def _loss_of(path: Path, precision: str, form: Path, notes: Mapping[str, Any]) -> float | None:
    """Return the loss of PSNR, in dB, that was measured for the form of the model at `path`; None if none was.

    Raises ModelError for a record that is no number.
    """
    told = read_card(path.with_suffix(".md")).get("forms", {}).get(precision) if is_bundled(path) else None
    change = notes.get("psnr_change")
    if told and told.get("sha256") == digest_of(form):
        change = told.get("psnr_change")
    if change is None:
        return None
    if isinstance(change, bool) or not isinstance(change, (int, float)) or change != change:
        raise ModelError(f"its loss is told as {change!r:.40}, expected a number of dB; convert it again")
    return -float(change)


def _notes_of(form: Path) -> Mapping[str, Any]:
    """Return the notes of the conversion in a file; empty if there are none. Raises ModelError if they are no object."""
    text = read_metadata(form).get(_NOTES_KEY)
    try:
        notes = parse_json(text) if text else {}
    except ValueError as error:
        raise ModelError(f"the notes of its conversion cannot be read ({error}); convert it again") from error
    if not isinstance(notes, dict):
        raise ModelError("the notes of its conversion are no JSON object; convert it again")
    return notes
