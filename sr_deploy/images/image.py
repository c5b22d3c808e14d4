"""Reading and writing pictures.

The format is recognized by content, never by the file's name, and the file is checked before it is
decoded. A written file appears complete or not at all.

`Image` is the value that all layers above work on: RGB or grey, 8 or 16 bits, opacity and metadata kept
apart from the pixels. This module does not scale (see `resize` and `upscale`) and knows no models.
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
from typing import TYPE_CHECKING

import numpy as np

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
from sr_deploy.system.arrays import AnyArray, PixelArray
from sr_deploy.system.output_file import atomic_output, checked_target

# `codecs.tiff` and the other codecs are imported where they are used, to keep start-up fast.
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


MAX_PIXELS = 1 << 28
"""Default limit of pixels for `read_image`: 268 million, or 0.8 GB of RGB, more than any camera produces."""

# OpenCV decodes no more than this (CV_IO_MAX_IMAGE_WIDTH, _HEIGHT and _PIXELS), whatever the caller allows.
_OPENCV_SIDE, _OPENCV_PIXELS = 1 << 20, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture in memory. Raises UsageError if the arrays do not fit together.

    Instances are frozen, but the arrays are not copied. Treat them as read-only if threads share the
    picture.
    """

    pixels: PixelArray
    """C-contiguous array [H, W, C] of uint8 or uint16, where C is 1 (grey) or 3 (in the order red,
    green, blue).
    """
    alpha: PixelArray | None = None
    """Opacity [H, W] of the same type as the pixels, or None if the picture is opaque.

    The pixels are not multiplied by it.
    """
    metadata: Metadata = field(default_factory=Metadata)
    """EXIF, ICC and XMP blobs and the print density."""
    format: str = "png"
    """Format of the file that the picture was read from, as recognized by content."""
    notes: tuple[str, ...] = ()
    """Facts about the reading that the user should know, one clause each."""

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
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def bits(self) -> int:
        """Bits per channel: 8 or 16."""
        return self.pixels.itemsize * 8


# --- reading --------------------------------------------------------------------------------------------


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read the picture at `path` and turn it upright.

    Formats: PNG, JPEG, WebP, TIFF, BMP and GIF, recognized by content, never by name. The EXIF
    orientation is applied and set to 1. Of an animation or a file with several pages only the first
    picture is read; `notes` says so. Pictures with fewer than 8 bits become 8-bit, CMYK becomes RGB.
    `max_pixels` limits width times height, and so the memory to allocate; at most 2**30.

    Raises ImageError if the file is missing, unreadable, damaged, truncated, too large or of another
    format, and OutOfMemoryError if the pixels do not fit into memory. Safe to call from several
    threads.
    """
    path = Path(path)
    try:
        return _read(path, _read_bytes(path, max_pixels), max_pixels)
    except DamagedError as error:
        raise ImageError(f"{path}: this picture {error}; get an undamaged copy of the file") from error
    except UnsupportedError as error:
        raise ImageError(f"{path}: this picture {error}; convert it to PNG first") from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{path}: the pixels of this picture do not fit into memory; make it smaller"
        ) from error


def _read_bytes(path: Path, max_pixels: int) -> bytes:
    """The content of the file. Raises ImageError if it is not a picture or cannot be read."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: this is a folder; pass a picture")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait until someone writes to it
            raise ImageError(f"{path}: this is not a regular file; pass a picture")
        with path.open("rb") as file:
            if not status.st_size:
                raise ImageError(f"{path}: the file is empty; get an undamaged copy of it")
            if not sniff(head := file.read(64)):
                raise ImageError(f"{path}: {_describe_content(head)}, not a picture; pass a {READ} file")
            # 8 bytes are a pixel of four 16-bit channels; 256 MiB leave room for metadata and further pages
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
    """A clause that says whether the first bytes of an unknown file are text."""
    try:
        # incremental: the 64 bytes may end in the middle of a character
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        text = "\0"
    is_text = all(c.isprintable() or c in "\t\r\n\ufeff" for c in text)
    return "this is a text file" if is_text else "the content is of no known kind"


def _size_check(path: Path, max_pixels: int) -> SizeCheck:
    """A function that raises an error if a header declares no pixels or too many."""
    limit = min(max_pixels, _OPENCV_PIXELS)

    def check(width: int, height: int) -> None:
        if not (width > 0 and height > 0):
            raise DamagedError(f"declares a size of {width}x{height} pixels")
        if width * height > limit or max(width, height) > _OPENCV_SIDE:
            raise ImageError(
                f"{path}: {width}x{height} pixels are too many, at most {limit} are allowed; pass a smaller picture"
            )

    return check


def _read(path: Path, data: bytes, max_pixels: int) -> Image:
    """Decode `data` and turn the picture upright."""
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
        raise DamagedError("has more or fewer pixels than its header declares")
    notes = list(_notes(path, kind, header.frames))
    metadata, orientation = upright(
        Metadata(exif=header.exif, icc=header.icc, xmp=header.xmp, dpi=header.dpi)
    )
    if not isinstance(header, PictureHeader):
        orientation = header.orientation  # a TIFF has it in a tag of the picture, not in an EXIF block
    if metadata.dpi and orientation >= 5:  # orientations 5 to 8 swap rows and columns
        metadata = replace(metadata, dpi=metadata.dpi[::-1])
    if metadata.icc and not profile_fits(metadata.icc, pixels.shape[2]):
        metadata = replace(metadata, icc=None)
        notes.append("its colour profile does not fit its pixels and was left out")
    pixels = orient_pixels(pixels, orientation)
    alpha = orient_pixels(alpha, orientation) if alpha is not None else None
    return Image(pixels=pixels, alpha=alpha, metadata=metadata, format=kind, notes=tuple(notes))


def _parser(kind: str) -> Callable[[bytes, SizeCheck], PictureHeader]:
    """The function that parses files of the format `kind`. Its module is imported on first use."""
    module = import_module(f"sr_deploy.images.codecs.{kind}")
    parse: Callable[[bytes, SizeCheck], PictureHeader] = getattr(module, f"parse_{kind}")
    return parse


def _notes(path: Path, kind: str, frames: int) -> Iterator[str]:
    """Notes on a misleading file name and on frames or pages that are not used."""
    suffix = path.suffix.lower()
    if suffix == ".gif" or suffix in WRITABLE_SUFFIXES:
        named = "gif" if suffix == ".gif" else WRITABLE_SUFFIXES[suffix]
        if named != kind:
            yield f"named {path.suffix} but is a {NAMES[kind]} file"
    if frames > 1:
        what = "has {} pages" if kind == "tiff" else "animated, {} frames"
        yield f"{what.format(frames)}: only the first is used"


def _decode(payload: bytes) -> AnyArray:
    """Decode a file with OpenCV: [H, W] or [H, W, 3 or 4] in BGR order, 8 or 16 bits.

    Raises MemoryError, DamagedError or UnsupportedError.
    """
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
            f"has {decoded.dtype} pixels of shape {decoded.shape}, which are not supported"
        )
    return decoded


def _split_channels(parsed: PictureHeader, decoded: AnyArray) -> tuple[AnyArray, AnyArray | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha [H, W] or None, from what OpenCV decoded."""
    if decoded.ndim == 2:
        pixels, alpha = decoded[..., None], None
    else:
        alpha = np.ascontiguousarray(decoded[..., 3]) if decoded.shape[2] == 4 else None
        # swapping red and blue is its own inverse, so `to_bgr` also makes RGB of BGR
        pixels = to_bgr(decoded[..., :3], None, consume=alpha is None)
        if parsed.grey:
            pixels = np.ascontiguousarray(pixels[..., :1])
    if alpha is not None and parsed.format == "bmp" and not alpha.any():
        alpha = None  # most programs write zeros as padding into the fourth byte of a BMP pixel
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
    """Write `image` to `path`. Returns notes on what was lost, one clause each.

    The file appears complete under its name or not at all. `format` (`png`, `jpeg`, `webp`, `tiff`,
    `bmp`) defaults to that of the suffix. `quality` (1 to 100) applies to JPEG (default 95; no colour
    subsampling from 90 on) and WebP (default 90; 101 is lossless). With `overwrite=False` an existing
    file is left alone, even if another process creates it during the work. With `consume=True` the
    pixels may be changed and must not be used afterwards; this saves a copy of them for JPEG, WebP and
    BMP (PNG and TIFF never need one).

    If the format has no 16 bits, the pixels are rounded to 8; if it has no opacity, the picture is put
    on white; if it has no room for a metadata blob, the blob is left out.

    Raises UsageError for an unknown format, an invalid quality, or a size that the format cannot hold;
    OutputError if the path cannot be written, or exists with `overwrite=False`; OutOfMemoryError. Safe
    to call from several threads.
    """
    path = Path(path)
    kind = format_of(format or path)
    check_writable_size(kind.name, image.width, image.height)
    if quality is not None and not 1 <= quality <= kind.top_quality:
        raise UsageError(
            f"quality must be a number from 1 to {kind.top_quality} for {NAMES[kind.name]}, got {quality!r}"
        )
    target = checked_target(path, overwrite)
    try:
        pixels, alpha, notes = _pixels_for(image, kind)
        if quality is not None and not kind.lossy:
            notes.append(f"{NAMES[kind.name]} is lossless: the quality was not used")
        metadata = _metadata_for(image, kind, notes)
        consume = consume or pixels is not image.pixels  # a converted copy may be changed freely
        with atomic_output(path, target, overwrite, kind.suffixes[0]) as temporary:
            dropped = _encode(temporary, kind.name, pixels, alpha, metadata, quality, consume)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"writing {path} does not fit into memory; write a PNG, which needs the least memory"
        ) from error
    too_large = (f"{name} metadata is too large for {NAMES[kind.name]} and was left out" for name in dropped)
    return (*notes, *too_large)


def _metadata_for(image: Image, kind: Format, notes: list[str]) -> Metadata:
    """The metadata to write with the picture. Adds to `notes` what the format cannot hold."""
    icc, exif = image.metadata.icc, image.metadata.exif
    if icc and not profile_fits(icc, image.pixels.shape[2]):
        notes.append("the colour profile does not fit the pixels and was left out")
        icc = None
    if kind.name == "bmp" and (exif or icc or image.metadata.xmp):
        notes.append("BMP has no metadata: EXIF, ICC and XMP were left out")
    exif = with_size(exif, image.width, image.height) if exif else None
    return Metadata(exif=exif, icc=icc, xmp=image.metadata.xmp, dpi=image.metadata.dpi)


def _pixels_for(image: Image, kind: Format) -> tuple[AnyArray, AnyArray | None, list[str]]:
    """Pixels and alpha as `kind` can hold them, and notes on what was lost."""
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
    pixels: AnyArray,
    alpha: AnyArray | None,
    metadata: Metadata,
    quality: int | None,
    consume: bool,
) -> tuple[str, ...]:
    """Encode to the new file `path`. Returns the names of metadata blobs that were too large."""
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
    if kind == "webp":  # at most 16383 pixels a side, and the encoder had it in memory as well
        from sr_deploy.images.codecs.webp import with_metadata

        path.write_bytes(with_metadata(path.read_bytes(), metadata, pixels.shape[1], pixels.shape[0]))
        return ()
    from sr_deploy.images.codecs.jpeg import copy_with_metadata

    return copy_with_metadata(path, metadata)


def _encoder_options(kind: str, quality: int | None) -> list[int]:
    """Options for OpenCV's encoder.

    JPEG: quality 95 by default, and full colour resolution (4:4:4) from 90 on. WebP: 90 by default,
    lossless above 100.
    """
    if kind == "jpeg":
        quality = 95 if quality is None else quality
        fine = (
            [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444] if quality >= 90 else []
        )
        return [cv2.IMWRITE_JPEG_QUALITY, quality, *fine]
    return [cv2.IMWRITE_WEBP_QUALITY, 90 if quality is None else quality] if kind == "webp" else []


def _encode_by_opencv(path: Path, pixels: AnyArray, options: list[int]) -> None:
    """Encode pixels in BGR order to the new file `path`. Raises OSError or MemoryError."""
    try:
        if (
            # OpenCV opens files through the 8-bit interface of Windows, which knows few letters
            os.name == "nt" and not str(path).isascii()
        ):
            done, encoded = cv2.imencode(path.suffix, pixels, options)
            path.write_bytes(encoded.data if done else b"")
        else:
            done = cv2.imwrite(str(path), pixels, options)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise OSError(errno.EIO, "the encoder failed") from error
    if not (done and _is_whole(path)):
        raise OSError(errno.EIO, "the encoder failed; the disk may be full")


def _is_whole(path: Path) -> bool:
    """True if the file is complete. OpenCV does not check whether the last bytes could be written.

    Looks for the end marker of JPEG (ITU T.81, B.1.1.3: EOI), or compares the file size with the one
    that the header of BMP (bfSize) or WebP (RIFF size) declares.
    """
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
