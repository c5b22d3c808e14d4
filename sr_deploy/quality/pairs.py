"""Find the pictures that quality is measured on: the files of a folder, and the small version of each.

Only names are compared here; `evaluate` opens the files and checks that their sizes match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.images.listing import PICTURE_SUFFIXES, list_picture_files

_LARGE_MARK = re.compile(r"[ ._-](hr|gt|mod\d+|x\d+)$|[ ._-]?\(?(hr|gt)\)?$", re.IGNORECASE)
"""Endings by which data sets mark a high-resolution picture: `_HR`, `_GT`, `_mod4`, `_x4`."""
_SMALL_MARK = re.compile(r"[ ._-]?\(?(lr|lrbi|bicubic|x\d+)\)?$", re.IGNORECASE)
"""Endings by which data sets mark a low-resolution picture: `_LR`, `LRBI`, `_bicubic`, `x4`."""


@dataclass(frozen=True)
class EvalPicture:
    """A picture to measure on."""

    hr: Path
    """The high-resolution file."""
    lr: Path | None = None
    """The low-resolution file; None if it is made from the other."""

    @property
    def name(self) -> str:
        """Name of the picture in results: that of the high-resolution file."""
        return self.hr.name


@dataclass(frozen=True)
class FailedPicture:
    """A picture that could not be measured."""

    name: str
    """Name of the picture in results."""
    message: str
    """Reason, in one line."""


def list_pictures(folder: Path) -> list[Path]:
    """List the picture files directly in `folder`, sorted by name; hidden ones (`._baby.png`) are left out.

    Raises InputError if it is no folder, cannot be listed or holds no picture.
    """
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: expected a folder of pictures, but {found}; give the folder they are in")
    try:
        files = [path for path in list_picture_files(folder) if path.is_file()]
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; check its permissions") from error
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in PICTURE_SUFFIXES))
        raise InputError(f"{folder} holds no pictures ({kinds}); give the folder they are in")
    return files


def find_pictures(
    hr_folder: Path, lr_folder: Path | None = None
) -> tuple[list[EvalPicture], list[FailedPicture]]:
    """List the pictures of `hr_folder`, each with its partner in `lr_folder` if one is given.

    Partners have the same stem, or stems that differ only in the endings by which data sets mark them: `baby`
    and `babyx4`, `baby_LRx4`, `baby_LR`, `baby_bicubic_x4`; `img_HR` and `img_LR`. Pictures with no partner,
    or with several, come back as failures. Raises InputError as `list_pictures` does.
    """
    paths = list_pictures(hr_folder)
    if lr_folder is None:
        return [EvalPicture(path) for path in paths], []
    pictures, failures, candidates = [], [], list_pictures(lr_folder)
    for path in paths:
        partners = _partners(path, candidates)
        if len(partners) == 1:
            pictures.append(EvalPicture(path, partners[0]))
        else:
            failures.append(FailedPicture(path.name, _no_partner(path, partners, lr_folder)))
    return pictures, failures


def picture_key(stem: str) -> str:
    """Return the stem of a high-resolution picture in lower case, without endings such as `_HR` or `_GT`."""
    return (_LARGE_MARK.sub("", stem) or stem).casefold()


def _small_key(stem: str) -> str:
    """Return the stem of a low-resolution picture in lower case, without any of its endings."""
    shorter = _SMALL_MARK.sub("", stem)
    while shorter and shorter != stem:
        stem, shorter = shorter, _SMALL_MARK.sub("", shorter)
    return stem.casefold()


def _partners(path: Path, candidates: list[Path]) -> list[Path]:
    """Return the files of the very same stem, else those whose stem is the same without the endings."""
    same = [c for c in candidates if c.stem == path.stem]
    wanted = {path.stem.casefold(), picture_key(path.stem)}
    return same or [c for c in candidates if _small_key(c.stem) in wanted or c.stem.casefold() in wanted]


def _no_partner(path: Path, partners: list[Path], folder: Path) -> str:
    """Say why no single partner was found, and what to do."""
    if not partners:
        return f"{folder} has no low-resolution picture for it; expected a name such as {path.name} or {path.stem}x4{path.suffix}"
    names = ", ".join(p.name for p in partners)
    return f"{folder} has several low-resolution pictures for it ({names}); keep one of them"
