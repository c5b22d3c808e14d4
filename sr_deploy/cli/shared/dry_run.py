"""The output of `upscale --dry-run`: what a run would do, with sizes and an estimate of the time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.reporter import counted

if TYPE_CHECKING:
    from sr_deploy.batch.jobs import Jobs
    from sr_deploy.batch.survey import Look

_WORDS = {
    "skip": "is there already, would be skipped",
    "foreign": "was not made by a run of sr-deploy, or was changed: would be reported and kept",
}


def show_looks(looks: Sequence[Look], rate: float | None, *, as_json: bool, model: str | None = None) -> None:
    """Print a line for each picture on stdout. `rate` is in seconds per pixel; None if nothing could be measured.

    `model` is the model of all pictures; None if each has a choice of its own.
    """
    for look in looks:
        click.echo(json.dumps(_record(look, rate, model)) if as_json else _line(look))


def summary(jobs: Jobs, looks: Sequence[Look], rate: float | None, backend: str) -> str:
    """The last line: how many pictures a run would upscale, what it would leave out, and how long it would take."""
    makes = [look for look in looks if look.do == "make"]
    pixels = sum(look.pixels for look in makes)
    made = sum(look.result[0] * look.result[1] for look in makes)
    parts = [f"{len(makes)} to upscale ({pixels / 1e6:.1f} megapixels, which become {made / 1e6:.1f})"]
    skipped = len(jobs.skipped) + sum(look.do == "skip" for look in looks)
    failing = len(jobs.refused) + sum(look.do in ("fail", "foreign") for look in looks)
    parts += [f"{number} {what}" for number, what in ((skipped, "skipped"), (failing, "failing")) if number]
    if jobs.left_out:
        kinds = (counted(kind, count) for kind, count in sorted(jobs.left_out.items()))
        parts.append(f"{sum(jobs.left_out.values())} left out ({', '.join(kinds)})")
    if makes and rate is not None:
        parts.append(f"about {duration(rate * pixels)} on {backend}, measured on parts of some pictures")
    return "; ".join((", ".join(parts), "nothing was written"))


def duration(seconds: float) -> str:
    """Seconds as text, in the unit that suits: "3 s", "12 min", "2 h 5 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _line(look: Look) -> str:
    """The line about one picture."""
    source, target = look.job.source, look.job.target
    if look.do == "make":
        net = f" by {look.net}" if look.net else ""
        return (
            f"{source} ({look.size[0]}x{look.size[1]}) -> {target} ({look.result[0]}x{look.result[1]}){net}"
        )
    return f"error: {look.error}" if look.do == "fail" else f"{target} {_WORDS[look.do]}"


def _record(look: Look, rate: float | None, model: str | None) -> dict[str, Any]:
    """One picture as JSON values; the keys are those of a run, and seconds are estimated."""
    make = look.do == "make"
    status = {"make": "planned", "skip": "skipped"}.get(look.do, "failed")
    return {
        "input": str(look.job.source),
        "output": str(look.job.target),
        "status": status,
        "width": look.result[0] if make else None,
        "height": look.result[1] if make else None,
        "seconds": round(rate * look.pixels, 4) if make and rate is not None else None,
        "backend": None,
        "model": model if look.choice is None else look.choice.model,
        "reason": None if look.choice is None else look.choice.reason,
        "notes": [],
        "error": look.error or _WORDS["foreign"] if status == "failed" else None,
    }
