"""The one way in which folders are searched for pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.images.listing import list_picture_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.png",
        "a.JPG",
        "c.jfif",
        "notes.txt",
        "._a.jpg",
        ".hidden/d.png",
        "sub/e.webp",
        "sub/deep/f.bmp",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(folder: Path, **options) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_picture_files(folder, **options)]


def test_pictures_are_listed_by_name_without_hidden_files(folder):
    assert names(folder) == ["a.JPG", "b.png", "c.jfif"]


def test_subfolders_follow_where_they_are_asked_for_and_not_refused(folder):
    everything = ["a.JPG", "b.png", "c.jfif", "sub/e.webp", "sub/deep/f.bmp"]
    assert names(folder, recursive=True) == everything
    assert names(folder, recursive=True, enter=lambda path: path.name != "deep") == everything[:-1]


def test_a_folder_that_cannot_be_read_is_an_error_or_handed_over(tmp_path):
    errors: list[OSError] = []
    assert list_picture_files(tmp_path / "gone", on_error=errors.append) == []
    assert isinstance(errors[0], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        list_picture_files(tmp_path / "gone")
