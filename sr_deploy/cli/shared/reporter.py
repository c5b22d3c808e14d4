"""What `upscale` tells while it works: a bar with rate and time left where stderr is a terminal, plain lines
where it is not, JSON lines on stdout where a program reads. rich is imported when a bar is drawn, not before.
"""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.bars import print_above, stderr_bar
from sr_deploy.errors import SrDeployError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from sr_deploy.batch.inputs import RefusedInput
    from sr_deploy.batch.jobs import Job
    from sr_deploy.batch.steps import Outcome

_SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Follows a batch of `total` pictures; a `sr_deploy.batch.run.Watcher`. Use it in a `with` statement."""

    def __init__(self, total: int, *, alone: bool, quiet: bool, as_json: bool) -> None:
        """`alone`: one picture was asked for, whose error the command itself will print."""
        self.backend = ""
        self._total, self._alone, self._quiet, self._json = total, alone, quiet, as_json
        self._computed = 0
        self._last_error = ""
        self._counts = {"done": 0, "skipped": 0, "failed": 0, "left": 0}
        self._start = self._last_line = time.monotonic()
        self._draws = not quiet and sys.stderr.isatty()
        self._bar: _PictureBar | None = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._counts["left"] and kind is None:
            self._line(
                f"error: the rest, {self._counts['left']} of {self._total} pictures, is left; make room or choose "
                "another place, and run again with --skip-existing"
            )
        if self._total > 1 and kind is None and not self._quiet:
            self._line(self._summary())

    def say(self, message: str) -> None:
        """One line the user should know, unless quiet."""
        if not self._quiet:
            self._line(f"note: {message}")

    def tile(self, job: Job, done: int, total: int) -> None:
        """Move the bar on by a tile."""
        self._computed += done == total
        if self._draws and (self._total > 1 or done < total or self._bar is not None):
            self._show(job.source.name, done, total)
        elif not self._quiet and done < total and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line(f"{job.source.name}: {done} of {total} tiles")

    def refused(self, refused: RefusedInput) -> None:
        """Report what was found out to be impossible beforehand."""
        self._counts["failed"] += 1
        if self._json:
            record = {
                "input": str(refused.source),
                "output": None if refused.target is None else str(refused.target),
                "status": "failed",
                "error": " ".join(str(refused.error).split()),
            }
            nothing = dict.fromkeys(("width", "height", "seconds", "backend"))
            self._print(json.dumps({**record, **nothing, "notes": []}), to_stdout=True)
        if str(refused.error) != self._last_error:  # two that would be one file share theirs
            self._last_error = str(refused.error)
            self._line(f"error: {self._last_error}")
        self._computed = max(self._computed, self._finished_count())

    def finished(self, outcome: Outcome) -> None:
        """Report one picture."""
        self._counts[outcome.status] += 1
        if self._json:
            self._print(json.dumps(self._record(outcome)), to_stdout=True)
        for note in outcome.notes:
            self.say(f"{outcome.job.source}: {note}")
        if outcome.error is not None and not self._alone:
            self._line(f"error: {_described(outcome)}")
        elif not (
            self._quiet
            or self._json
            or outcome.error
            or outcome.status == "left"
            or (self._draws and self._total > 1)
        ):
            self._line(self._plain(outcome))
        self._computed = max(self._computed, self._finished_count())  # a failed picture has no last tile

    def _finished_count(self) -> int:
        return sum(self._counts.values())

    def _show(self, name: str, done: int, tiles: int) -> None:
        """Pictures computed so far and the part of the present one; of a single picture, its tiles."""
        if self._bar is None:
            self._bar = _PictureBar(*((self._total, "pictures") if self._total > 1 else (tiles, "tiles")))
        part = done / tiles if done < tiles else 0.0
        self._bar.update(name, self._computed + part if self._total > 1 else done)

    def _plain(self, outcome: Outcome) -> str:
        counter = f"[{self._finished_count()}/{self._total}] " if self._total > 1 else ""
        job = outcome.job
        if outcome.status == "skipped":
            why = "is being made by another process" if outcome.taken else "is there already"
            return f"{counter}{job.target} {why}, skipped"
        facts = f"{outcome.width}x{outcome.height}, {outcome.seconds:.1f} s, {self.backend}"
        return f"{counter}{job.source} -> {job.target} ({facts})"

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        error = outcome.error
        return {
            "input": str(outcome.job.source),
            "output": str(outcome.job.target),
            "status": outcome.status,
            "width": outcome.width if error is None else None,
            "height": outcome.height if error is None else None,
            "seconds": round(outcome.seconds, 4),
            "backend": self.backend or None,
            "notes": list(outcome.notes),
            "error": None if error is None else " ".join(str(error).split()),
        }

    def _summary(self) -> str:
        counts = self._counts
        parts = [f"{counts['done']} upscaled"]
        parts += [f"{counts[what]} {what}" for what in ("skipped", "failed", "left") if counts[what]]
        return f"{', '.join(parts)} in {time.monotonic() - self._start:.1f} s"

    def _line(self, message: str) -> None:
        self._last_line = time.monotonic()
        self._print(" ".join(message.split("\n")))

    def _print(self, line: str, *, to_stdout: bool = False) -> None:
        if self._bar is not None and (not to_stdout or sys.stdout.isatty()):
            self._bar.print(line)  # above the bar, which would swallow it otherwise
        else:
            click.echo(line, err=not to_stdout)


class _PictureBar:
    """A rich progress bar on stderr, in pictures or in tiles."""

    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._start = total, unit, time.monotonic()
        self._progress = stderr_bar("{task.fields[count]}  {task.fields[rate]}")
        self._task: TaskID = self._progress.add_task("", total=total, count="", rate="")
        self._progress.start()

    def update(self, name: str, done: float) -> None:
        rate = done / max(time.monotonic() - self._start, 1e-3)
        self._progress.update(
            self._task,
            completed=done,
            description=name if len(name) <= 32 else f"{name[:29]}...",
            count=f"{int(done)}/{self._total} {self._unit}",
            rate=f"{rate:.1f}/s",
        )

    def print(self, line: str) -> None:
        print_above(self._progress, line)

    def stop(self) -> None:
        self._progress.stop()


def _described(outcome: Outcome) -> str:
    """The error of a failed picture as text that names the picture once."""
    error, source = outcome.error, str(outcome.job.source)
    text = str(error) if isinstance(error, SrDeployError) else f"{type(error).__name__}: {error}"
    return text if source in text else f"{source}: {text}"
