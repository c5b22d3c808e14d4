"""Many pictures through one Upscaler: while one is computed the next are read and the last ones written.

Memory is bounded: at most two pictures are read ahead and two wait to be written, and before a huge one is
computed everything before it is written. One picture takes no thread at all. A picture that fails does not
stop the others. What goes where is decided before, by `sr_deploy.jobs`; nothing is printed here.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from sr_deploy.errors import OutOfMemoryError, OutputError, UsageError
from sr_deploy.folders import Folders
from sr_deploy.image import Image, check_writable_size, format_of, formats, read_image, write_image
from sr_deploy.jobs import Existing, Job
from sr_deploy.memory import available_memory

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sr_deploy.upscale import Upscaler

_AHEAD, _BEHIND = 2, 2
_HUGE = 64_000_000  # pixels of a result: 192 MB in 8-bit RGB
_MAX_SIDE, _MAX_PIXELS = 1_000_000, 1 << 30  # of a result whose size was asked for
_FULL = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


@dataclass(frozen=True, kw_only=True)
class OutputSize:
    """The size of a result in pixels, where it is not the model's scale times the input's.

    `width` or `height` alone keep the proportions, both together are taken as they are, `fit` is the
    largest size of the same proportions within (width, height).
    """

    width: int | None = None
    height: int | None = None
    fit: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.fit is not None and (self.width is not None or self.height is not None):
            raise UsageError("a fit already says width and height; leave --width and --height out")
        if min((n for n in (self.width, self.height, *(self.fit or ())) if n is not None), default=1) < 1:
            raise UsageError(f"an output size needs positive numbers of pixels, got {self}; give at least 1")
        if (
            max((n for n in (self.width, self.height, *(self.fit or ())) if n is not None), default=1)
            > _MAX_SIDE
        ):
            raise UsageError(f"a result has at most {_MAX_SIDE} pixels a side, got {self}; ask for less")

    def of(self, width: int, height: int) -> tuple[int, int] | None:
        """(width, height) of the result of a picture of these proportions; None where nothing was asked."""
        if self == OutputSize():
            return None
        from sr_deploy.resize import fit

        return fit(width, height, target_width=self.width, target_height=self.height, box=self.fit)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How every picture of a batch is written."""

    quality: int | None = None
    """As `write_image` takes it; None: the format's default."""
    size: OutputSize = OutputSize()
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


class Watcher(Protocol):
    """Whoever wants to know how a batch goes on. Called from the thread that runs it."""

    def tile(self, job: Job, done: int, total: int) -> None:
        """`done` of `total` tiles of one picture are computed."""
        ...

    def finished(self, outcome: Outcome) -> None:
        """One picture is written, skipped, or failed."""
        ...


@dataclass
class _Work:
    """A picture on its way."""

    outcome: Outcome
    image: Image | None = None

    @property
    def job(self) -> Job:
        return self.outcome.job


_Step = Callable[[_Work], None]


def run_jobs(
    jobs: Sequence[Job],
    upscaler: Upscaler,
    *,
    settings: Settings | None = None,
    watcher: Watcher | None = None,
) -> list[Outcome]:
    """Upscale every job, in order; one outcome a job.

    Raises UsageError as `check_quality` does, before any work, and nothing for a job that fails: its outcome
    carries the error. Interrupted (KeyboardInterrupt), it waits for the picture being written and leaves no
    partial file. Folders are made where missing, and removed again where no picture got into them. Once the
    place of the results is full or cannot be written, the rest is left.
    """
    settings = settings or Settings()
    check_quality(jobs, settings.quality)
    folders = Folders()
    one_folder = len({job.target.parent for job in jobs}) == 1
    attempt = partial(_attempt, stop=_Stop(), fatal=_FULL)
    read = partial(attempt, partial(_read, existing=settings.existing, folders=folders))
    if one_folder:  # found out before it is written, it is the folder that forbids it, not a file in it
        read = partial(read, fatal=_FULL | _FORBIDDEN)
    compute = partial(attempt, partial(_compute, upscaler=upscaler, size=settings.size, watcher=watcher))
    write = partial(attempt, partial(_write, settings=settings, folders=folders))
    outcomes: list[Outcome] = []

    def finish(work: _Work) -> None:
        outcomes.append(work.outcome)
        if watcher is not None:
            watcher.finished(work.outcome)

    try:
        if len(jobs) == 1:
            finish(write(compute(read(_Work(Outcome(jobs[0]))))))
        else:
            huge = partial(_is_huge, scale=upscaler.spec.scale, size=settings.size)
            _run_overlapping(jobs, read, compute, write, finish, huge)
    except RuntimeError as error:
        if (known := _memory_error(error)) is error:
            raise
        raise known from error
    finally:
        folders.remove_empty()
    return outcomes


def check_quality(jobs: Sequence[Job], quality: int | None) -> None:
    """Raise UsageError where one of the jobs' formats has no such quality: 1 to 100, and 101 for WebP alone."""
    for job in jobs:
        if quality is None:
            return
        top = format_of(job.format).top_quality
        if not 1 <= quality <= top:
            lossless = "; 101 is WebP's lossless mode" if quality == 101 else ""
            raise UsageError(
                f"{job.target}: quality must be a number of 1 to {top} for {job.format}, got {quality}{lossless}; "
                "give another --quality or --format"
            )


def _run_overlapping(
    jobs: Sequence[Job],
    read: Callable[[_Work], _Work],
    compute: Callable[[_Work], _Work],
    write: Callable[[_Work], _Work],
    finish: _Step,
    huge: Callable[[_Work], bool],
) -> None:
    """Reading and writing in threads of their own, computing in this one."""
    from concurrent.futures import ThreadPoolExecutor

    readers, writers = ThreadPoolExecutor(_AHEAD), ThreadPoolExecutor(_BEHIND)
    waiting = deque(jobs)
    ahead: deque[Future[_Work]] = deque()
    behind: deque[Future[_Work]] = deque()
    try:
        while waiting or ahead:
            while waiting and len(ahead) < _AHEAD:
                ahead.append(readers.submit(read, _Work(Outcome(waiting.popleft()))))
            work = ahead.popleft().result()
            while behind and (len(behind) >= _BEHIND or behind[0].done() or huge(work)):
                finish(behind.popleft().result())
            behind.append(writers.submit(write, compute(work)))
        while behind:
            finish(behind.popleft().result())
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)


class _Stop:
    """Knows from the errors of a batch when it is in vain to go on. Serves several threads."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def look_at(self, error: Exception, fatal: set[int]) -> None:
        cause = error.__cause__
        if not (isinstance(error, OutputError) and isinstance(cause, OSError)):
            return
        # EIO without a cause of its own is how an encoder's failure to write is told: a full disk, mostly
        if cause.errno in fatal or (cause.errno == errno.EIO and cause.__cause__ is None):
            self._event.set()


def _attempt(step: _Step, work: _Work, *, stop: _Stop, fatal: set[int]) -> _Work:
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
        stop.look_at(error, fatal)
        outcome.status, outcome.error, work.image = "failed", _memory_error(error), None
    outcome.seconds += time.perf_counter() - start
    return work


def _memory_error(error: Exception) -> Exception:
    """`error`, or an OutOfMemoryError where it says that the system gives no more threads."""
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return OutOfMemoryError("no more threads can be started; close other programs, or raise the limit")
    return error


def _read(work: _Work, *, existing: Existing, folders: Folders) -> None:
    """Read the picture and see that its result can be written: found out later, the computing was in vain."""
    if existing == "skip" and os.path.exists(work.job.target):  # another process was faster
        work.outcome.status = "skipped"
        return
    image = read_image(work.job.source)
    folders.prepare(work.job.target, overwrite=existing != "refuse")
    work.image = image


def _compute(work: _Work, *, upscaler: Upscaler, size: OutputSize, watcher: Watcher | None) -> None:
    image, work.image = work.image, None
    assert image is not None
    scale = upscaler.spec.scale
    natural = (image.width * scale, image.height * scale)
    asked = size.of(image.width, image.height) or natural
    _check_size(work.job, asked, chosen=asked != natural)
    if asked != natural:
        _check_fits(image, natural, asked)
    progress = partial(watcher.tile, work.job) if watcher is not None else None
    result = upscaler.upscale(image, progress=progress)
    del image
    if asked != natural:
        from sr_deploy.resize import resize

        result = resize(result, *asked)
        if asked[0] > natural[0] or asked[1] > natural[1]:
            note = f"the model gives {natural[0]}x{natural[1]}; the rest is plain resampling"
            result = replace(result, notes=(*result.notes, note))
    work.image, (work.outcome.width, work.outcome.height) = result, asked


def _check_size(job: Job, asked: tuple[int, int], *, chosen: bool) -> None:
    """Raise UsageError for more pixels than are made, where that was `chosen`, or than the format holds."""
    if chosen and asked[0] * asked[1] > _MAX_PIXELS:
        raise UsageError(
            f"{job.source}: a result of {asked[0]}x{asked[1]} pixels was asked for, at most {_MAX_PIXELS} in all "
            "are made; ask for less with --width, --height or --fit"
        )
    try:
        check_writable_size(job.format, *asked)
    except UsageError as error:
        other = next((kind.name for kind in formats() if kind.holds(*asked)), None)
        how = f", with --format {other}" if other else ", with --width, --height or --fit"
        raise UsageError(f"{job.source}: {error}{how}") from error


def _check_fits(image: Image, natural: tuple[int, int], asked: tuple[int, int]) -> None:
    """Raise OutOfMemoryError where the model's result and the one resampled from it do not fit together."""
    bytes_a_pixel = image.pixels.itemsize * (image.pixels.shape[2] + (image.alpha is not None))
    needed = (natural[0] * natural[1] + asked[0] * asked[1]) * bytes_a_pixel
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"a result of {asked[0]}x{asked[1]} pixels takes {needed >> 20} MiB with the {natural[0]}x{natural[1]} "
            f"of the model, and {free >> 20} are free; ask for less with --width, --height or --fit"
        )


def _write(work: _Work, *, settings: Settings, folders: Folders) -> None:
    image, work.image = work.image, None
    assert image is not None
    job, outcome = work.job, work.outcome
    notes = image.notes
    try:
        folders.make(job.target.parent)  # again, for another batch may have removed it while it was empty
        notes += write_image(
            image,
            job.target,
            format=job.format,
            quality=settings.quality,
            overwrite=settings.existing == "overwrite",
            consume=True,
        )
    except OutputError:
        if settings.existing != "skip" or not os.path.exists(job.target):
            raise
        outcome.status = "skipped"  # another process wrote it while this one computed
    outcome.notes = tuple(notes)


def _is_huge(work: _Work, *, scale: int, size: OutputSize) -> bool:
    if work.image is None:
        return False
    width, height = work.image.width, work.image.height
    wide, tall = size.of(width, height) or (0, 0)
    return max(width * height * scale**2, wide * tall) > _HUGE
