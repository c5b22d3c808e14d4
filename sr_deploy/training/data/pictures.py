"""Decode a folder of pictures once, and shrink them.

Arrays stay in memory while they fit; the others go to memory-mapped files. A file that cannot be decoded is
skipped and named in `skipped`; that is an error only if no picture remains. The small pictures are made as in
the test protocol (`quality.bicubic`, MATLAB-exact) and from whole pictures, so that the border of a crop
shows no effects of a border. What stays in memory is made when it is first used, so that a training does not
wait for pictures that its first steps don't need.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar, cast
from uuid import uuid4

import cv2
import numpy as np

from sr_deploy.errors import ImageError, InputError, OutputError
from sr_deploy.images.listing import list_picture_files
from sr_deploy.quality import dead_leaves as dead_leaves_module
from sr_deploy.quality import drawings as drawings_module
from sr_deploy.quality.bicubic import imresize
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.quality.drawings import drawing
from sr_deploy.system.arrays import Uint8Array
from sr_deploy.system.cores import usable_cores

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}
"""File name endings of pictures, in lower case."""
_END_MARKS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND"}
"""First bytes of a format -> the mark at the end of a complete file."""
_SYNTHETIC_SIDE, _LEAVES_SEED = 768, 1000
_TAIL_BYTES = 4096
"""Bytes at the end of a file that are searched for the end mark; some files have data after it."""


class PictureOnDemand:
    """A picture of known shape that `make` computes when its pixels are first used. It is made once, and kept.

    May be used from several threads.
    """

    def __init__(self, shape: tuple[int, ...], make: Callable[[], Uint8Array]) -> None:
        self.shape = shape
        self._make: Callable[[], Uint8Array] | None = make
        self._pixels: Uint8Array | None = None
        self._lock = threading.Lock()

    @property
    def pixels(self) -> Uint8Array:
        """The array, of shape `shape`."""
        with self._lock:
            if self._make is not None:
                self._pixels, self._make = self._make(), None
        return cast(Uint8Array, self._pixels)


Picture: TypeAlias = Uint8Array | PictureOnDemand


def _pixels_of(picture: Picture) -> Uint8Array:
    return picture.pixels if isinstance(picture, PictureOnDemand) else picture


class TrainingPair:
    """A photograph [H, W, 3] RGB uint8, cropped to a multiple of the scale, and its small version."""

    def __init__(self, name: str, large: Picture, small: Picture, key: str = "") -> None:
        self.name = name
        self.key = key
        """Name under which the store keeps the small picture."""
        self.small_shape = small.shape
        """Shape of the small picture, which is known before it is made."""
        self._large, self._small = large, small

    @property
    def large(self) -> Uint8Array:
        """The picture that the net has to produce."""
        return _pixels_of(self._large)

    @property
    def small(self) -> Uint8Array:
        """The input of the net, [H / scale, W / scale, 3]."""
        return _pixels_of(self._small)

    def with_large(self, large: Uint8Array) -> TrainingPair:
        """Return a pair with another large picture."""
        return TrainingPair(self.name, large, self._small, self.key)


@dataclass(frozen=True)
class DecodedPicture:
    """A decoded photograph [H, W, 3] RGB uint8. Its `key` changes when the file changes."""

    name: str
    key: str
    pixels: Uint8Array


def list_pictures(folder: Path) -> list[Path]:
    """Return every picture file below `folder`, sorted. Raises InputError where there is none."""
    listed = list_picture_files(folder, recursive=True, suffixes=SUFFIXES, on_error=lambda error: None)
    found = sorted(path for path in listed if path.is_file())
    if not found:
        raise InputError(
            f"{folder}: no pictures found, expected files ending in {', '.join(sorted(SUFFIXES))}; "
            "point --data at a folder of photographs"
        )
    return found


def decode(path: Path) -> Uint8Array:
    """Decode a file to RGB uint8 [H, W, 3].

    Raises ImageError for a file that cannot be read, is not a picture, or is truncated.
    """
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
    return cast(Uint8Array, np.ascontiguousarray(pixels[..., ::-1]))


def quarter_of_memory() -> int:
    """Return a quarter of this machine's memory in bytes, or 2 GiB where the system does not tell it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (AttributeError, ValueError, OSError):
        return 2 << 30


def _write_array(path: Path, pixels: Uint8Array) -> None:
    """Write `pixels` as .npy atomically, because several processes and even hosts may fill one cache.

    Raises OutputError where that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            np.save(file, pixels)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); choose another folder with --cache"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class PictureStore:
    """The decoded pictures of `folder` and their small versions.

    With `cache`, every array is kept in that folder and memory-mapped, so that the next run starts at once.
    Without it, arrays stay in memory up to `memory` bytes in total; the others go to the folder `overflow`.

    `progress` is called with (what is done, number done, number of all), from several threads.

    Raises InputError where `folder` has no picture that can be decoded.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overflow: Path,
        cache: Path | None = None,
        memory: int | None = None,
        progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    ) -> None:
        self._folder, self._progress, self._pictures = cache or overflow, progress, folder
        self._free = 0 if cache else quarter_of_memory() if memory is None else memory
        self._lock = threading.Lock()
        self._on_demand: dict[str, PictureOnDemand] = {}
        self.skipped: list[str] = []
        """Error message of every file that could not be used."""
        paths = list_pictures(folder)
        self.pictures = [p for p in self._map("decoding pictures", self._load, paths) if p is not None]
        if not self.pictures:
            raise InputError(f"{folder}: none of {len(paths)} pictures can be decoded; {self.skipped[0]}")

    def _map(self, what: str, work: Callable[[_Item], _Result], items: list[_Item]) -> list[_Result]:
        """Apply `work` to every item, one thread per core, and keep the order. `what` names it to `progress`."""
        results = []
        with ThreadPoolExecutor(usable_cores() or os.cpu_count() or 1) as pool:
            for result in pool.map(work, items):
                results.append(result)
                self._progress(what, len(results), len(items))
        return results

    def _load(self, path: Path) -> DecodedPicture | None:
        """Decode a picture, or record why it is skipped and return None.

        The key is made of path, size and modification time, so that an edited file is decoded again.
        """
        try:
            stat = path.stat()
            identity = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
            key = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:20]
            name = path.relative_to(self._pictures).as_posix()  # subfolders may have files of the same name
            return DecodedPicture(name, key, self._stored(key, lambda: decode(path)))
        except ImageError as error:
            self.skipped.append(str(error))
            return None

    def _stored(self, name: str, make: Callable[[], Uint8Array]) -> Uint8Array:
        """Return the array `name` from its file, or make it and keep it in memory, or in a file where that is
        full.
        """
        if self._array_path(name).exists():
            return self._memory_mapped(name, make)
        pixels = make()
        if not self._take(pixels.nbytes):
            return self._memory_mapped(name, lambda: pixels)
        return pixels

    def _take(self, size: int) -> bool:
        """Take `size` bytes from the free memory. Returns whether there were so many."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def _on_demand_or_file(
        self, name: str, shape: tuple[int, ...], make: Callable[[], Uint8Array]
    ) -> Picture:
        """Return the array `name`: made on demand where it fits into memory, else from its file.

        Files are written before the training begins, because a full disk should not end it later.
        """
        if name not in self._on_demand:
            if self._array_path(name).exists() or not self._take(math.prod(shape)):
                return self._memory_mapped(name, make)
            self._on_demand[name] = PictureOnDemand(shape, make)
        return self._on_demand[name]

    def _memory_mapped(self, name: str, make: Callable[[], Uint8Array]) -> Uint8Array:
        """Return the array `name` as a read-only memory map, after making its file where it is missing."""
        file = self._array_path(name)
        if not file.exists():
            _write_array(file, make())
        return cast(Uint8Array, np.load(file, mmap_mode="r"))

    def _array_path(self, name: str) -> Path:
        """Return the path of the file that holds the array `name`."""
        return self._folder / f"{name}.npy"

    def pairs(self, scale: int, size: float = 1.0) -> list[TrainingPair]:
        """Return a pair for every picture that has at least one small pixel.

        `size` resizes every picture by that factor first (antialiased bicubic). Below 1 it becomes sharper
        and busier, above 1 softer.
        """

        def pair(picture: DecodedPicture) -> TrainingPair:
            return self._pair(picture.name, *self._resized(picture, size), scale)

        usable = [p for p in self.pictures if min(p.pixels.shape[:2]) * size >= scale]
        return self._map(f"shrinking pictures by {scale}", pair, usable)

    def dead_leaves_pairs(self, scale: int, count: int) -> list[TrainingPair]:
        """Return `count` pairs of pictures [768, 768, 3] of the dead-leaves model, the same on every call.

        They have sharp edges of every curvature and contrast, which are rare in photographs. Source of the
        idea: Achddou, Gousseau and Ladjal 2021, "Synthetic images as a regularity prior for image restoration
        neural networks".
        """
        code = hashlib.sha256(inspect.getsource(dead_leaves_module).encode()).hexdigest()[:12]

        def pair(number: int) -> TrainingPair:
            key = f"leaves-{_LEAVES_SEED + number}-{_SYNTHETIC_SIDE}-{code}"
            return self._synthetic_pair(
                f"leaves {number}",
                key,
                lambda: dead_leaves(_SYNTHETIC_SIDE, _SYNTHETIC_SIDE, seed=_LEAVES_SEED + number),
                scale,
            )

        return self._map("drawing dead leaves", pair, list(range(count)))

    def drawn_pairs(self, scale: int, count: int) -> list[TrainingPair]:
        """Return `count` pairs of drawn pictures [768, 768, 3]: text, line art and screens in turn.

        They are the same on every call with the same version of OpenCV, whose fonts they use.
        """
        code = hashlib.sha256((inspect.getsource(drawings_module) + cv2.__version__).encode()).hexdigest()[
            :12
        ]

        def pair(number: int) -> TrainingPair:
            key = f"drawing-{number}-{_SYNTHETIC_SIDE}-{code}"
            return self._synthetic_pair(
                f"drawing {number}",
                key,
                lambda: drawing(_SYNTHETIC_SIDE, _SYNTHETIC_SIDE, seed=number),
                scale,
            )

        return self._map("drawing pictures", pair, list(range(count)))

    def _synthetic_pair(
        self, name: str, key: str, make: Callable[[], Uint8Array], scale: int
    ) -> TrainingPair:
        """Return the pair of a picture that `make` draws; it is drawn once, when it is first used."""
        drawn = self._on_demand_or_file(key, (_SYNTHETIC_SIDE, _SYNTHETIC_SIDE, 3), make)
        return self._pair(name, drawn, key, scale)

    def with_targets(
        self, pairs: list[TrainingPair], by: str, draw: Callable[[Uint8Array], Uint8Array]
    ) -> list[TrainingPair]:
        """Replace the large picture of each of `pairs` by `draw(small)`.

        `by` identifies the drawing function in the names of the files. Every picture is kept in a file, even
        where memory is free, because drawing is slow and a run may be interrupted.
        """

        def pair_of(pair: TrainingPair) -> TrainingPair:
            large = self._memory_mapped(f"{pair.key}-by-{by}", lambda: draw(np.array(pair.small)))
            return pair.with_large(large)

        drawn = []
        for pair in pairs:
            drawn.append(pair_of(pair))
            self._progress("drawing targets", len(drawn), len(pairs))
        return drawn

    def _pair(self, name: str, pixels: Picture, key: str, scale: int) -> TrainingPair:
        """Crop `pixels`, kept as `key`, to a multiple of `scale`, and add the small version."""
        height, width = (n // scale * scale for n in pixels.shape[:2])
        large = pixels
        if isinstance(pixels, PictureOnDemand) and (height, width) != pixels.shape[:2]:
            uncropped = pixels
            large = PictureOnDemand((height, width, 3), lambda: uncropped.pixels[:height, :width])
        elif not isinstance(pixels, PictureOnDemand):
            large = pixels[:height, :width]
        key = f"{key}-x{scale}"
        shape = (height // scale, width // scale, 3)
        small = self._on_demand_or_file(
            key, shape, lambda: cast(Uint8Array, imresize(np.asarray(_pixels_of(large)), 1 / scale))
        )
        return TrainingPair(name, large, small, key)

    def _resized(self, picture: DecodedPicture, size: float) -> tuple[Picture, str]:
        """Return the pixels of a picture resized by `size`, and the name they are kept by."""
        if size == 1:
            return picture.pixels, picture.key
        key = f"{picture.key}-s{size:g}"
        shape = tuple(math.ceil(n * size) for n in picture.pixels.shape[:2])
        resized = self._on_demand_or_file(
            key, (*shape, 3), lambda: cast(Uint8Array, imresize(np.asarray(picture.pixels), size))
        )
        return resized, key


def split_validation(pairs: list[TrainingPair], count: int) -> tuple[list[TrainingPair], list[TrainingPair]]:
    """Split into (training, validation); the hash of their names chooses the `count` pictures held out.

    The choice does not depend on the order of the files, and one more picture changes at most one of those held
    out. Raises InputError where no
    picture would be left to train on.
    """
    if count >= len(pairs):
        raise InputError(
            f"{len(pairs)} pictures, and the recipe holds out {count} for validation: none is left to train on; "
            "add pictures or lower the recipe's `validation`"
        )
    ranked = sorted(
        pairs, key=lambda p: hashlib.sha256(p.name.encode("utf-8", "surrogateescape")).hexdigest()
    )
    held_out = {id(p) for p in ranked[:count]}
    return [p for p in pairs if id(p) not in held_out], [p for p in pairs if id(p) in held_out]
