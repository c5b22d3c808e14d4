"""Engines compute the convolutions of an int8 file in integers, and name or refuse those that they do not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.int8_forms import Form, net
from sr_deploy.engines.integers import from_text, named_exceptions, to_text
from sr_deploy.engines.onnxruntime import integers as in_onnxruntime
from sr_deploy.engines.onnxruntime.cpu import OnnxRuntimeEngine, OnnxRuntimeOptions
from sr_deploy.engines.onnxruntime.session import session_options
from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import ModelError
from sr_deploy.graph import runnable
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.graph.rewrites import int8_form
from sr_deploy.system.cpu import CpuInfo

PICTURE = np.random.default_rng(1).integers(0, 256, (1, 20, 30, 3), np.uint8)
LEAKY = Form(kind="int8", activation="LeakyRelu")
ZERO_POINT = Form(kind="int8", zero=-128)
ASYMMETRIC = Form(weights_zero=3)


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request) -> str:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


def unspelled(monkeypatch) -> None:
    """Let the engines load files as they are written."""
    monkeypatch.setattr(int8_form, "spelled_for_cpu", int8_form.with_named_nodes)


@pytest.mark.parametrize("form", [Form(), Form(kind="int8"), ZERO_POINT, Form(weights="uint8"), Form(zero=3)])
@pytest.mark.parametrize("pixels", [PICTURE, PICTURE / np.float32(255)], ids=["uint8", "float32"])
def test_every_spelling_is_computed_in_integers(form, pixels, backend):
    with open_engine(net(form), backend) as engine:
        assert engine.run(pixels).std() > 0
        assert engine.float_convolutions == {}


def test_both_cpu_runtimes_compute_the_same_picture():
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    for form in (Form(), Form(kind="int8"), LEAKY):
        results = []
        for backend in ("onnxruntime", "openvino"):
            with open_engine(net(form), backend) as engine:
                results.append(engine.run(PICTURE).astype(int))
        assert np.abs(results[0] - results[1]).mean() < 0.5


def test_planted_leaky_relu_is_named_in_onnx_runtime_and_integer_in_openvino(backend):
    with open_engine(net(LEAKY), backend) as engine:
        engine.run(PICTURE)
        named = dict(engine.float_convolutions)
    if backend == "openvino":
        assert named == {}
    else:
        assert list(named.values()) == ["its result is read by LeakyRelu and not quantised"] * 2


def test_the_user_is_told_once_if_several_convolutions_are_float(tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "net.onnx"
    save_model(net(LEAKY), path)
    for _ in range(2):  # from the cache too
        said: list[str] = []
        with open_engine(path, "onnxruntime", say=said.append) as engine:
            engine.run(PICTURE)
            engine.run(PICTURE / np.float32(255))
        (line,) = said
        assert line.startswith(
            "ONNX Runtime computes 2 int8 convolutions of net in floating point (core/Conv"
        )
        assert line.endswith(
            "its result is read by LeakyRelu and not quantised, and 1 more); another backend may be faster"
        )
    with open_engine(net(Form(closed=False)), "onnxruntime", say=pytest.fail) as engine:
        engine.run(PICTURE)
        assert len(engine.float_convolutions) <= 1


def test_a_planted_zero_point_is_caught(monkeypatch):
    """int8 with zero point 0 behind ReLU is float in ONNX Runtime without a word, and so is uint8 with 3."""
    unspelled(monkeypatch)
    for form in (Form(kind="int8"), Form(zero=3)):
        with (
            OnnxRuntimeEngine(net(form)) as engine,
            pytest.raises(
                ModelError,
                match=r"net is int8, but ONNX Runtime computes core/Conv\d+, .* in floating point; use",
            ),
        ):
            engine.run(PICTURE)


def test_planted_asymmetric_weights_are_named_in_openvino():
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with open_engine(net(ASYMMETRIC), "onnxruntime") as engine:
        engine.run(PICTURE)
        assert engine.float_convolutions == {}
    with (
        open_engine(net(ASYMMETRIC), "openvino") as engine,
        pytest.raises(ModelError, match="none of its 3 conv"),
    ):
        engine.run(PICTURE)


def test_a_float_convolution_without_a_reason_is_an_error(monkeypatch):
    with pytest.raises(ModelError, match=r"net is int8, but R computes b, c, d and 1 more in floating point"):
        named_exceptions(["a", "b", "c", "d", "e"], {"a": "it is known"}, "net", "R")
    assert named_exceptions(["a"], {"a": "it is known", "b": "too"}, "net", "R") == {"a": "it is known"}
    monkeypatch.setattr(in_onnxruntime, "expected_floats", lambda prepared: {})
    with (
        OnnxRuntimeEngine(net(LEAKY)) as engine,
        pytest.raises(ModelError, match="ONNX Runtime computes core/Conv"),
    ):
        engine.run(PICTURE)


def test_without_fusion_nothing_is_asserted():
    with OnnxRuntimeEngine(net(Form()), OnnxRuntimeOptions(graph_optimisation="none")) as engine:
        engine.run(PICTURE)
        assert engine.float_convolutions == {}


def test_the_outcome_is_kept_with_the_file(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "net.onnx"
    form = LEAKY if backend == "onnxruntime" else Form()
    save_model(net(form), path)
    found = []
    for _ in range(2):
        with open_engine(path, backend) as engine:
            engine.run(PICTURE)
            found.append(dict(engine.float_convolutions))
        monkeypatch.setattr(in_onnxruntime, "float_convolutions", lambda *_: pytest.fail("examined again"))
    assert found[0] == found[1]
    assert len(found[0]) == (2 if form is LEAKY else 0)
    assert from_text(to_text(found[0])) == found[0]


@pytest.mark.parametrize(
    ("architecture", "features", "needed"),
    [
        ("x86_64", ("AVX2", "AVX-512"), True),
        ("AMD64", (), True),
        ("x86_64", ("AVX2", "AVX VNNI"), False),
        ("x86_64", ("AVX-512", "AVX-512 VNNI"), False),
        ("arm64", ("NEON",), False),
    ],
)
def test_onnx_runtime_is_told_to_be_exact_where_the_processor_would_overflow(
    architecture, features, needed, monkeypatch
):
    cpu = CpuInfo(name="it", architecture=architecture, cores=2, usable_cores=2, features=features)
    monkeypatch.setattr("sr_deploy.system.cpu.describe_cpu", lambda: cpu)
    runnable.exact_int8_settings.cache_clear()
    key, value = runnable.EXACT_INT8
    try:
        options = session_options(OnnxRuntimeOptions())
        if needed:
            assert options.get_session_config_entry(key) == value
        else:
            assert key not in runnable.exact_int8_settings()
    finally:
        runnable.exact_int8_settings.cache_clear()
