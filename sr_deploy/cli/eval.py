"""`sr-deploy eval`: PSNR and SSIM of models and baselines on a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath, check_new

if TYPE_CHECKING:
    from sr_deploy.quality.evaluate import Upscale
    from sr_deploy.quality.pairs import EvalPicture, FailedPicture
    from sr_deploy.quality.results import Evaluation, Quality

_EXIT_SOME_FAILED = 5
_BASELINE_SCALES = (2, 4)  # of a baseline where nothing else says which
_Job = tuple[str, int, "Upscale"]


@click.command("eval")
@click.argument("hr_dir", type=NamedPath())
@click.option(
    "--lr",
    "lr_dir",
    type=NamedPath(),
    help="Folder of low-resolution pictures, matched by name (baby.png, babyx4.png, baby_LRx4.png). "
    "[default: made from HR_DIR by MATLAB-exact bicubic]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="A bundled model, an ONNX file, or a baseline: bicubic, nearest. Repeat for several. "
    "[default: bicubic and every bundled model]",
)
@click.option(
    "--scale",
    "scales",
    multiple=True,
    type=click.IntRange(1, 16),
    help="Repeat for several. [default: the models' own; for baselines alone that of --lr, else 2 and 4]",
)
@click.option("--backend", default="auto", show_default=True, help="What runs the models.")
@click.option("--border", type=click.IntRange(0), help="Pixels shaved off each side. [default: the scale]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--csv", "csv_file", type=NamedPath(), help="Write the values of every picture there too.")
@click.option("--overwrite", is_flag=True, help="Replace a --csv file that is there already.")
def command(
    hr_dir: Path,
    lr_dir: Path | None,
    models: tuple[str, ...],
    scales: tuple[int, ...],
    backend: str,
    border: int | None,
    as_json: bool,
    csv_file: Path | None,
    overwrite: bool,
) -> None:
    """Measure PSNR and SSIM, on Y and RGB, of models on the pictures in HR_DIR.

    Each picture is cut to a multiple of the scale, made smaller by bicubic as MATLAB's imresize does it (or
    its small version is taken from --lr), upscaled, and compared with the original. Pictures that cannot be
    read are named, left out, and make the exit code 5.
    """
    from sr_deploy.quality.pairs import find_pictures

    if csv_file is not None:
        _check_target(csv_file, overwrite)
    pictures, unpaired = find_pictures(hr_dir, lr_dir)
    if not pictures:
        from sr_deploy.errors import InputError

        raise InputError(
            f"{hr_dir}: none of {len(unpaired)} pictures has a partner; the first: {unpaired[0].message}"
        )
    with ExitStack() as stack:
        jobs = _open_jobs(stack, models, scales, backend, pictures)
        results, warnings = _measure(jobs, pictures, border, given_lr=lr_dir is not None)
    _print(results, warnings, unpaired, hr_dir, lr_dir, as_json=as_json)
    if csv_file is not None:
        _write_csv(csv_file, results)
    if _report_skipped([*unpaired, *(failure for result in results for failure in result.failures)]):
        click.get_current_context().exit(_EXIT_SOME_FAILED)


def _open_jobs(
    stack: ExitStack,
    models: Sequence[str],
    scales: Sequence[int],
    backend: str,
    pictures: Sequence[EvalPicture],
) -> list[_Job]:
    """What to run, by scale and then as asked; models stay open until `stack` closes."""
    from sr_deploy.quality.evaluate import BASELINES

    names = list(dict.fromkeys(models)) or _default_models(scales)
    for name in names:
        if name not in BASELINES:
            _check_name(name)  # all of them before any is opened, let alone run
    upscalers = {n: stack.enter_context(_open_model(n, backend)) for n in names if n not in BASELINES}
    if scales:
        _check_scales({name: upscaler.spec.scale for name, upscaler in upscalers.items()}, scales)
    wanted = sorted(set(scales) or {u.spec.scale for u in upscalers.values()} or _scales_of(pictures))
    jobs: list[_Job] = []
    for scale in wanted:
        for name in names:
            if name in BASELINES:
                jobs.append((name, scale, BASELINES[name](scale)))
            elif upscalers[name].spec.scale == scale:
                jobs.append((name, scale, upscalers[name].upscale_pixels))
    return jobs


def _default_models(scales: Sequence[int]) -> list[str]:
    from sr_deploy.models import list_models

    return ["bicubic", *(entry.name for entry in list_models() if not scales or entry.scale in scales)]


def _check_name(name: str) -> None:
    from difflib import get_close_matches

    from sr_deploy.errors import ModelError
    from sr_deploy.models import find_model
    from sr_deploy.quality.evaluate import BASELINES

    try:
        find_model(name)
    except ModelError as error:
        if near := get_close_matches(name, BASELINES, n=1):
            raise ModelError(f"there is no model {name!r}; did you mean the baseline {near[0]}?") from error
        raise


def _open_model(name: str, backend: str) -> Any:
    from sr_deploy.cli.shared.console import complain
    from sr_deploy.upscale import Upscaler

    return Upscaler.open(name, backend=backend, say=lambda message: complain(message, prefix=False))


def _check_scales(own: dict[str, int], scales: Sequence[int]) -> None:
    from sr_deploy.errors import UsageError

    for name, scale in own.items():
        if scale not in scales:
            asked = ", ".join(str(s) for s in scales)
            raise UsageError(
                f"{name} is a model for x{scale}, asked for --scale {asked}; leave --scale out or add {scale}"
            )


def _scales_of(pictures: Sequence[EvalPicture]) -> set[int]:
    from sr_deploy.quality.evaluate import infer_scale

    return {infer_scale(pictures)} if pictures[0].lr is not None else set(_BASELINE_SCALES)


def _measure(
    jobs: Sequence[_Job], pictures: Sequence[EvalPicture], border: int | None, *, given_lr: bool
) -> tuple[list[Evaluation], list[str]]:
    """The result of every job, and what the self-check on Set5 has to say."""
    from sr_deploy.quality.evaluate import evaluate
    from sr_deploy.quality.results import Protocol
    from sr_deploy.quality.set5 import check_set5

    results, warnings = [], []
    with _progress(len(jobs) * len(pictures)) as advance:
        for name, scale, upscale in jobs:
            protocol = Protocol(scale, scale if border is None else border, given_lr)
            results.append(evaluate(name, upscale, pictures, protocol, partial(advance, name)))
    for scale in sorted({scale for _, scale, _ in jobs}):
        if warning := check_set5(results, pictures, scale):
            warnings.append(warning)
    return results, warnings


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, EvalPicture], None]]:
    """A bar on stderr where that is a terminal; call what it yields after every picture."""
    import sys

    if not sys.stderr.isatty():
        yield lambda name, picture: None
        return
    from sr_deploy.cli.shared.bars import stderr_bar

    with stderr_bar("{task.completed}/{task.total}", stderr_above=True) as bar:
        task = bar.add_task("eval", total=total)
        yield lambda name, picture: bar.update(task, advance=1, description=f"{name} {picture.name}")


def _print(
    results: Sequence[Evaluation],
    warnings: Sequence[str],
    unpaired: Sequence[FailedPicture],
    hr_dir: Path,
    lr_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    from sr_deploy.cli.shared.console import complain

    for warning in warnings:
        complain(f"warning: {warning}", prefix=False)
    if not as_json:
        click.echo(
            "\n\n".join(_section(results, scale) for scale in sorted({r.protocol.scale for r in results}))
        )
        return
    import json

    record = {
        "schema": 1,
        "hr": str(hr_dir),
        "lr": None if lr_dir is None else str(lr_dir),
        "results": [result.record() for result in results],
        "unpaired": [{"picture": failure.name, "error": failure.message} for failure in unpaired],
        "warnings": list(warnings),
    }
    click.echo(json.dumps(record, indent=2, allow_nan=False))


def _section(results: Sequence[Evaluation], scale: int) -> str:
    """The table of one scale, over the protocol it was measured under."""
    from sr_deploy.cli.shared.console import table

    chosen = [result for result in results if result.protocol.scale == scale]
    rows = [row for result in chosen for row in _rows(result)]
    text = table(("model", "picture", "PSNR Y", "SSIM Y", "PSNR RGB", "SSIM RGB"), rows)
    notes = [
        f"{result.model}: {result.identical} came out identical; their infinite PSNR is not in the mean"
        for result in chosen
        if result.identical
    ]
    return "\n".join([text, f"protocol: {chosen[0].protocol.describe()}", *notes])


def _rows(result: Evaluation) -> list[tuple[str, ...]]:
    pictures = [(result.model, score.name, *_cells(score.quality)) for score in result.scores]
    return [*pictures, (result.model, f"mean of {len(result.scores)}", *_cells(result.mean))]


def _cells(quality: Quality) -> tuple[str, ...]:
    def cell(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    y, rgb = (quality.psnr_y, quality.ssim_y), (quality.psnr_rgb, quality.ssim_rgb)
    return tuple(text for psnr, ssim in (y, rgb) for text in (cell(psnr, 2), cell(ssim, 4)))


def _report_skipped(failures: Sequence[FailedPicture]) -> bool:
    """Name every skipped picture once on stderr; whether there was one."""
    from sr_deploy.cli.shared.console import complain

    for name, message in dict.fromkeys((failure.name, failure.message) for failure in failures):
        complain(f"skipped {message if name in message else f'{name}: {message}'}", prefix=False)
    return bool(failures)


def _check_target(path: Path, overwrite: bool) -> None:
    """Before anything is measured. Raises OutputError."""
    from sr_deploy.errors import OutputError

    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OutputError(f"--csv {path}: expected a file to write, but {why}; choose another place")
    check_new(path, overwrite=overwrite)


def _write_csv(path: Path, results: Sequence[Evaluation]) -> None:
    """Whole or not at all."""
    from sr_deploy.errors import OutputError
    from sr_deploy.quality.results import csv_text
    from sr_deploy.system.files import write_whole

    try:
        write_whole(path, csv_text(results).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"--csv {path}: {error.strerror or error}; choose another place") from error
