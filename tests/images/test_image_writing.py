"""Writing pictures in every format, compared with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import pytest

from sr_deploy.errors import UsageError
from sr_deploy.images.codecs import strips
from sr_deploy.images.image import (
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    Image,
    Metadata,
    check_writable_size,
    format_of,
    formats,
    read_image,
    write_image,
)
from tests.images.samples import (
    XMP,
    camera_exif,
    joined,
    noise,
    picture,
    smooth,
)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_formats_give_back_every_bit(
    tmp_path: Path, suffix: str, bits: int, channels: int, alpha: bool
) -> None:
    image = picture(channels, bits, alpha)
    assert write_image(image, tmp_path / f"a{suffix}") == ()
    again = read_image(tmp_path / f"a{suffix}")
    assert (again.bits, again.pixels.shape) == (bits, image.pixels.shape)
    assert np.array_equal(joined(again), joined(image))
    if (suffix, bits) == (".tif", 16) and alpha and channels == 1:
        return  # Pillow cannot read this kind
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        other = np.asarray(seen).reshape(*image.pixels.shape[:2], -1)
    if bits == 8 or other.dtype == np.uint16:
        assert np.array_equal(other, joined(image))
    else:  # Pillow reduces 16-bit colours to 8 bits
        expected = joined(image)[..., [0, 0, 0, 1]] if channels == 1 else joined(image)
        assert np.abs(other.astype(int) - (expected // 256).astype(int)).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("deflater", ["isal", "zlib"])
def test_a_picture_of_many_strips_is_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, alpha: bool, deflater: str
) -> None:
    if deflater == "zlib":
        monkeypatch.setattr(strips, "_ISAL", None)
    elif strips._ISAL is None:
        pytest.skip("there is no wheel of isal for this platform")
    image = picture(3, 8, alpha, size=(1501, 1999))  # several MB, that is, several dozen strips
    write_image(image, tmp_path / f"a{suffix}")
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        assert np.array_equal(np.asarray(seen), joined(image))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_of_more_than_4_gb_is_a_big_one(
    tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sr_deploy.images.codecs.tiff_writer._CLASSIC_LIMIT", 0)
    image = picture(3, bits, size=(900, 1000))
    exif = camera_exif().tobytes()[6:]
    write_image(Image(pixels=image.pixels, metadata=Metadata(exif=exif, xmp=XMP)), tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
    again = read_image(tmp_path / "a.tif")
    assert np.array_equal(again.pixels, image.pixels)
    with PIL.Image.open(tmp_path / "a.tif") as seen:
        assert seen.getexif().get_ifd(0x8769)[0x829A] == 0.125
        if bits == 8:
            assert np.array_equal(np.asarray(seen), image.pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
def test_tiny_pictures_are_written(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    image = Image(pixels=np.full((*size, 3), 77, np.uint8))
    write_image(image, tmp_path / f"a{suffix}")
    assert np.abs(read_image(tmp_path / f"a{suffix}").pixels.astype(int) - 77).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("consume", [False, True])
def test_red_stays_red(tmp_path: Path, suffix: str, consume: bool) -> None:
    image = Image(pixels=np.full((16, 16, 3), (250, 20, 60), np.uint8))
    write_image(image, tmp_path / f"a{suffix}", consume=consume)
    with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
        assert np.abs(np.asarray(seen).astype(int) - (250, 20, 60)).max() <= 4
    if not consume:
        assert (image.pixels == (250, 20, 60)).all()


def test_read_only_pixels_are_not_consumed(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), (250, 20, 60), np.uint8)
    pixels.flags.writeable = False
    write_image(Image(pixels=pixels), tmp_path / "a.bmp", consume=True)
    assert read_image(tmp_path / "a.bmp").pixels[0, 0].tolist() == [250, 20, 60]


def test_sixteen_bits_are_rounded_not_cut(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    notes = write_image(Image(pixels=values), tmp_path / "a.bmp")
    exact = np.floor(values / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(read_image(tmp_path / "a.bmp").pixels, exact)
    assert notes == ("BMP has no 16 bits: rounded to 8",)


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0], [10, 20, 30], [100, 100, 100]]], np.uint8)
    image = Image(pixels=pixels, alpha=np.array([[255, 0, 128]], np.uint8))
    assert write_image(image, tmp_path / "a.bmp") == ("BMP has no transparency: put on white",)
    assert read_image(tmp_path / "a.bmp").pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [177, 177, 177]]]


def test_grey_stays_grey_where_the_format_can(tmp_path: Path) -> None:
    image = Image(pixels=smooth(20, 20, 1))
    for suffix in (".png", ".jpg", ".tif", ".bmp"):
        write_image(image, tmp_path / f"a{suffix}")
        with PIL.Image.open(tmp_path / f"a{suffix}") as seen:
            assert seen.mode == "L"


def test_jpeg_quality_and_colour_resolution(tmp_path: Path) -> None:
    image = Image(pixels=noise(64, 64, 3))
    for quality, sampling in ((None, 0), (90, 0), (89, 2)):
        write_image(image, tmp_path / f"{quality}.jpg", quality=quality)
        with PIL.Image.open(tmp_path / f"{quality}.jpg") as seen:
            from PIL.JpegImagePlugin import get_sampling

            assert get_sampling(seen) == sampling
    assert (tmp_path / "None.jpg").stat().st_size > (tmp_path / "90.jpg").stat().st_size
    with pytest.raises(UsageError, match="1 to 100"):
        write_image(image, tmp_path / "a.jpg", quality=101)


def test_webp_is_lossy_or_lossless_as_asked(tmp_path: Path) -> None:
    image = picture(alpha=True)
    write_image(image, tmp_path / "exact.webp", quality=101)
    write_image(image, tmp_path / "small.webp", quality=50)
    visible = image.alpha > 0 if image.alpha is not None else np.array(True)
    exact = read_image(tmp_path / "exact.webp")
    assert np.array_equal(joined(exact)[visible], joined(image)[visible])
    assert (tmp_path / "small.webp").stat().st_size < (tmp_path / "exact.webp").stat().st_size / 2
    assert not np.array_equal(read_image(tmp_path / "small.webp").pixels, image.pixels)


def test_a_quality_for_a_lossless_format_is_said_to_be_ignored(tmp_path: Path) -> None:
    notes = write_image(picture(), tmp_path / "a.png", quality=80)
    assert notes == ("PNG is lossless: the quality was not used",)


def test_the_format_may_differ_from_the_name(tmp_path: Path) -> None:
    write_image(picture(), tmp_path / "a.dat", format="webp")
    assert read_image(tmp_path / "a.dat").format == "webp"
    with pytest.raises(UsageError, match=r"\.xyz.*\.png"):
        write_image(picture(), tmp_path / "a.xyz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.dat"]


def test_names_may_be_of_any_language(tmp_path: Path) -> None:
    for suffix in WRITABLE_SUFFIXES:
        path = tmp_path / f"Ünïcødé 図 🎈{suffix}"
        write_image(picture(), path)
        assert read_image(path).width == 53


def test_sizes_that_a_format_cannot_hold_are_refused_before_any_work() -> None:
    check_writable_size("jpeg", 65_500, 65_500)
    check_writable_size("png", 60_000, 40_000)
    with pytest.raises(UsageError, match=r"20000x300.*16383.*PNG or JPEG or TIFF"):
        check_writable_size("webp", 20_000, 300)
    with pytest.raises(UsageError, match="PNG or TIFF"):
        check_writable_size("jpg", 70_000, 10)
    with pytest.raises(UsageError, match="2 GB"):
        check_writable_size("bmp", 30_000, 30_000)
    with pytest.raises(UsageError, match="smaller"):
        check_writable_size("png", 2_000_000, 10)


def test_the_table_of_formats_is_true(tmp_path: Path) -> None:
    assert set(WRITABLE_SUFFIXES) < READABLE_SUFFIXES
    for kind in formats():
        for suffix in kind.suffixes:
            assert format_of(suffix) == format_of(f"x/y{suffix.upper()}") == format_of(kind.name) == kind
            image = picture(3, 16, alpha=True)
            write_image(image, tmp_path / f"a{suffix}")
            again = read_image(tmp_path / f"a{suffix}")
            assert (again.bits == 16, again.alpha is not None) == (kind.deep, kind.alpha)


def test_wide_pictures_are_written_up_to_the_limit(tmp_path: Path) -> None:
    for suffix, side in (
        (".jpg", 65_500),
        (".webp", 16_383),
        (".bmp", 65_535),
        (".png", 1_000_000),
        (".tif", 250_000),
    ):
        write_image(Image(pixels=np.full((1, side, 3), 9, np.uint8)), tmp_path / f"a{suffix}")
        assert read_image(tmp_path / f"a{suffix}").width == side
