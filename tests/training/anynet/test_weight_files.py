"""Files with weights: only weights are read, and what is no checkpoint is named."""

from __future__ import annotations

import pickle
import zipfile

import pytest
import torch

from sr_deploy.errors import InputError
from sr_deploy.training.anynet.weight_files import read_weights


class Shout:
    def __reduce__(self):
        return print, ("this must never be printed",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"", "is empty"),
        (b"\x00\x01 no pickle at all", "not a checkpoint of torch"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_named(tmp_path, content, says, suffix):
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says if suffix == ".pth" or "not a" not in says else "safetensors"):
        read_weights(path)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "zip"])
def test_a_pickle_that_wants_code_is_refused_by_name_and_not_run(tmp_path, capfd, write):
    with (tmp_path / "evil.pth").open("wb") as file:
        write({"params": {"a": torch.zeros(1)}, "x": Shout()}, file)
    with pytest.raises(InputError, match=r"wants to call \S*print"):
        read_weights(tmp_path / "evil.pth")
    assert "never" not in "".join(capfd.readouterr())


def test_a_whole_module_is_told(tmp_path):
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"holds a whole module.*state_dict"):
        read_weights(tmp_path / "net.pth")


def test_a_torchscript_archive_is_refused(tmp_path):
    with zipfile.ZipFile(
        tmp_path / "net.pt", "w"
    ) as archive:  # the folders of torch.jit.save, which is deprecated
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/code/__torch__.py", b"class Net: pass")
    with pytest.raises(InputError, match="TorchScript"):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize("wrapping", ["params_ema", "state_dict", "model"])
def test_the_trainers_wrapping_is_taken_off(tmp_path, wrapping):
    weights = {"module.a.weight": torch.ones(2), "module.a.bias": torch.zeros(2)}
    torch.save({wrapping: weights, "epoch": 3}, tmp_path / "net.ckpt")
    assert sorted(read_weights(tmp_path / "net.ckpt")) == ["a.bias", "a.weight"]


def test_a_file_without_names_is_told(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "net.pth")
    with pytest.raises(InputError, match="holds a list"):
        read_weights(tmp_path / "net.pth")
