"""Tests of building: the graph that TensorRT gets, the files written, and the errors where nothing can be built."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from sr_deploy.engines.registry import available_backends, open_engine
from sr_deploy.engines.tensorrt import build as build_module
from sr_deploy.engines.tensorrt.build import BuildSource, engine_from_cache, key_of, source_of, write_engine
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.sidecar import digest, read_engine, sidecar_path
from sr_deploy.errors import MissingRuntimeError, ModelError, OutputError, UsageError
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.precision.half import to_fp16
from tests.engines.tensorrt.test_sidecar import HERE, PLAN, a_record

KNOWN = {
    *("Add", "Cast", "Clip", "Concat", "Conv", "DepthToSpace", "Div", "Identity", "Min", "Mul", "Relu"),
    *("Reshape", "Round", "Shape", "Slice", "Sub", "Transpose"),
}
"""Operators that the ONNX parsers of TensorRT 8.6 to 11 all support."""


def stored(tiny, tmp_path, name, change=lambda model: model):
    """Write the tiny model `name`, changed by `change`, to a file; returns the model and the path."""
    model = tiny(name)
    path = tmp_path / f"{name.replace('.', '')}.onnx"
    save_model(change(model.model), path)
    return model, path


def test_the_graph_that_tensorrt_gets_computes_the_same(each_tiny, tmp_path):
    path = tmp_path / "model.onnx"
    save_model(each_tiny.model, path)

    def run(batch):
        kind = "uint8" if batch.dtype == np.uint8 else "float32"
        session = onnxruntime.InferenceSession(
            source_of(path, kind).graph, providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"pixels": batch})[0]

    each_tiny.check(run)


def test_bytes_are_at_the_ports_alone_and_every_operator_is_known(each_tiny, tmp_path):
    path = tmp_path / "model.onnx"
    save_model(each_tiny.model, path)
    graph = onnx.load_model_from_string(source_of(path).graph).graph
    assert {node.op_type for node in graph.node} <= KNOWN
    typed = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(source_of(path).graph)).graph
    inner = {
        value.name for value in typed.value_info if value.type.tensor_type.elem_type == TensorProto.UINT8
    }
    assert inner == set()
    assert not [t.name for t in graph.initializer if t.data_type == TensorProto.UINT8]
    readers = [node for node in graph.node if "pixels" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]
    assert (graph.node[-1].op_type, list(graph.node[-1].output)) == ("Cast", ["upscaled"])


@pytest.mark.parametrize("name", ["plain", "dcr", "convolved"])
def test_a_half_precision_net_moves_halves_and_gives_the_same_pixels(tiny, tmp_path, name):
    model, path = stored(tiny, tmp_path, name, to_fp16)
    source = source_of(path)
    graph = onnx.load_model_from_string(source.graph).graph
    assert source.spec.precision == "fp16"
    last = [node for node in graph.node if node.op_type == "Cast"][-2:]
    assert [onnx.helper.get_attribute_value(n.attribute[0]) for n in last] == [
        TensorProto.FLOAT16,
        TensorProto.UINT8,
    ]
    session = onnxruntime.InferenceSession(source.graph, providers=["CPUExecutionProvider"])
    for batch in model.pictures():
        expected = model.reference(batch / np.float32(255)) * 255
        assert np.abs(session.run(None, {"pixels": batch})[0] - expected).max() <= 2


def tensorrt_of(version: str, *types: str) -> object:
    """A stand-in for `tensorrt` with a version and the types it has."""
    return type("trt", (), {"__version__": version, "DataType": type("DataType", (), dict.fromkeys(types))})


OLD, NEW = tensorrt_of("8.6.0", "FLOAT", "HALF"), tensorrt_of("10.16.1", "FLOAT", "HALF", "BF16")


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
@pytest.mark.parametrize("trt", [OLD, NEW], ids=["8.6", "10.16"])
def test_a_right_file_is_never_refused_for_its_types(each_tiny, tmp_path, trt, pixels):
    spec = each_tiny.spec
    path = tmp_path / "model.onnx"
    save_model(each_tiny.model, path)
    build_module._check_types(trt, source_of(path, pixels))
    if spec.precision == "fp32":
        save_model(to_fp16(each_tiny.model), path)
        source = source_of(path, pixels)
        assert source.spec.precision == "fp16"
        build_module._check_types(trt, source)


def test_a_file_that_is_not_what_its_record_says_is_refused_before_minutes_are_spent(tiny, tmp_path):
    _, path = stored(tiny, tmp_path, "plain")
    source = source_of(path)
    wrong = replace(source, spec=source.spec.with_(precision="fp16"))
    with pytest.raises(
        ModelError, match=r"spec of plain says fp16, but its weights are fp32.*`sr-deploy convert`$"
    ):
        build_module._check_types(OLD, wrong)


def test_bf16_needs_a_tensorrt_that_has_it(tiny, tmp_path):
    _, path = stored(tiny, tmp_path, "plain")
    source = source_of(path)
    wanted = replace(source, spec=source.spec.with_(precision="bf16"))
    with pytest.raises(UsageError, match=r"is bf16, which TensorRT 8\.6\.0 lacks"):
        build_module._check_types(OLD, wanted)
    build_module._check_types(NEW, wanted)


def test_a_source_is_of_the_file_it_came_from(tiny, tmp_path):
    _, path = stored(tiny, tmp_path, "plain")
    source = source_of(path)
    assert source.sha256 == digest(path.read_bytes())
    assert (source.name, source.pixels) == (str(path), "uint8")


def test_an_engine_is_written_with_its_record_and_replaces_both(tmp_path):
    path = tmp_path / "a b.engine"
    write_engine(path, PLAN, a_record())
    other = PLAN * 2
    write_engine(path, other, a_record(plan_sha256=digest(other), plan_size=len(other)))
    assert read_engine(path)[0] == other
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a b.engine", "a b.engine.json"]


def test_an_engine_whose_writing_fails_half_way_leaves_no_record_of_another(tmp_path, monkeypatch):
    path = tmp_path / "net.engine"
    write_engine(path, PLAN, a_record())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module, "write_whole", full)
    with pytest.raises(OutputError, match="No space left"):
        write_engine(path, PLAN * 2, a_record())
    assert not sidecar_path(path).exists()
    with pytest.raises(ModelError, match="no sidecar"):
        read_engine(path)


@pytest.fixture
def here(monkeypatch):
    """A machine with TensorRT and a GPU, as far as looking into the cache is concerned."""
    monkeypatch.setattr(
        build_module.api, "runtime", lambda which: type("trt", (), {"__version__": HERE.tensorrt})
    )
    monkeypatch.setattr(build_module, "machine", lambda device, version: HERE)
    return HERE


def test_an_engine_in_the_cache_is_not_built_again(tmp_path, here):
    cache = EngineCache(tmp_path)
    cache.store(key_of("ab", "uint8", BuildOptions(), here), PLAN, a_record())

    def never() -> BuildSource:
        raise AssertionError("the engine was built again")

    found = engine_from_cache(never, "ab", "uint8", BuildOptions(), device=0, context="primary", cache=cache)
    assert found == (PLAN, a_record())


def test_an_engine_that_may_not_be_built_is_an_error_that_says_how(tmp_path, here):
    with pytest.raises(ModelError, match=r"no engine of this model for TensorRT.*run `sr-deploy build` once"):
        engine_from_cache(lambda: pytest.fail("built"), "ab", "uint8", BuildOptions(), device=0, context="primary",
                          cache=EngineCache(tmp_path), build_missing=False)  # fmt: skip


def test_without_tensorrt_the_error_ends_in_the_install_line(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingRuntimeError) as caught:
        open_engine(tiny("plain").model, "tensorrt")
    assert str(caught.value).endswith('pip install "sr-deploy[gpu]"')
    assert str(available_backends()["tensorrt"]).endswith('pip install "sr-deploy[gpu]"')


def test_an_old_tensorrt_is_refused_by_its_version(monkeypatch):
    old = type("trt", (), {"__version__": "8.2.1", "Builder": object, "IExecutionContext": object})
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(MissingRuntimeError, match=r"8\.2\.1, 8\.6 or later is needed"):
        build_module.api.runtime()


def test_options_of_another_backend_are_refused(tiny):
    from sr_deploy.engines.tensorrt.engine import TensorRTEngine
    from sr_deploy.errors import UsageError

    with pytest.raises(UsageError, match="takes TensorRTOptions, got dict"):
        TensorRTEngine.open(tiny("plain").model, {"contexts": 2})


def test_the_record_of_an_engine_is_json_that_others_can_read(tmp_path):
    path = tmp_path / "net.engine"
    write_engine(path, PLAN, a_record())
    fields = json.loads(sidecar_path(path).read_text(encoding="utf-8"))
    assert fields["machine"] == {
        "tensorrt": "10.16.1",
        "gpu": "NVIDIA H100",
        "capability": [9, 0],
        "driver": "580.1",
        "runtime": "tensorrt",
    }
    assert fields["spec"]["scale"] == 4
