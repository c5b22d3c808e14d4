"""Which pictures were meant: the files, folders and globs a user names, as a list of files.

Nothing is read but folder listings; where results go is for `sr_deploy.batch.jobs` to decide.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sr_deploy.errors import ImageError, SrDeployError
from sr_deploy.images.codecs.formats import READABLE_SUFFIXES

OTHER_JPEG = (".jpe", ".jfif")
_FOUND_SUFFIXES = READABLE_SUFFIXES.union(OTHER_JPEG)


class RefusedInput(NamedTuple):
    """What was named or found and cannot be done; the others can."""

    source: Path
    error: SrDeployError
    target: Path | None = None
    """None where it did not come to that."""


class FoundPicture(NamedTuple):
    """A picture that was named, or lies where one was looked for."""

    path: Path
    root: Path
    """The folder whose inner structure the output keeps."""


Refuse = Callable[[RefusedInput], None]


def find_pictures(
    inputs: Sequence[str | Path], recursive: bool, output: Path | None, refuse: Refuse
) -> list[FoundPicture]:
    """The pictures `inputs` stand for, each once; folders are looked into, but for `output`.

    What cannot be used is handed to `refuse`. A missing file is in the list, and fails when it is read.
    """
    found = _find(inputs, recursive, output, refuse)
    return list({absolute(one.path): one for one in found}.values())


def _find(
    inputs: Sequence[str | Path], recursive: bool, output: Path | None, refuse: Refuse
) -> Iterator[FoundPicture]:
    for given in inputs:
        path, text = Path(given), str(given)
        try:
            if text.lower().startswith(("http://", "https://", "ftp://")):
                raise ImageError(f"{text}: addresses are not read; download it first")
            if os.path.isdir(path):
                yield from _find_in_folder(path, recursive, output, refuse)
            elif os.path.exists(path) or not glob.has_magic(text):
                yield FoundPicture(path, path.parent)  # a missing file becomes a job that fails on its own
            else:
                yield from _find_by_glob(text, recursive, output, refuse)
        except ImageError as error:
            refuse(RefusedInput(path, error))


def _find_in_folder(folder: Path, recursive: bool, output: Path | None, refuse: Refuse) -> list[FoundPicture]:
    unread: list[RefusedInput] = []
    found = _pictures_in(folder, recursive, output, unread.append)
    for one in unread:
        refuse(one)
    if not (found or unread):
        hint = "name another folder" if recursive else "add --recursive to look into its subfolders"
        kinds = ", ".join(sorted(_FOUND_SUFFIXES))
        raise ImageError(f"folder {folder} holds no pictures (looked for {kinds}); {hint}")
    return found


def _pictures_in(folder: Path, recursive: bool, output: Path | None, refuse: Refuse) -> list[FoundPicture]:
    def unreadable(error: OSError) -> None:
        path, why = Path(error.filename or folder), error.strerror or error
        refuse(RefusedInput(path, ImageError(f"folder {path} cannot be read ({why}); check its permissions")))

    skipped = absolute(output) if output is not None and absolute(output) != absolute(folder) else None
    found = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            f for f in folders if recursive and _visible(f) and absolute(Path(parent, f)) != skipped
        )
        pictures = sorted(f for f in files if _visible(f) and Path(f).suffix.lower() in _FOUND_SUFFIXES)
        found += [FoundPicture(Path(parent, name), folder) for name in pictures]
    return found


def _find_by_glob(pattern: str, recursive: bool, output: Path | None, refuse: Refuse) -> list[FoundPicture]:
    """What a shell would have put in its place: files, and folders, of which some may hold no pictures."""
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    folders = [path for path in paths if os.path.isdir(path) and not _is_within(path, output)]
    found = [FoundPicture(path, path.parent) for path in paths if os.path.isfile(path)]
    unread: list[RefusedInput] = []
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
    here = Path(absolute(path))
    return output is not None and Path(absolute(output)) in (here, *here.parents)


def _visible(name: str) -> bool:
    """Not hidden: "._photo.jpg" of a Mac's memory stick is not a picture."""
    return not name.startswith(".")


def absolute(path: Path) -> str:
    """What is the same for all spellings of one path."""
    return os.path.normcase(os.path.abspath(path))


def is_one_file(inputs: Sequence[str | Path]) -> bool:
    """Whether one file was named, there or not; a folder or a glob may stand for several."""
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        return False
    return os.path.exists(inputs[0]) or not glob.has_magic(str(inputs[0]))
