"""Reasons not to trust a measurement, told from what was recorded. Thresholds after pyperf's, where it has them."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.bench.result import BenchResult, BenchRun
from sr_deploy.bench.summary import summarise

FEW_SAMPLES = 20
WIDE_SPREAD = 0.10
MANY_OUTLIERS = 0.10
BUSY = 0.10
_SHORT_SAMPLE = 1e-4  # seconds; a sample of less is mostly Python


def doubts(result: BenchResult) -> list[str]:
    """One line a kind of doubt, naming the runs it is about."""
    kinds: dict[str, list[str]] = {}
    for run in result.runs:
        for text in run_doubts(run):
            kinds.setdefault(text, []).append(f"{run.subject.name} {run.case.label}")
    lines = [f"{text}: {_joined_names(names)}" for text, names in kinds.items()]
    state = result.environment.state
    if state.governor not in (None, "performance"):
        lines.append(f"the clock governor is {state.governor}: times depend on what ran before")
    if (state.busy_elsewhere or 0) > BUSY:
        lines.append(
            f"other processes took {state.busy_elsewhere:.0%} of the cores while the peak was measured"
        )
    if result.interrupted:
        lines.append("it was interrupted: what is missing was not measured")
    return lines


def run_doubts(run: BenchRun) -> list[str]:
    """What is doubtful about one run, a clause each; the same words for every run, so that they can be gathered."""
    summary, found = summarise(run), []
    if summary.count < FEW_SAMPLES:
        found.append(f"fewer than {FEW_SAMPLES} samples, so p95 and p99 are hardly more than the longest")
    if not run.steady:
        found.append("the warm-up ended before the times were steady")
    if summary.spread > WIDE_SPREAD:
        found.append(
            f"the middle half of the times spreads over more than {WIDE_SPREAD:.0%} around the median"
        )
    if summary.outliers > MANY_OUTLIERS:
        found.append(f"more than {MANY_OUTLIERS:.0%} of the times are outliers")
    if run.others is not None and run.others > BUSY:
        found.append(f"other processes took more than {BUSY:.0%} of the cores meanwhile")
    if summary.p50 < _SHORT_SAMPLE:
        found.append("a sample takes less than 0.1 ms, much of it Python's own")
    return found


def _joined_names(names: Sequence[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
