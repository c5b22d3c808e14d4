"""One picture's way through a batch: what it is asked for, what became of it, and what an error of one step
means for the others. Reads, computes and writes nothing: `sr_deploy.batch.run` does.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sr_deploy.batch.jobs import Existing, Job
from sr_deploy.errors import OutOfMemoryError, OutputError
from sr_deploy.images.sizes import OutputSize

if TYPE_CHECKING:
    from sr_deploy.images.image import Image


_NATURAL = OutputSize()


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """How every picture of a batch is written."""

    quality: int | None = None
    """As `write_image` takes it; None: the format's default."""
    size: OutputSize = _NATURAL
    existing: Existing = "refuse"
    """What to do where the target appears while the batch runs."""


@dataclass
class Outcome:
    """What became of one job."""

    job: Job
    status: Literal["done", "skipped", "failed", "left"] = "done"
    """Left: not begun or not written, for the place of the results takes no more."""
    width: int | None = None
    """Of the written picture, in pixels; None where there is none."""
    height: int | None = None
    seconds: float = 0.0
    """Spent on it: reading, computing, writing; without waiting."""
    notes: tuple[str, ...] = ()
    """What the user should know of it, such as metadata a format could not keep."""
    error: Exception | None = None
    """Of a failed job."""
    taken: bool = False
    """It was skipped because another process is at it."""


class BatchListener(Protocol):
    """Whoever wants to know how a batch goes on. Called from the thread that runs it."""

    def tile(self, job: Job, done: int, total: int) -> None:
        """`done` of `total` tiles of one picture are computed."""
        ...

    def finished(self, outcome: Outcome) -> None:
        """One picture is written, skipped, or failed."""
        ...


@dataclass
class ActiveJob:
    """A picture on its way."""

    outcome: Outcome
    image: Image | None = None
    existing: Existing | None = None
    """What to do with a file in the target's place, where it is not what the settings say."""

    @property
    def job(self) -> Job:
        """Of the picture."""
        return self.outcome.job


Step = Callable[[ActiveJob], None]


class Stop:
    """Knows from the errors of a batch when it is in vain to go on. Serves several threads."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def note_error(self, error: Exception, fatal: set[int]) -> None:
        """Stop where `error` says that no picture can be written: its number is in `fatal`, or tells of a full disk."""
        cause = error.__cause__
        if not (isinstance(error, OutputError) and isinstance(cause, OSError)):
            return
        # EIO without a cause of its own is how an encoder's failure to write is told: a full disk, mostly
        if cause.errno in fatal or (cause.errno == errno.EIO and cause.__cause__ is None):
            self._event.set()


def attempt(step: Step, work: ActiveJob, *, stop: Stop, fatal: set[int]) -> ActiveJob:
    """Take `work` one step on, unless it failed or was skipped before, or all is in vain."""
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
    """`error`, or an OutOfMemoryError where it says that the system gives no more threads."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return OutOfMemoryError("no more threads can be started; close other programs, or raise the limit")
    return error
