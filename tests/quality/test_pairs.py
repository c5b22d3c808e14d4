"""Pictures and their small versions are paired by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sr_deploy.errors import InputError
from sr_deploy.quality.pairs import find_pictures, list_pictures, picture_key


def folder_with(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"only the name is looked at")
    return path


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("baby.png", "baby.png"),
        ("baby.png", "baby.jpg"),
        ("baby.png", "babyx4.png"),
        ("baby.png", "baby_x4.png"),
        ("baby.png", "baby_LRx4.png"),
        ("baby.png", "baby_LR_x4.png"),
        ("baby.png", "baby_LR.png"),
        ("baby.png", "BABY-lr-X3.png"),
        ("baby.png", "baby_bicubic_x2.png"),
        ("0801.png", "0801x4.png"),
        ("baby_HR.png", "baby_LR.png"),
        ("baby_GT.bmp", "babyx4.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
        ("größe 1.png", "größe 1_LRx2.png"),
    ],
)
def test_the_marks_of_common_data_sets_do_not_keep_pairs_apart(tmp_path: Path, hr: str, lr: str) -> None:
    large, small = folder_with(tmp_path / "hr", hr), folder_with(tmp_path / "lr", lr, "stranger.png")
    pictures, failures = find_pictures(large, small)
    assert [(c.hr.name, c.lr.name if c.lr else None) for c in pictures] == [(hr, lr)]
    assert failures == []


@pytest.mark.parametrize(
    ("hr", "lr"), [("img_1.png", "img_2.png"), ("0801.png", "0802x4.png"), ("x4.png", "x2.png")]
)
def test_names_that_differ_otherwise_are_no_pair(tmp_path: Path, hr: str, lr: str) -> None:
    pictures, failures = find_pictures(folder_with(tmp_path / "hr", hr), folder_with(tmp_path / "lr", lr))
    assert pictures == []
    assert [failure.name for failure in failures] == [hr]
    assert "no low-resolution picture" in failures[0].message


def test_the_very_same_stem_wins_over_a_marked_one(tmp_path: Path) -> None:
    large, small = folder_with(tmp_path / "hr", "a.png"), folder_with(tmp_path / "lr", "a.png", "ax2.png")
    (picture,), _ = find_pictures(large, small)
    assert picture.lr == small / "a.png"


def test_several_candidates_are_an_error_that_names_them(tmp_path: Path) -> None:
    large, small = folder_with(tmp_path / "hr", "a.png"), folder_with(tmp_path / "lr", "ax2.png", "ax4.png")
    pictures, failures = find_pictures(large, small)
    assert pictures == []
    assert "ax2.png, ax4.png" in failures[0].message


def test_without_a_second_folder_every_picture_is_a_case_in_order(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "hr", "b.PNG", "a.jpg", "c.tiff", "d.gif", "notes.txt", "._a.jpg")
    (folder / "e.png").mkdir()
    pictures, failures = find_pictures(folder)
    assert [(picture.name, picture.lr) for picture in pictures] == [
        (name, None) for name in ("a.jpg", "b.PNG", "c.tiff", "d.gif")
    ]
    assert failures == []


def test_a_folder_that_is_missing_or_a_file_or_has_no_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_pictures(tmp_path / "missing")
    with pytest.raises(InputError, match="it is a file"):
        list_pictures(folder_with(tmp_path / "one", "a.png") / "a.png")
    with pytest.raises(InputError, match="no pictures"):
        list_pictures(folder_with(tmp_path / "two", "a.txt"))


def test_a_key_is_never_empty() -> None:
    assert [picture_key(stem) for stem in ("Baby_HR", "baby", "hr", "x4")] == ["baby", "baby", "hr", "x4"]
