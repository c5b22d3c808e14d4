"""AVIF and HEIC, two kinds of pictures in one kind of file (HEIF): libvips reads all of AVIF. Neither is written.

HEIC is compressed by HEVC, for which not every libvips has a decoder: that of `pyvips-binary` has none (8.18), that of
Debian and Homebrew has one. Turning and mirroring belong to the decoding of this format (ISO/IEC 23008-12: irot and imir), so an orientation
in the EXIF block does not count.
"""

from __future__ import annotations

from functools import lru_cache

from sr_deploy.errors import MissingRuntimeError
from sr_deploy.images.codecs.headers import DamagedError, PictureHeader, SizeCheck, UnsupportedError
from sr_deploy.images.codecs.vips import decode, read_header
from sr_deploy.images.metadata.blobs import Metadata

_NCLX = b"colrnclx"
"""Box with the meaning of pixel values by numbers of ITU-T H.273: primaries, transfer and matrix, 2 bytes each."""
_SRGB = (1, 13)  # primaries and transfer of sRGB
_UNKNOWN = 2


_PROBE = (
    "c-mc3J4*vW5T4zO@d}B-2Z)BCVj(tOtWsDUJ_<owOCj9D40yUEL9|l{h*pW9h1J=Mb|O~hUswc5Au3juDU>+7d#BMk=H}a(Z)Wyp"
    "4gfNKWnUCMbbus4KPPd31s{Mt2VSKBS|*C_Rw=?D(5b*bNeQe33USgjx&=*1(*v-ITRRRTuw;V)Os8-&Mv$Sb7{}Hmrshrk`0hy8"
    "5Vw7GlJQ|WcwA-?r?~6npv$Q)vspqH{xB(Tc@I^MM-(MN_7;V+Lw1)+EHXp<d{_1ZKEK*+fPQ0~Qb%mo$2uKJFrcQcU_kbs+Y=O="
    "Szzp6Bpg5NIe)*tcxl=8!+~_ES9Ox;$tBh(H;$>v5SE1(HMAq`_N8MLxQFV?P17VZiXw<NL<8i995^?sbehJJ=f|sYG1ycCmSapg"
    "ZrM>wkOOK4dQl_O>?SdgZ?@0EQ|sz=cK&kXsa5|tIgkZbR%Sr9OTqxt+mkxVdX!x!9gFaWY#niA`9c26$D@R@@wM{w&%GJHHVIJc"
    "g#<;cxtzu78Z)W@VdT$Q77KO7PKP>#x}qG7(S@aa1GNKcYX"
)
"""A HEIC of 16x16 pixels, compressed by zlib and written in base 85."""
WAY_OUT = (
    "the libvips here has no decoder for HEIC; convert the pictures to JPEG or PNG, or use the system's libvips: "
    "apt install libvips42 (macOS: brew install vips), then pip uninstall pyvips-binary"
)
"""Sentence for pictures that cannot be read for want of a decoder."""


@lru_cache(maxsize=1)
def reads_heic() -> bool:
    """True if libvips can decode HEIC here. It is tried once, because libvips does not tell what libheif can do."""
    import base64
    import zlib

    try:
        decode("heic", zlib.decompress(base64.b85decode(_PROBE)), lambda width, height: None)
    except (DamagedError, UnsupportedError, MissingRuntimeError):
        return False
    return True


def parse_heic(data: bytes, check: SizeCheck) -> PictureHeader:
    """Read the header of a HEIC. Raises UnsupportedError without a decoder, else the errors of `parse_avif`."""
    if not reads_heic():
        raise UnsupportedError(f"is in the format HEIC: {WAY_OUT}")
    return parse_avif(data, check, "heic")


def parse_avif(data: bytes, check: SizeCheck, kind: str = "avif") -> PictureHeader:
    """Read the header of an AVIF. Raises DamagedError or the error of `check`."""
    try:
        header = read_header(kind, data, check)
    except DamagedError as error:
        raise DamagedError(f"is {kind.upper()} and {error}") from error
    metadata = Metadata(exif=header.exif, icc=header.icc, xmp=header.xmp, chunks=_colour_chunks(data))
    pages = f"holds {header.pages} pictures: only the first is used"
    return PictureHeader(
        format=kind,
        payload=data,
        metadata=metadata,
        orientation=1,
        premultiplied=_is_premultiplied(data),
        notes=(pages,) if header.pages > 1 else (),
    )


def _is_premultiplied(data: bytes) -> bool:
    """True if the file says that its colours were multiplied by their opacity, which libvips ignores (seen in 8.18).

    It says so by a reference of the type `prem` from the picture to its opacity (ISO/IEC 23008-12, 6.10.1).
    """
    at = data.find(b"iref", 0, 1 << 16)
    size = int.from_bytes(data[max(0, at - 4) : max(0, at)], "big")
    return at >= 0 and b"prem" in data[at : at + min(size, 1 << 16)]


def _colour_chunks(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The meaning of the pixel values as a cICP chunk of PNG, unless it is sRGB or not said.

    The matrix is 0 and the range full, because the pixels are decoded to RGB.
    """
    at = data.find(_NCLX, 0, 1 << 16)  # the box is near the start of the file
    colours = data[at + len(_NCLX) : at + len(_NCLX) + 4]
    if at < 0 or len(colours) < 4:
        return ()
    primaries, transfer = int.from_bytes(colours[:2], "big"), int.from_bytes(colours[2:], "big")
    if (primaries, transfer) == _SRGB or _UNKNOWN in (primaries, transfer) or max(primaries, transfer) > 255:
        return ()
    return ((b"cICP", bytes((primaries, transfer, 0, 1))),)
