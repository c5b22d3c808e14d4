"""The options of `sr-deploy bench` as one value, checked before a model is opened or anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sr_deploy.bench.gate import Budget, read_budgets, read_table
from sr_deploy.bench.result import BenchCase, BenchResult, read_result
from sr_deploy.bench.run.measure import Effort
from sr_deploy.bench.run.runner import tile_of
from sr_deploy.bench.sizes import DEFAULT_SIZES, Size, parse_aspect, parse_size
from sr_deploy.errors import InputError, UsageError

_DEFAULT_LIMIT = 95.0
"""Time limit of the default sweep in seconds; the start and the end of the run come on top."""
_NOT_IN_A_SUITE = ("suite", "output", "o", "overwrite", "json", "quiet", "debug")
"""Options that a suite may not set, because they concern the output of one run."""
_WHOLE_FROM_PIXELS = 1 << 21
"""Pixels from which the default sweep also measures a picture whole: 1080p (2,073,600) is just below."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Checked options of one bench run."""

    models: tuple[str, ...]
    """Bundled names or files; empty: the bundled models of `scale`."""
    scale: int | None
    """Scale that bundled models must have; None: any."""
    images: tuple[Path, ...]
    """Pictures or folders; empty: the bundled photograph."""
    backends: tuple[str, ...]
    """Empty: all backends that run on this machine."""
    precisions: tuple[str, ...]
    """Empty: the precision of each file."""
    fast: bool
    """Measure the fastest form of each model instead of the model on `backends`."""
    threads: tuple[int | None, ...]
    """Thread counts to measure; None: the cores this process may use."""
    streams: int
    """Calls in flight; 1 without `throughput`."""
    cases: tuple[BenchCase, ...]
    """Every combination of size, batch and tile; `find` uses the tile of the first one."""
    mode: str
    """"end-to-end", "with-files" or "device"."""
    throughput: bool
    """Keep several calls in flight instead of one picture at a time."""
    effort: Effort
    rounds: int
    """Number of times everything is measured, each time in new processes."""
    time_limit: float | None
    """Seconds for the whole run; None: no limit."""
    find: bool
    """Search the largest size that holds the budgets instead of measuring the sizes of `cases`."""
    aspect: float
    """Width over height of the sizes that `find` tries."""
    budgets: tuple[Budget, ...]
    """The budget of the command line first, then those of the budget file."""
    percentile: str
    """Percentile of the samples that the command line's budget and the real-time answer use."""
    real_time_fps: float
    """Frames per second that count as real time."""
    baseline: BenchResult | None
    """Earlier result that no case may be slower than."""
    baseline_name: str
    """Path of the baseline, for messages."""
    max_regression: float
    """Allowed slowdown against `baseline`; 0.05 is 5 %."""
    output: Path | None
    """Result file to write, or None."""
    as_json: bool
    quiet: bool


def make_options(ctx: click.Context, given: Mapping[str, Any]) -> BenchOptions:
    """Check the values that click parsed, add those of the suite file, and read budgets and baseline.

    Raises UsageError for options that contradict each other, InputError for files that cannot be used.
    """
    values = dict(given)
    if given["suite"] is not None:
        values |= _from_suite(given["suite"], ctx)
    if values["output"] is not None:
        from sr_deploy.cli.shared.paths import check_new

        check_new(values["output"], overwrite=values["overwrite"])
    mode = "with-files" if values["with_files"] else values["mode"]
    default_sweep = not values["sizes"] and not values["images"] and not values["find"]
    sizes = _sizes(values)
    _check_limits(values)
    if values["fast"] and values["precisions"]:
        raise UsageError("--fast chooses the precision itself; leave --precision out")
    return BenchOptions(
        models=tuple(values["models"]),
        scale=values["scale"],
        images=tuple(values["images"]),
        backends=tuple(values["backends"]),
        precisions=tuple(values["precisions"]),
        fast=values["fast"],
        threads=tuple(values["threads"]) or (None,),
        streams=(values["streams"] or 2) if values["throughput"] else 1,
        cases=_cases(sizes, values["batch"] or (1,), values["tiles"], default_sweep),
        mode=mode,
        throughput=values["throughput"],
        effort=_effort(values),
        rounds=values["rounds"],
        time_limit=values["time_limit"] or (_DEFAULT_LIMIT if default_sweep else None),
        find=values["find"] is not None,
        aspect=parse_aspect(values["aspect"]),
        budgets=_budgets(values),
        percentile=values["percentile"],
        real_time_fps=_real_time_fps(values),
        baseline=read_result(values["baseline"]) if values["baseline"] else None,
        baseline_name=str(values["baseline"]),
        max_regression=parse_share(values["max_regression"], "--max-regression"),
        output=values["output"],
        as_json=values["as_json"],
        quiet=values["quiet"],
    )


def parse_share(text: str, option: str) -> float:
    """The share that a text such as "5%" or "0.05" means, 0 to 10. `option` is named in the UsageError."""
    try:
        value = float(text.rstrip("% ")) / (100 if text.rstrip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise UsageError(f"{option} {text!r} is not a share; give one such as 5% or 0.05")
    return value


def _from_suite(path: Path, ctx: click.Context) -> dict[str, Any]:
    """The values that the suite file sets, without those that are given on the command line.

    A suite may not set options about the output of one run (`_NOT_IN_A_SUITE`). Raises InputError.
    """
    record = read_table(path, "--suite")
    options = [p for p in ctx.command.params if isinstance(p, click.Option)]
    parameters = {name.lstrip("-"): option for option in options for name in option.opts}
    values = {}
    for key, value in record.items():
        parameter = parameters.get(key.replace("_", "-"))
        if parameter is None or key in _NOT_IN_A_SUITE:
            raise InputError(f"--suite {path}: there is no option {key!r}; see `sr-deploy bench --help`")
        name = str(parameter.name)
        if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            continue
        try:
            plain = [str(item) for item in value] if isinstance(value, list) else value
            plain = [str(plain)] if parameter.multiple and not isinstance(plain, list) else plain
            values[name] = parameter.process_value(ctx, plain)
        except click.UsageError as error:
            raise InputError(f"--suite {path}: {key}: {error.format_message()} Correct it") from error
    return values


def _sizes(values: Mapping[str, Any]) -> tuple[Size, ...]:
    """The sizes to measure: --sizes, else the pictures' own, else the default sweep. Raises UsageError or InputError."""
    if values["sizes"]:
        return tuple(dict.fromkeys(parse_size(part) for text in values["sizes"] for part in text.split(",")))
    if values["images"]:
        from sr_deploy.bench.frames import load_photographs

        photographs = load_photographs(values["images"])
        pairs = zip(photographs.names, photographs.pixels, strict=True)
        return tuple(Size(name, picture.shape[1], picture.shape[0]) for name, picture in pairs)
    return tuple(DEFAULT_SIZES)


def _cases(
    sizes: tuple[Size, ...], batches: tuple[int, ...], tiles: tuple[str, ...], default_sweep: bool
) -> tuple[BenchCase, ...]:
    """Every combination of size, batch and tile as a case. Raises UsageError for a wrong tile.

    Without --tile the default sweep measures large sizes both tiled and whole.
    """
    cases = []
    for size in sizes:
        default_tiles = (
            ("auto", "whole") if default_sweep and size.pixels >= _WHOLE_FROM_PIXELS else ("auto",)
        )
        for batch in batches:
            for tile in tiles or default_tiles:
                case = BenchCase(
                    label=size.label, width=size.width, height=size.height, batch=batch, tile=tile
                )
                tile_of(case)
                cases.append(case)
    return tuple(cases)


def _check_limits(values: Mapping[str, Any]) -> None:
    if values["streams"] is not None and not values["throughput"]:
        raise UsageError("--streams needs --throughput; add that, or leave --streams out")
    if values["find"] and not (values["min_fps"] or values["max_ms"]):
        raise UsageError("--find realtime needs a limit to hold; add --min-fps 30 or --max-ms")
    if values["find"] and (values["sizes"] or values["budget_file"] or values["throughput"]):
        raise UsageError("--find chooses the sizes itself; leave --sizes, --budget and --throughput out")


def _effort(values: Mapping[str, Any]) -> Effort:
    """The effort per case: samples and seconds. A --seconds above --max-seconds raises that limit."""
    seconds, max_seconds = values["seconds"], max(values["max_seconds"], values["seconds"])
    return Effort(samples=values["samples"], seconds=seconds, most_seconds=max_seconds)


def _budgets(values: Mapping[str, Any]) -> tuple[Budget, ...]:
    """The budget that --min-fps and --max-ms make, if any, and those of the --budget file."""
    limits = {"min_fps": values["min_fps"], "max_ms": values["max_ms"], "percentile": values["percentile"]}
    own = (Budget(**limits),) if limits["min_fps"] is not None or limits["max_ms"] is not None else ()
    return own + (read_budgets(values["budget_file"]) if values["budget_file"] else ())


def _real_time_fps(values: Mapping[str, Any]) -> float:
    """Frames per second that count as real time: --min-fps, else 1000 / --max-ms, else 30. Raises UsageError."""
    from sr_deploy.bench.gate import PERCENTILE_NAMES, REAL_TIME_FPS

    if values["percentile"] not in PERCENTILE_NAMES:
        raise UsageError(
            f"there is no percentile {values['percentile']!r}; choose one of {', '.join(PERCENTILE_NAMES)}"
        )
    return float(values["min_fps"] or (1000 / values["max_ms"] if values["max_ms"] else REAL_TIME_FPS))
