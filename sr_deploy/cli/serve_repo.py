"""`sr-deploy serve-repo`: a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath

if TYPE_CHECKING:
    from sr_deploy.triton.repository import ServedModel

_EXAMPLES = """\b
Examples:
  sr-deploy serve-repo -o models
  sr-deploy serve-repo -o models --model rt-x4 --backend python
  sr-deploy serve-repo -o models --engine rt-x4-h100.engine --engine rt-x4-l4.engine
"""


@click.command("serve-repo", epilog=_EXAMPLES)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    required=True,
    help="Folder of the repository; made where it is missing.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="A bundled model or an ONNX file. Repeat for several. [default: all bundled ones, without --engine]",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=NamedPath(),
    help="An engine of `sr-deploy build`. Repeat: those of one model serve one kind of GPU each.",
)
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "python"]),
    default="onnxruntime",
    show_default=True,
    help="Who runs ONNX files: the server's own runtime, or sr-deploy inside it, which tiles pictures of any size.",
)
@click.option(
    "--version", type=click.IntRange(1), default=1, show_default=True, help="Number of the version to write."
)
@click.option(
    "--keep",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many of the newest versions are served.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Pictures of one size that go through the model together.",
)
@click.option(
    "--queue-delay",
    type=click.IntRange(0, 10_000_000),
    default=0,
    show_default=True,
    metavar="MICROSECONDS",
    help="How long a picture may wait for others of its size.",
)
@click.option(
    "--instances",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Copies of the model that run at once.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where ONNX files run; engines run on GPUs.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Of a model on the CPU. [default: the backend's own]"
)
@click.option(
    "--warm-up",
    default="256x256",
    show_default=True,
    metavar="SIZES",
    help='Pictures run before the server is ready: WIDTHxHEIGHT,... or "" for none.',
)
@click.option("--overwrite", is_flag=True, help="Replace a version that is there already.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    output: Path, models: tuple[str, ...], engines: tuple[Path, ...], as_json: bool, **given: Any
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server.

    Every model takes pixels, uint8 [N, H, W, C] in RGB, and gives pixels. Models and versions that are in the
    repository already stay. Start the server with: tritonserver --model-repository=OUTPUT
    """
    from sr_deploy.engines.tensorrt.options import parse_sizes
    from sr_deploy.models import find_model, list_models
    from sr_deploy.triton.plan import ServeOptions
    from sr_deploy.triton.repository import write_repository

    options = ServeOptions(warm_up=parse_sizes(given.pop("warm_up")), **given)
    paths = [find_model(name) for name in models]
    if not (paths or engines):
        paths = [entry.path for entry in list_models()]
    served = write_repository(output, paths, engines, options)
    if as_json:
        import json

        click.echo(json.dumps([_record(one) for one in served], indent=2))
        return
    for one in served:
        _print(one)
    click.echo(f"start the server with: tritonserver --model-repository={output}")


def _record(served: ServedModel) -> dict[str, Any]:
    return {
        "name": served.name,
        "version": served.version,
        "backend": served.config.backend,
        "folder": str(served.folder),
        "files": list(served.files),
        "notes": list(served.notes),
    }


def _print(served: ServedModel) -> None:
    click.echo(f"{served.name} version {served.version}, {served.config.backend}: {', '.join(served.files)}")
    for note in served.notes:
        click.echo(f"  {note}")
