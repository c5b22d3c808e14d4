"""The pictures that are run through a model: cut from photographs, for noise and zeros are no work like any other.

Denormal numbers, sparse activations and codecs all make the content matter. A photograph that is smaller than a
frame is mirrored at its edges as often as it takes. Photographs are read once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import UsageError
from sr_deploy.images.image import read_image
from sr_deploy.images.listing import list_picture_files

Pixels = npt.NDArray[np.uint8]

BUNDLED = Path(__file__).with_name("photo.webp")
"""480x270 pixels of the Colosseum, CC0; see examples/README.md."""


@dataclass(frozen=True)
class Photographs:
    """What frames are cut from, in turn."""

    names: tuple[str, ...]
    pixels: tuple[Pixels, ...]
    """uint8 [H, W, 3] each."""
    files: tuple[Path, ...] = ()
    """Where they came from, in the same order."""

    @property
    def sha256(self) -> str:
        """Of the pixels, in order."""
        digest = hashlib.sha256()
        for picture in self.pixels:
            digest.update(repr(picture.shape).encode("ascii"))
            digest.update(np.ascontiguousarray(picture).data)
        return digest.hexdigest()

    def named(self, label: str) -> int | None:
        """The number of the photograph that is called `label`; None: a frame of that label is no whole photograph."""
        return self.names.index(label) if label in self.names else None

    def frame(self, width: int, height: int, number: int = 0) -> Pixels:
        """uint8 [height, width, 3] of the photograph whose turn it is, from its middle."""
        return cut(self.pixels[number % len(self.pixels)], width, height)

    def batch(self, width: int, height: int, count: int) -> Pixels:
        """uint8 [count, height, width, 3]."""
        return np.stack([self.frame(width, height, number) for number in range(count)])


def cut(picture: Pixels, width: int, height: int) -> Pixels:
    """uint8 [height, width, 3]: the middle of `picture`, mirrored at its edges where it is smaller."""
    rows, columns = _indices(picture.shape[0], height), _indices(picture.shape[1], width)
    return np.ascontiguousarray(picture[rows][:, columns])


def load_photographs(paths: Sequence[Path] = ()) -> Photographs:
    """The pictures at `paths`, files and folders; without any, the bundled one.

    Grey becomes RGB, 16 bits become 8, opacity is left aside. Raises ImageError for one that cannot be read,
    UsageError for a folder without pictures.
    """
    files = [file for path in paths or (BUNDLED,) for file in _files(path)]
    return Photographs(tuple(file.name for file in files), tuple(_rgb(file) for file in files), tuple(files))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = list_picture_files(path)
    if not found:
        raise UsageError(f"--image {path}: there is no picture in this folder; name another")
    return found


def _rgb(file: Path) -> Pixels:
    pixels: Any = read_image(file).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _indices(have: int, want: int) -> npt.NDArray[np.intp]:
    """`want` positions out of `have`: the middle ones, or all of them going to and fro."""
    if want <= have:
        return np.arange(want) + (have - want) // 2
    there_and_back = np.concatenate([np.arange(have), np.arange(have)[::-1]])
    return np.resize(there_and_back, want)
