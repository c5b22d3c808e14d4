"""`sr-deploy build`: an ONNX file becomes a TensorRT engine for the GPU of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath, check_new

if TYPE_CHECKING:
    from sr_deploy.engines.tensorrt.build import BuiltEngine
    from sr_deploy.engines.tensorrt.options import BuildOptions


def build_options(command: Any) -> Any:
    """The options that change what is built, for a command that builds."""
    for option in reversed(
        (
            click.option("--sizes", default="", metavar="WxH,...", help="Sizes that come up often, such as 1920x1080."),
            click.option("--tile", type=int, default=1024, show_default=True, help="Side of the largest picture taken whole."),
            click.option("--small", type=int, default=256, show_default=True, help="Up to this side, kernels for small pictures."),
            click.option("--max-batch", type=int, default=1, show_default=True, help="Pictures in one call."),
            click.option("--workspace", type=int, metavar="MIB", help="Scratch memory that kernels may take.  [default: all]"),
            click.option("--level", type=click.IntRange(0, 5), default=3, show_default=True,
                         help="How long to search for fast kernels."),
            click.option("--tf32", is_flag=True, help="Let fp32 models compute in TF32: faster, and no longer fp32."),
            click.option("--version-compatible", is_flag=True, help="Run on later versions of TensorRT too."),
            click.option("--hardware-compatible", type=click.Choice(["none", "ampere+", "same-capability"]),
                         default="none", show_default=True, help="Run on other GPUs too."),
            click.option("--device", type=click.IntRange(0), default=0, show_default=True, help="Which GPU."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("build")
@click.argument("model")
@click.option(
    "-o", "--output", type=NamedPath(), help="The engine file to write.  [default: MODEL's name + .engine]"
)
@click.option("--overwrite", is_flag=True, help="Replace an OUTPUT that is there already.")
@click.option(
    "--io",
    type=click.Choice(["uint8", "float"]),
    default="uint8",
    show_default=True,
    help="For 8-bit pictures, or for 16-bit and float ones.",
)
@build_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: str, output: Path | None, overwrite: bool, io: str, device: int, as_json: bool, **options: Any
) -> None:
    """Compile MODEL, an ONNX file or the name of a bundled model, for the NVIDIA GPU of this machine.

    The engine takes any size: one of --sizes with kernels of its own, others with common ones, and what is larger than
    --tile in tiles. Its record is written beside it, and what its layers compute in is checked. An engine is machine
    code for this GPU and this version of TensorRT: load only those that you built.
    """
    from sr_deploy.models import find_model

    source = find_model(model)
    target = output or Path(f"{source.stem}.engine")
    check_new(target, overwrite=overwrite)
    built = build_file(source, target, options_from(**options), io=io, device=device)
    click.echo(built.record.to_json().rstrip() if as_json else "\n".join(lines(target, built)))


def options_from(**given: Any) -> BuildOptions:
    """`BuildOptions` of what `build_options` parsed. Raises UsageError for what makes no sense."""
    from sr_deploy.engines.tensorrt.options import BuildOptions, parse_sizes

    return BuildOptions(
        sizes=parse_sizes(given["sizes"]),
        tile=given["tile"],
        small=given["small"],
        max_batch=given["max_batch"],
        workspace_mib=given["workspace"],
        optimisation_level=given["level"],
        tf32=given["tf32"],
        version_compatible=given["version_compatible"],
        hardware_compatible=given["hardware_compatible"],
    )


def build_file(source: Path, target: Path, options: BuildOptions, *, io: str, device: int) -> BuiltEngine:
    """Build the engine of the ONNX file `source` and write it to `target`, with progress on stderr."""
    from sr_deploy.cli.shared.build_progress import BuildProgress
    from sr_deploy.engines.tensorrt.api import runtime, version
    from sr_deploy.engines.tensorrt.build import (
        FLOAT32,
        UINT8,
        build_engine,
        require_tensorrt,
        source_of,
        write_engine,
    )
    from sr_deploy.engines.tensorrt.cache import EngineCache
    from sr_deploy.engines.tensorrt.cuda import machine

    require_tensorrt()
    made = source_of(source, UINT8 if io == "uint8" else FLOAT32)
    cache = EngineCache.of_user()
    here = machine(device, version(runtime()))
    timings = cache.timings(here) if cache else b""
    click.echo(f"building {made.spec.name} for {here.gpu} with TensorRT {here.tensorrt}", err=True)
    with BuildProgress() as progress:
        built = build_engine(made, options, device=device, timings=timings, progress=progress)
    write_engine(target, built.plan, built.record)
    if cache:
        cache.store_timings(here, built.timings)
    return built


def lines(target: Path, built: BuiltEngine) -> list[str]:
    """What was built, for people."""
    record = built.record
    sizes = ", ".join(profile.name for profile in record.profiles)
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(record.precisions.items())) or "not told"
    return [
        f"{target}  {record.plan_size / 1024:,.0f} KiB, built in {record.build_seconds:.0f} s",
        f"{record.spec.name} x{record.spec.scale}, {record.pixels} pixels, profiles {sizes}",
        f"layers that compute: {shown}",
        f"for {record.machine.gpu} and TensorRT {record.machine.tensorrt}",
    ]
