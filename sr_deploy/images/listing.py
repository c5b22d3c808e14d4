"""The picture files of a folder. Names are looked at, contents are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from sr_deploy.images.codecs.formats import READABLE_SUFFIXES

OTHER_JPEG = (".jpe", ".jfif")
"""Rarer suffixes of JPEG files; they are read, and never written."""
PICTURE_SUFFIXES = READABLE_SUFFIXES.union(OTHER_JPEG)


def list_picture_files(
    folder: Path,
    *,
    recursive: bool = False,
    suffixes: Collection[str] = PICTURE_SUFFIXES,
    enter: Callable[[Path], bool] = lambda folder: True,
    on_error: Callable[[OSError], None] | None = None,
) -> list[Path]:
    """List the files of `folder` whose suffix, in lower case, is one of `suffixes`: folder by folder, sorted by name.

    With `recursive` its subfolders follow, but for those that `enter` refuses. Hidden files and folders do not
    count: macOS leaves "._photo.jpg", which is no picture, on every memory stick. A folder that cannot be read is
    given to `on_error`; without it, the OSError is raised.
    """

    def unreadable(error: OSError) -> None:
        if on_error is None:
            raise error
        on_error(error)

    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            name for name in folders if recursive and _is_visible(name) and enter(Path(parent, name))
        )
        pictures = (name for name in files if _is_visible(name) and Path(name).suffix.lower() in suffixes)
        found += [Path(parent, name) for name in sorted(pictures)]
    return found


def _is_visible(name: str) -> bool:
    return not name.startswith(".")
