"""Mutated pictures: `read_image` returns a picture or raises an sr-deploy error, and nothing else.

Most mutations run in a separate process, so that a native crash or a hang can be told from a failing
test. To try more, run `python tests/images/test_image_fuzz.py MUTATIONS SEED FOLDER`; the file that
caused a crash is then in FOLDER.
"""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms

from sr_deploy.errors import SrDeployError
from sr_deploy.images.image import Image, read_image
from tests.paths import ROOT

SIZE = (24, 30)
MAX_PIXELS = 1 << 20  # otherwise a mutated size could take seconds to decode


def _saved(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def samples() -> dict[str, bytes]:
    """Small real files of every kind, most with metadata."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [np.sin(x / 4 + c) * np.cos(y / (3 + c)) * 120 + 128 for c in range(4)]
    rgba = PIL.Image.fromarray(np.stack(waves, 2).astype(np.uint8))
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = PIL.Image.fromarray((waves[0] * 250).astype(np.uint16))
    palette = rgb.quantize(40)
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", 6
    exif.get_ifd(0x8769)[0xA002] = 30
    exif.get_ifd(0x8825)[1] = "N"
    icc = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    both = {"exif": exif.tobytes(), "icc_profile": icc}
    xmp = {"xmp": b'<x tiff:Orientation="6"/>'}
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    return {
        "png rgb": _saved(rgb, "PNG", **both),
        "png rgba": _saved(rgba, "PNG"),
        "png palette": _saved(palette, "PNG", transparency=b"\0\x80"),
        "png grey key": _saved(grey, "PNG", transparency=128),
        "png 16": _saved(deep, "PNG"),
        "png animated": _saved(rgb, "PNG", **frames),
        "jpeg": _saved(rgb, "JPEG", **both, **xmp),
        "jpeg progressive": _saved(rgb, "JPEG", progressive=True),
        "jpeg grey": _saved(grey, "JPEG", restart_marker_blocks=2),
        "jpeg cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
        "webp": _saved(rgb, "WEBP", **both, **xmp),
        "webp alpha": _saved(rgba, "WEBP", quality=70),
        "webp lossless": _saved(rgba, "WEBP", lossless=True),
        "webp animated": _saved(rgb, "WEBP", **frames),
        "tiff": _saved(rgb, "TIFF", **both),
        "tiff alpha": _saved(rgba, "TIFF", compression="tiff_lzw"),
        "tiff 16": _saved(deep, "TIFF", compression="tiff_adobe_deflate"),
        "tiff palette": _saved(palette, "TIFF", compression="packbits"),
        "tiff bits": _saved(grey.convert("1"), "TIFF"),
        "tiff jpeg": _saved(rgb, "TIFF", compression="jpeg"),
        "tiff big": _saved(rgb, "TIFF", big_tiff=True),
        "tiff pages": _saved(rgb, "TIFF", **frames),
        "bmp": _saved(rgb, "BMP"),
        "bmp palette": _saved(palette, "BMP"),
        "bmp runs": _bmp_of_runs(),
        "gif": _saved(palette, "GIF", transparency=3),
        "gif animated": _saved(rgb, "GIF", **frames),
    }


def _bmp_of_runs() -> bytes:
    """An 8-bit BMP in RLE8, which Pillow reads but does not write."""
    rows = (
        b"".join(bytes([10, y, 0, 5, 1, 2, 3, 4, 5, 0, 15, 255 - y, 0, 0]) for y in range(SIZE[0])) + b"\0\1"
    )
    table = b"".join(bytes([i, 255 - i, i // 2, 0]) for i in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, SIZE[1], SIZE[0], 1, 8, 1, len(rows), 0, 0, 256, 0)
    return (
        struct.pack("<2sIHHI", b"BM", 54 + len(table) + len(rows), 0, 0, 54 + len(table))
        + header
        + table
        + rows
    )


def _place(rng: random.Random, data: bytearray) -> int:
    """A random offset, with a preference for the first bytes, where lengths and sizes are."""
    return rng.randrange(min(len(data), 300) if rng.random() < 0.6 else len(data))


def _flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _splice(rng: random.Random, data: bytearray) -> None:
    start, at = rng.randrange(len(data)), _place(rng, data)
    piece = data[start : start + rng.choice((1, 4, 16, 200))]
    data[at : at + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _remove(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 12, 100))]


def _number(rng: random.Random, data: bytearray) -> None:
    at, form = _place(rng, data), rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q", "B"))
    top = 1 << 8 * struct.calcsize(form)
    value = rng.choice(
        (0, 1, 2, 255, 256, 65535, top - 1, top // 2, top // 2 - 1, len(data), rng.randrange(top))
    )
    piece = struct.pack(form, value % top)
    data[at : at + len(piece)] = piece


def _noise(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at : at + 20] = rng.randbytes(rng.choice((1, 20, 60)))


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (_flip, _flip, _cut, _splice, _remove, _number, _number, _noise)  # fmt: skip


def _with_right_checksums(data: bytes) -> bytes:
    """A PNG with corrected checksums, so that the mutation reaches the code behind the checksum test."""
    result, at = bytearray(data), 8
    while at + 12 <= len(result):
        end = at + 8 + int.from_bytes(result[at : at + 4], "big")
        if end + 4 > len(result):
            break
        result[end : end + 4] = struct.pack(">I", zlib.crc32(result[at + 4 : end]))
        at = end + 4
    return bytes(result)


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(rng, changed)
        changed = changed or bytearray(b"\0")
    mends = data.startswith(b"\x89PNG") and rng.random() < 0.7
    return _with_right_checksums(bytes(changed)) if mends else bytes(changed)


def check(path: Path) -> Image | str:
    """The picture at `path`, or the name of the sr-deploy error. Raises for anything else."""
    try:
        image = read_image(path, max_pixels=MAX_PIXELS)
    except SrDeployError as error:
        if "\n" in str(error):
            raise
        return type(error).__name__
    assert isinstance(image, Image)
    assert 0 < image.width * image.height <= MAX_PIXELS
    int(image.pixels.sum()) + (
        0 if image.alpha is None else int(image.alpha.sum())
    )  # touches every byte, to detect invalid memory
    return image


DEPENDENT = (
    "png rgb",
    "jpeg",
    "jpeg progressive",
    "webp",
    "webp lossless",
    "tiff alpha",
    "tiff 16",
    "tiff jpeg",
    "gif",
)
"""Samples whose rows depend on each other: elsewhere, a changed bit of a pixel or of a palette may be black."""


def is_black(image: Image, intact: Image) -> bool:
    """True if two rows or more are black that are not black in the intact picture of the same size."""
    if image.pixels.shape != intact.pixels.shape:
        return False
    black = ~image.pixels.any(axis=(1, 2)) & intact.pixels.any(axis=(1, 2))
    return bool(black.sum() >= 2)


def fuzz(count: int, seed: int, folder: Path) -> Counter[str]:
    """Outcomes of `count` mutations of every sample; the current one is always in `folder/mutant`.

    "black" counts pictures with a black area that the intact file does not have; these files are kept.
    """
    outcomes: Counter[str] = Counter()
    path = folder / "mutant"
    for name, data in samples().items():
        path.write_bytes(data)
        intact = read_image(path)
        for i in range(count):
            path.write_bytes(mutated(data, random.Random(f"{name}/{seed}/{i}")))
            result = check(path)
            outcomes[result if isinstance(result, str) else "picture"] += 1
            if isinstance(result, Image) and name in DEPENDENT and is_black(result, intact):
                outcomes["black"] += 1
                (folder / f"black-{name}-{i}").write_bytes(path.read_bytes())
    return outcomes


def test_the_samples_themselves_are_read(tmp_path: Path) -> None:
    for name, data in samples().items():
        (tmp_path / name).write_bytes(data)
        image = read_image(tmp_path / name)
        assert {image.width, image.height} == set(SIZE), name


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, __file__, "150", "1", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, f"{tmp_path / 'mutant'}: exit code {done.returncode}\n{done.stderr[-2000:]}"
    outcomes = dict(line.split() for line in done.stdout.splitlines())
    assert set(outcomes) == {"picture", "ImageError"}
    assert sum(map(int, outcomes.values())) == 150 * len(samples())


def test_damage_leaves_no_black_area_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "mutant"
    for name in DEPENDENT:
        data = samples()[name]
        path.write_bytes(data)
        intact = read_image(path)
        for i in range(60):
            path.write_bytes(mutated(data, random.Random(f"black/{name}/{i}")))
            image = check(path)
            assert isinstance(image, str) or not is_black(image, intact), f"{name}, mutation {i}"


if __name__ == "__main__":
    for outcome, number in fuzz(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])).items():
        print(outcome, number)
