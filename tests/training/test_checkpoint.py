"""Checkpoints: saving and loading, and errors that name a file that is not a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sr_deploy.errors import InputError
from sr_deploy.training.checkpoint import (
    CheckpointInfo,
    find_checkpoint,
    load_net,
    read_checkpoint,
    save_checkpoint,
)
from sr_deploy.training.nets import build_net

INFO = CheckpointInfo(
    name="little",
    architecture="srresnet",
    scale=2,
    parameters={"features": 4, "blocks": 1, "learn_residual_weight": True},
    recipe_sha256="cd" * 32,
    training={"steps": 3},
)


def saved(folder: Path, info: CheckpointInfo = INFO) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    net = build_net(INFO.architecture, INFO.scale, INFO.parameters)
    save_checkpoint(folder / "grün.safetensors", net, info)
    return folder / "grün.safetensors", net


def test_a_net_comes_back_with_its_weights_and_its_record(tmp_path: Path) -> None:
    path, net = saved(tmp_path)
    loaded, info = load_net(path)
    small = torch.rand(1, 3, 6, 7)
    with torch.no_grad():
        assert torch.equal(loaded(small), net.eval()(small))
    assert info == INFO
    assert not loaded.training
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_weights_of_the_real_time_net_keep_the_names_they_were_released_with() -> None:
    branches = ("full", "point", "expand", "squeeze", "bias", "identity")
    expected = {f"body.{n}.{branch}" for n in range(3) for branch in branches} - {"body.0.identity"}
    assert set(build_net("rt", 4, {"depth": 2}).state_dict()) == expected | {"head.weight", "head.bias"}


def test_a_run_folder_stands_for_its_finished_checkpoint_else_its_latest(tmp_path: Path) -> None:
    (tmp_path / "last.safetensors").touch()
    assert find_checkpoint(tmp_path).name == "last.safetensors"
    (tmp_path / "final.safetensors").touch()
    assert find_checkpoint(tmp_path).name == "final.safetensors"
    assert find_checkpoint(tmp_path / "phase1.safetensors").name == "phase1.safetensors"


def test_a_folder_without_checkpoints_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"final\.safetensors nor last\.safetensors"):
        find_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.safetensors")
    for content in (b"", b"PK\x03\x04 not this", b"\xff" * 100):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="not a safetensors checkpoint"):
            read_checkpoint(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="not a safetensors checkpoint"):
        read_checkpoint(tmp_path)


def test_a_truncated_checkpoint_is_never_more_than_an_error(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 60):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({}, "no sr-deploy metadata"),
        ({"sr_deploy": "{"}, "cannot be read"),
        ({"sr_deploy": "[]"}, "cannot be read"),
        ({"sr_deploy": json.dumps({"name": "x"})}, "cannot be read"),
        ({"sr_deploy": json.dumps({"name": "x", "architecture": "rt", "scale": 2, "future": 1})}, "future"),
    ],
)
def test_a_record_that_makes_no_sense_is_an_error(
    tmp_path: Path, metadata: dict[str, str], says: str
) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"weight": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(InputError, match=says):
        read_checkpoint(path)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path, net = saved(tmp_path)
    save_checkpoint(path, net, CheckpointInfo(name="x", architecture="rt", scale=2))
    with pytest.raises(InputError, match="do not fit rt x2"):
        load_net(path)
