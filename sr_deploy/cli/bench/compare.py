"""`sr-deploy bench compare` and `sr-deploy bench report`: turn result files into text and files.

This module parses and prints; `sr_deploy.bench.compare` and `sr_deploy.bench.report` do the work.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import click

from sr_deploy.bench.compare import MatchedRuns, compare_results, fastest_tenth, regressions, undecided
from sr_deploy.bench.gate import read_budgets
from sr_deploy.bench.result import BenchResult, read_result, write_text
from sr_deploy.bench.tables import csv_text, markdown, markdown_table, milliseconds
from sr_deploy.cli.bench.options import parse_share
from sr_deploy.cli.shared.console import complain, table
from sr_deploy.cli.shared.paths import check_new
from sr_deploy.errors import InputError, UsageError
from sr_deploy.system.text import csv_cell

# Times are 10th percentiles: whatever else happens on a machine only adds to a time, so the fastest tenth is the
# least disturbed.
_HEADER = (
    "model",
    "backend",
    "precision",
    "size",
    "tile",
    "p10 before ms",
    "p10 after ms",
    "change",
    "95 % interval",
    "verdict",
)


def run(files: Sequence[Path], form: str, max_regression: str | None) -> int:
    """Print how each later result differs from the first. Returns the exit code.

    `form` is "text", "markdown" or "csv". With CSV the file names go to stderr, so that stdout is CSV alone. The
    exit code is 1 if a case became slower by more than `max_regression`, such as "5%". Raises UsageError for fewer
    than two files, InputError for results without a common case.
    """
    if len(files) < 2:
        raise UsageError(
            "there is nothing to compare with; give two or more files written by sr-deploy bench -o"
        )
    limit = None if max_regression is None else parse_share(max_regression, "--max-regression")
    results = [read_result(path) for path in files]
    missed: list[str] = []
    for path, result in zip(files[1:], results[1:], strict=True):
        pairs = compare_results(results[0], result, (str(files[0]), str(path)))
        if not pairs:
            raise InputError(
                f"{files[0]} and {path} have nothing in common; measure the same models, backends and sizes"
            )
        click.echo(f"{files[0]} -> {path}", err=form == "csv")
        click.echo(_text(pairs, form), nl=form == "text")
        for line in _versions(results[0], result):
            complain(line, prefix=False)
        missed += [] if limit is None else regressions(pairs, limit)
        for line in undecided(pairs):
            complain(f"warning: {line}; measure with a larger --max-seconds", prefix=False)
    for line in missed:
        complain(f"missed: {line}", prefix=False)
    return 1 if missed else 0


def report(
    files: Sequence[Path], output: Path, budget_file: Path | None, baseline: Path | None, *, overwrite: bool
) -> None:
    """Write results to `output` as a page, a Markdown table or CSV, chosen by its suffix. Raises UsageError
    for another suffix, and for budgets or a baseline without a page."""
    kinds = {".html": "a page", ".htm": "a page", ".md": "Markdown", ".csv": "CSV"}
    kind = kinds.get(output.suffix.lower())
    if kind is None:
        raise UsageError(f"-o {output}: the name of a report ends in .html, .md or .csv; choose one of these")
    check_new(output, overwrite=overwrite)
    results = [read_result(path) for path in files]
    if kind == "a page":
        from sr_deploy.bench.report.page import write_report

        budgets = read_budgets(budget_file) if budget_file else ()
        write_report(results, output, budgets=budgets, baseline=read_result(baseline) if baseline else None)
        return
    if budget_file or baseline:
        raise UsageError("--budget and --baseline need a page; give -o a name that ends in .html")
    write_text(output, markdown(results) if kind == "Markdown" else csv_text(results))


def _text(pairs: Sequence[MatchedRuns], form: str) -> str:
    """The comparison as text: a table, a Markdown table, or CSV with times in milliseconds and unrounded ratios."""
    cells = [_cells(pair) for pair in pairs]
    if form == "text":
        return table(_HEADER, cells)
    if form == "markdown":
        return markdown_table(_HEADER, cells)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (*_HEADER[:5], "before_ms", "after_ms", "ratio", "low", "high", "verdict", "machine", "by")
    )
    for pair, line in zip(pairs, cells, strict=True):
        change, times = pair.change, (1000 * fastest_tenth(run.samples) for run in (pair.before, pair.after))
        writer.writerow(
            (
                *map(csv_cell, line[:5]),
                *times,
                change.ratio,
                change.low,
                change.high,
                change.verdict,
                pair.machine,
                pair.by,
            )
        )
    return text.getvalue()


def _cells(pair: MatchedRuns) -> tuple[str, ...]:
    """One compared case as a row of the table: times are 10th percentiles in milliseconds."""
    run, change = pair.after, pair.change
    return (
        run.subject.model,
        run.subject.backend if run.subject.runner == "sr-deploy" else run.subject.runner,
        run.subject.precision,
        run.case.label + (f" x{run.case.batch}" if run.case.batch > 1 else ""),
        run.case.tile,
        milliseconds(fastest_tenth(pair.before.samples)),
        milliseconds(fastest_tenth(run.samples)),
        change.percent,
        f"{(change.low - 1) * 100:+.1f} to {(change.high - 1) * 100:+.1f} %",
        ", ".join(filter(None, (change.verdict, pair.note))),
    )


def _versions(before: BenchResult, after: BenchResult) -> list[str]:
    """A note on the versions that differ between two results, which may explain a change; or nothing."""
    old, new = before.environment.versions, after.environment.versions
    names = sorted({*old, *new})
    changed = [f"{n} {old.get(n, 'none')} -> {new.get(n, 'none')}" for n in names if old.get(n) != new.get(n)]
    return [f"note: versions differ: {', '.join(changed)}"] if changed else []
