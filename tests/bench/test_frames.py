"""Frames of any size are cut from photographs of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.bench.frames import cut, load_photographs
from sr_deploy.errors import ImageError, UsageError
from sr_deploy.images.image import Image, write_image


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_frame_has_its_size_and_every_pixel_is_the_photographs(width: int, height: int) -> None:
    photo = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)
    frame = cut(photo, width, height)
    assert frame.shape == (height, width, 3)
    assert frame.flags.c_contiguous
    assert {tuple(p) for p in frame.reshape(-1, 3)} <= {tuple(p) for p in photo.reshape(-1, 3)}


def test_what_fits_is_cut_from_the_middle_and_what_does_not_is_mirrored() -> None:
    row = np.arange(4, dtype=np.uint8).reshape(1, 4, 1).repeat(3, axis=2)
    assert cut(row, 2, 1)[0, :, 0].tolist() == [1, 2]
    assert cut(row, 10, 1)[0, :, 0].tolist() == [0, 1, 2, 3, 3, 2, 1, 0, 0, 1]


def test_the_bundled_photograph_is_one() -> None:
    photographs = load_photographs()
    frame = photographs.frame(320, 180)
    assert frame.std() > 20
    assert len(np.unique(frame)) > 200
    assert len(photographs.sha256) == 64


def test_pictures_of_every_kind_become_rgb_of_8_bits(tmp_path: Path) -> None:
    deep = np.full((3, 4, 1), 0x1234, np.uint16)
    write_image(Image(pixels=deep), tmp_path / "b.png")
    write_image(Image(pixels=np.full((5, 6, 3), 7, np.uint8)), tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not a picture", encoding="utf-8")
    photographs = load_photographs([tmp_path])
    assert photographs.names == ("a.png", "b.png")
    assert photographs.pixels[1].shape == (3, 4, 3)
    assert photographs.pixels[1].dtype == np.uint8
    assert (photographs.pixels[1] == 0x12).all()
    batch = photographs.batch(2, 2, 3)
    assert [int(picture.max()) for picture in batch] == [7, 0x12, 7]
    assert load_photographs([tmp_path / "a.png"]).sha256 != photographs.sha256


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture in this folder"):
        load_photographs([tmp_path])
    with pytest.raises(ImageError):
        load_photographs([tmp_path / "missing.png"])


def test_hidden_files_of_a_memory_stick_are_no_photographs(tmp_path):
    write_image(Image(pixels=np.zeros((4, 4, 3), np.uint8)), tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07")  # what macOS writes beside every file
    assert load_photographs([tmp_path]).names == ("a.png",)
