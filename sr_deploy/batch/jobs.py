"""Plan the jobs of a run: turn files, folders and globs into pairs of input and output path.

A plan never overwrites an input and never writes one file twice. Planning lists folders; it reads and
writes nothing else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sr_deploy.batch.inputs import (
    RECORDS,
    FoundPicture,
    Refuse,
    RefusedInput,
    absolute,
    find_pictures,
    is_one_file,
)
from sr_deploy.errors import ImageError, OutputError, UsageError
from sr_deploy.images.codecs.formats import WRITABLE_SUFFIXES, format_of
from sr_deploy.images.listing import HEIC, OTHER_JPEG

Existing = Literal["refuse", "skip", "overwrite", "resume"]
"""Policy for a result that exists already.

"refuse" raises an error, "skip" keeps the file, "overwrite" replaces it. "resume" checks results that an
earlier run recorded (see `sr_deploy.batch.ledger`) and refuses any other file.
"""
_PREFERRED_SUFFIX = ".png"
"""Suffix of a result whose input format cannot be written. PNG is lossless and is read everywhere."""
_FORMAT_BY_SUFFIX = {**WRITABLE_SUFFIXES, **dict.fromkeys(OTHER_JPEG, "jpeg")}
"""Name of the format that each writable suffix stands for."""
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
"""Suffixes that users plausibly ask for and that cannot be written. Any other unknown suffix may be part of
a folder's name."""


class Job(NamedTuple):
    """One picture to upscale, and the file to write."""

    source: Path
    target: Path
    format: str
    """Name of the format to write, as `sr_deploy.images.image` knows it."""


class Jobs(NamedTuple):
    """The plan of a run."""

    todo: tuple[Job, ...]
    skipped: tuple[Job, ...] = ()
    """Jobs whose target exists already."""
    notes: tuple[str, ...] = ()
    """Other pictures that are left out, and why; one sentence each."""
    refused: tuple[RefusedInput, ...] = ()
    """Inputs that cannot be upscaled."""
    left_out: Mapping[str, int] = {}
    """Kind of the entries of folders that are not taken -> their number."""


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
    follow_links: bool = False,
) -> Jobs:
    """Plan the jobs for `inputs` (files, folders, globs).

    `output` is a file if there is one input file and `output` ends in a picture's suffix. Otherwise it is a
    folder, and the structure of an input folder is repeated in it. None writes each result beside its
    input.

    The name of a result is the name of the input plus `suffix` (default: none, or `beside_suffix` if
    `output` is None). Its format is `format`, else the input's own format if that can be written, else PNG.

    Pictures inside the output folder, and pictures that are the result of another picture in the list, are
    left out. So a second run never upscales the results of the first.

    With `follow_links`, a result whose path is a link is written where the link leads; otherwise the result
    replaces the link.

    `shard` (i, n) keeps every n-th picture, beginning with the i-th (counted from 1). It is the share of
    one of n processes.

    An input that cannot be used is listed in `refused`: an input without pictures, an unreadable folder,
    two pictures with one target, a target that is a folder. If no job is left and there was one such error,
    it is raised instead: ImageError, UsageError or OutputError. OutputError is also raised if a job would
    overwrite an input or, unless `existing` allows it, an existing file.
    """
    _check_names(inputs, output)
    format = format_of(format).name if format is not None else None
    refused: list[RefusedInput] = []
    left_out: list[str] = []
    place = Path(output) if output is not None else None
    found = find_pictures(inputs, recursive, place, refused.append, left_out.append)
    name_suffix = suffix if suffix is not None else ("" if output is not None else beside_suffix)
    if set(name_suffix) & {"/", "\\"}:
        raise UsageError(f"suffix {name_suffix!r} holds a path separator; give the folder with -o instead")
    if output is not None and _is_file_target(inputs, output):
        jobs = [Job(one.path, Path(output), _format_of_file(Path(output), format)) for one in found]
    else:
        jobs = [_job(one, output, name_suffix, format) for one in found]
    if follow_links:
        jobs = [job._replace(target=Path(os.path.realpath(job.target))) for job in jobs]
    todo, notes = _without_results(jobs)
    todo = _without_clashes(todo, refused.append)
    todo = _without_folders(todo, refused.append)
    _check_inputs_survive(todo)
    # Shards are taken before existing results are left out. Otherwise a process that starts later would see a
    # shorter list, and the shards would no longer cover every picture exactly once.
    if shard is not None:
        todo = todo[shard[0] - 1 :: shard[1]]
    errors = {id(one.error): one.error for one in refused}
    if len(errors) == 1 and not todo:
        raise refused[0].error
    if HEIC in left_out:
        from sr_deploy.images.codecs.avif import WAY_OUT

        notes.append(f"HEIC pictures are left out ({left_out.count(HEIC)}): {WAY_OUT}")
    return _apply_existing(todo, notes, refused, existing)._replace(left_out=dict(Counter(left_out)))


def _check_names(inputs: Sequence[str | Path], output: str | Path | None) -> None:
    if "" in map(str, inputs):
        raise UsageError("an input has an empty name; name a file, a folder or a glob")
    if output is not None and str(output) in ("", "-"):
        raise UsageError(
            f"output {str(output)!r}: pictures are not written to stdout; name a file or a folder"
        )


def _is_file_target(inputs: Sequence[str | Path], output: str | Path) -> bool:
    """Return whether `output` names a file rather than a folder. The name decides; nothing has to exist.

    Raises UsageError if the suffix cannot be written or if there may be several pictures, OutputError if
    `output` is a file that is not a picture.
    """
    path, suffix = Path(output), Path(output).suffix.lower()
    if os.path.isdir(path) or str(output).endswith(("/", os.sep)):
        return False
    known = ", ".join(WRITABLE_SUFFIXES)
    if suffix in _UNSUPPORTED_SUFFIXES:
        raise UsageError(f"output {path}: {suffix} files cannot be written; choose one of {known}")
    if suffix not in _FORMAT_BY_SUFFIX:
        if os.path.exists(path):
            raise OutputError(f"output {path} is a file without a picture's suffix; give a folder")
        if suffix and is_one_file(inputs):
            raise UsageError(
                f"output {path}: pictures are written as {known}, not as {suffix}; choose one of these, or end "
                "the name in / for a folder"
            )
        return False
    if is_one_file(inputs):
        return True
    raise UsageError(
        f"output {path} is one file, but there may be several pictures; give a folder (without {suffix})"
    )


def _format_of_file(path: Path, format: str | None) -> str:
    by_name = _FORMAT_BY_SUFFIX[path.suffix.lower()]
    if format is not None and format != by_name:
        raise UsageError(
            f"output {path} has the suffix of {by_name}, but --format asks for {format}; leave one out"
        )
    return by_name


def _job(found: FoundPicture, output: str | Path | None, name_suffix: str, format: str | None) -> Job:
    """Return the job for one picture in a plan whose output is a folder or None."""
    source = found.path
    extension = source.suffix if source.suffix.lower() in _FORMAT_BY_SUFFIX else _PREFERRED_SUFFIX
    if format is not None and _FORMAT_BY_SUFFIX[extension.lower()] != format:
        extension = next(s for s, f in _FORMAT_BY_SUFFIX.items() if f == format)
    folder = source.parent if output is None else Path(output) / source.parent.relative_to(found.root)
    return Job(
        source, folder / f"{source.stem}{name_suffix}{extension}", _FORMAT_BY_SUFFIX[extension.lower()]
    )


def _without_results(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    """Return the jobs whose source is not the target of another job, and a note for each of the others.

    Without this, a second run that writes beside the inputs would upscale the results of the first run.
    """
    made_from = {
        absolute(job.target): job.source for job in jobs if absolute(job.target) != absolute(job.source)
    }
    todo = [job for job in jobs if absolute(job.source) not in made_from]
    results = [job.source for job in jobs if absolute(job.source) in made_from]
    return todo, [f"{path} is skipped: it is the result of {made_from[absolute(path)]}" for path in results]


def _without_clashes(jobs: Sequence[Job], refuse: Refuse) -> list[Job]:
    """Return the jobs that share their target with no other job. All jobs of a shared target are refused.

    On folders that ignore case, names are compared by their folded NFC form, since such file systems may
    store a name decomposed.
    """
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
    """Return the jobs whose target is not an existing folder."""
    for job in jobs:
        if os.path.isdir(job.target):
            error = OutputError(
                f"{job.source}: cannot write {job.target}: a folder with this name exists; give another name or "
                "--suffix"
            )
            refuse(RefusedInput(job.source, error, job.target))
    return [job for job in jobs if not os.path.isdir(job.target)]


def _folds_case(folder: Path) -> bool:
    """Return whether `folder` treats names that differ only in case as one file (Windows, macOS, some
    network drives).

    The nearest existing parent is tested by opening it under its name with swapped case.
    """
    there = next((p for p in (folder.absolute(), *folder.absolute().parents) if os.path.exists(p)), None)
    if there is None or there.name.swapcase() == there.name:
        return os.name == "nt"
    try:
        return there.samefile(there.with_name(there.name.swapcase()))
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of a file, equal for all links and spellings; None if there is no such file."""
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
    """Apply `existing` to the jobs whose target exists. Raises OutputError for "refuse"."""
    there = [job for job in jobs if os.path.lexists(job.target)]
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
    """Return the path of the record file of the result `target`."""
    return target.parent / RECORDS / f"{target.name}.json"


def check_quality(jobs: Sequence[Job], quality: int | None) -> None:
    """Raise UsageError if `quality` is out of range for the format of a job: 1 to 100, or 101 for lossless
    WebP."""
    for job in jobs:
        if quality is None:
            return
        top = format_of(job.format).top_quality
        if not 1 <= quality <= top:
            lossless = "; 101 is WebP's lossless mode" if quality == 101 else ""
            raise UsageError(
                f"{job.target}: quality must be a number from 1 to {top} for {job.format}, got {quality}{lossless}; "
                "give another --quality or --format"
            )
