"""The benchmark of `--model auto`: which photographs it takes, and what it counts as right."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pictures.auto import KINDS, held_out, is_right, measure, stored, table, wrong
from sr_deploy.images.image import Image, write_image
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.training.data.pictures import PictureStore, split_validation


@pytest.fixture
def photographs(tmp_path):
    for seed in range(4):
        path = tmp_path / "photographs" / ("deep" if seed == 3 else "") / f"{seed}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        write_image(Image(pixels=dead_leaves(170, 190, seed=seed)), path)
    return tmp_path / "photographs"


def test_the_photographs_are_those_that_a_training_holds_out(photographs, tmp_path):
    _, expected = split_validation(PictureStore(photographs, overflow=tmp_path).pairs(4), 2)
    found = held_out(photographs, 2)
    assert {path.relative_to(photographs).as_posix() for path in found} == {pair.name for pair in expected}


@pytest.mark.parametrize("title", KINDS)
def test_every_kind_is_read_from_its_file_beside_its_original(title):
    large = dead_leaves(96, 128, seed=1)
    image, original = stored(large, KINDS[title], 4, "a")
    assert (original.shape[0], original.shape[1]) == (4 * image.height, 4 * image.width)
    assert np.abs(image.pixels.repeat(4, 0).repeat(4, 1).astype(int) - original).mean() < 60
    assert (image.quality or 100) == (KINDS[title].quality or 100) or image.format in ("webp", "avif")


def test_right_is_what_loses_at_most_a_twentieth_of_a_decibel(photographs, monkeypatch):
    monkeypatch.setattr("benchmarks.pictures.auto.DRAWINGS", 1)
    record = measure(photographs, ["rt-x4", "rt-x4"], 1, 160)
    assert "Right for 100.0% of all." in table(record)
    assert not list(wrong(record))
    entry = record["kinds"]["JPEG 75"][0]
    assert entry["rule"] == "photo"
    entry["photo"] = entry["clean"] - 0.04
    assert is_right(entry)
    entry["photo"] = entry["clean"] - 0.06
    assert not is_right(entry)
    assert [line.rpartition(" loses ")[2] for line in wrong(record)] == ["0.06 dB"]


def test_without_results_the_page_says_so():
    assert table(None) == "Not measured yet.\n"
