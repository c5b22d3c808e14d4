"""Tiny models that every test may use, each with its own checker.

`tiny(name)` builds one of `TINY_NAMES`; `each_tiny` runs a test once for each. A `TinyModel` knows what it
computes, written out in NumPy, and `check(run)` holds any runner to it. They are made anew for every test,
so a test may change the one it got. No download, ever.

    def test_my_engine_runs_it(each_tiny):
        with MyEngine(each_tiny.model) as engine:
            each_tiny.check(engine.run)
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # The tests start hundreds of processes. Each would compile every module of the package again.
    sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes test at once. Torch's threads would wait for each other in busy loops.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.onnx_file import write_spec
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.system.cores import usable_cores


def pytest_xdist_auto_num_workers() -> int:
    """Number of processes that test: one more than cores, because many tests wait for a process or a clock."""
    return (usable_cores() or os.cpu_count() or 1) + 1


_NEEDS_TORCH = re.compile(r"^(import torch|from torch|from sr_deploy\.training)\b", re.MULTILINE)
"""The beginning of a line by which a file of tests cannot be imported without torch."""


def _without_torch() -> list[str]:
    """The files and folders of tests that are left out because torch is missing; none where it is installed."""
    if importlib.util.find_spec("torch") is not None:
        return []
    here = Path(__file__).parent
    found = [path for path in here.rglob("test_*.py") if _NEEDS_TORCH.search(path.read_text("utf-8"))]
    return [str(here / "training"), *(str(path) for path in found if "training" not in path.parts)]


collect_ignore = _without_torch()


def pytest_report_header() -> str:
    """Say what is left out, so that a run without torch is not taken for a whole one."""
    return f"torch is not installed; left out: {', '.join(collect_ignore)}" if collect_ignore else ""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first. They are not split, since their tests share what is slow to make."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


SIZES = ((1, 1), (3, 5), (17, 12))


def conv3x3(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Zero-padded 3x3 convolution of [N, C, H, W], as the definition says it."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    terms = (
        np.einsum("oc,nchw->nohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i, j in shifts
    )
    return sum(terms) + bias[None, :, None, None]


def depth_to_space(x: np.ndarray, block: int, mode: str) -> np.ndarray:
    """[N, C * block**2, H, W] -> [N, C, H * block, W * block], from ONNX's definition of DepthToSpace."""
    count, depth, height, width = x.shape
    channels = depth // block**2
    if mode == "CRD":
        cells = x.reshape(count, channels, block, block, height, width).transpose(0, 1, 4, 2, 5, 3)
    else:
        cells = x.reshape(count, block, block, channels, height, width).transpose(0, 3, 4, 1, 5, 2)
    return cells.reshape(count, channels, height * block, width * block)


@dataclass(frozen=True)
class Tiny:
    """The parts of a tiny model: two convolutions, DepthToSpace, and an ending."""

    scale: int = 2
    channels: int = 3
    mode: str = "CRD"
    ending: str = "none"
    """After DepthToSpace: "none"; "scalars" (values, one by one); "conv"; "constants" (one a channel)."""
    layout: str = "NCHW"
    value_range: tuple[float, float] = (0.0, 1.0)
    fixed: tuple[int, int] | None = None
    dtype: Any = np.float32
    opset: int = 17
    names: tuple[str, str] = ("pixels", "upscaled")


TINIES = {
    "plain": Tiny(),
    "dcr": Tiny(scale=3, mode="DCR"),
    "grey": Tiny(scale=4, channels=1),
    "scalars": Tiny(ending="scalars"),
    "convolved": Tiny(ending="conv"),
    "mean-shifted": Tiny(ending="constants"),
    "nhwc": Tiny(layout="NHWC"),
    "0..255": Tiny(value_range=(0.0, 255.0)),
    "-1..1": Tiny(scale=3, value_range=(-1.0, 1.0)),
    "fixed": Tiny(fixed=(6, 9)),
    "half-ports": Tiny(dtype=np.float16),
    "old-opset": Tiny(opset=11, names=("input.1", "86")),
    "as-is": Tiny(scale=1, ending="conv"),
}
TINY_NAMES = tuple(TINIES)


@dataclass
class TinyModel:
    """A model with its record, and what it computes."""

    name: str
    model: onnx.ModelProto
    spec: ModelSpec
    reference: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    """float32 [N, H, W, C] in 0..1 -> [N, H * scale, W * scale, C], clipped to 0..1."""
    tolerance: float = 2e-6
    """Of the float result, in 0..1."""

    def pictures(self, seed: int = 0) -> list[np.ndarray]:
        """uint8 batches [N, H, W, C] of the sizes this model takes, in every batch size once."""
        rng = np.random.default_rng(seed)
        sizes = [self.spec.size_rule.fixed] if self.spec.size_rule.fixed else SIZES
        shapes = [(1 + i % 2, *size, self.spec.channels) for i, size in enumerate(sizes)]
        return [rng.integers(0, 256, shape, np.uint8) for shape in shapes]

    def check_float(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        """`run` computes what the model is meant to, on float32 pictures."""
        for picture in self.pictures():
            pixels = picture / np.float32(255)
            result = run(pixels)
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, self.reference(pixels), rtol=0, atol=self.tolerance)

    def check_uint8(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        """`run` gives the nearest 8-bit step to what the model is meant to compute, on uint8 pictures."""
        for picture in self.pictures():
            result = run(picture)
            assert result.dtype == np.uint8
            expected = self.reference(picture / np.float32(255)) * 255
            assert result.shape == expected.shape
            assert np.abs(result - expected).max() <= 0.5 + 255 * self.tolerance

    def check(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        """Both."""
        self.check_uint8(run)
        self.check_float(run)


def build_tiny(name: str) -> TinyModel:
    """One of `TINIES`, built."""
    parts, net = TINIES[name], _Net(TINIES[name])
    black, span = parts.value_range[0], parts.value_range[1] - parts.value_range[0]
    halo = {"conv": 3}.get(parts.ending, 2)
    spec = ModelSpec(
        name=name,
        scale=parts.scale,
        halo=halo,
        channels=parts.channels,
        value_range=parts.value_range,
        layout=parts.layout,
        precision="fp16" if parts.dtype == np.float16 else "fp32",
        size_rule=SizeRule(fixed=parts.fixed),
    )

    def reference(pixels: np.ndarray) -> np.ndarray:
        core = net.compute(pixels.transpose(0, 3, 1, 2) * span + black).transpose(0, 2, 3, 1)
        return np.clip((core - black) / span, 0, 1).astype(np.float32)

    tolerance = 4e-3 if parts.dtype == np.float16 else 2e-6
    return TinyModel(name, write_spec(net.graph(), spec), spec, reference, tolerance)


class _Net:
    """The weights of a tiny model, the NumPy that uses them, and the graph that does."""

    def __init__(self, parts: Tiny) -> None:
        self.parts, rng = parts, np.random.default_rng(7)
        depth = parts.channels * parts.scale**2
        span, middle = parts.value_range[1] - parts.value_range[0], sum(parts.value_range) / 2
        self.tensors = {
            "w0": rng.normal(0, 0.4, (8, parts.channels, 3, 3)),
            "b0": rng.normal(0, 0.2, 8) * span,
            "w1": rng.normal(0, 0.2, (depth, 8, 3, 3)),
            "b1": rng.normal(middle, 0.1 * span, depth),
        }
        if parts.ending == "scalars":
            self.tensors |= {"half": np.array(0.5), "shift": np.array([0.2]), "top": np.array(0.9)}
        if parts.ending == "conv":
            self.tensors |= {"w2": rng.normal(0, 0.2, (parts.channels, parts.channels, 3, 3))}
            self.tensors |= {"b2": rng.normal(0.5, 0.1, parts.channels)}
        if parts.ending == "constants":
            self.tensors |= {"mean": np.linspace(-0.2, 0.2, parts.channels).reshape(1, -1, 1, 1)}
        self.tensors = {name: value.astype(parts.dtype) for name, value in self.tensors.items()}

    def compute(self, x: np.ndarray) -> np.ndarray:
        t = {name: value.astype(np.float64) for name, value in self.tensors.items()}
        y = np.maximum(conv3x3(x.astype(np.float64), t["w0"], t["b0"]), 0)
        y = depth_to_space(conv3x3(y, t["w1"], t["b1"]), self.parts.scale, self.parts.mode)
        if self.parts.ending == "scalars":
            return np.minimum(y * t["half"] + t["shift"], t["top"])
        if self.parts.ending == "conv":
            return conv3x3(y, t["w2"], t["b2"])
        return y + t["mean"] if self.parts.ending == "constants" else y

    def graph(self) -> onnx.ModelProto:
        parts, nodes = self.parts, list[onnx.NodeProto]()

        def op(kind: str, *inputs: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, list(inputs), [f"v{len(nodes)}"], **attributes))
            return f"v{len(nodes) - 1}"

        source, target = parts.names
        x = op("Transpose", source, perm=[0, 3, 1, 2]) if parts.layout == "NHWC" else source
        y = op("Relu", op("Conv", x, "w0", "b0", pads=[1, 1, 1, 1]))
        y = op("Conv", y, "w1", "b1", pads=[1, 1, 1, 1])
        if parts.scale > 1:
            y = op("DepthToSpace", y, blocksize=parts.scale, mode=parts.mode)
        if parts.ending == "scalars":
            y = op("Clip", op("Add", "shift", op("Mul", y, "half")), "", "top")
        if parts.ending == "conv":
            y = op("Conv", y, "w2", "b2", pads=[1, 1, 1, 1])
        if parts.ending == "constants":
            y = op("Add", y, "mean")
        if parts.layout == "NHWC":
            y = op("Transpose", y, perm=[0, 2, 3, 1])
        nodes[-1].output[0] = target
        return self._model(nodes)

    def _model(self, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
        parts = self.parts
        kind = TensorProto.FLOAT16 if parts.dtype == np.float16 else TensorProto.FLOAT
        low, high = parts.fixed or ("h", "w"), ("H", "W")
        ports = []
        for name, (height, width) in zip(parts.names, (low, high), strict=True):
            axes = ["n", parts.channels, height, width]
            axes = [axes[i] for i in (0, 2, 3, 1)] if parts.layout == "NHWC" else axes
            ports.append(helper.make_tensor_value_info(name, kind, axes))
        weights = [numpy_helper.from_array(value, name) for name, value in self.tensors.items()]
        graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", parts.opset)], ir_version=8)


@pytest.fixture
def tiny() -> Callable[[str], TinyModel]:
    """Builds the tiny model of a name."""
    return build_tiny


@pytest.fixture(params=TINY_NAMES)
def each_tiny(request: pytest.FixtureRequest) -> TinyModel:
    """Every tiny model, one after the other."""
    return build_tiny(request.param)


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests and the programs they start keep prepared models in a folder of their own."""
    before = os.environ.get("SR_DEPLOY_CACHE")
    os.environ["SR_DEPLOY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SR_DEPLOY_CACHE"]
    else:
        os.environ["SR_DEPLOY_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def _signals_as_in_a_terminal() -> None:
    """A test run in the background ignores Ctrl-C, and so would every program it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
