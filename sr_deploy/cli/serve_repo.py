"""`sr-deploy serve-repo`: write a model repository for NVIDIA's Triton Inference Server.

This module parses and prints; `sr_deploy.triton` writes the repository. Neither needs a server or a GPU, except that
engine files are built beforehand by `sr-deploy build`.
"""

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
    help="Folder of the model repository; created if missing.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="Bundled model or ONNX file. Repeat for several. [default: all bundled models, unless --engine is given]",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    type=NamedPath(),
    help="Engine file from 'sr-deploy build'. Repeat for several; engines of one model must be for different GPUs.",
)
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "python"]),
    default="onnxruntime",
    show_default=True,
    help="Triton backend for ONNX files: the server's ONNX Runtime, or sr-deploy in its Python backend, which tiles "
    "pictures of any size.",
)
@click.option(
    "--version", type=click.IntRange(1), default=1, show_default=True, help="Version number to write."
)
@click.option(
    "--keep",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of versions to serve, newest first.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Maximum number of pictures of one size in a batch.",
)
@click.option(
    "--queue-delay",
    type=click.IntRange(0, 10_000_000),
    default=0,
    show_default=True,
    metavar="MICROSECONDS",
    help="Maximum time a picture waits for others of its size, in microseconds.",
)
@click.option(
    "--instances",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Copies of the model that run at once on each device.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Device for ONNX files. Engines always run on GPUs.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="Threads of a model on the CPU. [default: chosen by the backend]",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1, 1 << 30),
    default=64_000_000,
    show_default=True,
    help="Maximum number of pixels of a request to the Python backend, over all its pictures.",
)
@click.option(
    "--warm-up",
    default="256x256",
    show_default=True,
    metavar="SIZES",
    help='Sizes of the pictures that are run before the server is ready: WIDTHxHEIGHT,... or "" for none.',
)
@click.option("--overwrite", is_flag=True, help="Replace an existing version.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of text.")
def command(
    output: Path, models: tuple[str, ...], engines: tuple[Path, ...], as_json: bool, **given: Any
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server.

    Every model takes and returns uint8 pixels [N, H, W, C] in RGB. Other models and versions in the repository
    are kept. Start the server with: tritonserver --model-repository=OUTPUT
    """
    from sr_deploy.engines.tensorrt.options import parse_sizes
    from sr_deploy.models import find_model, list_models
    from sr_deploy.triton.plan import ServeOptions
    from sr_deploy.triton.repository import write_repository

    options = ServeOptions(warm_up=parse_sizes(given.pop("warm_up")), **given)
    # All names are resolved first, so that a wrong one is reported before anything is written.
    paths = [find_model(name) for name in models]
    if not (paths or engines):
        paths = [entry.path for entry in list_models()]
    served = write_repository(output, paths, engines, options)
    if as_json:
        import json

        click.echo(json.dumps([_record(version_written) for version_written in served], indent=2))
        return
    for version_written in served:
        _print(version_written)
    click.echo(f"start the server with: tritonserver --model-repository={output}")


def _record(served: ServedModel) -> dict[str, Any]:
    """One written model version as JSON values, for --json.

    "files" are relative to the folder of the version, "notes" are the sentences that the text output shows too.
    """
    return {
        "name": served.name,
        "version": served.version,
        "backend": served.config.backend,
        "folder": str(served.folder),
        "files": list(served.files),
        "notes": list(served.notes),
    }


def _print(served: ServedModel) -> None:
    """Print one written model version and its notes, a line each."""
    click.echo(f"{served.name} version {served.version}, {served.config.backend}: {', '.join(served.files)}")
    for note in served.notes:
        click.echo(f"  {note}")
