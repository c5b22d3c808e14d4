"""Pictures, files and metadata blobs that the tests of reading and writing share. It contains no tests."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from sr_deploy.errors import ImageError
from sr_deploy.images.image import (
    Image,
    read_image,
)
from tests.paths import ROOT

Array = npt.NDArray[Any]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description dc:title="a title"/></x:xmpmeta>'


def smooth(height: int, width: int, channels: int, bits: int = 8) -> Array:
    """A picture with gradients and fine detail in every channel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + c) * np.cos(y / (4 + c)) * 0.4 + 0.5 for c in range(channels)]
    top = 2**bits - 1
    return np.ascontiguousarray(np.rint(np.stack(waves, 2) * top).astype(f"uint{bits}"))


def noise(height: int, width: int, channels: int, bits: int = 8) -> Array:
    return np.random.default_rng(5).integers(0, 2**bits, (height, width, channels), dtype=f"uint{bits}")


def picture(channels: int = 3, bits: int = 8, alpha: bool = False, size: tuple[int, int] = (37, 53)) -> Image:
    pixels = noise(*size, channels + 1, bits)
    opacity = np.ascontiguousarray(pixels[..., -1]) if alpha else None
    return Image(pixels=np.ascontiguousarray(pixels[..., :channels]), alpha=opacity)


def saved(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes, name: str = "picture") -> Image:
    path = tmp_path / name
    path.write_bytes(data)
    return read_image(path)


def joined(image: Image) -> Array:
    """The picture as one array [H, W, C], opacity last."""
    return image.pixels if image.alpha is None else np.dstack((image.pixels, image.alpha))


def profile(space: str = "sRGB") -> bytes:
    return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile(space)).tobytes()


def grey_profile() -> bytes:
    return profile().replace(b"RGB ", b"GRAY", 1)


def camera_exif(orientation: int = 1) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", orientation
    exif.get_ifd(0x8769).update({0xA002: 53, 0xA003: 37, 0x829A: 0.125})
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def refused(path: Path, **options: Any) -> str:
    """The error message for `path`, after checking that it is one line."""
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def package_on_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
