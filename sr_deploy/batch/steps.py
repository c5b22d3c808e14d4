"""The state of one picture in a batch, its outcome, and the effect of its errors on the other pictures.

This module does no work on pictures; `sr_deploy.batch.run` reads, computes and writes them.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sr_deploy.batch.jobs import Existing, Job
from sr_deploy.errors import OutOfMemoryError, OutputError, one_line
from sr_deploy.images.sizes import OutputSize

if TYPE_CHECKING:
    from sr_deploy.batch.nets import Choice
    from sr_deploy.images.image import Image


_NO_ROOM_FOR_LIBRARY = ("failed to map segment", "annot allocate memory")
"""Parts of the messages by which the loader of libraries says that there is no memory or address space."""
_NATURAL = OutputSize()


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """Settings by which every picture of a batch is read, upscaled and written."""

    quality: int | None = None
    """Quality as `write_image` takes it; None: the default of the format."""
    size: OutputSize = _NATURAL
    """Size of the results; by default the input size times the model's scale."""
    existing: Existing = "refuse"
    """Policy for a target that exists, or appears while the batch runs."""
    alpha: Literal["cutout", "straight"] = "cutout"
    """Meaning of opacity, as `Upscaler.upscale` takes it."""
    strip: bool = False
    """True to leave out all metadata except what the pixels mean."""
    check: bool = False
    """True to compare all bytes of existing results with the checksum in their record."""
    keep_damaged: bool = False
    """True to use what can be read of damaged pictures."""
    keep_dates: bool = False
    """True to give each result the date of its picture."""
    profile: Literal["auto", "keep", "srgb"] = "auto"
    """Treatment of colour profiles, as `read_image` takes it."""


@dataclass
class Outcome:
    """The outcome of one job."""

    job: Job
    status: Literal["done", "skipped", "failed", "left"] = "done"
    """State of the job. "left": not begun or not written because the output folder takes no more files."""
    width: int | None = None
    """Width of the written picture in pixels; None if nothing was written."""
    height: int | None = None
    """Height of the written picture in pixels; None if nothing was written."""
    seconds: float = 0.0
    """Seconds spent reading, computing and writing, without waiting times."""
    notes: tuple[str, ...] = ()
    """Notes for the user, such as metadata that the format could not store."""
    error: Exception | None = None
    """Error of a failed job; None otherwise."""
    taken: bool = False
    """True if the job was skipped because another process was working on it."""
    choice: Choice | None = None
    """Net that was chosen for the picture, and why; None if there was no choice or no net was used."""
    backend: str | None = ""
    """Backend of the chosen net; empty if there was no choice, None if no net was used."""


class BatchListener(Protocol):
    """Receiver of a batch's progress. Its methods are called from the thread that runs the batch."""

    def tile(self, job: Job, done: int, total: int) -> None:
        """Called after each tile: `done` of `total` tiles of a picture are computed."""
        ...

    def slow(self, job: Job, size: tuple[int, int], seconds: float) -> None:
        """Called after the first tile if a picture of `size` (width, height of the result) will take minutes."""
        ...

    def finished(self, outcome: Outcome) -> None:
        """Called once for each job, when its picture is written, skipped or failed."""
        ...


@dataclass
class ActiveJob:
    """A job that is being worked on. Only one thread works on it at a time."""

    outcome: Outcome
    image: Image | None = None
    """Picture between two steps: the input after reading, the result after computing. None otherwise, so
    memory is freed early."""
    existing: Existing | None = None
    """Policy for an existing target if it differs from the settings; None otherwise."""

    @property
    def job(self) -> Job:
        """The job, as the outcome holds it."""
        return self.outcome.job


JobStep = Callable[[ActiveJob], None]
"""One step of a job: it changes the job in place and raises on failure."""


class Stop:
    """Flag that is set once an error shows that no further picture can be written. Thread safe."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def note_error(self, error: Exception, fatal: set[int]) -> None:
        """Set the flag if `error` shows that no picture can be written.

        That is an OutputError caused by an OSError whose number is in `fatal`, or by a failed write of an
        encoder.
        """
        cause = error.__cause__
        if not (isinstance(error, OutputError) and isinstance(cause, OSError)):
            return
        # An encoder that fails to write reports EIO without a cause of its own. Mostly the disk is full.
        if cause.errno in fatal or (cause.errno == errno.EIO and cause.__cause__ is None):
            self._event.set()


def attempt(step: JobStep, work: ActiveJob, *, stop: Stop, fatal: set[int]) -> ActiveJob:
    """Run one step of a job and store its error, if any, in the outcome. Never raises an Exception.

    The step is skipped if the job failed or was skipped before, or if `stop` is set. `fatal` holds the
    error numbers that set `stop`.
    """
    outcome = work.outcome
    if outcome.status != "done":
        return work
    if stop:
        outcome.status, work.image = "left", None
        return work
    start = time.perf_counter()
    try:
        step(work)
    except Exception as error:
        stop.note_error(error, fatal)
        outcome.status, outcome.error, work.image = "failed", memory_error(error), None
    outcome.seconds += time.perf_counter() - start
    return work


def memory_error(error: Exception) -> Exception:
    """Return OutOfMemoryError if no thread could be started or no library loaded for lack of memory, else `error`."""
    if isinstance(error, ImportError) and any(text in str(error) for text in _NO_ROOM_FOR_LIBRARY):
        return OutOfMemoryError(
            f"a library cannot be loaded into memory ({one_line(error)}); close other programs, or raise the limit (`ulimit -v`)"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return OutOfMemoryError(
            "no more threads can be started; close other programs, or raise the limit of threads or of memory (`ulimit -u`, `-v`)"
        )
    return error
