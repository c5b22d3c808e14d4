"""libvips: the decoder of every format except BMP and GIF.

libvips stops at damage if it is asked to. OpenCV's decoders return black or grey rows instead. It also
returns the samples of every kind of TIFF as they are meant, and converts CMYK by its colour profile.

`pyvips` is imported on first use: the import takes 10 ms, which commands without pictures need not pay.
Where it cannot be imported, OpenCV decodes PNG, JPEG and WebP, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sr_deploy.errors import MissingRuntimeError
from sr_deploy.images.codecs.headers import DamagedError, SizeCheck, UnsupportedError
from sr_deploy.images.codecs.pixels import decode_by_opencv, ink_to_light
from sr_deploy.images.metadata.blobs import ink_profile_works
from sr_deploy.system.arrays import AnyArray

_DTYPES = {"uchar": np.uint8, "ushort": np.uint16}
"""Sample type of libvips -> that of numpy. Other types are refused."""
_SPACES = {
    (1, "uchar"): "b-w",
    (1, "ushort"): "grey16",
    (3, "uchar"): "srgb",
    (3, "ushort"): "rgb16",
    (4, "uchar"): "cmyk",
    (4, "ushort"): "cmyk",
}
"""Number of channels and sample type of libvips -> its name of the colour space."""
_LOADERS = {"avif": "heif", "heic": "heif"}
"""Names of formats whose loader has another name."""
FALLBACK = ("png", "jpeg", "webp")
"""Formats that OpenCV decodes where libvips is missing."""
_HARMLESS = (
    "unknown JFIF revision",
    "extraneous bytes before marker 0xd9",
    "Invalid SOS parameters for sequential JPEG",
    "Unknown Adobe color transform code",
)
"""Warnings of libjpeg that do not concern the pixels: 0xd9 is the end marker."""


def _pyvips() -> Any:
    """The module `pyvips`, with its cache of results switched off. Raises MissingRuntimeError."""
    try:
        import pyvips  # type: ignore[import-untyped, unused-ignore]
    except (ImportError, OSError) as error:  # OSError: pyvips is there, and the library libvips is not
        raise MissingRuntimeError(
            f"this picture needs libvips, which cannot be loaded ({error}); pip install pyvips pyvips-binary, "
            "or where that has no wheel, install libvips with the system's package manager"
        ) from error
    pyvips.cache_set_max(0)  # the cache would keep whole files in memory
    return pyvips


def is_missing() -> bool:
    """True if libvips cannot be loaded."""
    try:
        _pyvips()
    except MissingRuntimeError:
        return True
    return False


def decode(
    kind: str, payload: bytes, check: SizeCheck, *, page: int = 0, warn: bool = False, damaged: bool = False
) -> AnyArray:
    """Decode a file of the format `kind`: [H, W, bands] of uint8, uint16 or float32, as stored, not turned.

    `page` counts from 0 (TIFF only). With `warn`, warnings of the decoder count as damage, as they must for
    JPEG data. With `damaged`, what cannot be decoded is left as it is; otherwise damage raises DamagedError.

    Raises DamagedError, UnsupportedError, MemoryError, or the error of `check`; MissingRuntimeError without
    libvips, except for the formats of `FALLBACK`. Safe to call from several threads.
    """
    if kind in FALLBACK and is_missing():
        samples = decode_by_opencv(payload)
        check(samples.shape[1], samples.shape[0])
        return samples
    fail_on = "none" if damaged else "warning" if warn else "error"
    try:
        return _samples(_open(kind, payload, check, page, fail_on))
    except DamagedError as error:
        if fail_on == "warning" and any(harmless in str(error) for harmless in _HARMLESS):
            return _samples(_open(kind, payload, check, page, "error"))
        raise


class VipsHeader(NamedTuple):
    """Facts that libvips reads before it decodes."""

    width: int
    """Width in pixels, as decoded."""
    height: int
    """Height in pixels, as decoded."""
    pages: int
    """Number of pictures in the file."""
    exif: bytes | None
    icc: bytes | None
    xmp: bytes | None


def read_header(kind: str, payload: bytes, check: SizeCheck) -> VipsHeader:
    """Read the header of a file. Raises the errors of `decode`."""
    image = _open(kind, payload, check, 0, "error")
    names = set(image.get_fields())
    exif, icc, xmp = (
        bytes(image.get(name)) if name in names else None
        for name in ("exif-data", "icc-profile-data", "xmp-data")
    )
    pages = image.get("n-pages") if "n-pages" in names else 1
    return VipsHeader(image.width, image.height, pages, exif, icc, xmp)


class FileRows(NamedTuple):
    """A file whose rows are decoded in order."""

    shape: tuple[int, int, int]
    """Height and width in pixels, and channels."""
    dtype: np.dtype[Any]
    """Type of the samples: uint8 or uint16."""
    read: Callable[[int, int], AnyArray]
    """Function (first row, number of rows) that decodes these rows: [rows, W, channels]. Each row only once."""


def open_rows(kind: str, source: Path | bytes, page: int) -> FileRows:
    """Open a TIFF file, or the bytes of a PNG. Raises DamagedError, as reading rows does, or UnsupportedError."""
    pyvips = _pyvips()
    options: dict[str, Any] = {"access": "sequential", "fail_on": "error"}
    options |= {"page": page} if kind == "tiff" else {"unlimited": True}
    name, place = (f"{kind}load", str(source)) if isinstance(source, Path) else (f"{kind}load_buffer", source)
    try:
        image = pyvips.Operation.call(name, place, **options)
    except pyvips.Error as error:
        raise _as_ours(error) from error
    if image.format not in _DTYPES:
        raise UnsupportedError(f"has samples of the type {image.format}, which are not supported")
    dtype = np.dtype(_DTYPES[image.format])
    read = partial(_fetched, image, pyvips.Region.new(image), dtype)
    return FileRows((image.height, image.width, image.bands), dtype, read)


def _fetched(image: Any, region: Any, dtype: np.dtype[Any], first: int, count: int) -> AnyArray:
    """`count` rows of `image` from the row `first` on. Raises DamagedError."""
    try:
        fetched = region.fetch(0, first, image.width, count)
    except _pyvips().Error as error:
        raise _as_ours(error) from error
    return np.frombuffer(fetched, dtype).reshape(count, image.width, image.bands)


def light_of_ink(ink: AnyArray, icc: bytes | None) -> AnyArray:
    """RGB [H, W, 3] from CMYK [H, W, 4]: sRGB by the colour profile `icc` if that is one of ink.

    Raises MissingRuntimeError without libvips, because OpenCV returns ink as colours of its own making.
    """
    _pyvips()
    return to_srgb(ink, icc) if icc and ink_profile_works(icc) else ink_to_light(ink)


def to_srgb(pixels: AnyArray, icc: bytes) -> AnyArray:
    """Convert grey, RGB or CMYK [H, W, 1, 3 or 4] to sRGB of the same depth by its colour profile: [H, W, 1 or 3].

    The intent is relative colorimetric with black point compensation, as Photoshop uses it by default. Raises
    DamagedError if the profile cannot be used.
    """
    pyvips = _pyvips()
    height, width, bands = pixels.shape
    form = "uchar" if pixels.dtype == np.uint8 else "ushort"
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels).data, width, height, bands, form)
    image = image.copy(interpretation=_SPACES[bands, form])
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    try:
        light = image.icc_transform(
            "srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8 * pixels.itemsize
        )
        return np.ascontiguousarray(_samples(light)[..., : 3 if bands > 1 else 1])
    except pyvips.Error as error:
        raise DamagedError(f"has a colour profile that cannot be used ({_first_line(error)})") from error


def _open(kind: str, payload: bytes, check: SizeCheck, page: int, fail_on: str) -> Any:
    """Read the header and check the size. The pixels are decoded when they are asked for."""
    pyvips = _pyvips()
    options: dict[str, Any] = {"access": "sequential", "fail_on": fail_on}
    if kind == "tiff":
        options["page"] = page
    if kind == "png":
        # without it libvips refuses files with much text; `png.py` has already left out the text
        options["unlimited"] = True
    try:
        image = pyvips.Operation.call(f"{_LOADERS.get(kind, kind)}load_buffer", payload, **options)
    except pyvips.Error as error:
        raise _as_ours(error) from error
    check(image.width, image.height)
    return image


def _samples(image: Any) -> AnyArray:
    """The pixels of `image` as an array."""
    dtype: Any = (_DTYPES | {"float": np.float32}).get(image.format)
    if dtype is None:
        raise UnsupportedError(f"has samples of the type {image.format}, which are not supported")
    try:
        memory = image.write_to_memory()
    except _pyvips().Error as error:
        raise _as_ours(error) from error
    samples = np.frombuffer(memory, dtype).reshape(image.height, image.width, image.bands)
    if dtype == np.uint16 and _loader(image).startswith("heif"):
        # 10 and 12 bits are in the upper bits: repeated in the lower ones, they reach white
        samples |= samples >> image.get("bits-per-sample")
    return samples


def _loader(image: Any) -> str:
    """Name of the loader that an image comes from; empty if it comes from memory."""
    return str(image.get("vips-loader")) if "vips-loader" in image.get_fields() else ""


def _as_ours(error: Exception) -> Exception:
    """The error of libvips as DamagedError, UnsupportedError or MemoryError."""
    if "out of memory" in str(error) or "creating thread" in str(error):
        return MemoryError(str(error))
    if "has not been built in" in str(error):  # libheif's words for a missing decoder
        return UnsupportedError(f"needs a decoder that libvips has not here ({_first_line(error)})")
    if "is not configured" in str(error):  # as in "WEBP compression support is not configured"
        return UnsupportedError(f"needs a part of libvips that is missing here ({_first_line(error)})")
    return DamagedError(f"cannot be decoded ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    """The first line of libvips' own words, without the name of the function that failed."""
    lines = [line.partition(": ")[2] or line for line in str(getattr(error, "detail", error)).splitlines()]
    return next((line for line in lines if line.strip()), "no reason given")[:200]
