"""`sr-deploy verify`: do all forms of a model compute the same picture?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sr_deploy.cli.shared.paths import NamedPath

if TYPE_CHECKING:
    from sr_deploy.engines.verdict import Verdict
    from sr_deploy.verify.forms import ModelForm
    from sr_deploy.verify.results import PathResult, Verification, VerifiedModel

_EXIT_FAILED = 1
_PACKAGES = ("torch", "safetensors", "onnxscript")
_HEADER = (
    "model",
    "precision",
    "backend",
    "how",
    "max step",
    "PSNR",
    "change",
    "NaN/Inf",
    "drift",
    "verdict",
)


@click.command("verify")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--against",
    metavar="MODEL",
    help="What the models are held to. [default: a checkpoint among them, "
    "else the first fp32 file, else the first]",
)
@click.option("--data", required=True, type=NamedPath(), help="A folder of photographs, the ground truth.")
@click.option(
    "--backend", "backends", multiple=True, help="Repeat for several. [default: every one that is present]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--no-record", is_flag=True, help="Do not keep the verdicts beside the model files.")
def command(
    models: tuple[str, ...],
    against: str | None,
    data: Path,
    backends: tuple[str, ...],
    as_json: bool,
    no_record: bool,
) -> None:
    """Check that every form of a model computes the same picture.

    A MODEL is a checkpoint, an ONNX file of any precision, a bundled model or an engine. Each is run as the file
    says and on every backend present, whole and in tiles, on crops of the photographs that were made small by
    bicubic, and held to the reference: differences in 8-bit steps, PSNR between the two, the change of PSNR
    against the originals, NaN, and the drift of each colour. What fails is named, with what it comes from, and
    makes the exit code 1. The verdict is kept beside the file, and opening a failed one warns.
    """
    from sr_deploy.verify.crops import cut_crops
    from sr_deploy.verify.forms import choose_reference
    from sr_deploy.verify.open import present_backends
    from sr_deploy.verify.run import verify

    present = present_backends(backends)
    subjects = [_open(model, present) for model in dict.fromkeys(models)]
    reference = choose_reference(subjects) if against is None else _open(against, present)
    crops = cut_crops(data, reference.spec)
    with _progress() as on_path:
        verification = verify(subjects, reference, crops, on_path)
    _print(verification, as_json=as_json)
    if not no_record:
        _store(verification)
    if not verification.passed:
        click.get_current_context().exit(_EXIT_FAILED)


def _open(model: str, backends: Sequence[str]) -> ModelForm:
    path = Path(model)
    if path.suffix == ".safetensors" or path.is_dir():
        return _open_checkpoint(path)
    from sr_deploy.verify.open import open_form

    return open_form(model, backends)


def _open_checkpoint(path: Path) -> ModelForm:
    from sr_deploy.errors import MissingRuntimeError

    try:
        from sr_deploy.training.export.reference import open_checkpoint
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _PACKAGES:
            raise
        raise MissingRuntimeError(
            f'{path} is a checkpoint, which needs {error.name} to run; pip install "sr-deploy[train]"'
        ) from error
    return open_checkpoint(path)


@contextmanager
def _progress() -> Iterator[Callable[[str, str], None]]:
    """What is being run, on stderr where that is a terminal."""
    import sys

    if not sys.stderr.isatty():
        yield lambda model, path: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading pictures") as status:
        yield lambda model, path: status.update(f"{model} on {path}")


def _print(verification: Verification, *, as_json: bool) -> None:
    from sr_deploy.cli.shared.console import complain

    if as_json:
        import json

        click.echo(json.dumps(verification.record(), indent=2, allow_nan=False))
    else:
        click.echo(_table(verification))
    for model in verification.models:
        for result in model.results:
            if result.not_run:
                complain(
                    f"note: {model.model} was not run on {result.path.backend}: {result.not_run}",
                    prefix=False,
                )
        if model.failed:
            complain(f"{model.model} failed: {model.why()}")
        elif not model.ran:
            complain(f"{model.model} ran nowhere, so nothing is known of it; install a backend that takes it")


def _table(verification: Verification) -> str:
    from sr_deploy.cli.shared.console import table

    results = [_cells(result) for model in verification.models for result in model.results]
    return "\n".join(
        [
            table(_HEADER, results),
            f"against {verification.against} ({verification.precision}) on {verification.crops} crops of "
            f"{verification.pictures} pictures; max step and drift in 8-bit steps, PSNR between the two and its change "
            "against the originals in dB",
        ]
    )


def _cells(result: PathResult) -> tuple[str, ...]:
    path, found = result.path, result.measured
    where = (path.model, path.precision, path.backend, path.how)
    if found is None:  # nothing ran, or nothing had to
        return (*where, "-", "-", "-", "-", "-", result.verdict)
    psnr = "equal" if found.psnr == float("inf") else f"{found.psnr:.2f}"
    drift = max(found.drift, key=abs)
    return (
        *where,
        str(found.steps),
        psnr,
        f"{found.psnr_change:+.4f}",
        "-" if found.not_finite is None else str(found.not_finite),
        f"{drift:+.3f}",
        result.verdict,
    )


def _store(verification: Verification) -> None:
    """Keep the verdict beside every file that was verified, where that can be written."""
    from sr_deploy.cli.shared.console import complain
    from sr_deploy.engines.verdict import store_verdict
    from sr_deploy.errors import OutputError

    for model in verification.models:
        path = Path(model.model)
        if not model.ran or not path.is_file():  # a bundled model goes by its name
            continue
        try:
            store_verdict(path, _verdict(model, verification.against))
        except OutputError as error:
            complain(f"note: the verdict is not kept: {error}", prefix=False)


def _verdict(model: VerifiedModel, against: str) -> Verdict:
    from sr_deploy.engines.verdict import Verdict

    backends: dict[str, str] = {}
    for result in model.results:
        if backends.get(result.path.backend) != "failed":
            backends[result.path.backend] = result.verdict
    return Verdict(passed=model.passed, against=against, why=model.why(), backends=backends)
