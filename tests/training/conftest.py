"""A folder of small pictures and recipes of tiny nets, for the tests of training."""

import cv2
import numpy as np
import pytest

from sr_deploy.training.recipe import parse_recipe
from sr_deploy.training.run import loop


def picture(seed, height=72, width=80):
    """Return a picture of smooth shapes with edges, which a net can learn to enlarge in a few steps."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (9, 10, 3), dtype=np.uint8)
    blocks = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.GaussianBlur(blocks, (0, 0), 1.0)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Return a folder of ten pictures, each 80 pixels wide and 72 tall."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(10):
        (folder / f"picture{seed}.png").write_bytes(cv2.imencode(".png", picture(seed))[1].tobytes())
    return folder


@pytest.fixture
def without_plots(monkeypatch):
    """Leave out the plots, which would take longer than these runs."""
    monkeypatch.setattr(loop, "plot_curves", lambda *_: None)


class Listener:
    """Records the lines of a run, and calls `act` at one step."""

    def __init__(self, at=None, act=None):
        self.lines, self.worked, self._at, self._act = [], [], at, act

    def say(self, line):
        self.lines.append(line)

    def work(self, what, done, total):
        self.worked.append((what, done, total))

    def step(self, status):
        self.last = status
        if status.step == self._at:
            self._act()


TINY = """
name = "tiny"
precision = "{precision}"
optimiser = "{optimiser}"
leaves = {leaves}
validation = 2
[net]
architecture = "rt"
features = {features}
depth = {depth}
"""


def tiny_recipe(*phases, precision="off", optimiser="adamw", leaves=0, depth=1, features=4, net=""):
    """Return a recipe for a net of a few hundred weights. Each of `phases` is the TOML of a phase."""
    settings = {"precision": precision, "optimiser": optimiser, "leaves": leaves}
    head = TINY.format(**settings, depth=depth, features=features) + net
    text = head + "".join(f"[[phase]]\n{phase}\n" for phase in phases)
    return parse_recipe(text.encode())


ONE_PHASE = "scale = 2\ncrop = 8\nbatch = 4\nsteps = 12\nlearning_rate = 1e-2"
