"""The pictures that are run through a model, cut from photographs.

Noise and zeros would not do: denormal numbers, sparse activations and codecs make the time depend on the
content. A photograph that is smaller than a frame is mirrored at its edges as often as needed. Photographs
are read once.
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
from sr_deploy.system.arrays import Uint8Array

BUNDLED = Path(__file__).with_name("photo.webp")
"""The photograph used by default: 480x270 pixels of the Colosseum, CC0; see examples/README.md."""


@dataclass(frozen=True)
class Photographs:
    """The photographs that frames are cut from, in turn."""

    names: tuple[str, ...]
    """File names of the photographs; `pixels` and `files` have the same order."""
    pixels: tuple[Uint8Array, ...]
    """Decoded photographs, uint8 [H, W, 3] each."""
    files: tuple[Path, ...] = ()
    """Paths of the photographs."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the shapes and pixels of all photographs, in order, as hex digits."""
        digest = hashlib.sha256()
        for picture in self.pixels:
            digest.update(repr(picture.shape).encode("ascii"))
            digest.update(np.ascontiguousarray(picture).data)
        return digest.hexdigest()

    def named(self, label: str) -> int | None:
        """The index of the photograph named `label`, or None if `label` names a size."""
        return self.names.index(label) if label in self.names else None

    def frame(self, width: int, height: int, number: int = 0) -> Uint8Array:
        """Cut a frame, uint8 [height, width, 3], from the middle of a photograph.

        `number` selects the photograph and starts again after the last one.
        """
        return cut(self.pixels[number % len(self.pixels)], width, height)

    def batch(self, width: int, height: int, count: int) -> Uint8Array:
        """Stack `count` frames of successive photographs, uint8 [count, height, width, 3]."""
        return np.stack([self.frame(width, height, number) for number in range(count)])


def cut(picture: Uint8Array, width: int, height: int) -> Uint8Array:
    """The middle of `picture`, uint8 [height, width, 3], mirrored at its edges if it is smaller."""
    rows, columns = _indices(picture.shape[0], height), _indices(picture.shape[1], width)
    return np.ascontiguousarray(picture[rows][:, columns])


def load_photographs(paths: Sequence[Path] = ()) -> Photographs:
    """Load the pictures at `paths`, which may be files and folders; by default the bundled one. Grey becomes
    RGB, 16 bits become 8 bits, and opacity is ignored. Raises ImageError for a file that cannot be read,
    UsageError for a folder without pictures."""
    files = [file for path in paths or (BUNDLED,) for file in _files(path)]
    return Photographs(tuple(file.name for file in files), tuple(_rgb(file) for file in files), tuple(files))


def _files(path: Path) -> list[Path]:
    """The file `path`, or the pictures of the folder `path`, sorted.

    Raises UsageError for a folder without any.
    """
    if not path.is_dir():
        return [path]
    found = list_picture_files(path)
    if not found:
        raise UsageError(f"--image {path}: there is no picture in this folder; give another path")
    return found


def _rgb(file: Path) -> Uint8Array:
    """Read a picture as uint8 [H, W, 3]; raises ImageError."""
    pixels: Any = read_image(file).pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _indices(have: int, want: int) -> npt.NDArray[np.intp]:
    """Return `want` positions out of `have`: the middle ones, or all of them forwards and backwards in turn."""
    if want <= have:
        return np.arange(want) + (have - want) // 2
    there_and_back = np.concatenate([np.arange(have), np.arange(have)[::-1]])
    return np.resize(there_and_back, want)
