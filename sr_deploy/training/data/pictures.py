"""A folder of pictures, decoded once: into memory while they fit, beyond that into memory-mapped files.

Files that cannot be decoded are skipped and named in `skipped`, never fatal while one picture remains. The
small pictures are those of the test protocol (`quality.bicubic`, MATLAB-exact), made from whole pictures,
so a crop's border carries no trace of having been a border.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast
from uuid import uuid4

import cv2
import numpy as np
import numpy.typing as npt

from sr_deploy.errors import ImageError, InputError, OutputError
from sr_deploy.quality import dead_leaves as dead_leaves_module
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.system.cores import usable_cores

Pixels = npt.NDArray[np.uint8]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
_END_MARKS = {
    b"\xff\xd8\xff": b"\xff\xd9",
    b"\x89PNG": b"IEND",
}  # what a whole file ends in, by how it begins
_LEAVES_SIDE, _LEAVES_SEED = 768, 1000
_TAIL_BYTES = 4096  # bytes of trailing rubbish in which the end mark may still be found


@dataclass(frozen=True)
class TrainingPair:
    """A photograph [H, W, 3] RGB uint8, cut to a multiple of the scale, and its small version."""

    name: str
    large: Pixels
    small: Pixels
    key: str = ""
    """Names the small picture in its store."""


@dataclass(frozen=True)
class DecodedPicture:
    """A decoded photograph [H, W, 3] RGB uint8; `key` changes when its file does."""

    name: str
    key: str
    pixels: Pixels


def list_pictures(folder: Path) -> list[Path]:
    """Every picture file below `folder`, sorted. Raises InputError when there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise InputError(
            f"{folder}: no pictures found, expected files ending in {', '.join(sorted(SUFFIXES))}; "
            "point --data at a folder of photographs"
        )
    return found


def decode(path: Path) -> Pixels:
    """RGB uint8 [H, W, 3]. Raises ImageError for what is no picture, or only the first part of one."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    for start, end in _END_MARKS.items():
        if raw.startswith(start) and end not in raw[-_TAIL_BYTES:]:
            raise ImageError(f"{path}: the file ends in the middle of the picture; replace it")
    try:
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR) if raw else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError(f"{path}: cannot be decoded as a picture; remove or replace it")
    return cast(Pixels, np.ascontiguousarray(pixels[..., ::-1]))


def quarter_of_memory() -> int:
    """Bytes: a quarter of this machine's memory where the system tells it, else 2 GiB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 2 << 30


def _write_array(path: Path, pixels: Pixels) -> None:
    """Atomically, because several processes, of several hosts even, may fill one cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, pixels)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); give --cache another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class PictureStore:
    """The decoded pictures of `folder` and their small versions.

    With `cache`, every array is kept in that folder and memory-mapped, so that the next run starts at
    once. Without it arrays stay in memory until `memory` bytes are used, and go to `overflow` after that.
    """

    def __init__(
        self, folder: Path, *, overflow: Path, cache: Path | None = None, memory: int | None = None
    ) -> None:
        self._folder = cache or overflow
        self._free = 0 if cache else quarter_of_memory() if memory is None else memory
        self._dead_leaves: dict[int, Pixels] = {}
        self.skipped: list[str] = []
        """One sentence for every file that could not be used."""
        paths = list_pictures(folder)
        self.pictures = [p for p in self._map(self._load, paths) if p is not None]
        if not self.pictures:
            raise InputError(f"{folder}: none of {len(paths)} pictures can be decoded; {self.skipped[0]}")

    def _map(self, work: Callable[[_Item], _Result], items: list[_Item]) -> list[_Result]:
        with ThreadPoolExecutor(usable_cores() or os.cpu_count() or 1) as pool:
            return list(pool.map(work, items))

    def _load(self, path: Path) -> DecodedPicture | None:
        try:
            stat = path.stat()
            identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
            key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:20]
            return DecodedPicture(path.name, key, self._stored(key, lambda: decode(path)))
        except ImageError as error:
            self.skipped.append(str(error))
            return None

    def _stored(self, name: str, make: Callable[[], Pixels]) -> Pixels:
        if self._array_path(name).exists():
            return self._memory_mapped(name, make)
        pixels = make()
        if pixels.nbytes > self._free:
            return self._memory_mapped(name, lambda: pixels)
        self._free -= pixels.nbytes
        return pixels

    def _memory_mapped(self, name: str, make: Callable[[], Pixels]) -> Pixels:
        file = self._array_path(name)
        if not file.exists():
            _write_array(file, make())
        return cast(Pixels, np.load(file, mmap_mode="r"))

    def _array_path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def pairs(self, scale: int, size: float = 1.0) -> list[TrainingPair]:
        """A pair for every picture that has at least one small pixel.

        `size` shows every picture at so many times its own size (bicubic, antialiased): below 1 sharper and
        busier than it is, above 1 softer.
        """

        def pair(picture: DecodedPicture) -> TrainingPair:
            return self._pair(picture.name, *self._resized(picture, size), scale)

        usable = [p for p in self.pictures if min(p.pixels.shape[:2]) * size >= scale]
        return self._map(pair, usable)

    def dead_leaves_pairs(self, scale: int, count: int) -> list[TrainingPair]:
        """Pairs of `count` pictures [768, 768, 3] of the dead-leaves model, always the same ones.

        Sharp edges of every curvature and contrast, of which photographs have few. Source of the idea: Achddou,
        Gousseau and Ladjal 2021, "Synthetic images as a regularity prior for image restoration neural networks".
        """
        code = hashlib.sha256(inspect.getsource(dead_leaves_module).encode()).hexdigest()[:12]

        def pair(number: int) -> TrainingPair:
            key = f"leaves-{_LEAVES_SEED + number}-{_LEAVES_SIDE}-{code}"
            if number not in self._dead_leaves:
                self._dead_leaves[number] = self._stored(
                    key, lambda: dead_leaves(_LEAVES_SIDE, _LEAVES_SIDE, seed=_LEAVES_SEED + number)
                )
            return self._pair(f"leaves {number}", self._dead_leaves[number], key, scale)

        return self._map(pair, list(range(count)))

    def with_targets(
        self, pairs: list[TrainingPair], by: str, draw: Callable[[Pixels], Pixels]
    ) -> list[TrainingPair]:
        """Pairs of this store with `draw(small)` as their large pictures; `by` names what draws them.

        Each is kept as a file even where memory would do, because drawing is slow, and may be cut off.
        """

        def pair_of(pair: TrainingPair) -> TrainingPair:
            large = self._memory_mapped(f"{pair.key}-by-{by}", lambda: draw(np.array(pair.small)))
            return replace(pair, large=large)

        return [pair_of(pair) for pair in pairs]

    def _pair(self, name: str, pixels: Pixels, key: str, scale: int) -> TrainingPair:
        """`pixels`, which are kept as `key`, cut to a multiple of `scale`, and their small version."""
        height, width = (n // scale * scale for n in pixels.shape[:2])
        large = pixels[:height, :width]
        key = f"{key}-x{scale}"
        small = self._stored(key, lambda: cast(Pixels, imresize(np.asarray(large), 1 / scale)))
        return TrainingPair(name, large, small, key)

    def _resized(self, picture: DecodedPicture, size: float) -> tuple[Pixels, str]:
        """The pixels of a picture at `size` times its own, and the name they are kept by."""
        if size == 1:
            return picture.pixels, picture.key
        key = f"{picture.key}-s{size:g}"
        return self._stored(key, lambda: cast(Pixels, imresize(np.asarray(picture.pixels), size))), key


def split_validation(pairs: list[TrainingPair], count: int) -> tuple[list[TrainingPair], list[TrainingPair]]:
    """(training, validation): `count` pictures, chosen by the hash of their names, are held out.

    Raises InputError where nothing would be left to train on.
    """
    if count >= len(pairs):
        raise InputError(
            f"{len(pairs)} pictures, of which the recipe holds out {count} for validation: none is left to "
            "train on; add pictures or lower the recipe's `validation`"
        )
    ranked = sorted(
        pairs, key=lambda p: hashlib.sha256(p.name.encode("utf-8", "surrogateescape")).hexdigest()
    )
    held_out = {id(p) for p in ranked[:count]}
    return [p for p in pairs if id(p) not in held_out], [p for p in pairs if id(p) in held_out]
