"""A command line to call, and tiny models for it that anyone can check: they repeat pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import sr_deploy.models
from sr_deploy.cli import main
from sr_deploy.images.image import Image, write_image
from sr_deploy.spec import METADATA_KEY, ModelSpec

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Call the command line in this process: `run("upscale", path)`; stdout and stderr apart."""
    try:
        runner = CliRunner(mix_stderr=False)  # type: ignore[call-arg]  # click before 8.2
    except TypeError:
        runner = CliRunner()
    return lambda *arguments: runner.invoke(main, [str(argument) for argument in arguments])


def repeating_model(path: Path, scale: int) -> Path:
    """An ONNX file that repeats every pixel `scale` times along each axis, with its record."""
    scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
    resize = helper.make_node(
        "Resize",
        ["pixels", "", "scales"],
        ["upscaled"],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    graph = helper.make_graph(
        [resize],
        "repeat",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("upscaled", TensorProto.FLOAT, ["n", 3, "hs", "ws"])],
        [scales],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    spec = ModelSpec(name=path.stem, scale=scale, halo=0, architecture="repeat", licence="CC0-1.0")
    helper.set_model_props(model, {METADATA_KEY: spec.to_json(), "author": "a test"})
    onnx.save(model, path)
    return path


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled models: rt-x2 and rt-x4, which repeat pixels."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    for scale in (2, 4):
        repeating_model(folder / f"rt-x{scale}.onnx", scale)
    monkeypatch.setattr(sr_deploy.models, "_FOLDER", folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Make a picture of noise: `picture("a.png", width=9)`."""

    def make(name: str = "photo.png", width: int = 9, height: int = 7, **fields: Any) -> Path:
        seed = sum(name.encode())
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(Image(pixels=pixels, **fields), path)
        return path

    return make
