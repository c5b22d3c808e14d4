"""Two processes under torchrun compute the same as one."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from sr_deploy.training.checkpoint import read_checkpoint
from sr_deploy.training.recipe import parse_recipe
from sr_deploy.training.run.log import read_log
from sr_deploy.training.run.session import TrainOptions
from sr_deploy.training.run.trainer import Trainer
from tests.paths import ROOT

RECIPE = """
name = "tiny"
precision = "off"
validation = 2
[net]
architecture = "rt"
features = 4
depth = 1
[[phase]]
scale = 2
crop = 8
batch = 4
steps = 12
learning_rate = 1e-4
loss = { l1 = 1.0, tv = 0.01 }
"""

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")
from sr_deploy.training.run import loop
loop.plot_curves = lambda *_: None
from sr_deploy.training.recipe import parse_recipe
from sr_deploy.training.run.session import TrainOptions
from sr_deploy.training.run.trainer import Trainer
recipe, data, out = map(Path, sys.argv[1:4])
for name, minutes in (("two", None), ("timed", 0.03)):
    options = TrainOptions(data=data, out=out / name, every=4, device="cpu", minutes=minutes)
    Trainer(parse_recipe(recipe.read_bytes()), options).run()
torch.distributed.destroy_process_group()
"""


def torchrun(tmp_path, pictures):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), str(tmp_path / "script.py")]
    command += [str(tmp_path / "recipe.toml"), str(pictures), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


needs_gloo = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_gloo_available(), reason="needs torchrun over gloo"
)


@needs_gloo
def test_two_processes_equal_one_of_the_same_batch_and_agree_when_to_stop(tmp_path, pictures):
    torchrun(tmp_path, pictures)
    Trainer(
        parse_recipe(RECIPE.encode()),
        TrainOptions(data=pictures, out=tmp_path / "one", every=4, device="cpu"),
    ).run()
    ours, theirs = (load_file(tmp_path / name / "final.safetensors") for name in ("one", "two"))
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-5), key
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], abs=1e-5)
    assert [row["psnr"] for row in one] == pytest.approx([row["psnr"] for row in two], abs=1e-3)
    assert read_log(tmp_path / "timed")[-1]["learning_rate"] == pytest.approx(1e-4 * 0.005, rel=1e-3)
    info, _ = read_checkpoint(tmp_path / "two" / "final.safetensors")
    assert info.training["device"].endswith(", 2 processes")
