"""The model class for Triton's Python backend, called as the server calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sr_deploy.graph.onnx_file import save_model
from sr_deploy.triton.backend import upscale_batch
from sr_deploy.triton.plan import ServeOptions
from sr_deploy.triton.repository import write_repository
from sr_deploy.upscale import Upscaler


@dataclass
class Tensor:
    """Stand-in for the tensor of the server module: pixels passed by DLPack."""

    name: str
    pixels: np.ndarray

    @classmethod
    def from_dlpack(cls, name: str, capsule: Any) -> Tensor:
        class Exporter:
            def __dlpack__(self, **how: Any) -> Any:
                return capsule

            def __dlpack_device__(self) -> tuple[int, int]:
                return 1, 0

        return cls(name, np.from_dlpack(Exporter()))

    def __dlpack__(self, **how: Any) -> Any:
        return self.pixels.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.pixels.__dlpack_device__()


@dataclass
class Response:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: Any = None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a stand-in for the module that exists only in the server."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, str
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)


@pytest.fixture
def model(server: None, tmp_path: Path, tiny: Callable[[str], Any]) -> Iterator[Any]:
    """Instance of the class in the written model.py, started as the server does it."""
    save_model(tiny("plain").model, tmp_path / "plain.onnx")
    options = ServeOptions(backend="python", device="cpu", threads=1)
    (served,) = write_repository(tmp_path / "repository", [tmp_path / "plain.onnx"], options=options)
    names: dict[str, Any] = {}
    exec((served.folder / "1" / "model.py").read_text(encoding="utf-8"), names)  # as the server does
    found = names["TritonPythonModel"]()
    parameters = {key: {"string_value": value} for key, value in served.config.parameters.items()}
    found.initialize(
        {
            "model_repository": str(served.folder),
            "model_version": "1",
            "model_config": json.dumps({"name": "plain", "parameters": parameters}),
        }
    )
    yield found
    found.finalize()


def test_every_request_gets_the_pixels_it_would_get_from_sr_deploy(
    model: Any, tiny: Callable[[str], Any]
) -> None:
    batches = tiny("plain").pictures()
    answers = model.execute([{"pixels": batch} for batch in batches])
    reference = tiny("plain").reference
    for batch, answer in zip(batches, answers, strict=True):
        (tensor,) = answer.output_tensors
        assert tensor.name == "upscaled"
        assert np.abs(tensor.pixels - reference(batch / np.float32(255)) * 255).max() < 0.51


def test_the_trouble_of_one_request_is_told_to_it_alone(model: Any) -> None:
    good, bad = np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 2), np.uint8)
    first, second = model.execute([{"pixels": bad}, {"pixels": good}])
    assert "2" in first.error
    assert second.output_tensors[0].pixels.shape == (1, 8, 8, 3)


def test_a_request_with_too_many_pixels_is_refused_before_it_is_computed(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = np.zeros((2, 4_000_000, 9, 3), np.uint8)  # the system gives memory only to pages that are touched
    (answer,) = model.execute([{"pixels": huge}])
    assert "2 pictures of 9x4000000 have 72,000,000 pixels, this server takes 64,000,000" in answer.error
    model._max_pixels = 16
    small, large = model.execute([{"pixels": np.zeros((1, n, n, 3), np.uint8)} for n in (4, 5)])
    assert small.output_tensors[0].pixels.shape == (1, 8, 8, 3)
    assert "this server takes 16" in large.error


def test_a_picture_larger_than_a_tile_is_cut_up_and_looks_the_same(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (1, 70, 90, 3), np.uint8)
    with Upscaler.open("rt-x2", backend="onnxruntime", tile=32) as tiled:
        found = upscale_batch(tiled, pixels)
    with Upscaler.open("rt-x2", backend="onnxruntime", tile=None) as whole:
        expected = upscale_batch(whole, pixels)
    assert np.abs(found.astype(int) - expected).max() <= 1
