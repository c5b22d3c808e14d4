"""`sr-deploy convert`: write the same model in another precision.

This module parses and prints; `sr_deploy.precision.convert` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath, check_new

if TYPE_CHECKING:
    from sr_deploy.precision.convert import Conversion, Notes
    from sr_deploy.precision.tuned import Tuner

_EXAMPLES = """\b
Examples:
  sr-deploy convert model.onnx --precision int8 --data photos/
  sr-deploy convert net.onnx --precision int8 --data photos/ --finetune 10
  sr-deploy convert model.onnx --precision fp16 -o model-half.onnx
"""


@click.command("convert", epilog=_EXAMPLES)
@click.argument("model", metavar="MODEL")
@click.option(
    "-p",
    "--precision",
    required=True,
    type=click.Choice(["fp16", "bf16", "int8"]),
    help="Precision of the weights and of the computation.",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    help="ONNX file to write. [default: MODEL-PRECISION.onnx in the current folder]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option(
    "--data",
    type=NamedPath(),
    help="Folder of photographs. int8 is calibrated on some of them; the loss of quality is measured on others.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="DB",
    help="Maximum loss of PSNR in dB. [default: fp16 0.01, bf16 0.03, int8 0.1]",
)
@click.option(
    "--finetune",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Fine-tune weights and ranges for int8 on --data, for this time in minutes; needs PyTorch.",
)
@click.option(
    "--io",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="Input and output of the file: float NCHW in 0..1, or uint8 NHWC in 0..255.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    model: str,
    precision: str,
    output: Path | None,
    overwrite: bool,
    data: Path | None,
    tolerance: float | None,
    finetune: float | None,
    io: str,
    as_json: bool,
) -> None:
    """Write MODEL in another precision: fp16, bf16 or int8.

    MODEL is an fp32 ONNX file or the name of a bundled model. int8 is calibrated on photographs: many candidates
    are measured and the one closest to fp32 is chosen. If the training has learnt the ranges, those are used.
    With --finetune, weights and ranges are tuned to bring int8 closer to fp32. In fp16, operators that would
    overflow stay in fp32. The loss of quality is measured on photographs that calibration and tuning did not use. If it
    exceeds the tolerance, nothing is written.
    """
    from sr_deploy.graph.onnx_file import load_model, save_model
    from sr_deploy.graph.pixel_io import with_pixel_io
    from sr_deploy.models import find_model
    from sr_deploy.precision.convert import convert
    from sr_deploy.system.files import digest_of

    source = find_model(model)
    target = output or Path(f"{source.stem}-{precision}.onnx")
    tuner = None if finetune is None else _tuner(finetune)
    check_new(target, overwrite=overwrite)  # checked first, because calibration takes minutes
    say = (lambda message: None) if as_json else (lambda message: click.echo(message, err=True))
    conversion = convert(
        load_model(source),
        precision,
        data=data,
        tolerance=tolerance,
        source=digest_of(source),
        tuner=tuner,
        say=say,
    )
    save_model(with_pixel_io(conversion.model) if io == "uint8" else conversion.model, target)
    if as_json:
        import json

        click.echo(json.dumps(_record(target, conversion, io), indent=2))
    else:
        click.echo("\n".join(_lines(target, conversion, io)))


def _tuner(minutes: float) -> Tuner:
    """Return what fine-tunes for `minutes`. Raises MissingRuntimeError without PyTorch, with the command to install it."""
    try:
        from sr_deploy.training.finetune.tuning import FineTuner
    except ModuleNotFoundError as error:
        from sr_deploy.errors import MissingRuntimeError

        raise MissingRuntimeError(
            f'fine-tuning needs {error.name}, which is not installed; pip install "sr-deploy[train]"'
        ) from error
    return FineTuner(minutes)


def _record(path: Path, conversion: Conversion, io: str) -> dict[str, Any]:
    """The conversion as JSON values, for --json.

    It holds path, name and size in bytes of the written file, and all notes of the conversion.
    """
    from dataclasses import asdict

    return {
        "path": str(path),
        "name": conversion.spec.name,
        "io": io,
        "size_bytes": path.stat().st_size,
        **asdict(conversion.notes),
    }


def _lines(path: Path, conversion: Conversion, io: str) -> list[str]:
    notes = conversion.notes
    return [
        f"{path}  {path.stat().st_size / 1024:,.0f} KiB",
        f"{conversion.spec.name}: {notes.precision}, {io} pixels",
        *note_lines(notes),
    ]


def note_lines(notes: Notes) -> list[str]:
    """Lines about what a conversion did: calibration, operators kept in fp32, and loss of PSNR in dB.

    If no photographs were available for the measurement, the last line says why there is no loss to report.
    """
    lines = []
    if notes.method:
        balanced = f", channels balanced by {notes.strength:g}" if notes.strength else ""
        calibrated = f"calibrated on photographs: ranges by {notes.method}{balanced}"
        learnt = "ranges learnt in the training" if notes.method == "learned" else calibrated
        if notes.finetuned is not None:
            learnt = f"weights and ranges fine-tuned for {notes.finetuned:g} minutes{balanced}"
        lines.append(learnt)
    if notes.kept:
        lines.append(f"kept in fp32: {', '.join(notes.kept)}")
    if notes.psnr_change is None:
        lines.append(f"not measured: {notes.unmeasured}")
    else:
        lines.append(
            f"costs {-notes.psnr_change:.3f} dB of PSNR on {notes.photographs} photographs "
            f"({notes.fidelity:.1f} dB from fp32)"
        )
    if notes.fidelity_before is not None:
        lines.append(f"before fine-tuning, all in int8: {notes.fidelity_before:.1f} dB from fp32")
    return lines
