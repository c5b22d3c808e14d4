"""XMP packets (XML): numbers that follow the picture's size, and properties of data that is left out.

A packet is edited as bytes, so everything else in it stays as it was. A property may be an attribute or
an element of the XML; its prefix is the one that the packet declares for the namespace. No expression
here takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_TIFF, _EXIF = b"http://ns.adobe.com/tiff/1.0/", b"http://ns.adobe.com/exif/1.0/"
_PANORAMA = b"http://ns.google.com/photos/1.0/panorama/"
_NOTE = b"http://ns.adobe.com/xmp/note/"
_GAIN_MAP = b"http://ns.adobe.com/hdr-gain-map/1.0/"
_CAMERA = b"http://ns.google.com/photos/1.0/camera/"
_CONTAINER = b"http://ns.google.com/photos/1.0/container/"

_ACROSS = ("CroppedAreaImageWidth", "FullPanoWidth", "CroppedAreaLeft", "LargestValidInteriorRectWidth", "LargestValidInteriorRectLeft")  # fmt: skip
"""Properties of a panorama that count pixels horizontally, some with "Pixels" at their end."""
_DOWN = ("CroppedAreaImageHeight", "FullPanoHeight", "CroppedAreaTop", "LargestValidInteriorRectHeight", "LargestValidInteriorRectTop")  # fmt: skip
"""Properties of a panorama that count pixels vertically."""
_LEFT_OUT = (
    (_NOTE, rb"HasExtendedXMP", "its extended XMP was left out"),
    (_GAIN_MAP, rb"[\w.-]+", "its gain map (HDR) was left out"),
    (_CAMERA, rb"(?:MotionPhoto|MicroVideo)\w*", "its video (motion photo) was left out"),
    (_CONTAINER, rb"Directory", ""),
)
"""(namespace, properties, note) of data that lies outside of the packet and is never copied. The directory
of a container lists such data, so it needs no note of its own."""


def with_upright_orientation(xmp: bytes) -> bytes:
    """The packet with tiff:Orientation 1. A viewer might apply the orientation a second time."""
    return _with_numbers(xmp, b"tiff", rb"Orientation", lambda value: 1 if 2 <= value <= 8 else value)


def without_lost_data(xmp: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The packet without properties of data that lies outside of it, and a note for each kind of data."""
    notes = []
    for namespace, names, note in _LEFT_OUT:
        prefix = _prefix(xmp, namespace)
        if prefix is None:
            continue
        shorter = _without(xmp, prefix, names)
        if shorter != xmp and note:
            notes.append(note)
        xmp = shorter
    return xmp, tuple(notes)


def for_size(xmp: bytes, old: tuple[int, int] | None, new: tuple[int, int]) -> bytes:
    """The packet of a picture of (width, height) `old` for one of `new`.

    Without `old`, positions in a panorama stay as they are.
    """
    for namespace, names in ((_TIFF, (rb"ImageWidth", rb"ImageLength")), (_EXIF, (rb"PixelXDimension", rb"PixelYDimension"))):  # fmt: skip
        prefix = _prefix(xmp, namespace)
        for name, size in zip(names, new, strict=True):
            if prefix is not None:
                xmp = _with_numbers(xmp, prefix, name, lambda _, size=size: size)  # type: ignore[misc]
    prefix = _prefix(xmp, _PANORAMA)
    if prefix is None or old is None:
        return xmp
    for names_of_axis, before, after in ((_ACROSS, old[0], new[0]), (_DOWN, old[1], new[1])):
        pattern = rb"(?:%s)(?:Pixels)?" % "|".join(names_of_axis).encode()
        xmp = _with_numbers(xmp, prefix, pattern, lambda v, b=before, a=after: round(v * a / b))  # type: ignore[misc]
    return xmp


def _prefix(xmp: bytes, namespace: bytes) -> bytes | None:
    """The prefix that the packet declares for `namespace`, or None."""
    found = re.search(rb"xmlns:([\w.-]+)\s*=\s*[\"']" + re.escape(namespace) + rb"[\"']", xmp)
    return found[1] if found else None


def _with_numbers(xmp: bytes, prefix: bytes, names: bytes, change: Callable[[int], int]) -> bytes:
    """The packet with `change` applied to the whole numbers that the properties `names` hold."""
    pattern = rb"(\b%s:(?:%s)\s*(?:=\s*[\"']|>)\s*)(\d{1,9})(?!\d)" % (re.escape(prefix), names)
    return re.sub(pattern, lambda found: found[1] + b"%d" % change(int(found[2])), xmp)


def _without(xmp: bytes, prefix: bytes, names: bytes) -> bytes:
    """The packet without the properties `names` of `prefix`."""
    name = re.escape(prefix) + rb":(?:%s)" % names
    xmp = re.sub(rb"\s%s\s*=\s*(?:\"[^\"<]*\"|'[^'<]*')" % name, b"", xmp)
    kept, at = [], 0
    for start in re.finditer(rb"<(%s)\b[^<>]*>" % name, xmp):
        if start.start() < at:
            continue  # inside of an element that is removed already
        end = start.end()
        if not start[0].endswith(b"/>"):
            close = xmp.find(b"</" + start[1] + b">", end)
            if close < 0:
                break
            end = close + len(start[1]) + 3
        kept.append(xmp[at : start.start()])
        at = end
    return b"".join(kept) + xmp[at:]
