"""`sr-deploy build`: compile an ONNX file into an engine of TensorRT, or of TensorRT for RTX.

This module parses and prints; `sr_deploy.engines.tensorrt.build` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath, check_new

if TYPE_CHECKING:
    from sr_deploy.engines.tensorrt.build import BuiltEngine
    from sr_deploy.engines.tensorrt.options import BuildOptions
    from sr_deploy.engines.tensorrt.sidecar import BuildMachine
_SECONDS_BETWEEN_LINES = 15.0
"""Shortest time between two lines about a build on a stderr that is no terminal."""
_EXAMPLES = """\b
Examples:
  sr-deploy build rt-x4 -o rt-x4.engine
  sr-deploy build model.onnx --sizes 1920x1080,1280x720 --max-batch 4
  sr-deploy build rt-x4 --runtime tensorrt-rtx --capabilities 8.6,8.9,12.0
"""


def build_options(command: Any) -> Any:
    """Add the options that change what is built, and `--device`, to a command that builds an engine."""
    for option in reversed(
        (
            click.option("--sizes", default="", metavar="WxH,...", help="Picture sizes in pixels that get kernels of their own, such as 1920x1080,1280x720."),
            click.option("--tile", type=int, default=1024, show_default=True, help="Side in pixels of the largest picture that is not tiled, 16 to 16384."),
            click.option("--small", type=int, default=256, show_default=True, help="Pictures up to this side in pixels get kernels for small pictures."),
            click.option("--max-batch", type=int, default=1, show_default=True, help="Maximum number of pictures per call, 1 to 64."),
            click.option("--workspace", type=int, metavar="MIB", help="Scratch memory for kernels, in MiB. [default: all memory of the GPU]"),
            click.option("--level", type=click.IntRange(0, 5), default=3, show_default=True,
                         help="Optimisation level of TensorRT: 0 builds fast, 5 searches longest for fast kernels."),
            click.option("--tf32", is_flag=True, help="Compute fp32 models in TF32, which is faster but less precise."),
            click.option("--version-compatible", is_flag=True, help="Build an engine that also runs on later TensorRT versions; it may be slower."),
            click.option("--hardware-compatible", type=click.Choice(["none", "ampere+", "same-capability"]),
                         default="none", show_default=True, help="Other GPUs that the engine must run on: none, Ampere and later, or the same compute capability."),
            click.option("--capabilities", default="", metavar="N.N,...",
                         help="Compute capabilities that the engine is for, such as 8.6,8.9. Only with --runtime tensorrt-rtx. [default: 8.0 and later]"),
            click.option("--device", type=click.IntRange(0), default=0, show_default=True, help="Number of the GPU to build for."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("build", epilog=_EXAMPLES)
@click.argument("model")
@click.option(
    "-o", "--output", type=NamedPath(), help="Engine file to write. [default: the name of MODEL with .engine]"
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option(
    "--io",
    type=click.Choice(["uint8", "float"]),
    default="uint8",
    show_default=True,
    help="Pixel type of the engine: uint8 for 8-bit pictures, float for 16-bit and float pictures.",
)
@click.option(
    "--runtime",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    default="tensorrt",
    show_default=True,
    help="Library that the engine is for. tensorrt-rtx builds without a GPU, for GPUs of the RTX line.",
)
@build_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    model: str,
    output: Path | None,
    overwrite: bool,
    io: str,
    runtime: str,
    device: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile MODEL into a TensorRT engine.

    With --runtime tensorrt the engine is for this machine's GPU. With --runtime tensorrt-rtx it is for the GPUs of
    the RTX line in --capabilities, and the build needs no GPU. MODEL is an ONNX file or the name of a bundled model.
    The engine takes pictures of any size: each size in --sizes has kernels of its own, other sizes share kernels, and
    pictures larger than --tile are tiled. A sidecar is written beside the engine file, and the precision of the
    engine's layers is checked. An engine file contains machine code: load only engine files that you built yourself.
    """
    from sr_deploy.models import find_model

    source = find_model(model)
    target = output or Path(f"{source.stem}.engine")
    check_new(target, overwrite=overwrite)
    built = build_file(source, target, options_from(**options), io=io, device=device, runtime=runtime)
    click.echo(built.record.to_json().rstrip() if as_json else "\n".join(lines(target, built)))


def options_from(**given: Any) -> BuildOptions:
    """The parsed values of `build_options` as `BuildOptions`. Raises UsageError for values that are out of range."""
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
        capabilities=tuple(filter(None, (name.strip() for name in given.get("capabilities", "").split(",")))),
    )


def build_file(
    source: Path,
    target: Path,
    options: BuildOptions,
    *,
    io: str,
    device: int,
    runtime: str = "tensorrt",
) -> BuiltEngine:
    """Build the engine of the ONNX file `source` and write it to `target` with its sidecar. Shows progress on stderr.

    `io` is "uint8" or "float", the pixel type of the engine. `device` is the number of the GPU. `runtime` is the
    backend that the engine is for. Kernel timings of earlier builds are taken from the user's cache and stored there
    again, which makes later builds faster. Raises MissingRuntimeError without the library, or the GPU that it needs.
    """
    from sr_deploy.engines.tensorrt import api
    from sr_deploy.engines.tensorrt.build import (
        FLOAT32,
        UINT8,
        build_engine,
        build_machine,
        require_builder,
        source_of,
        write_engine,
    )
    from sr_deploy.engines.tensorrt.cache import EngineCache
    from sr_deploy.engines.tensorrt.runtimes import RUNTIMES

    library = RUNTIMES[runtime]
    require_builder(library)
    graph = source_of(source, UINT8 if io == "uint8" else FLOAT32)
    cache = EngineCache.of_user()
    machine = build_machine(api.runtime(library), device, library)
    timings = cache.timings(machine) if cache else b""
    click.echo(f"building {graph.spec.name} for {_target(machine, options)} with {machine.title}", err=True)
    with _progress() as progress:
        built = build_engine(
            graph, options, device=device, timings=timings, progress=progress, runtime=library
        )
    write_engine(target, built.plan, built.record)
    if cache:
        cache.store_timings(machine, built.timings)
    return built


def _target(machine: BuildMachine, options: BuildOptions) -> str:
    """The GPUs that an engine is for: the one it was built on, or its compute capabilities."""
    from sr_deploy.engines.tensorrt.runtimes import DEFAULT_CAPABILITIES

    return machine.gpu or f"compute capabilities {', '.join(options.capabilities or DEFAULT_CAPABILITIES)}"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a build; call the yielded function with (phase, steps done, steps), from any thread. Phases of
    TensorRT are nested, so each has a bar of its own until its steps are done. TensorRT before version 10
    reports no phases; then only the elapsed time is shown."""
    from sr_deploy.cli.shared.progress import ProgressDisplay

    text = "{task.fields[count]}"
    with ProgressDisplay(text, elapsed=True, remaining=True, interval=_SECONDS_BETWEEN_LINES) as display:
        display.show(0, None, "building", task="building", count="")

        def show(phase: str, done: int, steps: int) -> None:
            """Show that `done` of `steps` of a phase are done."""
            line = f"{phase}: {done} of {steps} steps, {display.seconds:.0f} s"
            if done >= steps:
                display.finish(phase, line=line)
            else:
                display.show(done, steps, phase, task=phase, line=line, count=f"{done}/{steps}")

        yield show


def lines(target: Path, built: BuiltEngine) -> list[str]:
    """The built engine as lines of text: file, size and build time, model and profiles, precisions, GPU and TensorRT."""
    record = built.record
    sizes = ", ".join(profile.name for profile in record.profiles)
    precisions = (
        ", ".join(f"{count} {kind}" for kind, count in sorted(record.precisions.items())) or "not told"
    )
    return [
        f"{target}  {record.plan_size / 1024:,.0f} KiB, built in {record.build_seconds:.0f} s",
        f"{record.spec.name} x{record.spec.scale}, {record.pixels} pixels, profiles {sizes}",
        f"layers that compute: {precisions}",
        f"for {_target(record.machine, record.options)} and {record.machine.title}",
    ]
