"""Run many jobs with one Upscaler. While one picture is computed, the next are read and the last ones are
written.

Memory is bounded: at most two pictures are read ahead and two wait to be written. Before a huge picture is
computed, everything before it is written. A single job runs without extra threads. A job that fails does
not stop the others. `sr_deploy.batch.jobs` plans the jobs. Nothing is printed here.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sr_deploy.batch.jobs import Job, check_quality
from sr_deploy.batch.steps import (
    ActiveJob,
    BatchListener,
    JobStep,
    Outcome,
    Stop,
    WriteSettings,
    attempt,
    memory_error,
)
from sr_deploy.errors import OutputError
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.images.sizes import OutputSize, check_fits, check_size
from sr_deploy.system.output_folder import OutputFolders

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sr_deploy.batch.ledger import Ledger
    from sr_deploy.batch.nets import AutoNets
    from sr_deploy.upscale import Upscaler

# Most pictures that are read ahead, and most that wait to be written: they bound the memory of a run. They are also
# the numbers of reading and of writing threads.
_AHEAD, _BEHIND = 2, 2
_HUGE_PIXELS = 64_000_000
"""Pixels of a result that counts as huge: 192 MB in 8-bit RGB."""
_LARGE_FILE = 8 << 20
"""Bytes of the smallest file that is looked at for a picture too large to be held: a smaller one seldom has one."""
_SLOW_SECONDS = 120
"""Seconds from which a picture's time is announced."""
FULL_ERRNOS = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Error numbers that mean that no more can be written to a place: full, read-only, or over quota."""
_DENIED_ERRNOS = {errno.EACCES, errno.EPERM}
"""Error numbers that mean a lack of permission, which may concern one file or the whole folder."""


def run_jobs(
    jobs: Sequence[Job],
    upscaler: Upscaler | AutoNets,
    *,
    settings: WriteSettings | None = None,
    watcher: BatchListener | None = None,
    ledger: Ledger | None = None,
) -> list[Outcome]:
    """Upscale every job in order and return one outcome for each.

    Raises UsageError as `check_quality` does, before any work. A job that fails raises nothing; its outcome
    carries the error. On KeyboardInterrupt the picture that is being written is finished, and no partial
    file is left. Missing folders are made, and removed again if no picture was written into them. Once the
    output folder is full or cannot be written, the other jobs get the status "left". With a `ledger`, every
    picture is claimed before it is read and recorded after it is written. With `AutoNets`, each picture goes
    to the net that suits it, and its outcome says which and why.
    """
    settings = settings or WriteSettings()
    nets, upscaler = parted(upscaler)
    check_quality(jobs, settings.quality)
    folders = OutputFolders()
    one_folder = len({job.target.parent for job in jobs}) == 1
    guarded = partial(attempt, stop=Stop(), fatal=FULL_ERRNOS)
    read = partial(
        guarded,
        partial(_read, upscaler=upscaler, nets=nets, settings=settings, folders=folders, ledger=ledger),
    )
    # While reading, `folders.prepare` tests the folder itself, so a denied permission there concerns all jobs in it.
    # While writing, it may concern a single file.
    if one_folder:
        read = partial(read, fatal=FULL_ERRNOS | _DENIED_ERRNOS)
    compute = partial(
        guarded, partial(_compute, upscaler=upscaler, nets=nets, settings=settings, watcher=watcher)
    )
    write = partial(guarded, partial(_write, settings=settings, folders=folders, ledger=ledger))
    outcomes: list[Outcome] = []

    def finish(work: ActiveJob) -> None:
        if ledger is not None:
            ledger.drop(work.job)
        outcomes.append(work.outcome)
        if watcher is not None:
            watcher.finished(work.outcome)

    try:
        if len(jobs) == 1:
            finish(write(compute(read(ActiveJob(Outcome(jobs[0]))))))
        else:
            huge = partial(_is_huge, scale=upscaler.spec.scale, size=settings.size)
            _run_overlapping(jobs, read, compute, write, finish, huge)
    except RuntimeError as error:
        if (known := memory_error(error)) is error:
            raise
        raise known from error
    finally:
        if ledger is not None:
            ledger.close()
        folders.remove_empty()
    return outcomes


def parted(upscaler: Upscaler | AutoNets) -> tuple[AutoNets | None, Upscaler]:
    """The nets to choose from, None without a choice, and the Upscaler whose spec holds for all pictures."""
    # told apart by an attribute, because importing the class would delay the start where there is no choice
    opened: Upscaler | None = getattr(upscaler, "upscaler", None)
    return (None, cast("Upscaler", upscaler)) if opened is None else (cast("AutoNets", upscaler), opened)


def _run_overlapping(
    jobs: Sequence[Job],
    read: Callable[[ActiveJob], ActiveJob],
    compute: Callable[[ActiveJob], ActiveJob],
    write: Callable[[ActiveJob], ActiveJob],
    finish: JobStep,
    huge: Callable[[ActiveJob], bool],
) -> None:
    """Run the jobs with two threads that read and two that write; computing stays in the calling thread.

    Results are finished in the order of `jobs`. On an error, pictures that are not begun yet are cancelled.
    """
    from concurrent.futures import ThreadPoolExecutor

    readers, writers = ThreadPoolExecutor(_AHEAD), ThreadPoolExecutor(_BEHIND)
    waiting = deque(jobs)
    ahead: deque[Future[ActiveJob]] = deque()
    behind: deque[Future[ActiveJob]] = deque()
    try:
        while waiting or ahead:
            while waiting and len(ahead) < _AHEAD:
                ahead.append(readers.submit(read, ActiveJob(Outcome(waiting.popleft()))))
            work = ahead.popleft().result()
            while behind and (len(behind) >= _BEHIND or behind[0].done() or huge(work)):
                finish(behind.popleft().result())
            behind.append(writers.submit(write, compute(work)))
        while behind:
            finish(behind.popleft().result())
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)


def _read(
    work: ActiveJob,
    *,
    upscaler: Upscaler,
    nets: AutoNets | None,
    settings: WriteSettings,
    folders: OutputFolders,
    ledger: Ledger | None,
) -> None:
    """Read the picture, choose its net, and check that its result can be written, so that none is computed for nothing.

    The claim of the picture is taken first. The outcome is "skipped" if there is nothing to do.
    """
    existing = settings.existing
    if ledger is not None:
        decision = ledger.begin(work.job, folders)
        if decision.do != "make":
            work.outcome.status, work.outcome.taken = "skipped", decision.do == "taken"
            return
        work.existing = existing = decision.existing
    # The plan left out results that existed then. One that exists now was made by another process.
    if existing == "skip" and os.path.lexists(work.job.target):
        work.outcome.status = "skipped"
        return
    image = _opened(work.job, upscaler, settings)
    folders.prepare(work.job.target, overwrite=existing != "refuse")
    work.image = image
    if nets is not None:
        work.outcome.choice = nets.choose(image)


def _opened(job: Job, upscaler: Upscaler, settings: WriteSettings) -> Image:
    """The picture of `job`, without its pixels if it is large and can be upscaled in bands of rows."""
    options: dict[str, Any] = {"keep_damaged": True} if settings.keep_damaged else {}
    options |= {"profile": settings.profile} if settings.profile != "auto" else {}
    streamed = job.format in ("png", "tiff") and not options and settings.size == OutputSize()
    # the cheap test comes first: importing the module takes time at the start
    if streamed and _size_of(job.source) >= _LARGE_FILE and upscaler.works_in_bands:
        from sr_deploy.images.large import open_large

        if (image := open_large(job.source, upscaler.spec.scale)) is not None:
            return image
    return read_image(job.source, **options)


def _size_of(path: Path) -> int:
    """The size of a regular file in bytes; 0 for anything else."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except (OSError, ValueError):
        return 0


def _compute(
    work: ActiveJob,
    *,
    upscaler: Upscaler,
    nets: AutoNets | None,
    settings: WriteSettings,
    watcher: BatchListener | None,
) -> None:
    """Upscale the picture, and resample it if a size other than input times scale was asked for.

    The input is dropped before resampling, so that its memory can be used again. Raises the errors of
    `check_size` and `check_fits` before computing.
    """
    if nets is not None and work.outcome.choice is not None:
        # before the picture has a name here: the error of a net that cannot be opened would keep it in memory
        upscaler = nets.net(work.outcome.choice.kind)
        work.outcome.backend = upscaler.engine.backend
    image = work.image
    assert image is not None
    natural = (image.width * upscaler.spec.scale, image.height * upscaler.spec.scale)
    progress = _progress(watcher, work.job, natural) if watcher is not None else None
    asked = settings.size.of(image.width, image.height) or natural
    check_size(work.job.source, work.job.format, asked, chosen=asked != natural)
    if asked != natural:
        check_fits(_bytes_per_pixel(image), natural, asked)
    if type(image) is not Image:  # its pixels are made while they are written
        result = upscaler.upscale_bands(image, progress)
    else:
        del image
        result = _enlarged(work, upscaler, settings, natural, asked, progress)
    work.image, (work.outcome.width, work.outcome.height) = result, asked


def _progress(watcher: BatchListener, job: Job, size: tuple[int, int]) -> Callable[[int, int], None]:
    """Function that passes on the progress of a picture, and after the first tile that it will take minutes."""
    began = time.monotonic()

    def progress(done: int, total: int) -> None:
        seconds = (time.monotonic() - began) * total
        if done == 1 and seconds > _SLOW_SECONDS:
            watcher.slow(job, size, seconds)
        watcher.tile(job, done, total)

    return progress


def _enlarged(
    work: ActiveJob,
    upscaler: Upscaler,
    settings: WriteSettings,
    natural: tuple[int, int],
    asked: tuple[int, int],
    progress: Callable[[int, int], None] | None,
) -> Image:
    """The picture of `work`, which gives it away, at the size `asked`, where the model gives `natural`.

    Both sizes are (width, height).
    """
    from sr_deploy.images.dither import is_dithered

    image, work.image = work.image, None
    assert image is not None
    straight = settings.alpha == "straight"
    if is_dithered(image.pixels):
        from sr_deploy.images.resize import resize

        work.outcome.choice, work.outcome.backend = None, None  # no net is used
        note = "looks dithered, which nets turn into stripes: enlarged by plain resampling"
        return resize(replace(image, notes=(*image.notes, note)), *asked, straight=straight)
    result = upscaler.upscale(image, progress=progress, alpha=settings.alpha)
    del image
    return result if asked == natural else _resampled(result, natural, asked, straight=straight)


def _resampled(result: Image, natural: tuple[int, int], asked: tuple[int, int], *, straight: bool) -> Image:
    """The model's result of the size `natural` (width, height) at the size `asked`, with a note if that is larger."""
    from sr_deploy.images.resize import resize

    result = resize(result, *asked, straight=straight)
    if asked[0] <= natural[0] and asked[1] <= natural[1]:
        return result
    note = f"the model gives {natural[0]}x{natural[1]}; the rest of the enlargement is plain resampling"
    return replace(result, notes=(*result.notes, note))


def _bytes_per_pixel(image: Image) -> int:
    """Return the bytes of one pixel of the result, opacity included."""
    return image.pixels.itemsize * int(image.pixels.shape[2] + (image.alpha is not None))


def _write(
    work: ActiveJob, *, settings: WriteSettings, folders: OutputFolders, ledger: Ledger | None
) -> None:
    """Write the result and record it. If another process wrote it first, "skip" turns the outcome into
    "skipped"."""
    image, work.image = work.image, None
    assert image is not None
    job, outcome = work.job, work.outcome
    notes, existing = image.notes, work.existing or settings.existing
    try:
        # Made a second time: another batch may have removed the folder while it was empty.
        folders.make(job.target.parent)
        notes += write_image(
            image,
            job.target,
            format=job.format,
            quality=settings.quality,
            overwrite=existing == "overwrite",
            consume=True,
            strip=settings.strip,
            **_before_naming(job, settings, ledger),
        )
    except OutputError:
        if existing != "skip" or not os.path.lexists(job.target):
            raise
        outcome.status = "skipped"  # another process wrote it while this one computed
    else:
        if ledger is not None:
            ledger.done(job)
    outcome.notes = tuple(notes)


def _before_naming(
    job: Job, settings: WriteSettings, ledger: Ledger | None
) -> dict[str, Callable[[Path], None]]:
    """The argument `ready` of `write_image`, if something is to be done with the complete file: dates and the record.

    The dates come first, because the record holds the time of the file.
    """
    if ledger is None and not settings.keep_dates:
        return {}

    def ready(draft: Path) -> None:
        if settings.keep_dates:
            with suppress(OSError):  # a file system without dates costs the date, not the picture
                status = job.source.stat()
                os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
        if ledger is not None:
            ledger.written(job, draft)

    return {"ready": ready}


def _is_huge(work: ActiveJob, *, scale: int, size: OutputSize) -> bool:
    """Return whether the result, before or after resampling, has more than `_HUGE_PIXELS` pixels."""
    if work.image is None:
        return False
    width, height = work.image.width, work.image.height
    wide, tall = size.of(width, height) or (0, 0)
    return max(width * height * scale**2, wide * tall) > _HUGE_PIXELS
