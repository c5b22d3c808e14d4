"""Find the input pictures: turn the files, folders and globs a user names into a list of files.

This module lists folders and reads nothing else. `sr_deploy.batch.jobs` decides where results go.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sr_deploy.errors import ImageError, SrDeployError
from sr_deploy.images.codecs.formats import HEIC_SUFFIXES
from sr_deploy.images.listing import HEIC, PICTURE_SUFFIXES, list_picture_files


class RefusedInput(NamedTuple):
    """An input that cannot be upscaled. The other inputs of the run are not affected."""

    source: Path
    error: SrDeployError
    target: Path | None = None
    """Path of the result that was planned, or None if the input was refused before that."""


class FoundPicture(NamedTuple):
    """One picture that the user named or that was found in a folder."""

    path: Path
    root: Path
    """Folder whose inner structure the output repeats."""


EARLIER_RESULT = "result of an earlier run"
"""Kind of a picture that an earlier run made."""
RECORDS = ".sr-deploy"
"""Name of the hidden folder beside results that holds their records."""
Leave = Callable[[str], None]
"""Function that is told the kind of every entry of a folder that is left out."""
Refuse = Callable[[RefusedInput], None]


def find_pictures(
    inputs: Sequence[str | Path], recursive: bool, output: Path | None, refuse: Refuse, leave: Leave
) -> list[FoundPicture]:
    """Return the pictures that `inputs` stand for, each once, in a stable order.

    Folders are searched, except the folder `output`, so that results are never taken for inputs. An input
    that cannot be used is passed to `refuse`, and the kind of every entry that is left out to `leave`. A
    missing file is kept in the list: it becomes a job that fails on its own, and the others still run.
    """
    found = _find(inputs, recursive, output, refuse, leave)
    return list({absolute(one.path): one for one in found}.values())


def _find(
    inputs: Sequence[str | Path], recursive: bool, output: Path | None, refuse: Refuse, leave: Leave
) -> Iterator[FoundPicture]:
    """Yield the pictures of every input in turn. The same picture may come more than once.

    A picture's error is passed to `refuse`, so one bad input does not end the search.
    """
    for given in inputs:
        path, text = Path(given), str(given)
        try:
            if text.lower().startswith(("http://", "https://", "ftp://")):
                raise ImageError(f"{text}: web addresses are not supported; download the file first")
            if os.path.isdir(path):
                yield from _find_in_folder(path, recursive, output, refuse, leave)
            elif os.path.exists(path) or not glob.has_magic(text):
                yield FoundPicture(path, path.parent)  # a missing file becomes a job that fails on its own
            else:
                yield from _find_by_glob(text, recursive, output, refuse, leave)
        except ImageError as error:
            refuse(RefusedInput(path, error))


def _find_in_folder(
    folder: Path, recursive: bool, output: Path | None, refuse: Refuse, leave: Leave
) -> list[FoundPicture]:
    """Return the pictures in `folder`. Raises ImageError if it holds none and could be read."""
    unread: list[RefusedInput] = []
    left: list[str] = []
    found = _pictures_in(folder, recursive, output, unread.append, left.append)
    for one in unread:
        refuse(one)
    for kind in left:
        leave(kind)
    if not (found or unread):
        raise _no_pictures(folder, recursive, left.count(EARLIER_RESULT))
    return found


def _no_pictures(folder: Path, recursive: bool, results: int) -> ImageError:
    """The error for a folder without pictures, which holds `results` results of earlier runs."""
    if results:
        return ImageError(
            f"folder {folder} holds no pictures except results of earlier runs ({results}); "
            "name the files themselves to upscale them again"
        )
    hint = "name another folder" if recursive else "add --recursive to look into its subfolders"
    kinds = ", ".join(sorted(PICTURE_SUFFIXES))
    return ImageError(f"folder {folder} holds no pictures (looked for {kinds}); {hint}")


def _pictures_in(
    folder: Path, recursive: bool, output: Path | None, refuse: Refuse, leave: Leave
) -> list[FoundPicture]:
    """List the pictures in `folder`, sorted by name within each folder, so that every process sees the same
    order.

    Hidden files, hidden folders and the output folder are left out in silence; `leave` is told the kind of
    every other entry that is left out. Among these are results of earlier runs, which their records show. A
    folder that cannot be listed is passed to `refuse`.
    """

    def unreadable(error: OSError) -> None:
        path, why = Path(error.filename or folder), error.strerror or error
        refuse(RefusedInput(path, ImageError(f"folder {path} cannot be read ({why}); check its permissions")))

    # An output folder that is also the input folder has to be searched, or nothing would be found.
    skipped = absolute(output) if output is not None and absolute(output) != absolute(folder) else None
    errors: list[OSError] = []
    kinds: list[str] = []

    def listed(suffixes: Collection[str]) -> list[Path]:
        """The files of these suffixes; the kinds of all others are in `kinds`, and folders without access in `errors`."""
        errors.clear()
        kinds.clear()
        return list_picture_files(
            folder,
            recursive=recursive,
            suffixes=suffixes,
            enter=lambda inner: absolute(inner) != skipped,
            on_error=errors.append,
            on_other=lambda path, kind: kinds.append(kind),
        )

    found = listed(PICTURE_SUFFIXES)
    if HEIC in kinds and _reads_heic():  # listed again, so that all processes see the same order
        found = listed({*PICTURE_SUFFIXES, *HEIC_SUFFIXES})
    for error in errors:
        unreadable(error)
    for kind in kinds:
        leave(kind)
    recorded = {parent: _recorded_names(parent) for parent in {path.parent for path in found}}
    pictures = [path for path in found if path.name not in recorded[path.parent]]
    for _ in range(len(found) - len(pictures)):
        leave(EARLIER_RESULT)
    return [FoundPicture(path, folder) for path in pictures]


def _reads_heic() -> bool:
    """True if libvips decodes HEIC here. Loads libvips, which takes time, so it is asked only for folders with HEIC."""
    from sr_deploy.images.codecs.avif import reads_heic

    return reads_heic()


def _recorded_names(folder: Path) -> set[str]:
    """Names of the files in `folder` that earlier runs recorded as their results."""
    try:
        return {name.removesuffix(".json") for name in os.listdir(folder / RECORDS) if name.endswith(".json")}
    except OSError:
        return set()


def _find_by_glob(
    pattern: str, recursive: bool, output: Path | None, refuse: Refuse, leave: Leave
) -> list[FoundPicture]:
    """Return the pictures that `pattern` matches, as if a shell had expanded it.

    The matches may be files and folders; a folder without pictures is no error as long as another match has
    some. Raises ImageError if nothing matches.
    """
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    folders = [path for path in paths if os.path.isdir(path) and not _is_within(path, output)]
    found = [FoundPicture(path, path.parent) for path in paths if os.path.isfile(path)]
    unread: list[RefusedInput] = []
    found += [
        one for folder in folders for one in _pictures_in(folder, recursive, output, unread.append, leave)
    ]
    for one in unread:
        refuse(one)
    if not (found or unread) and folders:
        # Searching one of the empty folders again raises the error that says what it lacks.
        return _find_in_folder(folders[0], recursive, output, refuse, leave)
    if not (found or unread):
        raise ImageError(f"no file or folder matches {pattern!r}; check the pattern, or name a folder")
    return found


def _is_within(path: Path, output: Path | None) -> bool:
    """Return whether `path` is the output folder or lies in it. Symbolic links are not resolved."""
    here = Path(absolute(path))
    return output is not None and Path(absolute(output)) in (here, *here.parents)


def absolute(path: Path) -> str:
    """Return a string that is equal for all spellings of one path. Symbolic links are not resolved."""
    return os.path.normcase(os.path.abspath(path))


def is_one_file(inputs: Sequence[str | Path]) -> bool:
    """Return whether the inputs are one file, existing or not. A folder or a glob may stand for several."""
    if len(inputs) != 1 or os.path.isdir(inputs[0]):
        return False
    return os.path.exists(inputs[0]) or not glob.has_magic(str(inputs[0]))
