"""The state of a run that is damaged, or names files outside its folder, gives one sentence and deletes nothing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from sr_deploy.errors import InputError
from sr_deploy.training.run.state import BestCheckpoints, read_state, reading_state, write_state

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("text", [DEEP, "[]", "3", "{", '"a"', "null", "\x00"])
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "state.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"sr_deploy_state": text})
    with pytest.raises(InputError, match="the state of the run is damaged"):
        read_state(path)


def test_a_state_that_is_cut_short_is_named(tmp_path):
    path = tmp_path / "state.safetensors"
    write_state(path, {"run": {}}, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not the state of a run"):
        read_state(path)


@pytest.mark.parametrize("record", [{}, {"run": 3}, {"run": {"step": None}}, {"at": []}])
def test_values_of_wrong_types_are_named(tmp_path, record):
    with (
        pytest.raises(InputError, match="the state of the run is damaged"),
        reading_state(tmp_path / "state"),
    ):
        int(record["run"]["step"])


@pytest.mark.parametrize("name", ["../letter.txt", "/letter.txt", "letter.txt", "../a.safetensors"])
def test_files_outside_the_folder_are_never_deleted(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (tmp_path / "letter.txt", folder / "letter.txt", tmp_path / "a.safetensors"):
        path.write_text("precious", encoding="utf-8")
    with pytest.raises(InputError, match="is not one of this folder"):
        BestCheckpoints(folder, 1, json.loads(json.dumps([[1.0, name]]))).drop()
    assert (tmp_path / "letter.txt").exists()
    assert (folder / "letter.txt").exists()
    assert (tmp_path / "a.safetensors").exists()
