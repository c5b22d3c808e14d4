"""Generated TIFF, PNG and BMP files of all layouts: the pixels are those that were put in, and those of other readers."""

from __future__ import annotations

import io
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.images.image import Image, read_image
from tests.images.kinds.builders import COMPRESSORS, bmp_file, png_file, tiff_file
from tests.images.kinds.test_cases_pixels import case
from tests.images.samples import Array, joined, refused

EXAMPLES = settings(max_examples=120, deadline=None, database=None, derandomize=True)


def read(data: bytes) -> Image:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        path.write_bytes(data)
        return read_image(path)


def values(seed: int, shape: tuple[int, ...], bits: int) -> Array:
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=np.uint32).astype(np.int64)


def full_range(samples: Array, bits: int) -> Array:
    """Samples of less than 8 bits, spread over 0..255."""
    return samples * 255 // ((1 << bits) - 1) if bits < 8 else samples


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@EXAMPLES
@given(
    size=sizes,
    kind=st.sampled_from(["grey", "white is zero", "grey and alpha", "rgb", "rgb and alpha", "palette", "cmyk"]),
    bits=st.sampled_from([1, 2, 4, 8, 8, 8, 16]),
    order=st.sampled_from("<>"),
    compression=st.sampled_from(sorted(COMPRESSORS)),
    layout=st.sampled_from(["strip", "strips", "tiles"]),
    options=st.fixed_dictionaries({"big": st.booleans(), "planar": st.booleans(), "predictor": st.booleans(), "reverse_bits": st.booleans()}),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_tiff_holds_what_was_put_in(
    size: tuple[int, int], kind: str, bits: int, order: str, compression: int, layout: str,
    options: dict[str, Any], seed: int,
) -> None:  # fmt: skip
    channels = {"rgb": 3, "rgb and alpha": 4, "cmyk": 4, "grey and alpha": 2}.get(kind, 1)
    bits = 8 if kind == "palette" and bits == 16 else max(bits, 8) if channels > 1 else bits
    # TIFF 6.0 has the predictor for LZW, Adobe for Deflate; the planes of one channel are no planes
    options["predictor"] &= bits >= 8 and kind != "palette" and compression in (5, 8, 32946)
    options["planar"] &= channels > 1
    photometric = {"white is zero": 0, "palette": 3, "cmyk": 5}.get(kind, 2 if channels > 2 else 1)
    samples = values(seed, (*size, channels), bits)
    palette = values(seed, (1 << bits, 3), 8) * 257 if kind == "palette" else None
    data = tiff_file(samples, bits, photometric, order=order, compression=compression, palette=palette,
                     tile=16 if layout == "tiles" else 0, rows=5 if layout == "strips" else 0,
                     extra=[2] if kind.endswith("alpha") else [], **options)  # fmt: skip
    image = read(data)
    expected = full_range(samples, bits)
    if palette is not None:
        expected = palette[samples[..., 0]] // 257
        if image.pixels.shape[2] == 1:  # all colours that were drawn for so small a palette are greys
            expected = expected[..., :1]
    if kind == "white is zero":
        expected = ((1 << max(bits, 8)) - 1) - expected
    if kind == "cmyk":
        top = (1 << bits) - 1
        expected = ((top - samples[..., :3]) * (top - samples[..., 3:]) + top // 2) // top
    assert np.array_equal(joined(image), expected)
    if compression in (1, 8, 32946) and bits >= 8 and not (options["predictor"] or options["reverse_bits"]):
        other = tifffile.imread(io.BytesIO(data))
        other = np.moveaxis(other, 0, -1) if options["planar"] else other
        assert np.array_equal(other.reshape(samples.shape), samples)


@EXAMPLES
@given(
    size=sizes,
    colour=st.sampled_from([0, 2, 3, 4, 6]),
    depth=st.integers(0, 4),
    interlaced=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_png_holds_what_was_put_in(
    size: tuple[int, int], colour: int, depth: int, interlaced: bool, seed: int
) -> None:
    depths = {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(colour, (8, 16))
    bits = depths[depth % len(depths)]
    samples = values(seed, (*size, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]), bits)
    palette = values(seed, (1 << bits, 3), 8)
    chunks = [(b"PLTE", palette.astype(np.uint8).tobytes())] if colour == 3 else []
    data = png_file(samples, bits, colour, *chunks, interlaced=interlaced)
    expected = palette[samples[..., 0]] if colour == 3 else full_range(samples, bits)
    assert np.array_equal(joined(read(data)), expected)
    if bits <= 8:
        with PIL.Image.open(io.BytesIO(data)) as seen:
            shown = seen.convert({0: "L", 3: "RGB"}.get(colour, seen.mode))
            assert np.array_equal(np.asarray(shown).reshape(*size, -1), expected)


MASKS = [(0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F), (0xF00, 0xF0, 0xF), (0xFF00, 0xFF, 0xF), (1, 2, 4, 8)]
WIDE_MASKS = [(0xFF, 0xFF00, 0xFF0000), (0xFF00, 0xFF0000, 0xFF000000), (0xFF0000, 0xFF00, 0xFF, 0xFF000000), (0x3FF00000, 0xFFC00, 0x3FF), (0x7C00, 0x3E0, 0x1F)]  # fmt: skip


@EXAMPLES
@given(
    size=sizes,
    bits=st.sampled_from([1, 4, 8, 16, 24, 32]),
    header=st.sampled_from([12, 40, 56, 108, 124]),
    masks=st.integers(-1, 4),
    top_down=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_bmp_holds_what_was_put_in(
    size: tuple[int, int], bits: int, header: int, masks: int, top_down: bool, seed: int
) -> None:
    if header == 12:
        bits, top_down = (24 if bits in (16, 32) else bits), False
    stored = values(seed, size, bits)
    palette = values(seed, (1 << bits, 3), 8) if bits <= 8 else None
    chosen = () if bits not in (16, 32) or masks < 0 else (MASKS if bits == 16 else WIDE_MASKS)[masks]
    data = bmp_file(stored, bits, header=header, masks=chosen, palette=palette, top_down=top_down)
    if palette is not None:
        expected = palette[stored]
    elif bits == 24:
        expected = np.stack([stored >> 16 & 255, stored >> 8 & 255, stored & 255], 2)
    else:
        default = (0x7C00, 0x3E0, 0x1F) if bits == 16 else (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        channels = []
        for mask in chosen or default:
            low = mask & -mask
            top = mask // low
            channels.append(((stored & mask) // low * 255 + top // 2) // top)
        expected = np.stack(channels, 2)
        if expected.shape[2] == 4 and not expected[..., 3].any():
            expected = expected[..., :3]
    got = joined(read(data))
    assert np.array_equal(got, expected[..., : got.shape[2]])
    assert got.shape[2] == expected.shape[2] or (expected[..., :1] == expected).all()


@pytest.mark.parametrize(
    ("compression", "mode"),
    [("group3", "1"), ("group4", "1"), ("tiff_ccitt", "1"), ("tiff_lzw", "1"), ("tiff_lzw", "RGB"), ("tiff_lzma", "RGB")],
)  # fmt: skip
def test_further_compressions_of_tiff_read_as_pillow_reads_them(compression: str, mode: str) -> None:
    data, expected = waves("TIFF", mode, compression=compression)
    assert 0 < expected.mean() < 255
    assert np.array_equal(read(data).pixels, expected)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_ycbcr_in_a_tiff_becomes_rgb(compression: str | None) -> None:
    if compression is None and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow 12.3, the last for Python 3.10, cannot read what it writes here")
    y, x = np.mgrid[:40, :50]
    pixels = np.stack([(np.sin(x / 9 + c) * np.cos(y / 7) * 120 + 128) for c in range(3)], 2).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).convert("YCbCr").save(buffer, "TIFF", compression=compression)
    with PIL.Image.open(buffer) as seen:
        expected = np.asarray(seen.convert("RGB")).astype(int)
    assert np.abs(read(buffer.getvalue()).pixels - expected).max() <= (2 if compression else 1)


def test_subsampled_ycbcr_without_jpeg_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_file(values(0, (16, 16, 3), 8), 8, 6))  # 2x2 is the default
    assert "subsampled YCbCr without JPEG" in refused(tmp_path / "a.tif")


def waves(kind: str, mode: str, **options: Any) -> tuple[bytes, Array]:
    """A file that Pillow wrote, and the pixels that it reads from it."""
    y, x = np.mgrid[:60, :90]
    pixels = np.stack([(np.sin(x / 9 + c) * np.cos(y / 7) * 120 + 128) for c in range(3)], 2).astype(np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    with PIL.Image.open(buffer) as seen:
        return buffer.getvalue(), np.asarray(seen.convert("L" if mode == "1" else mode)).reshape(60, 90, -1)


def test_fax_compression_is_read_and_zstd_refused_by_name(tmp_path: Path) -> None:
    with PIL.Image.open(case("fax-g4.tif")) as seen:
        assert np.array_equal(read_image(case("fax-g4.tif")).pixels[..., 0], np.asarray(seen.convert("L")))
    data, _ = waves("TIFF", "RGB", compression="zstd")
    (tmp_path / "a.tif").write_bytes(data)
    assert "the compression zstd, which is not supported" in refused(tmp_path / "a.tif")
    lab = tiff_file(values(0, (4, 5, 3), 8), 8, 8)
    (tmp_path / "a.tif").write_bytes(lab)
    assert "Lab colours, which is not supported" in refused(tmp_path / "a.tif")


def test_camera_raw_of_other_makers_is_refused_by_name(tmp_path: Path) -> None:
    for head in (b"II*\0\x10\0\0\0CR\2\0", b"FUJIFILMCCD-RAW 0201", b"IIU\0", b"\0\0\0\x18ftypcrx "):
        (tmp_path / "a").write_bytes(head + struct.pack("<HHHHI", 1, 256, 3, 1, 5).ljust(200, b"\0"))
        with pytest.raises(Exception, match="camera raw"):
            read_image(tmp_path / "a")
