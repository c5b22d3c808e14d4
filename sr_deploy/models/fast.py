"""The form of a model that is fastest on this machine: fp32, or a file in bf16 or int8 beside it.

A form is the file `NAME-bf16.onnx` or `NAME-int8.onnx`, as `sr-deploy convert` names it, in the folder of `NAME.onnx`. The
forms of bundled models are in the folder `forms`. A form counts only if its loss was measured, which a bundled model's card
or the notes of the conversion tell, and is at most 0.1 dB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sr_deploy.engines import registry
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.models import find_model, forms_folder, read_card, read_metadata, read_spec
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


def forms_of(path: Path) -> dict[str, Path]:
    """Return the forms of the fp32 model at `path` that may be used: precision -> file, the more exact one first.

    Raises ModelError for a form that cannot be read.
    """
    spec = read_spec(path)
    if spec is None or spec.precision != "fp32":
        return {}
    found = {}
    for precision in FORMS:
        form = forms_folder(path) / f"{path.stem}-{precision}.onnx"
        if form.is_file() and (other := read_spec(form)) is not None:
            same = (other.scale, other.checkpoint_sha256) == (spec.scale, spec.checkpoint_sha256)
            if same and other.precision == precision and _loss_of(path, precision, form) <= _LARGEST_LOSS:
                found[precision] = form
    return found


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
    forms = forms_of(path)
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


def _loss_of(path: Path, precision: str, form: Path) -> float:
    """Return the loss of PSNR, in dB, that was measured for the form of the model at `path`; infinity if none was."""
    told = read_card(path.with_suffix(".md")).get("forms", {}).get(precision)
    if told and told.get("sha256") == digest_of(form):
        return -float(told["psnr_change"])
    text = read_metadata(form).get(_NOTES_KEY)
    try:
        change = parse_json(text)["psnr_change"] if text else None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"model {form}: the notes of its conversion cannot be read; convert it again"
        ) from error
    return float("inf") if change is None else -float(change)
