"""The picture files of a folder, and the kinds of everything else in it.

Names decide; the content is looked at only in files without a suffix.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from sr_deploy.images.codecs.formats import HEIC_SUFFIXES, READABLE_SUFFIXES
from sr_deploy.images.codecs.headers import UnsupportedError, sniff

OTHER_JPEG = (".jpe", ".jfif")
"""Rarer suffixes of JPEG files; they are read, and never written."""
PICTURE_SUFFIXES = READABLE_SUFFIXES.union(OTHER_JPEG)


HEIC = "HEIC"
"""Kind of the pictures that phones make, which are read only where libvips has a decoder."""
VIDEO, LIVE = "video", "video of a Live Photo"
"""Kinds of videos: any, and those that a phone stores beside a picture of the same name."""
_RAW = (".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
_VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
_OTHER_PICTURES = {
    **dict.fromkeys(HEIC_SUFFIXES, HEIC),
    ".jxl": "JPEG XL",
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG 2000"),
    ".psd": "Photoshop",
    ".svg": "SVG",
    ".pdf": "PDF",
    ".exr": "OpenEXR",
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "Netpbm"),
    **dict.fromkeys(_RAW, "camera raw"),
    **dict.fromkeys(_VIDEO_SUFFIXES, VIDEO),
}
"""Suffix -> kind of files that users may take for pictures that are read."""


def list_picture_files(
    folder: Path,
    *,
    recursive: bool = False,
    suffixes: Collection[str] = PICTURE_SUFFIXES,
    enter: Callable[[Path], bool] = lambda folder: True,
    on_error: Callable[[OSError], None] | None = None,
    on_other: Callable[[Path, str], None] | None = None,
) -> list[Path]:
    """List the files of `folder` whose suffix, in lower case, is one of `suffixes`: folder by folder, sorted by name.

    With `recursive` its subfolders follow, but for those that `enter` refuses. Linked folders are not entered,
    because a link may lead back. Hidden files and folders do not count: macOS leaves "._photo.jpg", which is no
    picture, on every memory stick. A folder that cannot be read is given to `on_error`; without it, the OSError is
    raised.

    `on_other(path, kind)` is called for every other visible entry. With it, a file without a suffix is a picture
    if its content is one.
    """

    def unreadable(error: OSError) -> None:
        if on_error is None:
            raise error
        on_error(error)

    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=unreadable):
        visible = [Path(parent, name) for name in sorted(folders) if _is_visible(name)]
        entered = [path for path in visible if enter(path)]
        folders[:] = [path.name for path in entered if recursive]
        if on_other is not None:
            for path in entered:
                if path.is_symlink() or not recursive:
                    on_other(path, "linked folder" if path.is_symlink() else "subfolder")
        for name in sorted(filter(_is_visible, files)):
            path = Path(parent, name)
            if path.suffix.lower() in suffixes:
                found.append(path)
            elif on_other is not None:
                kind = _kind_of(path, files)
                if kind is None:
                    found.append(path)
                else:
                    on_other(path, kind)
    return found


def _kind_of(path: Path, beside: Collection[str]) -> str | None:
    """The kind of a file without the suffix of a picture; None if its content is a picture after all.

    `beside` are the names in its folder: a .mov beside a picture of the same name is the video of a Live Photo.
    """
    suffix = path.suffix.lower()
    if suffix == ".mov":
        stills = {f"{path.stem}{end}".lower() for end in (".heic", ".jpg", ".jpeg")}
        return LIVE if any(name.lower() in stills for name in beside) else VIDEO
    if suffix:
        return _OTHER_PICTURES.get(suffix, f"{suffix} file")
    try:
        with path.open("rb") as file:
            return None if sniff(file.read(64)) else "other file"
    except UnsupportedError:
        return "unsupported picture"
    except OSError:
        return "other file"


def _is_visible(name: str) -> bool:
    return not name.startswith(".")
