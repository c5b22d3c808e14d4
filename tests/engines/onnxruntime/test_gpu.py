"""ONNX Runtime on GPUs, as far as it can be tested without one.

Tested are the settings of the providers, the cache keys and folders, the buffers of a shape, and the errors
for what is missing.
"""

from __future__ import annotations

import ctypes
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest

from sr_deploy.engines.onnxruntime import gpu as gpu_module
from sr_deploy.engines.onnxruntime.gpu import (
    CudaEngine,
    OnnxRuntimeGpuOptions,
    RecentlyUsed,
    ShapeSession,
    TensorRTProviderEngine,
    check_gpu,
    cuda_settings,
    gpu_identity,
    gpu_session_options,
    tensorrt_cache_folder,
    tensorrt_key,
    tensorrt_settings,
)
from sr_deploy.engines.onnxruntime.session import CPU, CUDA, OnnxRuntimeOptions, open_session, session_options
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import MissingRuntimeError, ModelError, UsageError
from sr_deploy.graph.rewrites.byte_ports import has_inner_bytes
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.spec import ModelSpec

SPEC = ModelSpec(name="net", scale=2, halo=0)
WITHOUT_CUDA = CUDA not in onnxruntime.get_available_providers()


@pytest.mark.skipif(not WITHOUT_CUDA, reason="this ONNX Runtime has the CUDA provider")
@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_without_the_provider_the_error_names_it_and_ends_in_the_install_line(tiny, backend):
    with pytest.raises(
        MissingRuntimeError,
        match=r'ExecutionProvider was asked for, .* pip install "sr-deploy\[onnxruntime-gpu\]"$',
    ):
        open_engine(tiny("plain").model, backend)


def test_without_a_driver_or_a_gpu_nothing_is_started(monkeypatch):
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(
        MissingRuntimeError, match="onnxruntime-cuda needs NVIDIA's driver, which cannot be loaded"
    ):
        check_gpu("onnxruntime-cuda")

    class Driver:
        def __init__(self, name):
            self.cuInit = lambda flags: 0
            self.cuDeviceGetCount = lambda count: 0

    monkeypatch.setattr(ctypes, "CDLL", Driver)
    with pytest.raises(MissingRuntimeError, match=r"the driver shows none to this process \(it lists none\)"):
        check_gpu("onnxruntime-cuda")


def test_options_are_checked_and_are_the_backends_own(tiny):
    with pytest.raises(
        UsageError, match="device must be 0 or more and shapes 1 or more, got device -1, shapes 4"
    ):
        OnnxRuntimeGpuOptions(device=-1)
    for engine in (CudaEngine, TensorRTProviderEngine):
        with pytest.raises(
            UsageError, match=f"the {engine.backend} backend takes OnnxRuntimeGpuOptions, got dict"
        ):
            engine.open(tiny("plain").model, {"device": 0})


def test_cuda_computes_fp32_in_fp32_unless_told_otherwise():
    settings = cuda_settings(OnnxRuntimeGpuOptions())
    assert (settings["use_tf32"], settings["enable_cuda_graph"], settings["device_id"]) == ("0", "1", "0")
    assert "gpu_mem_limit" not in settings
    other = OnnxRuntimeGpuOptions(
        tf32=True, cuda_graph=False, device=3, memory_limit=1 << 30, provider_options={"prefer_nhwc": "1"}
    )
    settings = cuda_settings(other)
    assert (settings["use_tf32"], settings["enable_cuda_graph"], settings["device_id"]) == ("1", "0", "3")
    assert (settings["gpu_mem_limit"], settings["prefer_nhwc"]) == (str(1 << 30), "1")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_tensorrt_may_use_the_precision_of_the_file_and_no_other(precision):
    settings = tensorrt_settings(OnnxRuntimeGpuOptions(), SPEC.with_(precision=precision), None)
    allowed = [kind for kind in ("fp16", "bf16", "int8") if settings[f"trt_{kind}_enable"] == "True"]
    assert allowed == ([] if precision == "fp32" else [precision])
    assert "trt_engine_cache_enable" not in settings


def test_engines_are_kept_under_all_that_they_depend_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path))
    options = OnnxRuntimeGpuOptions()
    keys = {
        tensorrt_key(b"graph", options, "1.32", "H100, 580"),
        tensorrt_key(b"other", options, "1.32", "H100, 580"),
        tensorrt_key(b"graph", OnnxRuntimeGpuOptions(tf32=True), "1.32", "H100, 580"),
        tensorrt_key(b"graph", options, "1.33", "H100, 580"),
        tensorrt_key(b"graph", options, "1.32", "A100, 580"),
    }
    assert len(keys) == 5
    assert tensorrt_key(b"graph", options, "1.32", "H100, 580") in keys
    folder = tensorrt_cache_folder(keys.pop())
    assert folder.is_dir()
    settings = tensorrt_settings(options, SPEC, folder)
    assert settings["trt_engine_cache_path"] == settings["trt_timing_cache_path"] == str(folder)
    monkeypatch.setenv("SR_DEPLOY_CACHE", "")
    assert tensorrt_cache_folder("0" * 32) is None


def test_the_gpu_is_known_by_its_name_and_driver(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, "NVIDIA H100 80GB HBM3, 580.65\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert gpu_identity() == "NVIDIA H100 80GB HBM3, 580.65"
    answer.returncode = 9
    assert gpu_identity() == "unknown"


@pytest.mark.parametrize("name", ["plain", "grey", "nhwc"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_shape_has_its_own_session_and_buffers_and_results_are_the_callers(tiny, name, dtype):
    """The CPU's provider stands in: on a GPU only the place of the buffers differs."""
    model = tiny(name)
    random = np.random.default_rng(0)
    shape = (1, 5, 9, model.spec.channels)
    pictures = [random.integers(0, 256, shape, np.uint8) for _ in range(3)]
    if dtype == np.float32:
        pictures = [p / np.float32(255) for p in pictures]
    graph = RunnableModel(model.model).graph(np.dtype(dtype))
    session = open_session(graph, session_options(OnnxRuntimeOptions()), [(CPU, {})], "net")
    given = (1, 5 * model.spec.scale, 9 * model.spec.scale, model.spec.channels)
    shape_session = ShapeSession(session, "cpu", 0, np.dtype(dtype), shape, given)
    results = [shape_session.run(picture, None) for picture in pictures]
    out = np.empty(given, dtype)
    assert shape_session.run(pictures[1], out) is out
    for picture, result in zip(pictures, results, strict=True):
        np.testing.assert_array_equal(result, session.run(None, {"pixels": picture})[0])
    np.testing.assert_array_equal(out, results[1])


def test_axes_of_a_shape_are_constants_so_that_nothing_is_left_for_the_cpu(tiny):
    graph = RunnableModel(tiny("plain").model).graph(np.dtype(np.uint8))
    options = gpu_session_options((1, 6, 8, 3))
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    fixed = session_options(OnnxRuntimeOptions())
    for axis, size in zip("nhw", (1, 6, 8), strict=True):
        fixed.add_free_dimension_override_by_name(axis, size)
    session = onnxruntime.InferenceSession(graph, fixed, providers=[CPU])
    assert session.get_inputs()[0].shape == [1, 6, 8, 3]


def test_a_provider_that_does_not_start_is_not_replaced(tiny, monkeypatch):
    class Session:
        def __init__(self, *_, **__):
            pass

        def get_providers(self):
            return [CPU]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(MissingRuntimeError, match="CUDAExecutionProvider is installed but did not start"):
        open_session(b"", None, [(CUDA, {})], "net")
    monkeypatch.undo()
    with pytest.raises(ModelError, match="ONNX Runtime cannot load net"):
        open_session(b"no model", session_options(OnnxRuntimeOptions()), [(CPU, {})], "net")


def test_the_shapes_used_last_are_held():
    recent = RecentlyUsed(2)
    recent.add("a", 1)
    recent.add("b", 2)
    assert recent.find("a") == 1
    recent.add("c", 3)
    assert [recent.find(key) for key in "abc"] == [1, None, 3]
    recent.clear()
    assert recent.find("a") is None


@pytest.mark.parametrize(("kind", "inner"), [(CudaEngine, True), (TensorRTProviderEngine, False)])
def test_tensorrt_gets_the_form_with_bytes_at_the_ports_alone(tiny, monkeypatch, kind, inner):
    """Its parser takes a QuantizeLinear to bytes for one to int8, which saturates every pixel above 127."""
    given = []
    monkeypatch.setattr(gpu_module, "open_session", lambda graph, *rest: given.append(graph))
    monkeypatch.setattr(kind, "check", classmethod(lambda cls: None))
    kind(tiny("plain").model, OnnxRuntimeGpuOptions(cache=False))._session(np.dtype(np.uint8), (1, 4, 4, 3))
    assert has_inner_bytes(onnx.load_model_from_string(given[0])) is inner
