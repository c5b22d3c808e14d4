"""Which picture goes where: from what the user named (files, folders, globs) to a list of jobs that cannot
destroy an input or write one file twice. Nothing is read or written here but folder listings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sr_deploy.batch.inputs import (
    OTHER_JPEG,
    FoundPicture,
    Refuse,
    RefusedInput,
    absolute,
    find_pictures,
    is_one_file,
)
from sr_deploy.errors import ImageError, OutputError, UsageError
from sr_deploy.images.codecs.formats import WRITABLE_SUFFIXES, format_of

Existing = Literal["refuse", "skip", "overwrite", "resume"]
"""What to do where a result is there already. Resume: what was recorded by an earlier run (see `sr_deploy.batch.ledger`) is
looked at again, any other file is refused."""
_PREFERRED_SUFFIX = ".png"
_FORMAT_BY_SUFFIX = {**WRITABLE_SUFFIXES, **dict.fromkeys(OTHER_JPEG, "jpeg")}
_UNSUPPORTED_SUFFIXES = (
    ".gif",
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".pdf",
    ".psd",
    ".svg",
    ".mp4",
    ".mkv",
)


class Job(NamedTuple):
    """One picture to upscale."""

    source: Path
    target: Path
    format: str
    """A format of `sr_deploy.images.image` to write."""


class Jobs(NamedTuple):
    """What is to be done, and what is left alone."""

    todo: tuple[Job, ...]
    skipped: tuple[Job, ...] = ()
    """Their target was there already."""
    notes: tuple[str, ...] = ()
    """What else was left alone, and why; one sentence each."""
    refused: tuple[RefusedInput, ...] = ()


def plan_jobs(
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    recursive: bool = False,
    format: str | None = None,
    suffix: str | None = None,
    beside_suffix: str = "-upscaled",
    existing: Existing = "refuse",
    shard: tuple[int, int] | None = None,
) -> Jobs:
    """Turn `inputs` (files, folders, globs) into jobs.

    `output` is a file when there is one input file and it ends in a picture's suffix, else a folder that
    keeps the structure of an input folder; None writes beside each input. The name is the input's, plus
    `suffix` (default: none, and `beside_suffix` where `output` is None); the format is `format`, else the
    input's own where it can be written, else PNG.

    A picture that is the result of another one in the list is left alone, as is everything inside the output
    folder, so that running twice never upscales results.

    `shard` (i, n) keeps every n-th picture, beginning with the i-th (from 1): what one of n processes is to do.

    One that cannot be done (an input without pictures, a folder that cannot be read, two pictures that would
    become one file, a folder in the target's place) is in `refused` beside the others; where nothing else is
    left, its error is raised: ImageError, UsageError, OutputError. Raises OutputError, too, where a job would
    overwrite an input or, unless `existing` says otherwise, a file that is there.
    """
    _check_names(inputs, output)
    format = format_of(format).name if format is not None else None
    refused: list[RefusedInput] = []
    place = Path(output) if output is not None else None
    found = find_pictures(inputs, recursive, place, refused.append)
    name_suffix = suffix if suffix is not None else ("" if output is not None else beside_suffix)
    if set(name_suffix) & {"/", "\\"}:
        raise UsageError(f"suffix {name_suffix!r} holds a path separator; give the folder with -o instead")
    if output is not None and _is_file_target(inputs, output):
        jobs = [Job(one.path, Path(output), _format_of_file(Path(output), format)) for one in found]
    else:
        jobs = [_job(one, output, name_suffix, format) for one in found]
    todo, notes = _without_results(jobs)
    todo = _without_clashes(todo, refused.append)
    todo = _without_folders(todo, refused.append)
    _check_inputs_survive(todo)
    if shard is not None:  # before anything is left out that others may have done meanwhile
        todo = todo[shard[0] - 1 :: shard[1]]
    errors = {id(one.error): one.error for one in refused}
    if len(errors) == 1 and not todo:
        raise refused[0].error
    return _apply_existing(todo, notes, refused, existing)


def _check_names(inputs: Sequence[str | Path], output: str | Path | None) -> None:
    """Raise UsageError for names that mean nothing here."""
    if "" in map(str, inputs):
        raise UsageError("an input is an empty name; name a file, a folder or a glob")
    if output is not None and str(output) in ("", "-"):
        raise UsageError(f"output {str(output)!r}: pictures do not go to stdout; name a file or a folder")


def _is_file_target(inputs: Sequence[str | Path], output: str | Path) -> bool:
    """Whether `output` names a file; UsageError where it cannot be what it looks like."""
    path, suffix = Path(output), Path(output).suffix.lower()
    if os.path.isdir(path) or str(output).endswith(("/", os.sep)):
        return False
    known = ", ".join(WRITABLE_SUFFIXES)
    if suffix in _UNSUPPORTED_SUFFIXES:
        raise UsageError(f"output {path}: {suffix} is not written; choose one of {known}")
    if suffix not in _FORMAT_BY_SUFFIX:
        if os.path.exists(path):
            raise OutputError(f"output {path}: it is a file and not a picture's name; give a folder")
        if suffix and is_one_file(inputs):
            raise UsageError(
                f"output {path}: pictures are written as {known}, not as {suffix}; choose one of these, or end "
                "the name in / for a folder"
            )
        return False
    if is_one_file(inputs):
        return True
    raise UsageError(
        f"output {path} is one file, and there may be several pictures; give a folder (without {suffix})"
    )


def _format_of_file(path: Path, format: str | None) -> str:
    by_name = _FORMAT_BY_SUFFIX[path.suffix.lower()]
    if format is not None and format != by_name:
        raise UsageError(
            f"output {path} is {by_name} by its name and --format asks for {format}; leave one out"
        )
    return by_name


def _job(found: FoundPicture, output: str | Path | None, name_suffix: str, format: str | None) -> Job:
    source = found.path
    extension = source.suffix if source.suffix.lower() in _FORMAT_BY_SUFFIX else _PREFERRED_SUFFIX
    if format is not None and _FORMAT_BY_SUFFIX[extension.lower()] != format:
        extension = next(s for s, f in _FORMAT_BY_SUFFIX.items() if f == format)
    folder = source.parent if output is None else Path(output) / source.parent.relative_to(found.root)
    return Job(
        source, folder / f"{source.stem}{name_suffix}{extension}", _FORMAT_BY_SUFFIX[extension.lower()]
    )


def _without_results(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    made_from = {
        absolute(job.target): job.source for job in jobs if absolute(job.target) != absolute(job.source)
    }
    todo = [job for job in jobs if absolute(job.source) not in made_from]
    results = [job.source for job in jobs if absolute(job.source) in made_from]
    return todo, [
        f"{path} is left alone: it is the result of {made_from[absolute(path)]}" for path in results
    ]


def _without_clashes(jobs: Sequence[Job], refuse: Refuse) -> list[Job]:
    """Those whose target is theirs alone."""
    by_target: dict[str, list[Job]] = {}
    folds = {folder: _folds_case(folder) for folder in {job.target.parent for job in jobs}}
    for job in jobs:
        key = absolute(job.target)
        if folds[job.target.parent]:
            import unicodedata

            key = unicodedata.normalize("NFC", key).casefold()
        by_target.setdefault(key, []).append(job)
    for same in by_target.values():
        if len(same) > 1:
            names = " and ".join(str(job.source) for job in same)
            error = UsageError(
                f"{names} would {'both' if len(same) == 2 else 'all'} be written to {same[0].target}; rename all "
                "but one, or upscale them one at a time, each with a --suffix of its own"
            )
            for job in same:
                refuse(RefusedInput(job.source, error, job.target))
    return [same[0] for same in by_target.values() if len(same) == 1]


def _without_folders(jobs: Sequence[Job], refuse: Refuse) -> list[Job]:
    """Those whose target is not a folder."""
    for job in jobs:
        if os.path.isdir(job.target):
            error = OutputError(
                f"{job.source}: cannot write {job.target}, a folder of this name is there; give another name or "
                "--suffix"
            )
            refuse(RefusedInput(job.source, error, job.target))
    return [job for job in jobs if not os.path.isdir(job.target)]


def _folds_case(folder: Path) -> bool:
    """Whether names that differ in case only are one file there (Windows, macOS, some network drives)."""
    there = next((p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p)), None)
    if there is None or there.name.swapcase() == there.name:
        return os.name == "nt"
    try:
        return there.samefile(there.with_name(there.name.swapcase()))
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """What stays the same through links and spellings; None where there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _check_inputs_survive(jobs: Sequence[Job]) -> None:
    inputs = {_identity(job.source): job.source for job in jobs}
    for job in jobs:
        identity = _identity(job.target)
        if identity is None:
            if absolute(job.target) != absolute(job.source):
                continue
            raise ImageError(f"{job.source}: no such file; check the name")
        if identity in inputs:
            what = "itself" if inputs[identity] == job.source else f"the input {inputs[identity]}"
            raise OutputError(
                f"{job.source} would overwrite {what} at {job.target}; give a --suffix or another folder"
            )


def _apply_existing(
    jobs: Sequence[Job], notes: Sequence[str], refused: Sequence[RefusedInput], existing: Existing
) -> Jobs:
    there = [job for job in jobs if os.path.exists(job.target)]
    if existing == "resume":
        there = [job for job in there if not os.path.exists(record_path(job.target))]
    if existing == "overwrite" or not there:
        return Jobs(tuple(jobs), (), tuple(notes), tuple(refused))
    if existing == "skip":
        done = set(there)
        return Jobs(tuple(job for job in jobs if job not in done), tuple(there), tuple(notes), tuple(refused))
    what = "it exists" if len(jobs) == 1 else f"it and {len(there) - 1} more of {len(jobs)} results exist"
    raise OutputError(f"cannot write {there[0].target}: {what} already; add --overwrite or --skip-existing")


def record_path(target: Path) -> Path:
    """Where what is known of a result is kept."""
    return target.parent / ".sr-deploy" / f"{target.name}.json"


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
