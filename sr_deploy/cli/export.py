"""`sr-deploy export`: write a net as an ONNX file, and check the file against torch.

This module parses and prints; `sr_deploy.training.anynet` and `sr_deploy.training.export` do the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sr_deploy.training.export.to_onnx import ExportResult

_EXAMPLES = """\b
Examples:
  sr-deploy export run -o trained.onnx --data photos/
  sr-deploy export run/final.safetensors -o trained-int8.onnx --precision int8 --data photos/
  sr-deploy export RealESRGAN_x4plus_anime_6B.pth -o anime.onnx
  sr-deploy export my_net.py:Net --weights net.pth --arg features=64 -o mine.onnx
"""


@click.command("export", epilog=_EXAMPLES)
@click.argument("checkpoint", metavar="NET")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="ONNX file to write.")
@click.option("--overwrite", is_flag=True, help="Replace existing output files.")
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
    "--tolerance",
    type=float,
    help="Largest difference from torch, where 1 is full scale. [default: 1e-4 for nets of sr-deploy train, else 1e-3]",
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="File with the weights of a net that a factory makes."
)
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Keyword argument of the factory, such as features=64; may be repeated.",
)
@click.option("--scale", type=int, help="Scale of a net of your own. [default: measured]")
@click.option(
    "--channels", type=click.Choice(["1", "3"]), help="Channels of a net of your own. [default: measured]"
)
@click.option(
    "--range",
    "value_range",
    metavar="LOW,HIGH",
    help="Values of black and white in a net of your own, such as 0,255. [default: measured]",
)
@click.option("--bgr", is_flag=True, help="The net of your own takes and gives blue, green, red.")
@click.option(
    "--multiple-of",
    type=int,
    help="Sizes that a net of your own takes are multiples of it. [default: measured]",
)
@click.option("--halo", metavar="N|global", help="Halo of the net in input pixels. [default: measured]")
@click.option(
    "--extra-architectures",
    is_flag=True,
    help="Also use the architectures of spandrel-extra-arches, some of which are not for commercial use.",
)
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    help="Also build a TensorRT engine and write it to this file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    checkpoint: str,
    output: Path,
    overwrite: bool,
    precision: str,
    io: str,
    opset: int | None,
    data: Path | None,
    licence: str | None,
    tolerance: float | None,
    weights: Path | None,
    arguments: tuple[str, ...],
    scale: int | None,
    channels: str | None,
    value_range: str | None,
    bgr: bool,
    multiple_of: int | None,
    halo: str | None,
    extra_architectures: bool,
    engine: Path | None,
    as_json: bool,
) -> None:
    """Export NET as an ONNX file and check the file.

    NET is a CHECKPOINT or code: the folder of a training run or its .safetensors file; a community checkpoint (.pth, .pt,
    .ckpt, .safetensors) of an architecture that spandrel knows; openmodeldb:NAME, which fetches one; a .pt2 program; package.module:factory; or a .py file. The
    halo is measured and written into the file with the rest of the spec. ONNX Runtime and torch are compared on crops of
    several sizes; if their results differ, nothing is written.
    """
    from functools import partial

    from sr_deploy.cli.shared.console import complain
    from sr_deploy.cli.shared.paths import check_new

    check_new(output, overwrite=overwrite)
    if engine is not None:
        _check_engine(engine, io, overwrite)
    from sr_deploy.training.anynet.api import export as export_net

    stated = _stated(checkpoint, weights, arguments, scale, channels, value_range, multiple_of, halo)
    export = export_net(
        checkpoint,
        output,
        **stated,
        bgr=bgr,
        precision=precision,
        io=io,
        opset=opset,
        data=data,
        licence=licence,
        tolerance=tolerance,
        extra_architectures=extra_architectures,
        say=partial(complain, prefix=False),
    )
    built = _build_engine(export, engine) if engine is not None else []
    if as_json:
        import json

        click.echo(json.dumps(_record(export, io) | ({"engine": str(engine)} if engine else {}), indent=2))
    else:
        click.echo("\n".join(_lines(export, io) + built))


def _stated(
    net: str,
    weights: Path | None,
    arguments: tuple[str, ...],
    scale: int | None,
    channels: str | None,
    value_range: str | None,
    multiple_of: int | None,
    halo: str | None,
) -> dict[str, Any]:
    """Return what the options state of a net, as arguments of `sr_deploy.export`. Raises UsageError for a wrong value."""
    from sr_deploy.errors import UsageError
    from sr_deploy.spec import SizeRule

    stated: dict[str, Any] = {
        "weights": weights,
        "scale": scale,
        "channels": int(channels) if channels else None,
    }
    if ":" not in net and not net.endswith(".py") and (weights or arguments):
        raise UsageError(
            f"{net}: --weights and --arg are for package.module:factory and .py files; leave them out"
        )
    stated["arguments"] = dict(map(_argument, arguments))
    if value_range is not None:
        try:
            low, high = map(float, value_range.split(","))
        except ValueError as error:
            raise UsageError(f"--range {value_range!r}: expected two numbers, such as 0,255") from error
        stated["value_range"] = (low, high)
    if multiple_of is not None:
        stated["size_rule"] = SizeRule(multiple_of=multiple_of)
    if halo is not None:
        if halo != "global" and not halo.isdigit():
            raise UsageError(f"--halo {halo!r}: expected a number of pixels or global")
        stated["halo"] = None if halo == "global" else int(halo)
    return stated


def _argument(pair: str) -> tuple[str, Any]:
    """`features=64` as a name and a value; the value is JSON, or else text. Raises UsageError."""
    import json

    from sr_deploy.errors import UsageError

    name, mark, text = pair.partition("=")
    if not mark or not name.isidentifier():
        raise UsageError(f"--arg {pair!r}: expected NAME=VALUE, such as features=64")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, {"True": True, "False": False, "None": None}.get(text, text)


def _check_engine(engine: Path, io: str, overwrite: bool) -> None:
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
    check_new(engine, overwrite=overwrite)


def _build_engine(export: ExportResult, engine: Path) -> list[str]:
    """Build the engine of the exported file. Returns the lines to print about it."""
    from sr_deploy.cli.build import build_file, lines
    from sr_deploy.engines.tensorrt.options import BuildOptions

    return lines(engine, build_file(export.path, engine, BuildOptions(), io="uint8", device=0))


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
        "exporter": export.exporter,
        "nodes": export.nodes,
        "notes": list(export.notes),
        "tried": list(export.tried),
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
    rule = spec.size_rule
    sizes = "any size" if rule.multiple_of == 1 else f"sizes in multiples of {rule.multiple_of}"
    sizes += f" from {rule.minimum} on" if rule.minimum > 1 else ""
    sizes = f"{rule.fixed[1]}x{rule.fixed[0]} only" if rule.fixed else sizes
    lines = [
        f"{export.path}  {export.size / 1024:,.0f} KiB",
        f"{spec.name}: {spec.architecture} x{spec.scale}, {export.parameters:,} parameters, {spec.precision}, "
        f"{io} pixels, opset {export.opset}, {halo}, {sizes}",
    ]
    if export.parity:
        lines.append(f"checked against torch on {export.parity.crops} crops: at most {export.parity.largest}")
    if export.tried:
        lines.append(
            f"exporter {export.exporter}, {export.nodes:,} nodes; not taken: {'; '.join(export.tried)}"
        )
    return lines + list(export.notes)
