"""Find reasons not to trust a measurement, from its recorded figures. Thresholds follow pyperf where it has
them."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.bench.result import BenchResult, BenchRun
from sr_deploy.bench.summary import summarise

FEW_SAMPLES = 20
"""Runs with fewer samples are doubtful: p95 of 20 samples lies between the two slowest."""
WIDE_SPREAD = 0.10
"""Half the interquartile range over the median; above this share (0..1) a run is doubtful."""
MANY_OUTLIERS = 0.10
"""Share (0..1) of samples outside Tukey's fences above which a run is doubtful."""
BUSY = 0.10
"""Share (0..1) of the cores' time taken by other processes above which the machine counts as busy."""
_SHORT_SAMPLE = 1e-4  # seconds; shorter samples mostly measure the Python interpreter


def doubts(result: BenchResult) -> list[str]:
    """Return a line for each kind of doubt about `result`, with the names of the runs it concerns."""
    kinds: dict[str, list[str]] = {}
    for run in result.runs:
        for text in run_doubts(run):
            kinds.setdefault(text, []).append(f"{run.subject.name} {run.case.label}")
    lines = [f"{text}: {_joined_names(names)}" for text, names in kinds.items()]
    state = result.environment.state
    if state.governor not in (None, "performance"):
        lines.append(f"the clock governor is {state.governor}: times depend on the load just before")
    if (state.busy_elsewhere or 0) > BUSY:
        lines.append(
            f"other processes took {state.busy_elsewhere:.0%} of the cores while the machine's peak was measured"
        )
    if result.interrupted:
        lines.append("it was interrupted: the missing runs were not measured")
    return lines


def run_doubts(run: BenchRun) -> list[str]:
    """Return the doubts about one run, a clause each.

    Equal doubts have equal words, so that `doubts` can group them.
    """
    summary, found = summarise(run), []
    if summary.count < FEW_SAMPLES:
        found.append(f"fewer than {FEW_SAMPLES} samples, so p95 and p99 are close to the slowest sample")
    if not run.steady:
        found.append("the warm-up ended before the times were steady")
    if summary.spread > WIDE_SPREAD:
        found.append(f"the middle half of the times spreads by more than {WIDE_SPREAD:.0%} around the median")
    if summary.outliers > MANY_OUTLIERS:
        found.append(f"more than {MANY_OUTLIERS:.0%} of the times are outliers")
    if run.others is not None and run.others > BUSY:
        found.append(f"other processes took more than {BUSY:.0%} of the cores during the run")
    if summary.p50 < _SHORT_SAMPLE:
        found.append("a sample takes less than 0.1 ms, much of it in the Python interpreter")
    return found


def _joined_names(names: Sequence[str], most: int = 3) -> str:
    """The first `most` names between commas, and the number of the others."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
