"""Which picture goes where: from what the user named (files, folders, globs) to a list of jobs that cannot
destroy an input or write one file twice. Nothing is read or written here but folder listings.
"""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sr_deploy.errors import ImageError, OutputError, SrDeployError, UsageError
from sr_deploy.image import READABLE_SUFFIXES, WRITABLE_SUFFIXES, format_of

Existing = Literal["refuse", "skip", "overwrite"]
_PREFERRED_SUFFIX = ".png"
_OTHER_JPEG = (".jpe", ".jfif")
_WRITTEN = {**WRITABLE_SUFFIXES, **dict.fromkeys(_OTHER_JPEG, "jpeg")}
_READ = READABLE_SUFFIXES.union(_OTHER_JPEG)
_NOT_WRITTEN = (".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".pdf", ".psd", ".svg", ".mp4", ".mkv")


@dataclass(frozen=True)
class Job:
    """One picture to upscale."""

    source: Path
    target: Path
    format: str
    """A format of `sr_deploy.image` to write."""


@dataclass(frozen=True)
class Refused:
    """What was named or found and cannot be done; the others can."""

    source: Path
    error: SrDeployError
    target: Path | None = None
    """None where it did not come to that."""


@dataclass(frozen=True)
class Jobs:
    """What is to be done, and what is left alone."""

    todo: tuple[Job, ...]
    skipped: tuple[Job, ...] = ()
    """Their target was there already."""
    notes: tuple[str, ...] = ()
    """What else was left alone, and why; one sentence each."""
    refused: tuple[Refused, ...] = ()


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
    folder, so that running twice never upscales results.

    One that cannot be done (an input without pictures, a folder that cannot be read, two pictures that would
    become one file, a folder in the target's place) is in `refused` beside the others; where nothing else is
    left, its error is raised: ImageError, UsageError, OutputError. Raises OutputError, too, where a job would
    overwrite an input or, unless `existing` says otherwise, a file that is there.
    """
    _check_names(inputs, output)
    format = format_of(format).name if format is not None else None
    refused: list[Refused] = []
    place = Path(output) if output is not None else None
    found = _deduplicated(_find(inputs, recursive, place, refused.append))
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


_Refuse = Callable[[Refused], None]


def _find(
    inputs: Sequence[str | Path], recursive: bool, output: Path | None, refuse: _Refuse
) -> Iterator[_Found]:
    for given in inputs:
        path, text = Path(given), str(given)
        try:
            if text.lower().startswith(("http://", "https://", "ftp://")):
                raise ImageError(f"{text}: addresses are not read; download it first")
            if os.path.isdir(path):
                yield from _find_in_folder(path, recursive, output, refuse)
            elif os.path.exists(path) or not glob.has_magic(text):
                yield _Found(path, path.parent)  # a missing file becomes a job that fails on its own
            else:
                yield from _find_by_glob(text, recursive, output, refuse)
        except ImageError as error:
            refuse(Refused(path, error))


def _find_in_folder(folder: Path, recursive: bool, output: Path | None, refuse: _Refuse) -> list[_Found]:
    unread: list[Refused] = []
    found = _pictures_in(folder, recursive, output, unread.append)
    for one in unread:
        refuse(one)
    if not (found or unread):
        hint = "name another folder" if recursive else "add --recursive to look into its subfolders"
        kinds = ", ".join(sorted(_READ))
        raise ImageError(f"folder {folder} holds no pictures (looked for {kinds}); {hint}")
    return found


def _pictures_in(folder: Path, recursive: bool, output: Path | None, refuse: _Refuse) -> list[_Found]:
    def unreadable(error: OSError) -> None:
        path, why = Path(error.filename or folder), error.strerror or error
        refuse(Refused(path, ImageError(f"folder {path} cannot be read ({why}); check its permissions")))

    skipped = _absolute(output) if output is not None and _absolute(output) != _absolute(folder) else None
    found = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            f for f in folders if recursive and _visible(f) and _absolute(Path(parent, f)) != skipped
        )
        pictures = sorted(f for f in files if _visible(f) and Path(f).suffix.lower() in _READ)
        found += [_Found(Path(parent, name), folder) for name in pictures]
    return found


def _find_by_glob(pattern: str, recursive: bool, output: Path | None, refuse: _Refuse) -> list[_Found]:
    """What a shell would have put in its place: files, and folders, of which some may hold no pictures."""
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    folders = [path for path in paths if os.path.isdir(path) and not _is_within(path, output)]
    found = [_Found(path, path.parent) for path in paths if os.path.isfile(path)]
    unread: list[Refused] = []
    found += [one for folder in folders for one in _pictures_in(folder, recursive, output, unread.append)]
    for one in unread:
        refuse(one)
    if not (found or unread) and folders:
        return _find_in_folder(folders[0], recursive, output, refuse)  # which says what it lacks
    if not (found or unread):
        raise ImageError(f"no file or folder matches {pattern!r}; check the pattern, or name a folder")
    return found


def _is_within(path: Path, output: Path | None) -> bool:
    """Whether `path` is the output folder, or lies in it."""
    here = Path(_absolute(path))
    return output is not None and Path(_absolute(output)) in (here, *here.parents)


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
    if os.path.isdir(path) or str(output).endswith(("/", os.sep)):
        return False
    known = ", ".join(WRITABLE_SUFFIXES)
    if suffix in _NOT_WRITTEN:
        raise UsageError(f"output {path}: {suffix} is not written; choose one of {known}")
    if suffix not in _WRITTEN:
        if os.path.exists(path):
            raise OutputError(f"output {path}: it is a file and not a picture's name; give a folder")
        if suffix and _is_one_file(inputs):
            raise UsageError(
                f"output {path}: pictures are written as {known}, not as {suffix}; choose one of these, or end "
                "the name in / for a folder"
            )
        return False
    if _is_one_file(inputs):
        return True
    raise UsageError(
        f"output {path} is one file, and there may be several pictures; give a folder (without {suffix})"
    )


def _is_one_file(inputs: Sequence[str | Path]) -> bool:
    """Whether one file was named, there or not; a folder or a glob may stand for several."""
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        return False
    return os.path.exists(inputs[0]) or not glob.has_magic(str(inputs[0]))


def _format_of_file(path: Path, format: str | None) -> str:
    by_name = _WRITTEN[path.suffix.lower()]
    if format is not None and format != by_name:
        raise UsageError(
            f"output {path} is {by_name} by its name and --format asks for {format}; leave one out"
        )
    return by_name


def _job(found: _Found, output: str | Path | None, name_suffix: str, format: str | None) -> Job:
    source = found.path
    extension = source.suffix if source.suffix.lower() in _WRITTEN else _PREFERRED_SUFFIX
    if format is not None and _WRITTEN[extension.lower()] != format:
        extension = next(s for s, f in _WRITTEN.items() if f == format)
    folder = source.parent if output is None else Path(output) / source.parent.relative_to(found.root)
    return Job(source, folder / f"{source.stem}{name_suffix}{extension}", _WRITTEN[extension.lower()])


def _without_results(jobs: Sequence[Job]) -> tuple[list[Job], list[str]]:
    made_from = {
        _absolute(job.target): job.source for job in jobs if _absolute(job.target) != _absolute(job.source)
    }
    todo = [job for job in jobs if _absolute(job.source) not in made_from]
    results = [job.source for job in jobs if _absolute(job.source) in made_from]
    return todo, [
        f"{path} is left alone: it is the result of {made_from[_absolute(path)]}" for path in results
    ]


def _without_clashes(jobs: Sequence[Job], refuse: _Refuse) -> list[Job]:
    """Those whose target is theirs alone."""
    by_target: dict[str, list[Job]] = {}
    folds = {folder: _folds_case(folder) for folder in {job.target.parent for job in jobs}}
    for job in jobs:
        key = _absolute(job.target)
        if folds[job.target.parent]:
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
                refuse(Refused(job.source, error, job.target))
    return [same[0] for same in by_target.values() if len(same) == 1]


def _without_folders(jobs: Sequence[Job], refuse: _Refuse) -> list[Job]:
    """Those whose target is not a folder."""
    for job in jobs:
        if os.path.isdir(job.target):
            error = OutputError(
                f"{job.source}: cannot write {job.target}, a folder of this name is there; give another name or "
                "--suffix"
            )
            refuse(Refused(job.source, error, job.target))
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
            if _absolute(job.target) != _absolute(job.source):
                continue
            raise ImageError(f"{job.source}: no such file; check the name")
        if identity in inputs:
            what = "itself" if inputs[identity] == job.source else f"the input {inputs[identity]}"
            raise OutputError(
                f"{job.source} would overwrite {what} at {job.target}; give a --suffix or another folder"
            )


def _apply_existing(
    jobs: Sequence[Job], notes: Sequence[str], refused: Sequence[Refused], existing: Existing
) -> Jobs:
    there = [job for job in jobs if os.path.exists(job.target)]
    if existing == "overwrite" or not there:
        return Jobs(tuple(jobs), (), tuple(notes), tuple(refused))
    if existing == "skip":
        done = set(there)
        return Jobs(tuple(job for job in jobs if job not in done), tuple(there), tuple(notes), tuple(refused))
    what = "it exists" if len(jobs) == 1 else f"it and {len(there) - 1} more of {len(jobs)} results exist"
    raise OutputError(f"cannot write {there[0].target}: {what} already; add --overwrite or --skip-existing")
