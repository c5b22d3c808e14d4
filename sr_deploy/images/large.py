"""Pictures that are too large to be held: their rows are read, upscaled and written in bands.

`open_large` gives an `Image` whose pixels are not an array but `Bands`, which make rows when they are asked
for. The PNG and TIFF writers need no more than that.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, UnsupportedError, sniff
from sr_deploy.images.image import Image, described, named_errors, parser_of, size_check
from sr_deploy.system.arrays import AnyArray

if TYPE_CHECKING:
    from sr_deploy.images.codecs.tiff import TiffPicture

_LEAST_BYTES = 2 << 30
"""Bytes of the picture and its result together from which on they are not held."""
_MOST_FILE = 512 << 20
"""Largest PNG in bytes: it is held as a file while its rows are decoded."""
_MOST_PIXELS = 1 << 30
_BAND = 16 << 20
"""Bytes of a band that is decoded at once."""


class Bands:
    """Pixels [H, W, C] that are made band by band, as an array that can only be read by rows.

    Rows are made once, from the top. Those of the last `slack` rows before the start of a request are kept.
    Thread safe.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: np.dtype[Any], made: Iterator[AnyArray], slack: int = 0
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.itemsize = dtype.itemsize
        self.nbytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
        self._made, self._slack = made, slack
        self._kept: list[
            tuple[int, AnyArray]
        ] = []  # (number of its first row, rows) of each band that is kept
        self._end = 0
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def __getitem__(self, rows: slice) -> AnyArray:
        """The rows `start` to `stop` (exclusive), as one array. Raises the errors of what makes them."""
        with self._lock:
            while self._end < rows.stop:
                self._make(rows.start - self._slack)
            parts = [part[max(0, rows.start - at) : max(0, rows.stop - at)] for at, part in self._kept]
        parts = [part for part in parts if len(part)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _make(self, first: int) -> None:
        """Make the next band, and drop those that end before the row `first`."""
        if (
            self._error is not None
        ):  # a second thread must not take the end of `made` for the end of the picture
            raise self._error
        try:
            band = next(self._made)
        except Exception as error:
            self._error = error
            raise
        self._kept = [(at, part) for at, part in self._kept if at + len(part) > first]
        self._kept.append((self._end, band))
        self._end += len(band)


@dataclass(frozen=True, kw_only=True)
class LargeImage(Image):
    """A picture whose pixels are `Bands`. Its rows can be read only once, from the top."""

    def __post_init__(self) -> None:
        """Skip the checks of arrays."""


def open_large(path: Path, scale: int) -> LargeImage | None:
    """The picture at `path`, an existing file, without its pixels, or None if it is better read as a whole.

    That is so for a picture that fits into memory together with its result of `scale` times the size; for one
    that must be seen as a whole: lying on its side, with opacity, in ink, or in planes; and for JPEG data, whose
    harmless warnings cannot be told from damage before the end. None also stands for a file that cannot be
    read, so that `read_image` says why.
    """
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(64))
            if kind != "tiff" and (kind != "png" or path.stat().st_size > _MOST_FILE):
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                whole: Any = data if kind == "tiff" else data[:]
                header = parser_of(kind)(whole, size_check(path, _MOST_PIXELS))
        return _opened(path, kind, header, scale)
    except (OSError, ValueError, DamagedError, UnsupportedError):
        return None


def _opened(path: Path, kind: str, header: PictureHeader | TiffPicture, scale: int) -> LargeImage | None:
    """The picture with this header, or None if it is better read as a whole."""
    from sr_deploy.images.codecs.tiff import is_plain
    from sr_deploy.images.codecs.vips import is_missing, open_rows

    if is_missing() or not (isinstance(header, PictureHeader) or is_plain(header)):
        return None
    source = header.payload if isinstance(header, PictureHeader) else path
    rows = open_rows(kind, source, 0 if isinstance(header, PictureHeader) else header.page)
    height, width, channels = rows.shape
    row = width * channels * rows.dtype.itemsize
    metadata, orientation, notes = described(path, kind, header, 1 if channels == 1 else 3)
    if channels not in (1, 3) or orientation != 1 or row * height * (1 + scale**2) < _LEAST_BYTES:
        return None
    pixels: Any = Bands(rows.shape, rows.dtype, _decoded(path, rows.read, height, max(1, _BAND // row)))
    metadata = replace(metadata, size=(width, height))
    return LargeImage(pixels=pixels, metadata=metadata, format=kind, notes=tuple(notes))


def _decoded(path: Path, read: Callable[[int, int], AnyArray], height: int, step: int) -> Iterator[AnyArray]:
    """The rows of a file, `step` at a time. Raises ImageError."""
    for top in range(0, height, step):
        with named_errors(path):
            rows = read(top, min(step, height - top))
        yield rows


def enlarged(
    image: Image,
    enlarge: Callable[[AnyArray], AnyArray],
    *,
    scale: int,
    halo: int,
    multiple: int,
    progress: Callable[[int, int], None] | None = None,
) -> Image:
    """The large picture `scale` times as large; `enlarge` is called for a band of rows when they are written.

    `halo` is the number of rows above and below that a row depends on; bands begin at multiples of `multiple`
    rows. `progress(done, total)` is called after every band, by the thread that asked for its rows.
    """
    height, width, channels = image.pixels.shape
    row = width * channels * image.pixels.itemsize * scale
    step = max(4 * _BAND // (row * scale), 4 * halo, 1)
    step, halo = (-(-count // multiple) * multiple for count in (step, halo))

    def made() -> Iterator[AnyArray]:
        for top in range(0, height, step):
            first, end = max(0, top - halo), min(height, top + step)
            rows = np.ascontiguousarray(image.pixels[first : min(height, end + halo)])
            yield enlarge(rows)[(top - first) * scale : (end - first) * scale]
            if progress is not None:
                progress(-(-end // step), -(-height // step))

    # writers have at most 16 strips of half a MiB in work at a time, and look at the row above a strip
    slack = 17 * max(1, (1 << 19) // row) + 1
    pixels: Any = Bands((height * scale, width * scale, channels), image.pixels.dtype, made(), slack)
    return replace(image, pixels=pixels)
