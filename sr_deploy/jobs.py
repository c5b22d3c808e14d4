"""Which picture goes where: from what the user named (files, folders, globs) to a list of jobs that cannot
destroy an input or write one file twice. Nothing is read or written here but folder listings.
"""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_deploy.errors import ImageError, OutputError, UsageError
from sr_deploy.image import format_of, formats

Existing = Literal["refuse", "skip", "overwrite"]
_WRITABLE = {suffix: known.name for known in formats() for suffix in known.suffixes}
_READABLE = (*_WRITABLE, ".gif")
_PREFERRED_SUFFIX = ".png"
_NOT_WRITTEN = (".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".pdf", ".psd", ".svg", ".mp4", ".mkv")


@dataclass(frozen=True)
class Job:
    """One picture to upscale."""

    source: Path
    target: Path
    format: str
    """A format of `sr_deploy.image` to write."""


@dataclass(frozen=True)
class Jobs:
    """What is to be done, and what is left alone."""

    todo: tuple[Job, ...]
    skipped: tuple[Job, ...] = ()
    """Their target was there already."""
    notes: tuple[str, ...] = ()
    """What else was left alone, and why; one sentence each."""


@dataclass(frozen=True)
class _Found:
    path: Path
    root: Path
    """The folder whose inner structure the output keeps."""


def plan_jobs(
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    recursive: bool = False,
    format: str | None = None,
    suffix: str | None = None,
    beside_suffix: str = "-upscaled",
    existing: Existing = "refuse",
) -> Jobs:
    """Turn `inputs` (files, folders, globs) into jobs.

    `output` is a file when there is one input file and it ends in a picture's suffix, else a folder that
    keeps the structure of an input folder; None writes beside each input. The name is the input's, plus
    `suffix` (default: none, and `beside_suffix` where `output` is None); the format is `format`, else the
    input's own where it can be written, else PNG.

    A picture that is the result of another one in the list is left alone, as is everything inside the output
    folder, so that running twice never upscales results. Raises ImageError where nothing is found,
    UsageError where two pictures would become one file, OutputError where a job would overwrite an input or,
    unless `existing` says otherwise, a file that is there.
    """
    format = format_of(format).name if format is not None else None
    found = _deduplicated(_find(inputs, recursive, Path(output) if output is not None else None))
    name_suffix = suffix if suffix is not None else ("" if output is not None else beside_suffix)
    if set(name_suffix) & {"/", "\\"}:
        raise UsageError(f"suffix {name_suffix!r} holds a path separator; give the folder with -o instead")
    if output is not None and _is_file_target(inputs, output):
        jobs = [Job(found[0].path, Path(output), _format_of_file(Path(output), format))]
    else:
        jobs = [_job(one, output, name_suffix, format) for one in found]
    todo, notes = _without_results(jobs)
    _check_unique(todo)
    _check_inputs_survive(todo)
    return _apply_existing(todo, notes, existing)


def _find(inputs: Sequence[str | Path], recursive: bool, output: Path | None) -> Iterator[_Found]:
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            yield from _find_in_folder(path, recursive, output)
        elif path.exists() or not glob.has_magic(str(given)):
            yield _Found(path, path.parent)  # a missing file becomes a job that fails on its own
        else:
            yield from _find_by_glob(str(given))


def _find_in_folder(folder: Path, recursive: bool, output: Path | None) -> list[_Found]:
    skipped = _absolute(output) if output is not None and _absolute(output) != _absolute(folder) else None
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if recursive and _visible(f) and _absolute(Path(parent, f)) != skipped
        )
        pictures = sorted(f for f in files if _visible(f) and Path(f).suffix.lower() in _READABLE)
        found += [_Found(Path(parent, name), folder) for name in pictures]
    if not found:
        hint = "" if recursive else "; add --recursive to look into its subfolders"
        kinds = ", ".join(_READABLE)
        raise ImageError(
            f"folder {folder} holds no pictures (looked for {kinds}){hint or '; name another folder'}"
        )
    return found


def _find_by_glob(pattern: str) -> list[_Found]:
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    found = [_Found(path, path.parent) for path in paths if path.is_file()]
    if not found:
        raise ImageError(f"no file matches {pattern!r}; check the pattern, or name a folder")
    return found


def _visible(name: str) -> bool:
    """Not hidden: "._photo.jpg" of a Mac's memory stick is not a picture."""
    return not name.startswith(".")


def _absolute(path: Path) -> str:
    return os.path.normcase(os.path.abspath(path))


def _deduplicated(found: Iterable[_Found]) -> list[_Found]:
    return list({_absolute(one.path): one for one in found}.values())


def _is_file_target(inputs: Sequence[str | Path], output: str | Path) -> bool:
    """Whether `output` names a file; UsageError where it cannot be what it looks like."""
    path, suffix = Path(output), Path(output).suffix.lower()
    if path.is_dir() or str(output).endswith(("/", os.sep)):
        return False
    if suffix in _NOT_WRITTEN:
        raise UsageError(f"output {path}: {suffix} is not written; choose one of {', '.join(_WRITABLE)}")
    if suffix not in _WRITABLE:
        if path.exists():
            raise OutputError(f"output {path}: it is a file and not a picture's name; give a folder")
        return False
    if (
        len(inputs) == 1
        and not Path(inputs[0]).is_dir()
        and (Path(inputs[0]).exists() or not glob.has_magic(str(inputs[0])))
    ):
        return True
    raise UsageError(
        f"output {path} is one file, and there may be several pictures; give a folder (without {suffix})"
    )


def _format_of_file(path: Path, format: str | None) -> str:
    by_name = _WRITABLE[path.suffix.lower()]
    if format is not None and format != by_name:
        raise UsageError(
            f"output {path} is {by_name} by its name and --format asks for {format}; leave one out"
        )
    return by_name


def _job(found: _Found, output: str | Path | None, name_suffix: str, format: str | None) -> Job:
    source = found.path
    extension = source.suffix if source.suffix.lower() in _WRITABLE else _PREFERRED_SUFFIX
    if format is not None and _WRITABLE[extension.lower()] != format:
        extension = next(s for s, f in _WRITABLE.items() if f == format)
    folder = source.parent if output is None else Path(output) / source.parent.relative_to(found.root)
    return Job(source, folder / f"{source.stem}{name_suffix}{extension}", _WRITABLE[extension.lower()])


def _without_results(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    made_from = {
        _absolute(job.target): job.source for job in jobs if _absolute(job.target) != _absolute(job.source)
    }
    todo = [job for job in jobs if _absolute(job.source) not in made_from]
    results = [job.source for job in jobs if _absolute(job.source) in made_from]
    return todo, [
        f"{path} is left alone: it is the result of {made_from[_absolute(path)]}" for path in results
    ]


def _check_unique(jobs: Sequence[Job]) -> None:
    sources: dict[str, Path] = {}
    folds = {folder: _folds_case(folder) for folder in {job.target.parent for job in jobs}}
    for job in jobs:
        key = _absolute(job.target)
        if folds[job.target.parent]:
            key = unicodedata.normalize("NFC", key).casefold()
        if key in sources:
            raise UsageError(
                f"{sources[key]} and {job.source} would both be written to {job.target}; upscale them into "
                "different folders, or one at a time"
            )
        sources[key] = job.source


def _folds_case(folder: Path) -> bool:
    """Whether names that differ in case only are one file there (Windows, macOS, some network drives)."""
    there = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()), None)
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
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_inputs_survive(jobs: Sequence[Job]) -> None:
    inputs = {_identity(job.source): job.source for job in jobs}
    for job in jobs:
        identity = _identity(job.target)
        if identity is None:
            if _absolute(job.target) != _absolute(job.source):
                continue
            raise ImageError(f"{job.source}: no such file; check the name")
        if identity in inputs:
            what = "itself" if inputs[identity] == job.source else f"the input {inputs[identity]}"
            raise OutputError(
                f"{job.source} would overwrite {what} at {job.target}; give a --suffix or another folder"
            )


def _apply_existing(jobs: Sequence[Job], notes: Sequence[str], existing: Existing) -> Jobs:
    folder = next((job.target for job in jobs if job.target.is_dir()), None)
    if folder is not None:
        raise OutputError(
            f"cannot write {folder}: a folder of this name is there; give another name or --suffix"
        )
    there = [job for job in jobs if job.target.exists()]
    if existing == "overwrite" or not there:
        return Jobs(tuple(jobs), (), tuple(notes))
    if existing == "skip":
        done = set(there)
        return Jobs(tuple(job for job in jobs if job not in done), tuple(there), tuple(notes))
    what = "it exists" if len(jobs) == 1 else f"it and {len(there) - 1} more of {len(jobs)} results exist"
    raise OutputError(f"cannot write {there[0].target}: {what} already; add --overwrite or --skip-existing")
