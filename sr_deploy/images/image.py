"""Pictures: read by content, checked before they are decoded; written whole or not at all.

`Image` is what every layer above works on: RGB or grey, 8 or 16 bits, alpha apart, the camera's metadata
beside it. This module does not scale (`resize`, `upscale`), and does not know of models.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sr_deploy.errors import ImageError, OutOfMemoryError, UsageError
from sr_deploy.images.codecs.formats import (
    NAMES,
    READ,
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    Format,
    check_writable_size,
    format_of,
    formats,
)
from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, UnsupportedError, sniff
from sr_deploy.images.codecs.metadata import Metadata, profile_fits, upright, with_size
from sr_deploy.images.codecs.pixels import (
    blend_on_white,
    fill_hidden_colour,
    orient_pixels,
    to_8_bits,
    to_bgr,
)
from sr_deploy.images.opencv import cv2
from sr_deploy.system.output_file import atomic_output, checked_target

if TYPE_CHECKING:
    from sr_deploy.images.codecs.tiff import TiffPicture

__all__ = [
    "MAX_PIXELS",
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Format",
    "Image",
    "Metadata",
    "check_writable_size",
    "fill_hidden_colour",
    "format_of",
    "formats",
    "read_image",
    "write_image",
]

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

MAX_PIXELS = 1 << 28
"""Pixels `read_image` takes unless told otherwise: 268 million, 0.8 GB of RGB, more than any camera makes."""

_OPENCV_SIDE, _OPENCV_PIXELS = 1 << 20, 1 << 30  # what OpenCV decodes at most, whatever we are told


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture in memory. Raises UsageError where the arrays do not fit together."""

    pixels: Pixels
    """C-contiguous [H, W, C] of uint8 or uint16; C is 1 (grey) or 3 (RGB, in this order)."""
    alpha: Pixels | None = None
    """Opacity [H, W] of the same type, not multiplied into the pixels; None: opaque."""
    metadata: Metadata = field(default_factory=Metadata)
    format: str = "png"
    """The kind of file it came from, by content."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read, one clause each."""

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape or dtype not in (np.uint8, np.uint16):
            raise UsageError(f"expected uint8 or uint16 pixels [H, W, 1 or 3], got {dtype} of shape {shape}")
        if not self.pixels.flags.c_contiguous:
            raise UsageError(
                "expected C-contiguous pixels, got a strided view; pass numpy.ascontiguousarray(pixels)"
            )
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != dtype):
            got = f"{self.alpha.dtype} of shape {self.alpha.shape}"
            raise UsageError(f"expected alpha as {dtype} of shape {shape[:2]}, like the pixels, got {got}")

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])

    @property
    def bits(self) -> int:
        """Of one channel: 8 or 16."""
        return self.pixels.itemsize * 8


# --- reading --------------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read the picture at `path`, upright: PNG, JPEG, WebP, TIFF, BMP or GIF, told by content, never by name.

    The EXIF orientation is applied and set to 1. Of an animation or a file of several pages the first is used;
    `notes` says so. Pictures of fewer than 8 bits come back with 8, CMYK as RGB. `max_pixels` bounds what is
    allocated (at most 2**30). Raises ImageError where the file is missing, unreadable, damaged, truncated, too
    large or of another kind; OutOfMemoryError where its pixels do not fit.
    """
    path = Path(path)
    try:
        return _read(path, _read_bytes(path, max_pixels), max_pixels)
    except DamagedError as error:
        raise ImageError(f"{path}: this picture {error}; get a whole copy of the file") from error
    except UnsupportedError as error:
        raise ImageError(f"{path}: this picture {error}; convert it to PNG first") from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path}: the pixels of this picture do not fit into memory; make it smaller"
        ) from error


def _read_bytes(path: Path, max_pixels: int) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: this is a folder; pass a picture")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            raise ImageError(f"{path}: not a file; pass a picture")
        with path.open("rb") as file:
            if not status.st_size:
                raise ImageError(f"{path}: the file is empty; get a whole copy of it")
            if not sniff(head := file.read(64)):
                raise ImageError(f"{path}: {_describe_content(head)}, not a picture; pass a {READ} file")
            if status.st_size > max_pixels * 8 + (1 << 28):
                raise ImageError(
                    f"{path}: {status.st_size} bytes are too many for a picture of {max_pixels} pixels; pass a smaller one"
                )
            return head + file.read()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise ImageError(f"{path}: there is no such file; check the name") from error
        raise ImageError(
            f"{path}: cannot be opened ({error.strerror or error}); check the name and permissions"
        ) from error
    except ValueError as error:  # a name with a NUL in it
        raise ImageError(f"{path!s:.100}: cannot be opened ({error}); check the name") from error


def _describe_content(head: bytes) -> str:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        text = "\0"
    is_text = all(c.isprintable() or c in "\t\r\n\ufeff" for c in text)
    return "this is a text file" if is_text else "the content is of no known kind"


def _size_check(path: Path, max_pixels: int) -> SizeCheck:
    limit = min(max_pixels, _OPENCV_PIXELS)

    def check(width: int, height: int) -> None:
        if not (width > 0 and height > 0):
            raise DamagedError(f"says that it has {width}x{height} pixels")
        if width * height > limit or max(width, height) > _OPENCV_SIDE:
            raise ImageError(
                f"{path}: {width}x{height} pixels are too many, at most {limit} are read; pass a smaller picture"
            )

    return check


def _read(path: Path, data: bytes, max_pixels: int) -> Image:
    kind, check = sniff(data[:64]) or "", _size_check(path, max_pixels)
    header: PictureHeader | TiffPicture
    if kind == "tiff":
        from sr_deploy.images.codecs.tiff import decode_tiff, parse_tiff

        header = parse_tiff(data, check)
        pixels, alpha = decode_tiff(header, _decode)
    else:
        header = _parser(kind)(data, check)
        pixels, alpha = _split_channels(header, _decode(header.payload))
    if pixels.shape[:2] != (header.height, header.width):
        raise DamagedError("holds another number of pixels than its header says")
    notes = list(_notes(path, kind, header.frames))
    metadata, orientation = upright(
        Metadata(exif=header.exif, icc=header.icc, xmp=header.xmp, dpi=header.dpi)
    )
    if not isinstance(header, PictureHeader):
        orientation = header.orientation  # of a TIFF: in a tag of the picture itself
    if metadata.dpi and orientation >= 5:
        metadata = replace(metadata, dpi=metadata.dpi[::-1])
    if metadata.icc and not profile_fits(metadata.icc, pixels.shape[2]):
        metadata = replace(metadata, icc=None)
        notes.append("its colour profile does not fit its pixels and is left out")
    pixels = orient_pixels(pixels, orientation)
    alpha = orient_pixels(alpha, orientation) if alpha is not None else None
    return Image(pixels=pixels, alpha=alpha, metadata=metadata, format=kind, notes=tuple(notes))


def _parser(kind: str) -> Callable[[bytes, SizeCheck], PictureHeader]:
    module = import_module(f"sr_deploy.images.codecs.{kind}")
    parse: Callable[[bytes, SizeCheck], PictureHeader] = getattr(module, f"parse_{kind}")
    return parse


def _notes(path: Path, kind: str, frames: int) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".gif" or suffix in WRITABLE_SUFFIXES:
        named = "gif" if suffix == ".gif" else WRITABLE_SUFFIXES[suffix]
        if named != kind:
            yield f"named {path.suffix} but is a {NAMES[kind]}"
    if frames > 1:
        what = "has {} pages" if kind == "tiff" else "animated, {} frames"
        yield f"{what.format(frames)}: only the first is used"


def _decode(payload: bytes) -> Array:
    try:
        decoded = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise DamagedError("cannot be decoded") from error
    if decoded is None:
        raise DamagedError("cannot be decoded")
    if decoded.dtype not in (np.uint8, np.uint16) or (decoded.ndim == 3 and decoded.shape[2] not in (3, 4)):
        raise UnsupportedError(
            f"has {decoded.dtype} pixels of shape {decoded.shape}, which are not read here"
        )
    return decoded


def _split_channels(parsed: PictureHeader, decoded: Array) -> tuple[Array, Array | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha, of what OpenCV decoded."""
    if decoded.ndim == 2:
        pixels, alpha = decoded[..., None], None
    else:
        alpha = np.ascontiguousarray(decoded[..., 3]) if decoded.shape[2] == 4 else None
        pixels = to_bgr(decoded[..., :3], None, consume=alpha is None)  # there and back is the same swap
        if parsed.grey:
            pixels = np.ascontiguousarray(pixels[..., :1])
    if alpha is not None and parsed.format == "bmp" and not alpha.any():
        alpha = None  # the fourth byte is padding for most writers
    if parsed.key and len(parsed.key) == pixels.shape[2]:
        hidden = (pixels == np.array(parsed.key, pixels.dtype)).all(axis=2)
        alpha = np.where(hidden, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return pixels, alpha


# --- writing --------------------------------------------------------------------------------------------


def write_image(
    image: Image,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = True,
    consume: bool = False,
) -> tuple[str, ...]:
    """Write `image` to `path`; what was lost on the way, one clause each.

    The file appears whole under its name or not at all. `format` (`png`, `jpeg`, `webp`, `tiff`, `bmp`) is that of
    the suffix unless given. `quality`, 1 to 100, is for JPEG (95, without colour subsampling from 90 on) and WebP
    (90; 101 is lossless). With `overwrite=False` an existing file is left alone, also where another process makes
    it meanwhile. With `consume=True` the pixels may be changed on the way and must not be used afterwards; this
    saves a copy of them for JPEG, WebP and BMP (PNG and TIFF never need one).
    Where the format has no 16 bits, alpha, or room for a metadata block, it is rounded, put on white, left out.
    Raises UsageError for an unknown format, quality, or a size that the format cannot hold; OutputError where the
    place cannot be written or, with `overwrite=False`, is taken; OutOfMemoryError.
    """
    path = Path(path)
    kind = format_of(format or path)
    check_writable_size(kind.name, image.width, image.height)
    if quality is not None and not 1 <= quality <= kind.top_quality:
        raise UsageError(
            f"quality must be a number of 1 to {kind.top_quality} for {NAMES[kind.name]}, got {quality!r}"
        )
    target = checked_target(path, overwrite)
    try:
        pixels, alpha, notes = _pixels_for(image, kind)
        if quality is not None and not kind.lossy:
            notes.append(f"{NAMES[kind.name]} is lossless: the quality is not used")
        metadata = _metadata_for(image, kind, notes)
        consume = consume or pixels is not image.pixels
        with atomic_output(path, target, overwrite, kind.suffixes[0]) as temporary:
            dropped = _encode(temporary, kind.name, pixels, alpha, metadata, quality, consume)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"writing {path} does not fit into memory; write a PNG, which takes the least"
        ) from error
    too_large = (f"{name} metadata is too large for {NAMES[kind.name]} and is left out" for name in dropped)
    return (*notes, *too_large)


def _metadata_for(image: Image, kind: Format, notes: list[str]) -> Metadata:
    """The blobs that go with the picture, and what has to stay behind."""
    icc, exif = image.metadata.icc, image.metadata.exif
    if icc and not profile_fits(icc, image.pixels.shape[2]):
        notes.append("the colour profile does not fit the pixels and is left out")
        icc = None
    if kind.name == "bmp" and (exif or icc or image.metadata.xmp):
        notes.append("BMP has no metadata: EXIF, ICC and XMP are left out")
    exif = with_size(exif, image.width, image.height) if exif else None
    return Metadata(exif=exif, icc=icc, xmp=image.metadata.xmp, dpi=image.metadata.dpi)


def _pixels_for(image: Image, kind: Format) -> tuple[Array, Array | None, list[str]]:
    """Pixels and alpha as `kind` can hold them, and what that cost."""
    pixels, alpha, notes = image.pixels, image.alpha, []
    if image.bits == 16 and not kind.deep:
        pixels = to_8_bits(pixels)
        alpha = to_8_bits(alpha) if alpha is not None else None
        notes.append(f"{NAMES[kind.name]} has no 16 bits: rounded to 8")
    if alpha is not None and not kind.alpha:
        pixels, alpha = blend_on_white(pixels, alpha), None
        notes.append(f"{NAMES[kind.name]} has no transparency: put on white")
    return pixels, alpha, notes


def _encode(
    path: Path,
    kind: str,
    pixels: Array,
    alpha: Array | None,
    metadata: Metadata,
    quality: int | None,
    consume: bool,
) -> tuple[str, ...]:
    """Encode to `path`; the names of the metadata that had no room."""
    if kind in ("png", "tiff"):
        if kind == "png":
            from sr_deploy.images.codecs.png import write_png as write
        else:
            from sr_deploy.images.codecs.tiff_writer import write_tiff as write
        with path.open("xb") as file:
            write(file, pixels, alpha, metadata)
        return ()
    _encode_by_opencv(path, to_bgr(pixels, alpha, consume=consume), _encoder_options(kind, quality))
    if metadata.dpi:
        from sr_deploy.images.codecs.density import write_density

        write_density(path, kind, metadata.dpi)
    if kind == "bmp" or not (metadata.exif or metadata.icc or metadata.xmp):
        return ()
    if kind == "webp":  # small enough: its encoder held it in memory too
        from sr_deploy.images.codecs.webp import with_metadata

        path.write_bytes(with_metadata(path.read_bytes(), metadata, pixels.shape[1], pixels.shape[0]))
        return ()
    from sr_deploy.images.codecs.jpeg import copy_with_metadata

    return copy_with_metadata(path, metadata)


def _encoder_options(kind: str, quality: int | None) -> list[int]:
    """OpenCV's: JPEG 95, without colour subsampling from 90 on; WebP 90, lossless above 100."""
    if kind == "jpeg":
        quality = 95 if quality is None else quality
        fine = (
            [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444] if quality >= 90 else []
        )
        return [cv2.IMWRITE_JPEG_QUALITY, quality, *fine]
    return [cv2.IMWRITE_WEBP_QUALITY, 90 if quality is None else quality] if kind == "webp" else []


def _encode_by_opencv(path: Path, pixels: Array, options: list[int]) -> None:
    try:
        if (
            os.name == "nt" and not str(path).isascii()
        ):  # OpenCV opens files by the 8-bit interface of Windows
            done, encoded = cv2.imencode(path.suffix, pixels, options)
            path.write_bytes(encoded.data if done else b"")
        else:
            done = cv2.imwrite(str(path), pixels, options)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise OSError(errno.EIO, "the encoder failed") from error
    if not (done and _is_whole(path)):
        raise OSError(errno.EIO, "the encoder failed, and the disk may be full")


def _is_whole(path: Path) -> bool:
    """Whether the file has its end: OpenCV does not look whether the last bytes could be written."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2))
        tail = file.read()
    if head.startswith(b"\xff\xd8"):
        return tail == b"\xff\xd9"
    if head.startswith(b"BM"):
        return size >= int.from_bytes(head[2:6], "little")
    return head.startswith(b"RIFF") and size >= 8 + int.from_bytes(head[4:8], "little")
