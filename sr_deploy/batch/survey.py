"""A look at the pictures of a plan before the work: their sizes, what a run would do with them, and how long it takes.

Nothing is written but samples in a folder for temporary files. `sr_deploy.batch.run` does the work itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, NamedTuple

from sr_deploy.batch.jobs import Job, Jobs
from sr_deploy.batch.ledger import Ledger, open_ledger
from sr_deploy.batch.run import parted, run_jobs
from sr_deploy.batch.steps import WriteSettings
from sr_deploy.errors import SrDeployError
from sr_deploy.images.codecs.formats import WRITABLE_SUFFIXES, format_of
from sr_deploy.images.image import MOST_PIXELS, Image, cropped, read_facts, read_image, read_size, write_image
from sr_deploy.images.sizes import OutputSize

if TYPE_CHECKING:
    from sr_deploy.batch.nets import AutoNets, Choice
    from sr_deploy.upscale import Upscaler

_SAMPLES = 6
"""Pictures that are measured: small and large ones, since both may be in a folder."""
_SECONDS = 4.0
"""Seconds that the measurement itself may take, about."""
_PARTS = (1 << 16, 1 << 22)
"""Pixels of the smallest and the largest measured part."""
TOO_SMALL, TOO_LARGE = "too small picture", "too large picture"
"""Kinds of pictures that --min-size and --max-size leave out."""


class Look(NamedTuple):
    """Facts about one picture of a plan."""

    job: Job
    do: Literal["make", "skip", "foreign", "fail"]
    """"make"; "skip" (the result is there); "foreign" (a result that is not ours); "fail" (it cannot be read)."""
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels; zeros if it is skipped or cannot be read."""
    result: tuple[int, int] = (0, 0)
    """Width and height of the result in pixels."""
    error: str = ""
    """Why it cannot be read."""
    net: str = ""
    """Net of the picture and the reason, or the nets between which its pixels will decide; empty without a choice."""
    choice: Choice | None = None
    """Net that the header determines, and why; None if the pixels will decide, or without a choice."""

    @property
    def pixels(self) -> int:
        """Number of pixels of the picture."""
        return self.size[0] * self.size[1]


def within_sizes(jobs: Jobs, least: int | None, most: int | None) -> Jobs:
    """Leave out the pictures whose longer side has fewer than `least` or more than `most` pixels.

    Pictures that cannot be read stay: the run reports them.
    """
    kept, left = [], Counter(jobs.left_out)
    for job in jobs.todo:
        try:
            side = max(read_size(job.source, max_pixels=MOST_PIXELS))
        except SrDeployError:
            side = None
        if side is not None and least is not None and side < least:
            left[TOO_SMALL] += 1
        elif side is not None and most is not None and side > most:
            left[TOO_LARGE] += 1
        else:
            kept.append(job)
    return jobs._replace(todo=tuple(kept), left_out=dict(left))


def look_at(
    jobs: Sequence[Job],
    *,
    scale: int,
    settings: WriteSettings,
    ledger: Ledger | None = None,
    nets: AutoNets | None = None,
) -> list[Look]:
    """Find out what a run would do with each job. `ledger` knows the results of earlier runs.

    With `nets`, the net of a picture is told if its header determines it; no pixels are decoded.
    """
    return [_look(job, scale, settings, ledger, nets) for job in jobs]


def _look(
    job: Job, scale: int, settings: WriteSettings, ledger: Ledger | None, nets: AutoNets | None
) -> Look:
    do = ledger.peek(job) if ledger is not None else "make"
    if do != "make":
        return Look(job, do)
    try:
        facts = read_facts(job.source, max_pixels=MOST_PIXELS)
    except SrDeployError as error:
        return Look(job, "fail", error=str(error))
    width, height = facts.size
    result = settings.size.of(width, height) or (width * scale, height * scale)
    choice = None if nets is None else nets.foresee(*facts[1:])
    net = "" if nets is None else str(choice or f"{nets}, by its pixels")
    return Look(job, "make", facts.size, result, net=net, choice=choice)


def seconds_per_pixel(
    upscaler: Upscaler | AutoNets, looks: Sequence[Look], settings: WriteSettings, model: str
) -> float | None:
    """Measure the seconds that a run needs for each pixel of the pictures in `looks`, reading and writing included.

    The middle of some of the pictures is upscaled as in a run, with its overlapping steps and records, into a folder for
    temporary files. `model` is the digest of the model. Nets to choose from are chosen as in a run. None if none of the pictures can be read and written.
    """
    makes = sorted((look for look in looks if look.do == "make"), key=lambda look: look.pixels)
    last = len(makes) - 1
    chosen = (
        [makes[i] for i in sorted({last * n // max(1, _SAMPLES - 1) for n in range(_SAMPLES)})]
        if makes
        else []
    )
    images = [(look, image) for look in chosen if (image := _read(look)) is not None]
    if not images:
        return None
    settings = replace(
        settings, existing="overwrite", keep_dates=False, size=_relative(settings.size, chosen)
    )
    # what happens only once: the sessions, of each net that these pictures need, and their memory
    _measure(images, 4096, upscaler, settings, model)
    pixels, seconds = _measure(images[-1:], _PARTS[0], upscaler, settings, model)
    if not pixels:
        return None
    affordable = _SECONDS / len(images) / max(seconds, 1e-4) * pixels
    most = int(min(max(affordable, _PARTS[0]), _PARTS[1]))
    pixels, seconds = _measure(images, most, upscaler, settings, model)
    return seconds / pixels if pixels else None


def _relative(size: OutputSize, looks: Sequence[Look]) -> OutputSize:
    """`size` for parts of the pictures: the factor that it means for them on average."""
    if size == OutputSize():
        return size
    made = sum(look.result[0] * look.result[1] for look in looks)
    return OutputSize(factor=(made / sum(look.pixels for look in looks)) ** 0.5)


def _read(look: Look) -> Image | None:
    """Return the middle of a picture, as much of it as is measured at most; None if it cannot be read whole."""
    try:
        return _middle(read_image(look.job.source), _PARTS[1])
    except SrDeployError:
        return None


def _measure(
    images: Sequence[tuple[Look, Image]],
    most: int,
    upscaler: Upscaler | AutoNets,
    settings: WriteSettings,
    model: str,
) -> tuple[int, float]:
    """Upscale the middle of each of `images`, at most `most` pixels of it. Returns the pixels in all and the seconds."""
    with TemporaryDirectory(prefix="sr-deploy-") as folder:
        jobs, sizes = [], {}
        for number, (look, image) in enumerate(images):
            part = _middle(image, most)
            writable = image.format in WRITABLE_SUFFIXES.values()
            source = Path(folder, f"{number}{format_of(image.format if writable else 'png').suffixes[0]}")
            write_image(part, source)
            jobs.append(
                Job(source, Path(folder, "out", f"{number}{look.job.target.suffix}"), look.job.format)
            )
            sizes[source] = part.width * part.height
        ledger = open_ledger(parted(upscaler)[1], settings, model)
        began, done = time.perf_counter(), 0
        for outcome in run_jobs(jobs, upscaler, settings=settings, ledger=ledger):
            # what fails, such as a result too large for its format, fails in the run alone and costs it no time
            done += sizes[outcome.job.source] if outcome.error is None else 0
        return done, time.perf_counter() - began


def _middle(image: Image, most: int) -> Image:
    """The middle of `image`, at most `most` pixels with the proportions of the picture.

    So pictures of one size have parts of one size: runtimes prepare for every new size.
    """
    factor = min(1.0, (most / (image.width * image.height)) ** 0.5)
    width, height = max(1, int(image.width * factor)), max(1, int(image.height * factor))
    return cropped(image, (image.width - width) // 2, (image.height - height) // 2, width, height)
