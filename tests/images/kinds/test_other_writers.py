"""Files by other writers, in the layouts that each offers: the pixels are those that were given to the writer.

A writer that is not installed is skipped. The sources have smooth colours, so that lossy files stay near them.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from sr_deploy.errors import ImageError
from sr_deploy.images.image import read_image
from tests.images.samples import Array

HEIGHT, WIDTH = 48, 64
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
WAVES = np.stack([np.sin(_X / 9 + c) * np.cos(_Y / 7 + c) * 0.47 + 0.5 for c in range(3)], 2)
RGB = (WAVES * 255).astype(np.uint8)
DEEP = (WAVES * 65535).astype(np.uint16)
ALPHA = (_X * 4).astype(np.uint8)
MAGICK = next((name for name in ("magick", "convert-im6.q16", "convert-im6") if shutil.which(name)), "magick")
"""Name of ImageMagick's program. Debian's is `convert-im6.q16`, and other programs are called `convert` too."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    PIL.Image.fromarray(RGB).save(folder / "rgb.png")
    PIL.Image.fromarray(np.dstack([RGB, ALPHA])).save(folder / "rgba.png")
    PIL.Image.fromarray(RGB[..., 0]).save(folder / "grey.png")
    PIL.Image.fromarray(RGB).save(folder / "rgb.ppm")
    tifffile.imwrite(folder / "deep.tif", DEEP, photometric="rgb")
    return folder


def expected(source: str) -> tuple[Array, Array | None]:
    """Pixels and opacity of a source."""
    return {
        "rgb.png": (RGB, None),
        "rgb.ppm": (RGB, None),
        "rgba.png": (RGB, ALPHA),
        "grey.png": (RGB[..., :1], None),
        "deep.tif": (DEEP, None),
    }[source]


LOSSLESS = [
    *(("magick", "rgb.png", "tif", f"-compress {c}") for c in ("None", "LZW", "Zip", "RLE")),
    *(("magick", "rgba.png", "tif", f"-compress {c}") for c in ("None", "LZW", "Zip", "RLE")),
    *(("magick", "grey.png", "tif", f"-compress {c}") for c in ("None", "LZW", "Zip", "RLE")),
    ("magick", "rgb.png", "tif", "-interlace plane -compress LZW"),
    ("magick", "rgba.png", "tif", "-interlace plane -compress Zip"),
    ("magick", "deep.tif", "tif", "-endian MSB"),
    ("magick", "deep.tif", "tif", "-define tiff:tile-geometry=32x32 -compress Zip"),
    ("magick", "rgb.png", "tif", "-define tiff:fill-order=lsb -compress LZW"),
    ("magick", "deep.tif", "png", "-define png:bit-depth=16"),
    ("magick", "rgb.png", "png", "-interlace PNG"),
    ("magick", "rgba.png", "png", ""),
    ("magick", "rgb.png", "bmp", ""),
    ("magick", "rgba.png", "bmp", ""),
    ("magick", "grey.png", "bmp", "-compress None"),
    ("magick", "grey.png", "bmp", "-compress RLE"),
    ("gm", "rgb.png", "tif", "-compress LZW"),
    ("gm", "rgba.png", "tif", "-compress Zip"),
    ("gm", "rgb.png", "tif", "-compress RLE"),
    ("gm", "deep.tif", "tif", "-endian MSB"),
    ("gm", "rgb.png", "tif", "-define tiff:fill-order=lsb2msb"),
    ("gm", "rgb.png", "tif", "-interlace plane"),
    ("gm", "rgb.png", "bmp", ""),
    ("vips", "rgb.png", "tif", "[compression=deflate,predictor=horizontal]"),
    ("vips", "rgb.png", "tif", "[compression=lzw,tile,tile-width=16,tile-height=16]"),
    ("vips", "rgb.png", "tif", "[pyramid,tile,tile-width=32,tile-height=32]"),
    ("vips", "rgb.png", "tif", "[pyramid,subifd,tile,tile-width=32,tile-height=32]"),
    ("vips", "deep.tif", "tif", "[bigtiff]"),
    ("vips", "grey.png", "tif", "[miniswhite]"),
    ("vips", "rgb.png", "tif", "[compression=webp,lossless]"),
    ("vips", "rgba.png", "png", "[interlace]"),
    ("vips", "deep.tif", "png", "[filter=none]"),
    ("vips", "rgb.png", "webp", "[lossless]"),
    ("cwebp", "rgb.png", "webp", "-lossless"),
    ("cwebp", "rgba.png", "webp", "-lossless -exact"),
    ("tiffcp", "deep.tif", "tif", "-c lzw:2"),
    ("tiffcp", "deep.tif", "tif", "-8 -c zip:2 -t -w 32 -l 16"),
    ("tiffcp", "deep.tif", "tif", "-B -c packbits -r 7"),
    ("tiffcp", "deep.tif", "tif", "-f lsb2msb -c lzw"),
    ("pnmtotiff", "rgb.ppm", "tif", "-lsb2msb -lzw"),
    ("pnmtotiff", "rgb.ppm", "tif", "-packbits"),
]  # fmt: skip
"""(program, source, suffix, options) of files that hold the very values."""
LOSSY = [
    *(("magick", "rgb.png", "jpg", f"-quality {q} -sampling-factor {s}") for q in (75, 95) for s in ("4:2:0", "4:2:2", "4:4:4")),
    ("magick", "rgb.png", "jpg", "-interlace JPEG"),
    ("magick", "rgb.png", "jpg", "-define jpeg:arithmetic-coding=true"),
    ("magick", "grey.png", "jpg", ""),
    ("magick", "rgb.png", "tif", "-compress JPEG"),
    ("magick", "rgb.png", "tif", "-compress WebP"),
    ("magick", "rgba.png", "tif", "-compress JPEG"),
    ("magick", "rgba.png", "tif", "-define tiff:alpha=associated"),
    ("gm", "rgb.png", "tif", "-compress JPEG"),
    ("vips", "rgb.png", "tif", "[compression=jpeg,tile,Q=90]"),
    ("vips", "rgba.png", "tif", "[premultiply]"),
    ("vips", "rgb.png", "png", "[palette]"),
    ("cwebp", "rgb.png", "webp", "-q 90"),
    ("cwebp", "rgba.png", "webp", "-q 90 -alpha_q 100"),
    ("avifenc", "rgb.png", "avif", "-y 420"),
    ("avifenc", "rgb.png", "avif", "-d 10"),
    ("avifenc", "rgb.png", "avif", "-r limited"),
    ("avifenc", "grey.png", "avif", "-y 400"),
    ("avifenc", "rgba.png", "avif", ""),
    ("avifenc", "rgba.png", "avif", "--premultiply"),
]  # fmt: skip
"""(program, source, suffix, options) of files that hold nearly the values."""


def written(program: str, source: Path, target: Path, options: str) -> Path:
    """Let `program` write `source` to `target`. Skips the test if it is not installed."""
    name = MAGICK if program == "magick" else program
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    words = options.split()
    command = {
        "magick": [name, source, *words, target],
        "gm": [name, "convert", source, *words, target],
        "vips": [name, "copy", source, f"{target}{options}"],
        "cwebp": [name, "-quiet", *words, source, "-o", target],
        "avifenc": [name, "-s", "8", "--min", "0", "--max", "8", *words, source, target],
        "tiffcp": [name, *words, source, target],
        "pnmtotiff": [name, *words, source],
    }[program]
    result = subprocess.run([str(word) for word in command], capture_output=True, timeout=60)
    if program == "pnmtotiff":
        target.write_bytes(result.stdout)
    if not target.exists() or not target.stat().st_size:
        pytest.skip(f"{name} cannot write this: {result.stderr.decode(errors='replace')[:80]}")
    return target


@pytest.mark.parametrize(("program", "source", "suffix", "options"), LOSSLESS)
def test_the_values_are_those_that_were_given(
    sources: Path, tmp_path: Path, program: str, source: str, suffix: str, options: str
) -> None:
    image = read_image(written(program, sources / source, tmp_path / f"a.{suffix}", options))
    pixels, alpha = expected(source)
    assert np.array_equal(image.pixels, np.broadcast_to(pixels, image.pixels.shape))
    assert image.pixels.dtype == pixels.dtype
    assert (image.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(image.alpha, alpha)


@pytest.mark.parametrize(("program", "source", "suffix", "options"), LOSSY)
def test_the_values_are_near_those_that_were_given(
    sources: Path, tmp_path: Path, program: str, source: str, suffix: str, options: str
) -> None:
    image = read_image(written(program, sources / source, tmp_path / f"a.{suffix}", options))
    pixels, alpha = expected(source)
    got = image.pixels / np.iinfo(image.pixels.dtype).max * 255
    clear = (
        np.full((HEIGHT, WIDTH), True) if alpha is None else alpha > 100
    )  # premultiplied colours are coarse
    assert np.abs(got - pixels)[clear].mean() < 4
    assert np.abs(got.mean((0, 1)) - pixels.mean((0, 1))).max() < 3 or alpha is not None
    assert (image.alpha is None) == (alpha is None)
    assert alpha is None or np.abs(image.alpha.astype(int) - alpha).max() <= 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (np.float32, {}),
        (np.float32, {"byteorder": ">"}),
        (np.float32, {"tile": (16, 16), "compression": "zlib"}),
        (np.float32, {"planarconfig": "separate"}),
        (np.float32, {"planarconfig": "separate", "tile": (16, 16)}),
        (np.float16, {}),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_floating_point_becomes_16_bits(
    tmp_path: Path, kind: type[np.floating[Any]], options: dict[str, Any], channels: int
) -> None:
    if channels == 1 and "planarconfig" in options:
        pytest.skip("one channel has no planes")
    values = np.linspace(-0.25, 1.5, 20 * 30 * channels).reshape(20, 30, channels).astype(kind)
    values[0, 1] = np.inf
    if kind is np.float32:  # libtiff makes large numbers of the NaNs of 16 bits
        values[0, 0] = np.nan
    stored: Array = values[..., 0] if channels == 1 else values
    if "planarconfig" in options:
        stored = np.ascontiguousarray(np.moveaxis(values, 2, 0))
    extra: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    colour = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=colour, **extra, **options)
    image = read_image(tmp_path / "a.tif")
    expected = np.rint(np.clip(np.nan_to_num(values.astype(np.float32)), 0, 1) * 65535).astype(np.uint16)
    read = image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])
    assert image.bits == 16
    assert np.array_equal(read, expected)
    assert "cut off" in image.notes[0]


def test_floats_of_0_to_255_are_refused_and_a_lamp_is_not(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    tifffile.imwrite(tmp_path / "wrong.tif", values * 255, photometric="rgb")
    with pytest.raises(ImageError, match=r"floats up to 25\d.*expected 0 \(black\) to 1 \(white\); divide"):
        read_image(tmp_path / "wrong.tif")
    values[:5, :5] = 40.0
    tifffile.imwrite(tmp_path / "lamp.tif", values, photometric="rgb")
    assert read_image(tmp_path / "lamp.tif").pixels[2, 2, 0] == 65535
