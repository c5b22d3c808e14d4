"""The output of `upscale` while it works.

On a terminal a bar with rate and time left is drawn on stderr; elsewhere each picture gets a line. For a program
that reads, each picture is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sr_deploy.cli.shared.progress import ProgressDisplay
from sr_deploy.errors import SrDeployError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sr_deploy.batch.inputs import RefusedInput
    from sr_deploy.batch.jobs import Job
    from sr_deploy.batch.steps import Outcome

_LONGEST_NAME = 32
"""Characters of a file name beside the bar; longer names are cut."""


class Reporter:
    """Reports on a batch of `total` pictures; it is a `sr_deploy.batch.steps.BatchListener`.

    Use it in a `with` statement. Calls must come from one thread.
    """

    def __init__(
        self,
        total: int,
        *,
        alone: bool,
        quiet: bool,
        as_json: bool,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        """`alone`: one picture was asked for, so the command itself prints its error.

        `left_out`: kind of the entries of folders that are not taken -> their number.
        """
        self.backend = ""
        """Name of the backend for the lines about pictures; set once the model is open."""
        self.model = ""
        """The model that makes all pictures; empty if each picture has a choice of its own."""
        self._total, self._alone, self._quiet, self._json = total, alone, quiet, as_json
        self._left_out = dict(left_out or {})
        self._computed = 0  # pictures whose last tile is computed; they may not be written yet
        self._last_error = ""
        self._counts = {"done": 0, "skipped": 0, "failed": 0, "left": 0}
        self._nets: dict[str, int] = {}  # name of a chosen net -> pictures that it upscaled
        self._first_tile: float | None = None
        self.progress = ProgressDisplay(
            "{task.fields[count]}  {task.fields[rate]}", quiet=quiet, remaining=True
        )
        """The bar on a terminal; its presence also decides how other lines are printed."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar, then report pictures that were left and print the summary.

        After an exception neither is printed, because the error of the command is the last line then.
        """
        self.progress.stop()
        if self._counts["left"] and kind is None:
            self._line(
                f"error: the rest, {self._counts['left']} of {self._total} pictures, was not upscaled; free some space or choose "
                "another output folder, and run again with --skip-existing"
            )
        if (self._total > 1 or self._left_out) and kind is None and not self._quiet:
            self._line(self._summary())

    def say(self, message: str) -> None:
        """Print a note for the user, unless quiet."""
        if not self._quiet:
            self._line(f"note: {message}")

    def tile(self, job: Job, done: int, total: int) -> None:
        """Count a computed tile: `done` of `total` tiles of the picture of `job` are computed."""
        self._computed += done == total
        if self._total > 1 or done < total or self.progress.drawn:  # one picture of one tile needs no bar
            self._show(job.source.name, done, total)

    def slow(self, job: Job, size: tuple[int, int], seconds: float) -> None:
        """Say that a picture will take minutes."""
        self.say(
            f"{job.source}: the result of {size[0]}x{size[1]} pixels takes about {seconds / 60:.0f} minutes"
        )

    def refused(self, refused: RefusedInput) -> None:
        """Report an input that cannot be upscaled, as was found out before the work began."""
        self._counts["failed"] += 1
        if self._json:
            record = {
                "input": str(refused.source),
                "output": None if refused.target is None else str(refused.target),
                "status": "failed",
                "error": " ".join(str(refused.error).split()),
            }
            no_result = dict.fromkeys(("width", "height", "seconds", "backend", "model", "reason"))
            self.progress.print(json.dumps({**record, **no_result, "notes": []}), to_stdout=True)
        if str(refused.error) != self._last_error:  # two inputs with the same output file share one error
            self._last_error = str(refused.error)
            self._line(f"error: {self._last_error}")
        self._computed = max(self._computed, self._finished_count())

    def finished(self, outcome: Outcome) -> None:
        """Report the outcome of one picture, with its notes."""
        self._counts[outcome.status] += 1
        if outcome.status == "done" and outcome.choice is not None:
            self._nets[outcome.choice.model] = self._nets.get(outcome.choice.model, 0) + 1
        if self._json:
            self.progress.print(json.dumps(self._record(outcome)), to_stdout=True)
        for note in outcome.notes:
            self.say(f"{outcome.job.source}: {note}")
        if outcome.error is not None and not self._alone:
            self._line(f"error: {_error_text(outcome)}")
        elif not (
            self._quiet
            or self._json
            or outcome.error
            or outcome.status == "left"
            or (self.progress.draws and self._total > 1)
        ):
            self._line(self._picture_line(outcome))
        self._computed = max(self._computed, self._finished_count())  # a failed picture has no last tile

    def _finished_count(self) -> int:
        """Number of pictures that are reported: done, skipped, failed or left."""
        return sum(self._counts.values())

    def _show(self, name: str, done: int, tiles: int) -> None:
        """Show the pictures computed so far and the share of the present one. A single picture is counted in
        tiles. The rate counts from the first tile, so that the time to open the model does not lower it."""
        if self._first_tile is None:
            self._first_tile = time.monotonic()
        part = done / tiles if done < tiles else 0.0
        several = self._total > 1
        finished, total, unit = (
            (self._computed + part, self._total, "pictures") if several else (done, tiles, "tiles")
        )
        rate = finished / max(time.monotonic() - self._first_tile, 1e-3)
        self.progress.show(
            finished,
            total,
            name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}...",
            line=f"{name}: {done} of {tiles} tiles" if done < tiles else None,
            count=f"{int(finished)}/{total} {unit}",
            rate=f"{rate:.1f}/s",
        )

    def _picture_line(self, outcome: Outcome) -> str:
        """The line about one picture, with a counter if there are several."""
        counter = f"[{self._finished_count()}/{self._total}] " if self._total > 1 else ""
        job = outcome.job
        if outcome.status == "skipped":
            why = "is being made by another process" if outcome.taken else "is there already"
            return f"{counter}{job.target} {why}, skipped"
        facts = [f"{outcome.width}x{outcome.height}", f"{outcome.seconds:.1f} s", self._backend_of(outcome)]
        by = f" by {outcome.choice}" if outcome.choice is not None else ""
        return f"{counter}{job.source} -> {job.target} ({', '.join(filter(None, facts))}){by}"

    def _backend_of(self, outcome: Outcome) -> str | None:
        """The backend of one picture; None if no net made it, or none is open yet."""
        return None if outcome.backend is None else outcome.backend or self.backend or None

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        """One outcome as JSON values, for --json. Width and height are in pixels, None after an error.

        The model is None if no net made the picture; the reason is None if no net was chosen for it.
        """
        error, choice = outcome.error, outcome.choice
        model = self.model if outcome.backend is not None else None
        return {
            "input": str(outcome.job.source),
            "output": str(outcome.job.target),
            "status": outcome.status,
            "width": outcome.width if error is None else None,
            "height": outcome.height if error is None else None,
            "seconds": round(outcome.seconds, 4),
            "backend": self._backend_of(outcome),
            "model": choice.model if choice is not None else model or None,
            "reason": choice.reason if choice is not None else None,
            "notes": list(outcome.notes),
            "error": None if error is None else " ".join(str(error).split()),
        }

    def _summary(self) -> str:
        """The last line: how many pictures were upscaled, skipped, failed, left or left out, and the seconds this took."""
        counts = self._counts
        parts = [f"{counts['done']} upscaled{_by_nets(self._nets)}"]
        parts += [f"{counts[what]} {what}" for what in ("skipped", "failed", "left") if counts[what]]
        if self._left_out:
            kinds = (counted(kind, count) for kind, count in sorted(self._left_out.items()))
            parts.append(f"{sum(self._left_out.values())} left out ({', '.join(kinds)})")
        return f"{', '.join(parts)} in {self.progress.seconds:.1f} s"

    def _line(self, message: str) -> None:
        """Print `message` as one line on stderr."""
        self.progress.print(" ".join(message.split("\n")))


def _by_nets(nets: Mapping[str, int]) -> str:
    """How many pictures each chosen net upscaled, as in " (photo-x4: 3 pictures, rt-x4: 1)"; empty without choices."""
    parts = [f"{name}: {count}" for name, count in sorted(nets.items())]
    if parts:
        parts[0] += " picture" if next(iter(sorted(nets.items())))[1] == 1 else " pictures"
    return f" ({', '.join(parts)})" if parts else ""


def _error_text(outcome: Outcome) -> str:
    """The error of a failed picture as text that names the picture once."""
    error, source = outcome.error, str(outcome.job.source)
    text = str(error) if isinstance(error, SrDeployError) else f"{type(error).__name__}: {error}"
    return text if source in text else f"{source}: {text}"


def counted(kind: str, count: int) -> str:
    """A number of entries of a kind, as in "3 subfolders", with the way to take them if there is one."""
    words = {
        "result of an earlier run": "results of earlier runs",
        "video of a Live Photo": "videos of Live Photos",
        "subfolder": "subfolders",
        "linked folder": "linked folders",
        "video": "videos",
    }
    ways = {"subfolder": ": add --recursive", "video": ": see sr-deploy video"}
    plural = words.get(kind, f"{kind}s" if kind.endswith((" file", " picture")) else kind)
    return f"{count} {kind if count == 1 else plural}{ways.get(kind, '')}"
