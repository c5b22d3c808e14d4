"""`sr-deploy export`: write a checkpoint as an ONNX file, and check the file against the checkpoint.

This module parses and prints; `sr_deploy.training.export` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sr_deploy.training.export.to_onnx import ExportResult

_PACKAGES = ("torch", "safetensors", "onnxscript")
"""Packages of sr-deploy[train]. If another module cannot be imported, that is a bug and not a missing package."""
_EXAMPLES = """\b
Examples:
  sr-deploy export run -o trained.onnx --data photos/
  sr-deploy export run/final.safetensors -o trained-int8.onnx --precision int8 --data photos/
"""


@click.command("export", epilog=_EXAMPLES)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Precision of the weights and of the computation. int8 is calibrated on --data.",
)
@click.option(
    "--io",
    type=click.Choice(["float", "uint8"]),
    default="float",
    show_default=True,
    help="Input and output of the file: float NCHW in 0..1, or uint8 NHWC in 0..255.",
)
@click.option("--opset", type=int, help="Opset version of ONNX. [default: the one that every runtime reads]")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of photographs for the check and for the calibration of int8.",
)
@click.option("--licence", help="Licence of the weights as an SPDX identifier; written into the file.")
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    help="Also build a TensorRT engine and write it to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    checkpoint: Path,
    output: Path,
    precision: str,
    io: str,
    opset: int | None,
    data: Path | None,
    licence: str | None,
    engine: Path | None,
    as_json: bool,
) -> None:
    """Export CHECKPOINT as an ONNX file and check the file.

    CHECKPOINT is a .safetensors file or the folder of a training run. The halo is measured and written into the
    file with the rest of the spec. ONNX Runtime and torch are compared on crops of several sizes; if their results
    differ, nothing is written.
    """
    if engine is not None:
        _check_engine(engine, io)
    export = _export(checkpoint, output, precision, io, opset, data, licence)
    built = _build_engine(export, engine) if engine is not None else []
    if as_json:
        import json

        click.echo(json.dumps(_record(export, io) | ({"engine": str(engine)} if engine else {}), indent=2))
    else:
        click.echo("\n".join(_lines(export, io) + built))


def _check_engine(engine: Path, io: str) -> None:
    """Check before the export that an engine can be built here and written to `engine`.

    Raises UsageError for a wrong --io, MissingRuntimeError without TensorRT, OutputError for the path.
    """
    from sr_deploy.cli.shared.paths import check_new
    from sr_deploy.engines.tensorrt.build import require_tensorrt
    from sr_deploy.errors import UsageError

    if io != "float":
        raise UsageError(
            "--engine needs --io float, because an engine has pixel I/O of its own; leave --io out"
        )
    require_tensorrt()
    check_new(engine, overwrite=False)


def _build_engine(export: ExportResult, engine: Path) -> list[str]:
    """Build the engine of the exported file. Returns the lines to print about it."""
    from sr_deploy.cli.build import build_file, lines
    from sr_deploy.engines.tensorrt.options import BuildOptions

    return lines(engine, build_file(export.path, engine, BuildOptions(), io="uint8", device=0))


def _export(
    checkpoint: Path,
    output: Path,
    precision: str,
    io: str,
    opset: int | None,
    data: Path | None,
    licence: str | None,
) -> ExportResult:
    """Export the checkpoint. `opset` None means the default of the exporter.

    Raises MissingRuntimeError with the command to install if one of `_PACKAGES` is missing, and what `export_onnx`
    raises. torch is imported here and not at the top, so that `--help` works without it.
    """
    from sr_deploy.errors import MissingRuntimeError

    try:
        from sr_deploy.training.checkpoint import find_checkpoint
        from sr_deploy.training.export.to_onnx import DEFAULT_OPSET, export_onnx
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _PACKAGES:
            raise
        raise MissingRuntimeError(
            f'exporting needs {error.name}, which is not installed; pip install "sr-deploy[train]"'
        ) from error
    return export_onnx(
        find_checkpoint(checkpoint),
        output,
        precision=precision,
        io=io,
        opset=DEFAULT_OPSET if opset is None else opset,
        data=data,
        licence=licence,
    )


def _record(export: ExportResult, io: str) -> dict[str, Any]:
    """The export as JSON values, for --json. The size is in bytes."""
    record: dict[str, Any] = {
        "path": str(export.path),
        "name": export.spec.name,
        "architecture": export.spec.architecture,
        "scale": export.spec.scale,
        "halo": export.spec.halo,
        "multiple_of": export.spec.size_rule.multiple_of,
        "precision": export.spec.precision,
        "io": io,
        "opset": export.opset,
        "parameters": export.parameters,
        "size_bytes": export.size,
    }
    if export.parity:
        record |= {
            "max_difference": export.parity.largest.value,
            "where": str(export.parity.largest),
            "tolerance": export.parity.tolerance,
            "crops": export.parity.crops,
        }
    return record


def _lines(export: ExportResult, io: str) -> list[str]:
    """The export as lines of text: file and size, model, and the largest difference from torch."""
    spec = export.spec
    halo = "sees the whole picture" if spec.halo is None else f"halo {spec.halo} pixels"
    multiple = spec.size_rule.multiple_of
    sizes = "any size" if multiple == 1 else f"sizes in multiples of {multiple}"
    lines = [
        f"{export.path}  {export.size / 1024:,.0f} KiB",
        f"{spec.name}: {spec.architecture} x{spec.scale}, {export.parameters:,} parameters, {spec.precision}, "
        f"{io} pixels, opset {export.opset}, {halo}, {sizes}",
    ]
    if export.parity:
        lines.append(f"checked against torch on {export.parity.crops} crops: at most {export.parity.largest}")
    return lines
