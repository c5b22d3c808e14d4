"""`sr-deploy verify`: check whether all forms of a model compute the same picture.

This module parses and prints; `sr_deploy.verify` does the work.
"""

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
"""At least one model differs from the reference by more than the tolerances, or was not run at all."""
_PACKAGES = ("torch", "safetensors", "onnxscript")
"""Packages of sr-deploy[train]. If another module cannot be imported, that is a bug and not a missing package."""
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
_EXAMPLES = """\b
Examples:
  sr-deploy verify model.onnx model-int8.onnx --data photos/
  sr-deploy verify model.engine --against model.onnx --data photos/
"""


@click.command("verify", epilog=_EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--against",
    metavar="MODEL",
    help="Reference that the models are compared with. [default: the first checkpoint among them, "
    "else the first fp32 file, else the first that is no engine file]",
)
@click.option(
    "--data", required=True, type=NamedPath(), help="Folder of photographs, which are the ground truth."
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="Runtime to run the models on. Repeat for several. [default: every installed runtime]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--no-record", is_flag=True, help="Do not store the verdicts beside the model files.")
def command(
    models: tuple[str, ...],
    against: str | None,
    data: Path,
    backends: tuple[str, ...],
    as_json: bool,
    no_record: bool,
) -> None:
    """Check that every form of a model computes the same picture.

    A MODEL is a checkpoint, an ONNX file of any precision, a bundled model or an engine file. Each model is run on
    every backend, whole and in tiles. The inputs are crops of the photographs, made smaller by bicubic. The results
    are compared with those of the reference: differences in 8-bit steps, PSNR between the two, change of PSNR against
    the originals, NaN, and the drift of each colour. If a model fails, its faults and their cause are named, and the
    exit code is 1. The verdict is stored beside the model file; opening a failed model gives a warning.
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
    from sr_deploy.models import find_chain
    from sr_deploy.verify.open import open_form

    return open_form(model, find_chain(model), backends)


def _open_checkpoint(path: Path) -> ModelForm:
    """Open a checkpoint, which torch runs.

    Raises MissingRuntimeError with the command to install if one of `_PACKAGES` is missing.
    """
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
    """A line on stderr, where that is a terminal, about what is running: call the function with (model, path)."""
    from sr_deploy.cli.shared.progress import ProgressDisplay

    with ProgressDisplay(mark="spinner") as display:
        display.show(0, None, "reading pictures")
        yield lambda model, path: display.show(0, None, f"{model} on {path}")


def _print(verification: Verification, *, as_json: bool) -> None:
    """Print the table or JSON on stdout, then the paths that were not run and the failed models on stderr."""
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
            complain(
                f"{model.model} was not run on any backend, so it is not verified; install a backend that supports it"
            )


def _table(verification: Verification) -> str:
    """The verification as a table, with a last line that explains its units."""
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
    """One path of a model as a row of the table; "-" stands for a value that was not measured."""
    path, differences = result.path, result.measured
    where = (path.model, path.precision, path.backend, path.how)
    if differences is None:  # it was not run, or nothing had to be measured
        return (*where, "-", "-", "-", "-", "-", result.verdict)
    psnr = "equal" if differences.psnr == float("inf") else f"{differences.psnr:.2f}"
    drift = max(differences.drift, key=abs)
    return (
        *where,
        str(differences.steps),
        psnr,
        f"{differences.psnr_change:+.4f}",
        "-" if differences.not_finite is None else str(differences.not_finite),
        f"{drift:+.3f}",
        result.verdict,
    )


def _store(verification: Verification) -> None:
    """Store the verdict beside each verified file.

    Bundled models are skipped, because they are named and not given as files. If a verdict cannot be written, a
    note says so; the verification itself has succeeded by then.
    """
    from sr_deploy.cli.shared.console import complain
    from sr_deploy.engines.verdict import store_verdict
    from sr_deploy.errors import OutputError

    for model in verification.models:
        path = Path(model.model)
        if not model.ran or not path.is_file():  # a bundled model, given by its name
            continue
        try:
            store_verdict(path, _verdict(model, verification.against))
        except OutputError as error:
            complain(f"note: the verdict is not kept: {error}", prefix=False)


def _verdict(model: VerifiedModel, against: str) -> Verdict:
    """The verdict of a model to store: for each backend "failed" if one of its paths failed, else the last result."""
    from sr_deploy.engines.verdict import Verdict

    backends: dict[str, str] = {}
    for result in model.results:
        if backends.get(result.path.backend) != "failed":
            backends[result.path.backend] = result.verdict
    return Verdict(passed=model.passed, against=against, why=model.why(), backends=backends)
