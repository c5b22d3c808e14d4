"""The parts of the report that judge a result: budgets, baseline, doubts, and failed runs.

Every part is None if it has nothing to say, and the page then leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sr_deploy.bench.compare import MatchedRuns, compare_results, fastest_tenth
from sr_deploy.bench.doubts import doubts
from sr_deploy.bench.gate import Budget, check_budgets
from sr_deploy.bench.machines import differences
from sr_deploy.bench.report.axes import duration
from sr_deploy.bench.report.charts import picture_label
from sr_deploy.bench.report.lines import count, names_of, parts_of
from sr_deploy.bench.report.markup import Child, Markup, table, tag
from sr_deploy.bench.result import BenchResult


def judgement(result: BenchResult, budgets: Sequence[Budget]) -> Markup | None:
    """A list of the budgets with what was missed, and by how much; None without a budget."""
    if not budgets:
        return None
    items = [item for budget in budgets for item in _budget_items(budget, result)]
    return tag("div", tag("h3", "Budgets"), tag("ul", items, class_="plain"), class_="card")


def _budget_items(budget: Budget, result: BenchResult) -> Iterator[Markup]:
    """List items for one budget: "held" with the number of runs, or "missed" with the details."""
    missed = check_budgets([budget], result.runs)
    wanted = _budget_text(budget)
    if missed:
        lines = [tag("li", tag("bdi", line)) for line in missed]
        yield _item("missed", "bad", [wanted, tag("ul", lines, class_="inner")])
    else:
        about = sum(budget.applies_to(run) for run in result.runs)
        yield _item("held", "good", [wanted, f", by {count(about, 'run')}"])


def _budget_text(budget: Budget) -> list[Child]:
    """The limits of a budget in words."""
    wanted = []
    if budget.min_fps is not None:
        wanted.append(f"at least {budget.min_fps:g} fps")
    if budget.max_ms is not None:
        wanted.append(f"at most {budget.max_ms:g} ms")
    about = " ".join(filter(None, (budget.model, budget.backend, budget.precision, budget.size)))
    return [f"{' and '.join(wanted)} at {budget.percentile}, for ", tag("bdi", about or "every run")]


def baseline_comparison(result: BenchResult, baseline: BenchResult | None) -> Markup | None:
    """A table of the change of each run since an earlier result; None without a baseline.

    If the machines differ, a note says so instead, because their times cannot be compared.
    """
    if baseline is None:
        return None
    when = baseline.created.replace("T", " ").replace("Z", " UTC")
    # Checked before `compare_results`, which would raise InputError for the whole report.
    apart = differences(baseline.environment.machine, result.environment.machine)
    if apart:
        text = f"The baseline of {when} comes from another machine and is not compared: {'; '.join(apart)}."
        return tag("div", _state("unlike", "warn"), " ", tag("bdi", text), class_="card")
    pairs = compare_results(baseline, result)
    if not pairs:
        return tag(
            "div",
            _state("nothing", "warn"),
            f" The baseline of {when} measured none of these runs.",
            class_="card",
        )
    names = names_of([tuple(parts_of(pair.after).items()) for pair in pairs])
    rows = [_change_row(name, pair) for name, pair in zip(names, pairs, strict=True)]
    return table(
        ("run", "before", "now", "change", "between", "verdict"),
        rows,
        caption=f"Changes since the baseline of {when}: the tenth percentile of the samples, corrected for the speed "
        "of the machine where that was measured, and the 95 % confidence interval of the change.",
        class_="stack",
    )


def _change_row(name: str, pair: MatchedRuns) -> tuple[Child, ...]:
    """The row of one pair of runs: tenth percentiles, change, interval, and the verdict with a colour."""
    change = pair.change
    looks = {"slower": "bad", "faster": "good", "no change": "same", "too few samples": "same"}
    before, now = (duration(float(fastest_tenth(run.samples))) for run in (pair.before, pair.after))
    return (
        [tag("bdi", name), ", ", picture_label(pair.after)],
        before,
        now,
        change.percent,
        f"{change.low - 1:+.1%} and {change.high - 1:+.1%}",
        [_state(change.verdict, looks[change.verdict]), f", {pair.note}" if pair.note else ""],
    )


def doubt_list(result: BenchResult) -> Markup | None:
    """A collapsible list of the reasons not to trust the figures; None if there are none."""
    if not (found := doubts(result)):
        return None
    title = [_state("doubtful", "warn"), f" {count(len(found), 'reason')} not to trust these figures"]
    return collapsible(title, [tag("li", tag("bdi", line)) for line in found])


def failure_list(result: BenchResult) -> Markup | None:
    """A collapsible list of the runs that failed, with their errors; None if there are none."""
    if not result.failures:
        return None
    items = [
        tag(
            "li", tag("bdi", f"{failure.subject.name}, {failure.case.label}"), ": ", tag("bdi", failure.error)
        )
        for failure in result.failures
    ]
    return collapsible([_state("failed", "bad"), f" {count(len(items), 'run')} failed"], items)


def _item(state: str, class_: str, text: Child) -> Markup:
    """A list item that begins with a coloured label."""
    return tag("li", _state(state, class_), " ", text)


def _state(state: str, class_: str) -> Markup:
    """A coloured label; `class_` is "good", "bad", "warn" or "same"."""
    return tag("span", state, class_=f"state {class_}")


def collapsible(title: Child, inside: Child | Sequence[Markup], *, opened: bool = False) -> Markup:
    """A block that opens when its title is clicked, with a list of items or other markup inside."""
    if isinstance(inside, list):
        inside = tag("ul", inside, class_="plain")
    return tag("details", tag("summary", title), inside, open=opened)
