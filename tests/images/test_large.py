"""Pictures that are too large to be held: the result is that of the whole picture, and nothing holds all rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from sr_deploy.batch import run as batch
from sr_deploy.batch.jobs import Job
from sr_deploy.batch.steps import WriteSettings
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import ImageError
from sr_deploy.images import large
from sr_deploy.images.image import Image, read_image, write_image
from sr_deploy.images.sizes import OutputSize
from sr_deploy.upscale import Upscaler
from tests.images.samples import Array

HEIGHT, WIDTH = 301, 117


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_LARGE_FILE", 1)
    monkeypatch.setattr(large, "_LEAST_BYTES", 1)
    monkeypatch.setattr(large, "_BAND", 4000)  # eleven rows of RGB


def noise(channels: int, kind: type = np.uint8) -> Array:
    return np.random.default_rng(1).integers(0, np.iinfo(kind).max, (HEIGHT, WIDTH, channels), kind)


def files(folder: Path) -> dict[str, Array]:
    """Files of plain layouts, and the pixels in them."""
    rgb, grey, deep = noise(3), noise(1), noise(3, np.uint16)
    tifffile.imwrite(folder / "tiles.tif", rgb, photometric="rgb", tile=(32, 32), compression="zlib")
    tifffile.imwrite(folder / "strips.tif", deep, photometric="rgb", rowsperstrip=7, bigtiff=True)
    tifffile.imwrite(folder / "grey.tif", grey[..., 0], photometric="minisblack", tile=(16, 16))
    write_image(Image(pixels=rgb), folder / "rgb.png")
    return {"tiles.tif": rgb, "strips.tif": deep, "grey.tif": grey, "rgb.png": rgb}


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_the_result_is_that_of_the_whole_picture(tmp_path: Path, suffix: str) -> None:
    for name, pixels in files(tmp_path).items():
        job = Job(tmp_path / name, tmp_path / f"out-{name}{suffix}", {".tif": "tiff", ".png": "png"}[suffix])
        (outcome,) = batch.run_jobs([job], Upscaler(NearestEngine(2)))
        assert (outcome.error, outcome.width, outcome.height) == (None, 2 * WIDTH, 2 * HEIGHT)
        assert np.array_equal(read_image(job.target).pixels, pixels.repeat(2, 0).repeat(2, 1))


@pytest.mark.usefixtures("everything_is_large")
def test_a_plain_picture_is_not_held(tmp_path: Path) -> None:
    for name in files(tmp_path):
        image = large.open_large(tmp_path / name, 2)
        assert image is not None
        assert isinstance(image.pixels, large.Bands)
        assert (image.width, image.height) == (WIDTH, HEIGHT)


@pytest.mark.usefixtures("everything_is_large")
def test_what_must_be_seen_as_a_whole_is_read_as_a_whole(tmp_path: Path) -> None:
    rgb = noise(3)
    tifffile.imwrite(
        tmp_path / "planes.tif", np.moveaxis(rgb, 2, 0), photometric="rgb", planarconfig="separate"
    )
    write_image(Image(pixels=rgb, alpha=rgb[..., 0].copy()), tmp_path / "alpha.tif")
    write_image(Image(pixels=rgb, alpha=rgb[..., 0].copy()), tmp_path / "alpha.png")
    write_image(Image(pixels=rgb), tmp_path / "a.jpg")
    (tmp_path / "text.tif").write_text("no picture")
    for name in ("planes.tif", "alpha.tif", "alpha.png", "a.jpg", "text.tif", "missing.tif"):
        assert large.open_large(tmp_path / name, 2) is None


def test_a_picture_that_fits_is_read_as_a_whole(tmp_path: Path) -> None:
    write_image(Image(pixels=noise(3)), tmp_path / "a.tif")
    assert large.open_large(tmp_path / "a.tif", 2) is None


@pytest.mark.usefixtures("everything_is_large")
def test_another_size_is_made_from_the_whole_picture(tmp_path: Path) -> None:
    write_image(Image(pixels=noise(3)), tmp_path / "a.tif")
    job = Job(tmp_path / "a.tif", tmp_path / "b.tif", "tiff")
    settings = WriteSettings(size=OutputSize(width=100))
    (outcome,) = batch.run_jobs([job], Upscaler(NearestEngine(2)), settings=settings)
    assert (outcome.error, outcome.width) == (None, 100)


@pytest.mark.usefixtures("everything_is_large")
def test_damage_in_a_later_band_names_the_file_and_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(3), photometric="rgb", rowsperstrip=8, compression="zlib")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as seen:
        at = seen.pages[0].dataoffsets[30]
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    job = Job(path, tmp_path / "b.tif", "tiff")
    (outcome,) = batch.run_jobs([job], Upscaler(NearestEngine(2)))
    assert isinstance(outcome.error, ImageError)
    assert str(path) in str(outcome.error)
    assert "undamaged copy" in str(outcome.error)
    assert not job.target.exists()


@pytest.mark.usefixtures("everything_is_large")
def test_rows_are_dropped_once_they_are_written(tmp_path: Path) -> None:
    write_image(Image(pixels=noise(3)), tmp_path / "a.tif")
    image = large.open_large(tmp_path / "a.tif", 1)
    assert image is not None
    bands = image.pixels
    assert isinstance(bands, large.Bands)
    for first in range(0, HEIGHT - 5, 5):
        assert bands[first : first + 5].shape == (5, WIDTH, 3)
        assert sum(len(rows) for _, rows in bands._kept) <= 22
