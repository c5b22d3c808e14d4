"""Reading and writing pictures.

The format is recognized by content, never by the file's name, and the file is checked before it is
decoded. A written file appears complete or not at all.

`Image` is the value that all layers above work on: RGB or grey, 8 or 16 bits, opacity and metadata kept
apart from the pixels. This module does not scale (see `resize` and `upscale`) and knows no models.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from sr_deploy.errors import (
    ImageError,
    OutOfMemoryError,
    UsageError,
    check_choice,
    check_path,
    check_whole,
)
from sr_deploy.images.codecs.formats import (
    JPEG_QUALITY,
    NAMES,
    READ,
    READ_ONLY_SUFFIXES,
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    Format,
    check_writable_size,
    format_of,
    formats,
)
from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, UnsupportedError, sniff
from sr_deploy.images.codecs.pixels import (
    blend_on_white,
    decode_by_opencv,
    divided_by_alpha,
    fill_hidden_colour,
    orient_pixels,
    to_8_bits,
)
from sr_deploy.images.codecs.vips import FALLBACK, decode, is_missing, light_of_ink, read_header, to_srgb
from sr_deploy.images.metadata.blobs import (
    Metadata,
    for_size,
    ink_profile_works,
    names_of_chunks,
    profile_fits,
    upright,
    without_colour,
    without_texts,
)
from sr_deploy.system.arrays import AnyArray, PixelArray, check_array
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
    "decode_image",
    "encode_image",
    "fill_hidden_colour",
    "format_of",
    "formats",
    "read_image",
    "write_image",
]


MAX_PIXELS = 1 << 28
"""Default limit of pixels for `read_image`: 268 million, or 0.8 GB of RGB, more than any camera produces."""

Profile = Literal["auto", "keep", "srgb"]
"""Treatment of colour profiles by `read_image`."""
_HEAD = 1 << 19
"""Bytes of a JPEG that are read to learn its size: metadata and thumbnails of phones and cameras take less."""
# Limits of a side and of all pixels, whatever the caller allows.
_MAX_SIDE, MOST_PIXELS = 1 << 20, 1 << 30


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
    """EXIF, ICC, XMP, print density and everything else that is said about the picture."""
    format: str = "png"
    """Format of the file that the picture was read from, as recognized by content."""
    quality: int | None = None
    """Quality (1 to 100) of the JPEG that it was read from, as far as that can be told."""
    lossless: bool = False
    """True if it was read from a lossless WebP, and is to be written as one."""
    notes: tuple[str, ...] = ()
    """Facts about the reading that the user should know, one clause each."""

    def __post_init__(self) -> None:
        check_array("pixels", self.pixels)
        if self.alpha is not None:
            check_array("alpha", self.alpha)
        if not isinstance(self.metadata, Metadata):
            raise UsageError(
                f"metadata must be a Metadata, got {type(self.metadata).__name__}; take it from another Image"
            )
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape or dtype not in (np.uint8, np.uint16):
            raise UsageError(
                f"expected uint8 or uint16 pixels [H, W, 1 or 3], got {dtype} of shape {shape}{_hint(self.pixels)}"
            )
        if not self.pixels.flags.c_contiguous:
            raise UsageError(
                "expected C-contiguous pixels, got a strided view; pass numpy.ascontiguousarray(pixels)"
            )
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != dtype):
            got = f"{self.alpha.dtype} of shape {self.alpha.shape}"
            raise UsageError(f"expected alpha as {dtype} of shape {shape[:2]}, like the pixels, got {got}")

    def __repr__(self) -> str:
        """The facts in short. The pixels of a photograph would fill the screen for minutes."""
        opacity = ", with opacity" if self.alpha is not None else ""
        colours = "grey" if self.pixels.shape[2] == 1 else "RGB"
        return (
            f"<Image {self.width}x{self.height} {colours}, {self.bits} bits{opacity}, read as {self.format}>"
        )

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


def _hint(pixels: AnyArray) -> str:
    """The end of the sentence about pixels that an `Image` does not take; may be empty."""
    if pixels.dtype.kind == "f":
        return "; for floats of 0 to 1 pass (pixels * 255).round().astype(numpy.uint8)"
    if pixels.ndim == 2:
        return "; for a grey picture pass pixels[..., None]"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return (
            "; opacity is apart: pass pixels[..., :3] as pixels and pixels[..., 3] as alpha, made contiguous"
        )
    return ""


# --- reading --------------------------------------------------------------------------------------------


def read_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    keep_damaged: bool = False,
    profile: Profile = "auto",
) -> Image:
    """Read the picture at `path` and turn it upright.

    Formats: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, and HEIC where libvips decodes it, recognized by content, never by name. The EXIF
    orientation is applied and set to 1. Of an animation or a file with several pages only the first
    picture is read; `notes` says so. Pictures with fewer than 8 bits become 8-bit. CMYK becomes sRGB by
    its colour profile, or RGB without one. `max_pixels` limits width times height, and so the memory to
    allocate; at most 2**30. With `keep_damaged`, as much of a damaged picture as possible is read, and
    `notes` says what is wrong. `profile` "srgb" converts colours to sRGB by their colour
    profile; "keep" refuses CMYK with a profile, which could not be kept.

    Raises ImageError if the file is missing, unreadable, damaged, truncated, too large or of another
    format, UsageError for a wrong argument, and OutOfMemoryError if the pixels do not fit into memory. Safe to call
    from several threads.
    """
    check_path("path", path)
    _check_reading(max_pixels, profile)
    path = Path(path)
    with named_errors(path, keep_damaged):
        image = _read(path, _read_bytes(path, max_pixels), max_pixels, keep_damaged, profile)
        return _in_srgb(image) if profile == "srgb" else image


def decode_image(
    data: bytes,
    *,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
    keep_damaged: bool = False,
    profile: Profile = "auto",
) -> Image:
    """Decode the bytes of a picture file, as `read_image` reads one. For uploads, for example.

    `name` is what errors call the picture. Raises the errors of `read_image`.
    """
    _check_reading(max_pixels, profile)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise UsageError(
            f"decode_image takes the bytes of a picture file, got {type(data).__name__}; read_image takes a path"
        )
    check_path("name", name)
    path, data = Path(name), bytes(data)
    with named_errors(path, keep_damaged):
        if not sniff(data[:64]):
            what = _describe_content(data[:64]) if data else "there are no bytes"
            raise ImageError(f"{path}: {what}, not a picture; pass a {READ} file")
        image = _read(path, data, max_pixels, keep_damaged, profile)
        return _in_srgb(image) if profile == "srgb" else image


class PictureFacts(NamedTuple):
    """Facts about a picture's file that are known without decoding it; the fields are those of `Image`."""

    size: tuple[int, int]
    """Width and height in pixels of the upright picture."""
    format: str
    """Format, as recognized by content."""
    quality: int | None
    """Quality (1 to 100) of a JPEG, as far as that can be told."""
    lossless: bool
    """True for a lossless WebP."""


def read_size(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The size (width, height) in pixels of the upright picture at `path`, without decoding it.

    Damage behind the header is not noticed. Raises the errors of `read_image`.
    """
    return read_facts(path, max_pixels=max_pixels).size


def read_facts(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> PictureFacts:
    """The facts about the picture at `path`, without decoding it. Raises the errors of `read_image`."""
    path = Path(path)
    sizes: list[tuple[int, int]] = []
    with named_errors(path):
        check = size_check(path, max_pixels)

        def note(width: int, height: int) -> None:
            """Check and remember a size that the header declares."""
            check(width, height)
            sizes.append((width, height))

        kind, header = _header_of(path, max_pixels, note)
        if not isinstance(header, PictureHeader):
            sizes = [(header.width, header.height)]
        elif not sizes:  # a WebP without extensions says its size in the bits of its codec
            decoded = read_image(path) if is_missing() else read_header(kind, header.payload, check)
            sizes = [(decoded.width, decoded.height)]
        _, orientation, _ = upright(header.metadata, header.orientation)
    width, height = sizes[0]
    size = (height, width) if orientation >= 5 else (width, height)  # the upper half of them swaps the sides
    found = header if isinstance(header, PictureHeader) else None
    return PictureFacts(size, kind, found.quality if found else None, bool(found and found.lossless))


def _header_of(path: Path, max_pixels: int, check: SizeCheck) -> tuple[str, PictureHeader | TiffPicture]:
    """Format and header of the picture at `path`. Of a JPEG, the beginning is read first, and is mostly enough."""
    head = b""
    with suppress(OSError, ValueError):  # the error that says more is raised below
        if path.is_file():  # opening a pipe would wait until someone writes to it
            with path.open("rb") as file:
                head = file.read(_HEAD)
    if head.startswith(b"\xff\xd8\xff"):
        with suppress(DamagedError):
            return "jpeg", parser_of("jpeg")(head, check)
    data = _read_bytes(path, max_pixels)
    kind = sniff(data[:64]) or ""
    return kind, parser_of(kind)(data, check)


def cropped(image: Image, left: int, top: int, width: int, height: int) -> Image:
    """A part of `image` as a picture of its own, in pixels; what lies beyond the picture is left out."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    alpha = None if image.alpha is None else image.alpha[rows, columns].copy()
    return replace(image, pixels=image.pixels[rows, columns].copy(), alpha=alpha)


def _check_reading(max_pixels: int, profile: Profile) -> None:
    """Raise UsageError for wrong arguments of `read_image`."""
    check_whole("max_pixels", max_pixels)
    check_choice("profile", profile, get_args(Profile))


@contextmanager
def named_errors(path: Path, keep_damaged: bool = False) -> Iterator[None]:
    """Context manager: errors of codecs become an ImageError or OutOfMemoryError that names the file."""
    try:
        yield
    except DamagedError as error:
        hint = (
            ""
            if keep_damaged
            else ", or add --keep-damaged (in Python keep_damaged=True) to use what can be read"
        )
        raise ImageError(f"{path}: this picture {error}; get an undamaged copy of the file{hint}") from error
    except UnsupportedError as error:
        hint = "" if ";" in str(error) else "; convert it to PNG first"
        raise ImageError(f"{path}: this picture {error}{hint}") from error
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


def size_check(path: Path, max_pixels: int) -> SizeCheck:
    """A function that raises an error if a header declares no pixels or too many."""
    limit = min(max_pixels, MOST_PIXELS)

    def check(width: int, height: int) -> None:
        if not (width > 0 and height > 0):
            raise DamagedError(f"declares a size of {width}x{height} pixels")
        if width * height > limit or max(width, height) > _MAX_SIDE:
            raise ImageError(
                f"{path}: {width}x{height} pixels are too many, at most {limit} are allowed; pass a smaller picture"
            )

    return check


def _read(path: Path, data: bytes, max_pixels: int, keep_damaged: bool, profile: Profile) -> Image:
    """Decode `data` and turn the picture upright."""
    kind, check = sniff(data[:64]) or "", size_check(path, max_pixels)
    notes: list[str] = []
    header: PictureHeader | TiffPicture | None = None
    try:
        header = parser_of(kind)(data, check)
        if profile == "keep" and ink_profile_works(header.metadata.icc or b""):
            raise UnsupportedError("is CMYK with a colour profile, which cannot be kept")
        pixels, alpha = _decode(header, check)
    except DamagedError as error:
        if not keep_damaged:
            raise
        header = header or PictureHeader(format=kind, payload=data)
        pixels, alpha = _decode(header, check, damaged=True)
        notes.append(f"damaged: it {error}; what can be read was used")
        if isinstance(header, PictureHeader):  # this one is about a picture that is whole
            from sr_deploy.images.codecs.jpeg import NO_END

            header = header._replace(notes=tuple(note for note in header.notes if note != NO_END))
    if kind in FALLBACK and is_missing():
        notes.append("libvips is missing: OpenCV decoded it, which may not notice damage")
    metadata, orientation, more = described(path, kind, header, pixels.shape[2])
    notes += more
    pixels = orient_pixels(pixels, orientation)
    alpha = orient_pixels(alpha, orientation) if alpha is not None else None
    metadata = replace(metadata, size=(pixels.shape[1], pixels.shape[0]))
    return Image(
        pixels=pixels,
        alpha=alpha,
        metadata=metadata,
        format=kind,
        quality=header.quality if isinstance(header, PictureHeader) else None,
        lossless=isinstance(header, PictureHeader) and header.lossless,
        notes=tuple(notes),
    )


def _in_srgb(image: Image) -> Image:
    """The picture with its colours converted to sRGB. What PNG chunks say about colour is left as it is."""
    icc = image.metadata.icc
    if icc is None:
        named = {kind.decode() for kind, _ in image.metadata.chunks if kind in (b"cICP", b"cHRM", b"gAMA")}
        lost = f"not converted to sRGB: its colours are described by {', '.join(sorted(named))}, not by a profile"
        return replace(image, notes=(*image.notes, lost)) if named and image.metadata.chunks else image
    metadata = replace(image.metadata, icc=None, chunks=without_colour(image.metadata.chunks))
    return replace(image, pixels=to_srgb(image.pixels, icc), metadata=metadata)


def described(
    path: Path, kind: str, header: PictureHeader | TiffPicture, channels: int
) -> tuple[Metadata, int, list[str]]:
    """The metadata of the upright picture of 1 or 3 channels, the orientation (1 to 8) it is stored in, and notes."""
    notes = list(_notes(path, kind, header))
    metadata, orientation, more = upright(header.metadata, header.orientation)
    metadata, profile_notes = _with_right_profile(metadata, channels)
    return metadata, orientation, [*notes, *more, *profile_notes]


def _with_right_profile(metadata: Metadata, channels: int) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata without a colour profile that does not belong to the pixels as they are now."""
    icc = metadata.icc
    if not icc or profile_fits(icc, channels):
        return metadata, ()
    if channels == 3 and ink_profile_works(icc):
        return replace(metadata, icc=None), ("converted from CMYK to sRGB by its colour profile",)
    return replace(metadata, icc=None), ("its colour profile does not fit its pixels and was left out",)


def parser_of(kind: str) -> Callable[[bytes, SizeCheck], PictureHeader | TiffPicture]:
    """The function that parses files of the format `kind`. Its module is imported on first use."""
    module = import_module(f"sr_deploy.images.codecs.{'avif' if kind == 'heic' else kind}")
    parse: Callable[[bytes, SizeCheck], PictureHeader | TiffPicture] = getattr(module, f"parse_{kind}")
    return parse


def _notes(path: Path, kind: str, header: PictureHeader | TiffPicture) -> Iterator[str]:
    """Notes on a misleading file name and on what of the file is not used."""
    suffix = path.suffix.lower()
    named = {**READ_ONLY_SUFFIXES, **WRITABLE_SUFFIXES, ".heic": "heic"}.get(suffix, kind)
    if named != kind:
        yield f"named {path.suffix} but is a {NAMES[kind]} file"
    if isinstance(header, PictureHeader):
        if header.frames > 1:
            yield f"animated, {header.frames} frames: only the first is used"
        yield from header.notes
        return
    if header.floats:
        yield "floating point: 0 to 1 was taken as black to white in 16 bits, and what lies outside was cut off"
    if header.page:
        yield f"has {header.frames} pages: only page {header.page + 1}, the first in full size, is used"
    elif header.frames > 1:
        yield f"has {header.frames} pages: only the first is used"


def _decode(
    header: PictureHeader | TiffPicture, check: SizeCheck, *, damaged: bool = False
) -> tuple[AnyArray, AnyArray | None]:
    """Pixels [H, W, 1 or 3] in RGB order and alpha [H, W] or None, of uint8 or uint16, not turned.

    With `damaged`, what cannot be decoded is left as the decoder leaves it. Raises DamagedError,
    UnsupportedError, MemoryError, or the error of `check`.
    """
    if not isinstance(header, PictureHeader):
        from sr_deploy.images.codecs.tiff import decode_tiff

        pixels, alpha = decode_tiff(header, check, damaged=damaged)
    elif header.format == "bmp":
        from sr_deploy.images.codecs.bmp import decode_bmp

        if damaged:
            raise DamagedError("is too damaged to be read")
        pixels, alpha = decode_bmp(header)
    elif header.format == "gif" and not damaged:
        pixels, alpha = _split_channels(decode_by_opencv(header.payload))
    else:
        warn = header.format == "jpeg"
        samples = decode(header.format, header.payload, check, warn=warn, damaged=damaged)
        if header.ink:
            samples = light_of_ink(samples, header.metadata.icc)
        pixels, alpha = _split_channels(samples)
        if header.premultiplied and alpha is not None:
            pixels = divided_by_alpha(pixels, alpha)
    return pixels, alpha


def _split_channels(samples: AnyArray) -> tuple[AnyArray, AnyArray | None]:
    """Pixels [H, W, 1 or 3] and alpha [H, W] or None, from the samples [H, W, 1 to 4] of a decoder."""
    colours = samples.shape[2] - (samples.shape[2] in (2, 4))
    if colours not in (1, 3):
        raise UnsupportedError(f"has {samples.shape[2]} channels, which is not supported")
    alpha = np.ascontiguousarray(samples[..., -1]) if colours < samples.shape[2] else None
    return np.ascontiguousarray(samples[..., :colours]), alpha


# --- writing --------------------------------------------------------------------------------------------


def write_image(
    image: Image | PixelArray,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = True,
    consume: bool = False,
    strip: bool = False,
    ready: Callable[[Path], None] | None = None,
) -> tuple[str, ...]:
    """Write `image` to `path`. Returns notes on what was lost, one clause each.

    `image` may also be an array [H, W, 1 or 3] or [H, W] of uint8 or uint16.

    The file appears complete under its name or not at all. `format` (`png`, `jpeg`, `webp`, `tiff`,
    `bmp`) defaults to that of the suffix. `quality` (1 to 100) applies to JPEG (default 95, or that of
    the JPEG it was read from if that is higher; no colour subsampling from 90 on) and WebP (101 is lossless and the default for a picture that was read from a
    lossless WebP; otherwise 90). With `overwrite=False` an existing
    file is left alone, even if another process creates it during the work. With `consume=True` the
    pixels may be changed and must not be used afterwards, which saves JPEG a copy of them.

    With `strip`, only the metadata that says what the pixels mean is written. `ready` is called with the path of
    the complete temporary file before that gets its name; an error that it raises leaves the old file.

    If the format has no 16 bits, the pixels are rounded to 8; if it has no opacity, the picture is put
    on white; if it has no room for a metadata blob, the blob is left out.

    Raises UsageError for an unknown format, an invalid quality, or a size that the format cannot hold;
    OutputError if the path cannot be written, or exists with `overwrite=False`; OutOfMemoryError. Safe
    to call from several threads.
    """
    image = _as_image(image)
    check_path("path", path)
    path = Path(path)
    if format is not None:
        _check_format(format)
    kind = format_of(format or path)
    check_writable_size(kind.name, image.width, image.height)
    if quality is not None:
        check_whole("quality", quality, 0)
    if quality is not None and not 1 <= quality <= kind.top_quality:
        raise UsageError(
            f"quality must be a number from 1 to {kind.top_quality} for {NAMES[kind.name]}, got {quality!r}"
        )
    target = checked_target(path, overwrite)
    try:
        pixels, alpha, notes = _pixels_for(image, kind)
        if quality is not None and not kind.lossy:
            notes.append(f"{NAMES[kind.name]} is lossless: the quality was not used")
        if strip:
            image = replace(image, metadata=without_texts(image.metadata))
        metadata = _metadata_for(image, kind, notes)
        if quality is None and kind.name == "webp" and image.lossless:
            quality = kind.top_quality
        elif quality is None and kind.name == "jpeg" and image.quality is not None:
            quality = max(JPEG_QUALITY, image.quality)
        with atomic_output(path, target, overwrite, kind.suffixes[0], ready) as temporary:
            dropped = _encode(temporary, kind.name, pixels, alpha, metadata, quality, consume)
    except MemoryError as error:
        raise OutOfMemoryError(
            f"writing {path} does not fit into memory; write a PNG, which needs the least memory"
        ) from error
    too_large = (f"{name} metadata is too large for {NAMES[kind.name]} and was left out" for name in dropped)
    return (*notes, *too_large)


def encode_image(
    image: Image | PixelArray, format: str = "png", *, quality: int | None = None, strip: bool = False
) -> bytes:
    """The bytes of the file that `write_image` writes, for example to send them.

    Arguments and errors are those of `write_image`. A file in the folder for temporary files is written, read and
    deleted.
    """
    from tempfile import TemporaryDirectory

    _check_format(format)
    with TemporaryDirectory(prefix="sr-deploy-") as folder:
        path = Path(folder, f"picture{format_of(format).suffixes[0]}")
        write_image(image, path, quality=quality, strip=strip)
        return path.read_bytes()


def _check_format(format: object) -> None:
    """Raise UsageError unless `format` is a text."""
    if not isinstance(format, str):
        raise UsageError(f"format must be a name such as 'png' or 'jpeg', got {format!r:.60}")


def _as_image(image: Image | AnyArray) -> Image:
    """`image`, or the Image that an array of pixels stands for. Raises UsageError for anything else."""
    if isinstance(image, Image):
        return image
    given: Any = image
    if isinstance(given, np.ndarray):
        return Image(pixels=np.ascontiguousarray(given[..., None] if given.ndim == 2 else given))
    swapped = isinstance(given, (str, os.PathLike))
    hint = "the picture comes first, then the path" if swapped else "numpy.asarray makes an array"
    raise UsageError(f"expected an Image or a NumPy array to write, got {type(given).__name__}; {hint}")


def _metadata_for(image: Image, kind: Format, notes: list[str]) -> Metadata:
    """The metadata to write with the picture. Adds to `notes` what the format cannot hold."""
    metadata, name = image.metadata, NAMES[kind.name]
    if metadata.icc and not profile_fits(metadata.icc, image.pixels.shape[2]):
        notes.append("the colour profile does not fit the pixels and was left out")
        metadata = replace(metadata, icc=None)
    if kind.name == "webp" and metadata.icc and image.pixels.shape[2] == 1:
        notes.append("WebP has no grey pictures: the grey colour profile was left out")
        metadata = replace(metadata, icc=None)
    if kind.name == "bmp" and (metadata.exif or metadata.icc or metadata.xmp):
        notes.append("BMP has no metadata: EXIF, ICC and XMP were left out")
    lost = [
        what
        for part, (what, held_by) in _PARTS.items()
        if getattr(metadata, part) and kind.name not in held_by
    ]
    lost += names_of_chunks(metadata) if kind.name != "png" else []
    if lost:
        notes.append(f"{name} has no place for {', '.join(lost)}: left out")
    return for_size(metadata, image.width, image.height)


_PARTS = {
    "iptc": ("IPTC captions", ("png", "jpeg", "tiff")),
    "comment": ("the comment", ("png", "jpeg")),
    "aspect": ("the shape of a pixel", ("png", "jpeg", "tiff")),
    "geo": ("the georeference", ("tiff",)),
}
"""Part of the metadata -> its name in messages, and the formats that can hold it."""


def _pixels_for(image: Image, kind: Format) -> tuple[AnyArray, AnyArray | None, list[str]]:
    """PixelArray and alpha as `kind` can hold them, and notes on what was lost."""
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
    parts: list[bytes] = []
    dropped: tuple[str, ...] = ()
    if kind in ("jpeg", "webp"):
        from sr_deploy.images.codecs.opencv_writer import encode

        parts = [encode(kind, pixels, alpha, quality, consume)]
    if kind == "jpeg":
        from sr_deploy.images.codecs.jpeg import with_metadata

        parts, dropped = with_metadata(parts[0], metadata)
    elif kind == "webp" and (metadata.exif or metadata.icc or metadata.xmp):
        from sr_deploy.images.codecs.webp import with_metadata as extended

        parts = [extended(parts[0], metadata, pixels.shape[1], pixels.shape[0])]
    with path.open("xb") as file:
        if kind == "png":
            from sr_deploy.images.codecs.png import write_png

            write_png(file, pixels, alpha, metadata)
        elif kind == "tiff":
            from sr_deploy.images.codecs.tiff_writer import write_tiff

            write_tiff(file, pixels, alpha, metadata)
        elif kind == "bmp":
            from sr_deploy.images.codecs.bmp import write_bmp

            write_bmp(file, pixels, metadata.dpi)
        else:
            file.writelines(parts)
    return dropped
