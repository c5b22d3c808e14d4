"""`sr-deploy bench`: measure how fast models run on this machine, and check whether budgets hold.

This module only declares the options. The modules that measure and print are imported when they are called, so
that `--help` starts fast.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

import click

from sr_deploy.cli.shared.paths import NamedPath

_EXAMPLES = """\b
Examples:
  sr-deploy bench
  sr-deploy bench --model rt-x2 --sizes 720p,1080p --threads 1,4 -o before.json
  sr-deploy bench --model rt-x2 --find realtime --min-fps 30
  sr-deploy bench compare before.json after.json
"""


class _BenchGroup(click.Group):
    """A click group that measures if it is called without a subcommand."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Usage as of a plain command: without "COMMAND", because a subcommand is optional."""
        return ["[OPTIONS]"]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a subcommand. The error about a name that is a model's says how bench takes models."""
        from sr_deploy.errors import ModelError
        from sr_deploy.models import find_model

        if self.get_command(ctx, args[0]) is None:
            with suppress(ModelError):
                find_model(args[0])
                raise click.UsageError(f"bench takes models as --model {quote(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _parse_list(ctx: click.Context, parameter: click.Parameter, value: Any) -> tuple[str, ...]:
    """Parse an option that may be repeated and whose values may be separated by commas. Returns the values in
    the order given, each once. Raises click.BadParameter for an empty one."""
    parts = [part.strip() for text in value for part in text.split(",")]
    if "" in parts:
        raise click.BadParameter("a name is empty.", ctx, parameter)
    return tuple(dict.fromkeys(parts))


def _parse_numbers(ctx: click.Context, parameter: click.Parameter, value: Any) -> tuple[int, ...]:
    """Parse whole numbers from 1 to 1024, given as for `_parse_list`. Raises click.BadParameter."""
    names = _parse_list(ctx, parameter, value)
    for name in names:
        if not name.isdecimal() or not 1 <= int(name) <= 1024:
            raise click.BadParameter(f"{name!r} is not a whole number from 1 to 1024.", ctx, parameter)
    return tuple(int(name) for name in names)


@click.group("bench", cls=_BenchGroup, invoke_without_command=True, epilog=_EXAMPLES)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="Bundled model or ONNX file. Repeat for several. [default: all bundled models, or those of --scale]",
)
@click.option("--scale", type=click.IntRange(1, 16), help="Measure only the bundled models of this scale.")
@click.option(
    "--sizes",
    multiple=True,
    metavar="SIZE,...",
    help="Input sizes in pixels: 360p, 1080p, 4k, 637x481, 512 (a square). [default: 90p to 2160p, as time allows]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=NamedPath(),
    help="Picture or folder of pictures to measure on, at their own size or cut to --sizes. Repeat for several. "
    "[default: a bundled photograph]",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    callback=_parse_list,
    help="Backends to measure, separated by commas. [default: all that run on this machine]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    callback=_parse_list,
    help="Precisions to measure, separated by commas: fp32, fp16, bf16, int8. fp32 files are converted to fp16 and "
    "bf16. [default: the precision of each file]",
)
@click.option(
    "--fast",
    is_flag=True,
    help="Measure each model as 'upscale --fast' runs it: its fastest form here, on the backend for it.",
)
@click.option(
    "--batch",
    multiple=True,
    callback=_parse_numbers,
    help="Numbers of pictures per call, separated by commas. [default: 1]",
)
@click.option(
    "--threads",
    multiple=True,
    callback=_parse_numbers,
    help="Numbers of threads, separated by commas. [default: the number of cores this process may use]",
)
@click.option(
    "--streams", type=click.IntRange(1, 64), help="Number of calls in flight with --throughput. [default: 2]"
)
@click.option(
    "--tile",
    "tiles",
    multiple=True,
    callback=_parse_list,
    help="Tile sizes, separated by commas: auto, whole, or the side in pixels. [default: auto; without --sizes, --image "
    "and --find large sizes also whole]",
)
@click.option(
    "--mode",
    type=click.Choice(["end-to-end", "with-files", "device"]),
    default="end-to-end",
    show_default=True,
    help="Timed work: from pixels in memory to pixels in memory, from file to file, or on the buffers of a GPU.",
)
@click.option("--with-files", is_flag=True, help="Short for --mode with-files.")
@click.option(
    "--throughput", is_flag=True, help="Keep several calls in flight. [default: one picture at a time]"
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Minimum number of samples per case.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Minimum time per case, in seconds.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Time limit per case, in seconds; at least 3 samples are taken.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of times to measure everything, each time in new processes.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    help="Time limit for the whole run, in seconds; cases that would exceed it are left out. [default: 95 without --sizes, "
    "--image and --find, else none]",
)
@click.option(
    "--find", type=click.Choice(["realtime"]), help="Find the largest size that holds --min-fps or --max-ms."
)
@click.option(
    "--aspect", default="16:9", show_default=True, help="Aspect ratio of the sizes that --find tries."
)
@click.option("--min-fps", type=float, help="Fail if a case reaches fewer frames per second.")
@click.option("--max-ms", type=float, help="Fail if a call takes longer than this many milliseconds.")
@click.option(
    "--percentile",
    default="p95",
    show_default=True,
    help="Percentile of the samples that --min-fps and --max-ms apply to: p50, p90, p95, p99, max, mean or min.",
)
@click.option("--budget", "budget_file", type=NamedPath(), help="TOML or JSON file with [[budget]] tables.")
@click.option("--baseline", type=NamedPath(), help="Earlier result file; fail if a case became slower.")
@click.option(
    "--max-regression",
    default="5%",
    show_default=True,
    help="Allowed slowdown against --baseline, such as 5% or 0.05.",
)
@click.option(
    "--suite",
    type=NamedPath(),
    help="TOML file with these options; options on the command line take precedence.",
)
@click.option("-o", "--output", type=NamedPath(), help="Result file to write: JSON with every sample.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of tables.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option("--quiet", is_flag=True, help="Show no progress on stderr.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Measure how fast models run on this machine.

    Each model runs on each backend in a process of its own, on a photograph cut to the size. It is warmed up until its
    times are steady; then samples are taken. The output shows percentiles and the sizes that run in real time; the
    file of -o holds every sample. 'sr-deploy bench compare' compares results. 'sr-deploy bench report' makes a page,
    Markdown or CSV of them.
    """
    if ctx.invoked_subcommand is not None:
        return
    from sr_deploy.cli.bench import run as _bench_run
    from sr_deploy.cli.bench.options import make_options

    options = make_options(ctx, given)
    ctx.exit(_bench_run.run(options))


@command.command("compare")
@click.argument("files", nargs=-1, type=NamedPath(), required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "csv"]),
    default="text",
    show_default=True,
    help="Format of the table.",
)
@click.option(
    "--max-regression", help="Exit with code 1 if a case became slower by more than this, such as 5% or 0.05."
)
def compare(files: tuple[Path, ...], form: str, max_regression: str | None) -> None:
    """Compare results with the first of FILES.

    Shows which cases became faster or slower. A difference counts only if it exceeds the spread of the samples.
    """
    from sr_deploy.cli.bench import compare as _bench_compare

    click.get_current_context().exit(_bench_compare.run(files, form, max_regression))


@command.command("report")
@click.argument("files", nargs=-1, type=NamedPath(), required=True)
@click.option(
    "-o",
    "--output",
    type=NamedPath(),
    required=True,
    help="File to write: .html for a page, .md for a Markdown table, or .csv.",
)
@click.option(
    "--budget",
    "budget_file",
    type=NamedPath(),
    help="TOML or JSON file of budgets that the page checks the results against.",
)
@click.option(
    "--baseline", type=NamedPath(), help="Earlier result file that the page compares the results with."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
def report(
    files: tuple[Path, ...],
    output: Path,
    budget_file: Path | None,
    baseline: Path | None,
    overwrite: bool,
) -> None:
    """Make an HTML page, a Markdown table or a CSV file of results.

    The HTML page is a single file that works offline.
    """
    from sr_deploy.cli.bench import compare as _bench_compare

    _bench_compare.report(files, output, budget_file, baseline, overwrite=overwrite)
