"""Files that are refused: not pictures, damaged, or with false headers. Each error is one sentence."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from sr_deploy.errors import ImageError, MissingRuntimeError
from sr_deploy.images.image import (
    Image,
    read_image,
    write_image,
)
from tests.images.samples import (
    noise,
    package_on_path,
    read,
    refused,
    saved,
    smooth,
)


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for content, part in (
        (b"", "empty"),
        (b"Dear diary, today I did not take a picture.\n", "text"),
        (np.random.default_rng(0).bytes(5000), "no known kind"),
        (b"\0\0\0\x1cftypavif" + b"\0" * 50, "AVIF"),
        (b"\0\0\0\x1cftypheic" + b"\0" * 50, "HEIC"),
        (b"\xff\x0a" + b"\1" * 50, "JPEG XL"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        assert part in refused(tmp_path / "a.png")
    assert "folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(tmp_path / "pipe.png")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "a.png").chmod(0)
    assert "permission" in refused(tmp_path / "a.png").lower()


def header_only(kind: str, width: int, height: int) -> bytes:
    if kind == "png":
        body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    if kind == "jpeg":
        return (
            b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", height, width) + b"\3\1\x11\0\2\x11\0\3\x11\0"
        )
    if kind == "webp":
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + size
    if kind == "bmp":
        return struct.pack("<2sIHHIIiiHHI", b"BM", 0, 0, 0, 54, 40, width, height, 1, 24, 0) + b"\0" * 20
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0"
    entries = b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in ((256, width), (257, height)))
    return b"II*\0\x08\0\0\0\2\0" + entries + b"\0" * 4


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [("png", 250_000, 200_000), ("jpeg", 65_000, 65_000), ("webp", 16_000_000, 16_000_000),
     ("bmp", 250_000, 200_000), ("gif", 65_000, 65_000), ("tiff", 250_000, 200_000), ("png", 2_000_000, 1)],
)  # fmt: skip
def test_a_header_of_many_gigapixels_is_refused(tmp_path: Path, kind: str, width: int, height: int) -> None:
    (tmp_path / "a").write_bytes(header_only(kind, width, height))
    assert f"{width}x{height} pixels are too many" in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "tiff"])
def test_a_header_of_no_pixels_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(header_only(kind, 0, 10))
    assert "0x10 pixels" in refused(tmp_path / "a")


def test_the_limit_of_pixels_is_the_callers(tmp_path: Path) -> None:
    write_image(Image(pixels=noise(10, 20, 3)), tmp_path / "a.png")
    assert "at most 199" in refused(tmp_path / "a.png", max_pixels=199)
    assert read_image(tmp_path / "a.png", max_pixels=200).width == 20


def test_a_header_that_promises_more_than_the_data_holds_is_refused(tmp_path: Path) -> None:
    data = header_only("png", 16_000, 16_000)
    for kind, body in ((b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a").write_bytes(data)
    assert "too few" in refused(tmp_path / "a")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True}),
     ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("GIF", {})],
)  # fmt: skip
def test_a_truncated_file_is_refused_wherever_it_ends(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    data = saved(PIL.Image.fromarray(smooth(60, 80, 3)), kind, **options)
    assert read(tmp_path, data).width == 80
    for kept in sorted({1, 3, 9, 20, 40, *range(len(data) // 20, len(data), len(data) // 20), len(data) - 1}):
        (tmp_path / "cut").write_bytes(data[:kept])
        refused(tmp_path / "cut")


def test_files_made_to_waste_time_are_refused(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(smooth(20, 20, 1)[..., 0]), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : start + 13]
    (tmp_path / "a").write_bytes(data[:-2] + scan * 20_000 + b"\xff\xd9")
    assert "scans" in refused(tmp_path / "a")
    many = struct.pack("<H", 60_000) + b"".join(struct.pack("<HHII", i, 1, 1 << 19, 8) for i in range(60_000))
    (tmp_path / "b").write_bytes(b"II*\0\x08\0\0\0" + many + b"\0" * 4)
    assert "tags" in refused(tmp_path / "b")


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(saved(PIL.Image.fromarray(noise(60, 80, 3)), "PNG"))
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    assert "checksum" in refused(tmp_path / "a.png")


def test_a_strange_profile_makes_no_noise(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(noise(9, 9, 3)), "PNG", icc_profile=b"\0" * 300)
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "b.png").write_bytes(data[:-20])
    code = (
        "import sys; from sr_deploy.images.image import read_image; from sr_deploy.errors import ImageError\n"
        "print(read_image(sys.argv[1]).notes)\n"
        "try: read_image(sys.argv[2])\n"
        "except ImageError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=package_on_path())
    assert done.stdout.split("\n")[:2] == [
        "('its colour profile does not fit its pixels and was left out',)",
        "refused",
    ]
    assert done.stderr == ""


def test_without_libvips_png_is_read_with_a_note_and_tiff_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3) * 999
    for name in ("a.png", "a.tif"):
        write_image(Image(pixels=pixels), tmp_path / name)
    monkeypatch.setitem(sys.modules, "pyvips", None)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.pixels, pixels)
    assert image.notes == ("libvips is missing: OpenCV decoded it, which may not notice damage",)
    with pytest.raises(MissingRuntimeError, match="pip install pyvips pyvips-binary"):
        read_image(tmp_path / "a.tif")
