"""Many pictures through one Upscaler: while one is computed the next are read and the last ones written.

Memory is bounded: at most two pictures are read ahead and two wait to be written, and before a huge one is
computed everything before it is written. One picture takes no thread at all. A picture that fails does not
stop the others. What goes where is decided before, by `sr_deploy.jobs`; nothing is printed here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from sr_deploy.errors import OutputError, UsageError
from sr_deploy.image import Image, check_writable_size, read_image, write_image
from sr_deploy.jobs import Existing, Job

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sr_deploy.upscale import Upscaler

_AHEAD, _BEHIND = 2, 2
_HUGE = 64_000_000  # pixels of a result: 192 MB in 8-bit RGB


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
    status: Literal["done", "skipped", "failed"] = "done"
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

    Raises nothing for a job that fails: its outcome carries the error. Interrupted (KeyboardInterrupt), it
    waits for the picture being written and leaves no partial file.
    """
    settings = settings or Settings()
    read = partial(_attempt, partial(_read, existing=settings.existing))
    compute = partial(_attempt, partial(_compute, upscaler=upscaler, size=settings.size, watcher=watcher))
    write = partial(_attempt, partial(_write, settings=settings))
    outcomes: list[Outcome] = []

    def finish(work: _Work) -> None:
        outcomes.append(work.outcome)
        if watcher is not None:
            watcher.finished(work.outcome)

    if len(jobs) == 1:
        finish(write(compute(read(_Work(Outcome(jobs[0]))))))
    else:
        huge = partial(_is_huge, scale=upscaler.spec.scale, size=settings.size)
        _run_overlapping(jobs, read, compute, write, finish, huge)
    return outcomes


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


def _attempt(step: _Step, work: _Work) -> _Work:
    """Take `work` one step on, unless it failed or was skipped before."""
    outcome = work.outcome
    if outcome.status != "done":
        return work
    start = time.perf_counter()
    try:
        step(work)
    except Exception as error:
        outcome.status, outcome.error, work.image = "failed", error, None
    outcome.seconds += time.perf_counter() - start
    return work


def _read(work: _Work, *, existing: Existing) -> None:
    if existing == "skip" and work.job.target.exists():  # another process was faster
        work.outcome.status = "skipped"
        return
    work.image = read_image(work.job.source)


def _compute(work: _Work, *, upscaler: Upscaler, size: OutputSize, watcher: Watcher | None) -> None:
    image, work.image = work.image, None
    assert image is not None
    scale = upscaler.spec.scale
    asked = size.of(image.width, image.height)
    result_size = asked or (image.width * scale, image.height * scale)
    check_writable_size(work.job.format, *result_size)
    progress = partial(watcher.tile, work.job) if watcher is not None else None
    result = upscaler.upscale(image, progress=progress)
    del image
    if (result.width, result.height) != result_size:
        from sr_deploy.resize import resize

        result = resize(result, *result_size)
    work.image, (work.outcome.width, work.outcome.height) = result, result_size


def _write(work: _Work, *, settings: Settings) -> None:
    image, work.image = work.image, None
    assert image is not None
    job, outcome = work.job, work.outcome
    notes = image.notes
    try:
        _make_folder(job)
        notes += write_image(
            image,
            job.target,
            format=job.format,
            quality=settings.quality,
            overwrite=settings.existing == "overwrite",
            consume=True,
        )
    except OutputError:
        if settings.existing != "skip" or not job.target.exists():
            raise
        outcome.status = "skipped"  # another process wrote it while this one computed
    outcome.notes = tuple(notes)


def _make_folder(job: Job) -> None:
    folder = job.target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot make the folder {folder} ({reason}); choose a place you may write to"
        ) from error


def _is_huge(work: _Work, *, scale: int, size: OutputSize) -> bool:
    if work.image is None:
        return False
    width, height = work.image.width, work.image.height
    wide, tall = size.of(width, height) or (0, 0)
    return max(width * height * scale**2, wide * tall) > _HUGE
