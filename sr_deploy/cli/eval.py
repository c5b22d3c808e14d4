"""`sr-deploy eval`: measure PSNR and SSIM of models and baselines on a folder of pictures.

This module parses and prints; `sr_deploy.quality` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath, check_new

if TYPE_CHECKING:
    from sr_deploy.quality.evaluate import Distance, Upscale
    from sr_deploy.quality.pairs import EvalPicture, FailedPicture
    from sr_deploy.quality.results import Evaluation, Quality

_EXIT_SOME_FAILED = 5
"""Some pictures failed; the others were processed."""
_BASELINE_SCALES = (2, 4)
"""Scales at which a baseline runs if neither a model, --scale nor --lr sets one."""
_Job = tuple[str, int, "Upscale"]
"""Name of a model or baseline, its scale, and the function that upscales."""
_EXAMPLES = """\b
Examples:
  sr-deploy eval Set5/
  sr-deploy eval Set5/ --model rt-x4 --model model.onnx --csv scores.csv
  sr-deploy eval DIV2K_HR/ --lr DIV2K_LR_x4/ --json
  sr-deploy eval Set5/ --degrade noise:5,jpeg:75
  sr-deploy eval Set5/ --vgg vgg19.safetensors
"""


def _list_steps(context: click.Context, _: click.Parameter, value: str) -> str:
    """Print the steps and end for `--degrade help`, which needs no folder."""
    if value == "help" and not context.resilient_parsing:
        from sr_deploy.quality.degradations.chain import describe_steps

        click.echo(describe_steps())
        context.exit()
    return value


@click.command("eval", epilog=_EXAMPLES)
@click.argument("hr_dir", type=NamedPath())
@click.option(
    "--lr",
    "lr_dir",
    type=NamedPath(),
    help="Folder of low-resolution pictures, matched by name (baby.png, babyx4.png, baby_LRx4.png). "
    "[default: made from HR_DIR by bicubic as in MATLAB]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="Bundled model, ONNX file, or baseline: bicubic, nearest. Repeat for several. "
    "[default: bicubic and every bundled model]",
)
@click.option(
    "--scale",
    "scales",
    multiple=True,
    type=click.IntRange(1, 16),
    help="Scale factor to measure. Repeat for several. "
    "[default: the scales of the models; without models the scale of --lr, else 2 and 4]",
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="Runtime that runs the models; 'sr-deploy doctor' lists the choices.",
)
@click.option(
    "--border",
    type=click.IntRange(0),
    help="Pixels left out of the measurement at each side. [default: the scale]",
)
@click.option(
    "--degrade",
    default="",
    metavar="STEPS",
    is_eager=True,
    callback=_list_steps,
    help="Damage the small pictures first, to measure how well models handle it: steps such as jpeg:75 or "
    "noise:5,jpeg:75. '--degrade help' lists them.",
)
@click.option(
    "--vgg",
    "vgg_file",
    type=NamedPath(),
    help="File with VGG-19 weights (.pth, .safetensors): also measure the distance in its features, which tells looks "
    'better than PSNR. Needs the extra "train".',
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option(
    "--csv", "csv_file", type=NamedPath(), help="Also write the values of every picture to this CSV file."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing --csv file.")
def command(
    hr_dir: Path,
    lr_dir: Path | None,
    models: tuple[str, ...],
    scales: tuple[int, ...],
    backend: str,
    border: int | None,
    degrade: str,
    vgg_file: Path | None,
    as_json: bool,
    csv_file: Path | None,
    overwrite: bool,
) -> None:
    """Measure PSNR and SSIM of models on the pictures in HR_DIR.

    Each picture is cropped to a multiple of the scale, made smaller by bicubic as in MATLAB's imresize (or its
    small version is taken from --lr), upscaled, and compared with the original, on Y and on RGB. Pictures that
    cannot be read are named and left out; the exit code is then 5.
    """
    from sr_deploy.quality.pairs import find_pictures

    if degrade:
        _check_degrade(degrade, lr_dir)
    if csv_file is not None:
        _check_csv_target(csv_file, overwrite)
    distance = _open_distance(vgg_file)
    pictures, unpaired = find_pictures(hr_dir, lr_dir)
    if not pictures:
        from sr_deploy.errors import InputError

        raise InputError(
            f"{hr_dir}: none of {len(unpaired)} pictures has a partner; the first: {unpaired[0].message}"
        )
    with ExitStack() as stack:
        jobs = _open_jobs(stack, models, scales, backend, pictures)
        results, warnings = _measure(
            jobs, pictures, border, degrade, given_lr=lr_dir is not None, distance=distance
        )
    _print(results, warnings, unpaired, hr_dir, lr_dir, as_json=as_json)
    if csv_file is not None:
        _write_csv(csv_file, results)
    if _report_skipped([*unpaired, *(failure for result in results for failure in result.failures)]):
        click.get_current_context().exit(_EXIT_SOME_FAILED)


def _check_degrade(degrade: str, lr_dir: Path | None) -> None:
    """Check the steps of --degrade before anything is opened."""
    from sr_deploy.errors import UsageError
    from sr_deploy.quality.degradations.chain import parse

    parse(degrade)
    if lr_dir is not None:
        raise UsageError("--degrade makes the small pictures, and --lr gives them; leave one of them out")


def _open_distance(file: Path | None) -> Distance | None:
    """The distance in the features of a VGG with the weights in `file`; None without a file.

    Raises MissingRuntimeError without PyTorch, InputError for a file that does not fit.
    """
    if file is None:
        return None
    try:
        from sr_deploy.training.objective.distance import VggDistance
    except ModuleNotFoundError as error:
        from sr_deploy.errors import MissingRuntimeError

        raise MissingRuntimeError(
            f'--vgg needs {error.name}, which is not installed; pip install "sr-deploy[train]"'
        ) from error
    return VggDistance(file)


def _open_jobs(
    stack: ExitStack,
    models: Sequence[str],
    scales: Sequence[int],
    backend: str,
    pictures: Sequence[EvalPicture],
) -> list[_Job]:
    """The evaluations to run, sorted by scale and then in the order in which the models were given.

    A baseline runs at every scale, a model only at its own. Models stay open until `stack` closes. Raises
    ModelError for an unknown name and UsageError for a scale that a model does not have.
    """
    from sr_deploy.quality.evaluate import BASELINES

    names = list(dict.fromkeys(models)) or _default_models(scales)
    for name in names:
        if name not in BASELINES:
            _check_name(name)  # all names are checked before a model is opened
    upscalers = {n: stack.enter_context(_open_model(n, backend)) for n in names if n not in BASELINES}
    if scales:
        _check_scales({name: upscaler.spec.scale for name, upscaler in upscalers.items()}, scales)
    scales_to_run = sorted(
        set(scales) or {u.spec.scale for u in upscalers.values()} or _default_baseline_scales(pictures)
    )
    jobs: list[_Job] = []
    for scale in scales_to_run:
        for name in names:
            if name in BASELINES:
                jobs.append((name, scale, BASELINES[name](scale)))
            elif upscalers[name].spec.scale == scale:
                jobs.append((name, scale, upscalers[name].upscale_pixels))
    return jobs


def _default_models(scales: Sequence[int]) -> list[str]:
    """Names to evaluate if no --model is given: bicubic and every bundled model of the given scales."""
    from sr_deploy.models import list_models

    return ["bicubic", *(entry.name for entry in list_models() if not scales or entry.scale in scales)]


def _check_name(name: str) -> None:
    """Raise ModelError if `name` is no model; the message suggests a baseline with a similar name."""
    from difflib import get_close_matches

    from sr_deploy.errors import ModelError
    from sr_deploy.models import find_model
    from sr_deploy.quality.evaluate import BASELINES

    try:
        find_model(name)
    except ModelError as error:
        if similar := get_close_matches(name, BASELINES, n=1):
            raise ModelError(
                f"there is no model {name!r}; did you mean the baseline {similar[0]}?"
            ) from error
        raise


def _open_model(name: str, backend: str) -> Any:
    """Open an Upscaler; its notes are printed on stderr."""
    from sr_deploy.cli.shared.console import complain
    from sr_deploy.upscale import Upscaler

    return Upscaler.open(name, backend=backend, say=lambda message: complain(message, prefix=False))


def _check_scales(model_scales: dict[str, int], scales: Sequence[int]) -> None:
    """Raise UsageError if a model has a scale that --scale does not name. `model_scales` maps names to scales."""
    from sr_deploy.errors import UsageError

    for name, scale in model_scales.items():
        if scale not in scales:
            asked = ", ".join(str(s) for s in scales)
            raise UsageError(
                f"{name} is a model for x{scale}, but --scale asks for {asked}; leave --scale out or add --scale {scale}"
            )


def _default_baseline_scales(pictures: Sequence[EvalPicture]) -> set[int]:
    """Scales for baselines alone: the one of the given low-resolution pictures, else `_BASELINE_SCALES`."""
    from sr_deploy.quality.evaluate import infer_scale

    return {infer_scale(pictures)} if pictures[0].lr is not None else set(_BASELINE_SCALES)


def _measure(
    jobs: Sequence[_Job],
    pictures: Sequence[EvalPicture],
    border: int | None,
    degrade: str,
    *,
    given_lr: bool,
    distance: Distance | None,
) -> tuple[list[Evaluation], list[str]]:
    """Run every job. Returns the results, and warnings from the self-check on Set5. The self-check compares
    bicubic with its published PSNR if the pictures are those of Set5; a difference means that the numbers
    cannot be compared with published ones."""
    from sr_deploy.quality.evaluate import evaluate
    from sr_deploy.quality.results import Protocol
    from sr_deploy.quality.set5 import check_set5

    results, warnings = [], []
    with _progress(len(jobs) * len(pictures)) as advance:
        for name, scale, upscale in jobs:
            protocol = Protocol(scale, scale if border is None else border, given_lr, degrade)
            results.append(evaluate(name, upscale, pictures, protocol, partial(advance, name), distance))
    for scale in sorted({scale for _, scale, _ in jobs} if not degrade else ()):
        if warning := check_set5(results, pictures, scale):
            warnings.append(warning)
    return results, warnings


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, EvalPicture], None]]:
    """A bar on stderr where that is a terminal; call the yielded function after every picture."""
    from sr_deploy.cli.shared.progress import ProgressDisplay

    with ProgressDisplay("{task.completed}/{task.total}", remaining=True) as display:
        display.show(0, total, "eval")
        counted = count(1)
        yield lambda name, picture: display.show(next(counted), total, f"{name} {picture.name}")


def _print(
    results: Sequence[Evaluation],
    warnings: Sequence[str],
    unpaired: Sequence[FailedPicture],
    hr_dir: Path,
    lr_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the results as tables, a table per scale, or as JSON. Warnings go to stderr in both cases."""
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
    """The table of one scale, the protocol it was measured with, and a note on identical pictures."""
    from sr_deploy.cli.shared.console import table

    chosen = [result for result in results if result.protocol.scale == scale]
    damage = bool(chosen[0].protocol.degrade)
    extra: tuple[str, ...] = ("blocks", "specks") if damage else ()
    extra += ("vgg",) if any(score.quality.vgg is not None for score in chosen[0].scores) else ()
    rows = [row for result in chosen for row in _rows(result, extra)]
    headings = ("model", "picture", "PSNR Y", "SSIM Y", "PSNR RGB", "SSIM RGB")
    text = table((*headings, *("VGG" if name == "vgg" else name for name in extra)), rows)
    notes = [
        f"{result.model}: {result.identical} came out identical; their infinite PSNR is not in the mean"
        for result in chosen
        if result.identical
    ]
    if damage:
        notes.append(
            "blocks: strength of the 8x8 blocks of the small picture, specks: fine colour; both as multiples of the "
            "original's, so 1 is best"
        )
    if "vgg" in extra:
        notes.append(
            "VGG: distance to the original in the features of VGG-19 (relu2_2 and relu3_1), 0 if equal; lower is better"
        )
    return "\n".join([text, f"protocol: {chosen[0].protocol.describe()}", *notes])


def _rows(result: Evaluation, extra: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows of one model: one per picture, then the mean."""
    pictures = [(result.model, score.name, *_cells(score.quality, extra)) for score in result.scores]
    return [*pictures, (result.model, f"mean of {len(result.scores)}", *_cells(result.mean, extra))]


def _cells(quality: Quality, extra: Sequence[str]) -> tuple[str, ...]:
    """PSNR in dB with 2 digits and SSIM with 4 digits, of Y and then of RGB; "-" for a value that is missing.

    The measures named in `extra` follow: blocks and specks with 2 digits, vgg with 3.
    """

    def cell(value: float | None, digits: int) -> str:
        """One value with `digits` digits, or "-" for None."""
        return "-" if value is None else f"{value:.{digits}f}"

    y, rgb = (quality.psnr_y, quality.ssim_y), (quality.psnr_rgb, quality.ssim_rgb)
    cells = tuple(text for psnr, ssim in (y, rgb) for text in (cell(psnr, 2), cell(ssim, 4)))
    return (*cells, *(cell(getattr(quality, name), 3 if name == "vgg" else 2) for name in extra))


def _report_skipped(failures: Sequence[FailedPicture]) -> bool:
    """Name every skipped picture once on stderr. Returns whether there was one."""
    from sr_deploy.cli.shared.console import complain

    for name, message in dict.fromkeys((failure.name, failure.message) for failure in failures):
        complain(f"skipped {message if name in message else f'{name}: {message}'}", prefix=False)
    return bool(failures)


def _check_csv_target(path: Path, overwrite: bool) -> None:
    from sr_deploy.errors import OutputError

    if path.is_dir() or not path.parent.is_dir():
        why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OutputError(f"--csv {path}: expected a file to write, but {why}; choose another place")
    check_new(path, overwrite=overwrite)


def _write_csv(path: Path, results: Sequence[Evaluation]) -> None:
    """Write the values of every picture to `path`. The file is written completely or not at all. Raises OutputError."""
    from sr_deploy.errors import OutputError
    from sr_deploy.quality.results import csv_text
    from sr_deploy.system.files import write_whole

    try:
        write_whole(path, csv_text(results).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"--csv {path}: {error.strerror or error}; choose another place") from error
