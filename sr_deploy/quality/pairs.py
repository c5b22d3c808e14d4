"""Which pictures a quality is measured on: the files of a folder, and the small version of each.

It looks at names only; `evaluate` opens the files and checks that sizes agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.images.image import READABLE_SUFFIXES

_LARGE_MARK = re.compile(r"[ ._-](hr|gt|mod\d+|x\d+)$|[ ._-]?\(?(hr|gt)\)?$", re.IGNORECASE)
_SMALL_MARK = re.compile(r"[ ._-]?\(?(lr|lrbi|bicubic|x\d+)\)?$", re.IGNORECASE)


@dataclass(frozen=True)
class EvalPicture:
    """One picture to measure on: the high-resolution file, and the low-resolution one where it is given."""

    hr: Path
    lr: Path | None = None

    @property
    def name(self) -> str:
        """What results call it: the name of the high-resolution file."""
        return self.hr.name


@dataclass(frozen=True)
class FailedPicture:
    """A picture that could not be measured, and why, in one line."""

    name: str
    message: str


def list_pictures(folder: Path) -> list[Path]:
    """The picture files directly in `folder`, sorted by name; hidden ones (`._baby.png`) do not count.

    Raises InputError where it is not a folder, cannot be listed, or holds no picture.
    """
    if not folder.is_dir():
        found = "it is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: expected a folder of pictures, but {found}; give the folder they are in")
    try:
        files = sorted(p for p in folder.iterdir() if _is_picture(p))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; check its permissions") from error
    if not files:
        kinds = ", ".join(sorted(s[1:] for s in READABLE_SUFFIXES))
        raise InputError(f"{folder}: no pictures in it ({kinds}); give the folder they are in")
    return files


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in READABLE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def find_pictures(
    hr_folder: Path, lr_folder: Path | None = None
) -> tuple[list[EvalPicture], list[FailedPicture]]:
    """The pictures of `hr_folder`, each with its partner in `lr_folder` where one is given.

    Partners have the same stem, or stems that differ only in the marks data sets put at their end: `baby` and
    `babyx4`, `baby_LRx4`, `baby_LR`, `baby_bicubic_x4`; `img_HR` and `img_LR`. Pictures without a partner, or
    with several, come back as failures. Raises InputError as `list_pictures` does.
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
    """The stem of a high-resolution picture without marks such as `_HR` or `_GT`, in lower case."""
    return (_LARGE_MARK.sub("", stem) or stem).casefold()


def _small_key(stem: str) -> str:
    shorter = _SMALL_MARK.sub("", stem)
    while shorter and shorter != stem:
        stem, shorter = shorter, _SMALL_MARK.sub("", shorter)
    return stem.casefold()


def _partners(path: Path, candidates: list[Path]) -> list[Path]:
    """Files of the very same stem, else files whose stem is the same without the marks."""
    same = [c for c in candidates if c.stem == path.stem]
    wanted = {path.stem.casefold(), picture_key(path.stem)}
    return same or [c for c in candidates if _small_key(c.stem) in wanted or c.stem.casefold() in wanted]


def _no_partner(path: Path, partners: list[Path], folder: Path) -> str:
    if not partners:
        return f"no low-resolution picture for it in {folder}; name one {path.name} or {path.stem}x4{path.suffix}"
    names = ", ".join(p.name for p in partners)
    return f"{folder} has several low-resolution pictures for it ({names}); keep one of them"
