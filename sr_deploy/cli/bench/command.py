"""`sr-deploy bench`: how fast models run here, at which sizes that is real time, and whether a budget holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sr_deploy.cli.shared.paths import NamedPath


class _BenchGroup(click.Group):
    """A group that measures when it is called without a sub-word."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """As a command of its own shows it."""
        return ["[OPTIONS]"]


def _list_of(ctx: click.Context, parameter: click.Parameter, value: Any) -> tuple[str, ...]:
    """Values that may be repeated, and be several between commas."""
    parts = [part.strip() for text in value for part in text.split(",")]
    if "" in parts:
        raise click.BadParameter("a name is empty.", ctx, parameter)
    return tuple(dict.fromkeys(parts))


def _numbers(ctx: click.Context, parameter: click.Parameter, value: Any) -> tuple[int, ...]:
    """Whole numbers of 1 to 1024, as `_list_of`."""
    names = _list_of(ctx, parameter, value)
    for name in names:
        if not name.isdecimal() or not 1 <= int(name) <= 1024:
            raise click.BadParameter(f"{name!r} is no number of 1 to 1024.", ctx, parameter)
    return tuple(int(name) for name in names)


@click.group("bench", cls=_BenchGroup, invoke_without_command=True)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    help="A bundled model or an ONNX file. Repeat for several. [default: every bundled one of --scale]",
)
@click.option("--scale", type=click.IntRange(1, 16), help="Measure the bundled models of this scale.")
@click.option(
    "--sizes",
    multiple=True,
    metavar="SIZE,...",
    help="Of the input: 360p, 1080p, 4k, 637x481, 512 (a square). [default: 90p to 2160p, as far as time allows]",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=NamedPath(),
    help="A picture, or a folder of them: measured at its own size, or cut to --sizes. [default: a bundled photograph]",
)
@click.option(
    "--backend", "backends", multiple=True, callback=_list_of, help="[default: all that can run here]"
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    callback=_list_of,
    help="fp32, fp16, bf16, int8; fp32 files are converted to fp16 or bf16. [default: that of each file]",
)
@click.option("--batch", multiple=True, callback=_numbers, help="Pictures in one call. [default: 1]")
@click.option("--threads", multiple=True, callback=_numbers, help="[default: the cores this process may use]")
@click.option("--streams", type=click.IntRange(1, 64), help="Calls in flight with --throughput. [default: 2]")
@click.option(
    "--tile",
    "tiles",
    multiple=True,
    callback=_list_of,
    help="auto, whole, or a number of pixels. [default: auto; in the default sweep large sizes also whole]",
)
@click.option(
    "--mode",
    type=click.Choice(["end-to-end", "with-files", "device"]),
    default="end-to-end",
    show_default=True,
    help="From pixels in memory to pixels in memory; from file to file; on a GPU's own buffers.",
)
@click.option("--with-files", is_flag=True, help="The same as --mode with-files.")
@click.option("--throughput", is_flag=True, help="Keep the pipeline full. [default: one picture at a time]")
@click.option("--samples", type=click.IntRange(1), default=30, show_default=True, help="At least so many.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="At least so long a case."
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="No longer, but for 3 samples.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    help="Go through everything so often, in turn, in fresh processes.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    help="Seconds for everything; what would not end in time is left out. [default: 95 for the default sweep]",
)
@click.option(
    "--find", type=click.Choice(["realtime"]), help="Search the largest size that holds the budget."
)
@click.option("--aspect", default="16:9", show_default=True, help="Of the sizes that --find searches.")
@click.option("--min-fps", type=float, help="Fail where fewer frames a second are held.")
@click.option("--max-ms", type=float, help="Fail where a picture takes longer.")
@click.option(
    "--percentile",
    default="p95",
    show_default=True,
    help="p50, p90, p95, p99 or max: of --min-fps, --max-ms.",
)
@click.option("--budget", "budget_file", type=NamedPath(), help="A TOML or JSON file of [[budget]] tables.")
@click.option("--baseline", type=NamedPath(), help="An earlier result to be no slower than.")
@click.option(
    "--max-regression", default="5%", show_default=True, help="How much slower than --baseline is allowed."
)
@click.option("--suite", type=NamedPath(), help="A TOML file of these options; those given here win.")
@click.option("-o", "--output", type=NamedPath(), help="Write the result there: JSON with every sample.")
@click.option("--json", "as_json", is_flag=True, help="Print that JSON instead of tables.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --output.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Measure how fast models run on this machine, and at which sizes that is real time.

    Every model runs on every backend in a process of its own, on a photograph cut to size, until its times are
    steady and then often enough. Printed are percentiles; every sample is kept with -o. `sr-deploy bench compare`
    judges two results, `sr-deploy bench report` makes a page, Markdown or CSV of them.
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
    help="Of the table.",
)
@click.option("--max-regression", help="Exit 1 where something is slower by more, such as 5%.")
def compare(files: tuple[Path, ...], form: str, max_regression: str | None) -> None:
    """Compare results with the first of FILES: what became faster or slower, judged by the samples' spread."""
    from sr_deploy.cli.bench import compare as _bench_compare

    click.get_current_context().exit(_bench_compare.run(files, form, max_regression))


@command.command("report")
@click.argument("files", nargs=-1, type=NamedPath(), required=True)
@click.option(
    "-o", "--output", type=NamedPath(), required=True, help="The file: .html for a page, .md, .csv."
)
@click.option("--budget", "budget_file", type=NamedPath(), help="Judge the page's results by these budgets.")
@click.option("--baseline", type=NamedPath(), help="Compare the page's results with this one.")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there already.")
def report(
    files: tuple[Path, ...],
    output: Path,
    budget_file: Path | None,
    baseline: Path | None,
    overwrite: bool,
) -> None:
    """Make one page (HTML, works offline), a Markdown table or a CSV file of results."""
    from sr_deploy.cli.bench import compare as _bench_compare

    _bench_compare.report(files, output, budget_file, baseline, overwrite=overwrite)
