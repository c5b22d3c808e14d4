"""`auto` takes the fastest CPU backend for a file: measured once, and reported."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.engines import fastest, registry
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.engines.registry import choose_backend, open_engine
from sr_deploy.errors import MissingRuntimeError, ModelError
from sr_deploy.graph.onnx_file import save_model


class Slow(NearestEngine):
    """An engine that takes `seconds`, and is `off` by so many steps in one pixel."""

    off = 0

    def __init__(self, seconds: float) -> None:
        super().__init__(2)
        self.seconds = seconds

    def run(self, batch, out=None):
        time.sleep(self.seconds)
        result = super().run(batch, out)
        result[0, 0, 0, 0] ^= self.off
        return result


@pytest.fixture
def model(tiny, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    save_model(tiny("plain").model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def both(monkeypatch):
    """Two CPU backends, whose behaviour the test sets: name -> seconds per run, or an error."""
    speeds: dict[str, float | Exception] = {}

    class Opener:
        def __init__(self, name: str) -> None:
            self.name = name

        def check(self) -> None:
            if isinstance(speeds[self.name], MissingRuntimeError):
                raise speeds[self.name]

        def open(self, *_):
            if isinstance(speeds[self.name], Exception):
                raise speeds[self.name]
            engine = Slow(speeds[self.name])
            engine.backend = self.name
            return engine

    monkeypatch.setattr(registry, "_ON_GPU", ())
    monkeypatch.setattr(registry, "_engine_class", Opener)
    return speeds


def test_the_faster_one_is_chosen_said_and_remembered(model, both):
    both |= {"onnxruntime": 0.03, "openvino": 0.01}
    said: list[str] = []
    assert choose_backend("auto", model, say=said.append) == "openvino"
    assert len(said) == 1
    assert said[0].startswith("backend openvino: the fastest here for net.onnx, measured once (onnxruntime ")
    both |= {"onnxruntime": 0.0, "openvino": 0.03}
    assert choose_backend("auto", model, say=said.append) == "openvino"
    assert len(said) == 1


@pytest.mark.parametrize(
    ("precision", "off", "chosen"),
    [("fp32", 1, "openvino"), ("fp32", 2, "onnxruntime"), ("int8", 128, "openvino")],
)
def test_a_backend_whose_picture_differs_is_dropped_and_named(
    model, both, monkeypatch, precision, off, chosen
):
    both |= {"onnxruntime": 0.03, "openvino": 0.01}
    opener = registry._engine_class

    class Opener(opener):
        def open(self, *options):
            engine = super().open(*options)
            engine.off = off if self.name == "openvino" else 0
            engine.spec = engine.spec.with_(precision=precision)
            return engine

    monkeypatch.setattr(registry, "_engine_class", Opener)
    said: list[str] = []
    assert choose_backend("auto", model, say=said.append) == chosen
    dropped = [line for line in said if line.startswith("backend openvino is not used for net.onnx")]
    assert len(dropped) == (chosen == "onnxruntime")
    assert all("differs from onnxruntime's by up to" in line for line in dropped)
    assert choose_backend("auto", model) == chosen


def test_threads_that_open_a_model_at_once_measure_it_once_and_get_the_same(model, both):
    both |= {"onnxruntime": 0.005, "openvino": 0.004}
    said: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda _: choose_backend("auto", model, say=said.append), range(8)))
    assert len(set(chosen)) == 1
    assert len(said) == 1


def test_another_version_of_a_runtime_is_measured_anew(model, both, tmp_path, monkeypatch):
    before = fastest._cache_kind(None)
    (tmp_path / "openvino_telemetry-1.0.dist-info").mkdir()  # no runtime
    monkeypatch.syspath_prepend(tmp_path)
    assert fastest._cache_kind(None) == before
    (tmp_path / "openvino-1.0.dist-info").mkdir()
    assert fastest._cache_kind(None) != before


def test_the_versions_are_those_that_the_installed_packages_say():
    said = {
        f"{name.replace('-', '_')}-{metadata.version(name)}.dist-info"
        for name in ("onnxruntime", "onnxruntime-gpu", "openvino")
        if any(d.metadata["Name"] == name for d in metadata.distributions())
    }
    assert said
    assert set(fastest._versions()) == said


def test_another_number_of_threads_is_measured_anew(model, both):
    both |= {"onnxruntime": 0.03, "openvino": 0.01}
    assert choose_backend("auto", model, threads=1) == "openvino"
    both |= {"onnxruntime": 0.01, "openvino": 0.03}
    assert choose_backend("auto", model, threads=2) == "onnxruntime"


def test_a_later_backend_has_to_be_clearly_faster(model, both):
    assert fastest._choose(["a", "b"], {"a": 1.0, "b": 0.95}) == "a"
    assert fastest._choose(["a", "b"], {"a": 1.0, "b": 0.85}) == "b"
    assert fastest._choose(["a", "b"], {"b": 7.0}) == "b"
    assert fastest._choose(["a", "b"], {}) == "a"


def test_a_net_that_costs_nothing_starts_no_second_runtime(model, both, monkeypatch):
    monkeypatch.setattr(fastest, "_FAST_ENOUGH", 10.0)
    both |= {"onnxruntime": 0.0, "openvino": AssertionError("it was opened")}
    said: list[str] = []
    assert choose_backend("auto", model, say=said.append) == "onnxruntime"
    assert said == []


def test_a_backend_that_cannot_run_the_model_is_out(model, both):
    both |= {"onnxruntime": ModelError("no bf16"), "openvino": 0.01}
    assert choose_backend("auto", model) == "openvino"


def test_where_none_can_the_first_ones_error_is_seen(model, both):
    both |= {"onnxruntime": ModelError("not this one"), "openvino": ModelError("nor here")}
    with pytest.raises(ModelError, match="not this one"):
        open_engine(model)


def test_one_that_is_alone_is_not_measured(model, both):
    both |= {"onnxruntime": MissingRuntimeError("not installed"), "openvino": ModelError("broken")}
    assert choose_backend("auto", model) == "openvino"


def test_without_a_cache_or_a_file_the_first_installed_one_is_taken(model, both, monkeypatch):
    both |= {"onnxruntime": 0.03, "openvino": 0.01}
    assert choose_backend("auto") == "onnxruntime"
    assert choose_backend("auto", model.read_bytes()) == "onnxruntime"
    monkeypatch.setenv("SR_DEPLOY_CACHE", "")
    assert choose_backend("auto", model) == "onnxruntime"


def test_a_gpu_is_preferred_where_there_is_one(model, both, monkeypatch):
    both |= {
        "onnxruntime": 0.0,
        "openvino": 0.0,
        "tensorrt": MissingRuntimeError("none"),
        "onnxruntime-cuda": 0.0,
    }
    monkeypatch.setattr(registry, "_ON_GPU", ("tensorrt", "onnxruntime-cuda"))
    monkeypatch.setattr(registry, "_has_nvidia_driver", lambda: True)
    assert choose_backend("auto", model) == "onnxruntime-cuda"


def test_an_engine_file_is_tensorrts(both):
    assert choose_backend("auto", Path("net.engine")) == "tensorrt"


def test_a_bf16_file_goes_to_a_runtime_that_computes_bf16(tiny, tmp_path, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from sr_deploy.engines.openvino.engine import check_bf16
    from sr_deploy.precision.half import to_bf16

    try:
        check_bf16()
    except MissingRuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(registry, "_ON_GPU", ())
    path = tmp_path / "bf16.onnx"
    save_model(to_bf16(tiny("plain").model), path)
    with pytest.raises(ModelError, match="is bf16, in which ONNX Runtime computes no convolution on a CPU"):
        open_engine(path, "onnxruntime").run(np.zeros((1, 4, 4, 3), np.uint8))
    with open_engine(path) as engine:
        assert engine.backend == "openvino"
