"""Nets in foreign forms, and graphs with a fault put in on purpose, in the hands of NVIDIA's real parser and compiler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.build import BuildSource
from sr_deploy.engines.tensorrt.layers import convolutions
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.runtimes import RTX
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.pixel_io import with_pixel_io
from tests.engines.tensorrt.real.compiler import build, converted, needs_rtx, prepared
from tests.engines.tensorrt.real.forms import FORMS, Net

pytestmark = needs_rtx


def upscaled(graph: bytes, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


@pytest.mark.parametrize("name", FORMS)
def test_a_foreign_form_becomes_an_engine_of_the_same_pixels(name, tmp_path):
    model = FORMS[name]()
    source = prepared(model, tmp_path)
    built, warnings = build(source)
    assert warnings == []
    layers = {node: layer.precision for layer in convolutions(built.layers) for node in layer.nodes}
    assert source.convolutions
    assert {node: layers.get(node) for node in source.convolutions} == dict(source.convolutions)
    if source.spec.precision == "bf16":  # ONNX Runtime computes no bf16 convolution
        return
    height, width = source.spec.size_rule.fixed or (16, 24)
    picture = np.random.default_rng(1).integers(0, 256, (1, height, width, source.spec.channels), np.uint8)
    plain = with_pixel_io(model).SerializeToString()
    difference = upscaled(source.graph, picture).astype(int) - upscaled(plain, picture)
    assert np.abs(difference).max() <= (0 if source.spec.precision == "fp32" else 1)


def broken(source: BuildSource, change: Any) -> BuildSource:
    """The source with its graph changed by `change`."""
    model = onnx.load_model_from_string(source.graph)
    change(model.graph)
    return replace(source, graph=model.SerializeToString())


def quantised_last(graph: onnx.GraphProto) -> None:
    """The bytes are made by a QuantizeLinear with a uint8 zero point."""
    graph.initializer.append(helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]))
    graph.initializer.append(helper.make_tensor("zero", TensorProto.UINT8, [], [0]))
    last = graph.node[-1]
    assert last.op_type == "Cast"
    last.CopyFrom(
        helper.make_node("QuantizeLinear", [last.input[0], "one", "zero"], list(last.output), name="q")
    )


def bytes_moved(graph: onnx.GraphProto) -> None:
    """The last node moves bytes."""
    name = graph.output[0].name
    graph.node[-1].output[0] = "inner"
    graph.node.append(helper.make_node("Transpose", ["inner"], [name], name="t", perm=[0, 2, 1, 3]))


def third_port(graph: onnx.GraphProto) -> None:
    """A second output."""
    graph.node.append(helper.make_node("Shape", [graph.input[0].name], ["more"], name="more"))
    graph.output.append(helper.make_tensor_value_info("more", TensorProto.INT64, [4]))


def other_name(graph: onnx.GraphProto) -> None:
    """The output has another name."""
    graph.node[-1].output[0] = graph.output[0].name = "enlarged"


def fourth_channel(graph: onnx.GraphProto) -> None:
    """Pixels of two channels come out."""
    graph.initializer.append(helper.make_tensor("two", TensorProto.INT64, [2], [0, 1]))
    last = graph.node[-1]
    graph.node.insert(
        len(graph.node) - 1, helper.make_node("Gather", [last.input[0], "two"], ["few"], name="g", axis=3)
    )
    graph.node[-1].input[0] = "few"
    del graph.output[0].type.tensor_type.shape.dim[:]
    graph.output[0].type.tensor_type.ClearField("shape")


FAULTS = [
    (quantised_last, r"reads the graph with a port upscaled of type INT8 .*expected upscaled of type UINT8"),
    (
        bytes_moved,
        r"cannot read net: operator Cast, node .*does not support UINT8 types for intermediate tensors",
    ),
    (third_port, r"finds 1 inputs and 2 outputs, expected one of each"),
    (other_name, r"a port enlarged of type UINT8 .*expected upscaled"),
    (fourth_channel, r"shape \[1, 48, 64, 2\], expected upscaled .*shape \[N, H, W, 3\]"),
]


@pytest.mark.parametrize(("change", "words"), FAULTS, ids=[change.__name__ for change, _ in FAULTS])
def test_a_fault_in_a_graph_is_an_error_and_no_engine(change, words, tmp_path):
    source = prepared(FORMS["fixed_size"](), tmp_path)
    with pytest.raises(ModelError, match=words):
        build(broken(source, change))


def test_a_convolution_in_another_type_than_the_file_says_is_an_error(tmp_path):
    source = prepared(FORMS["fixed_size"](), tmp_path)
    last = list(source.convolutions)[-1]
    with pytest.raises(ModelError, match=rf"computes {last} in fp32 instead of fp16; use a file"):
        build(replace(source, convolutions={**source.convolutions, last: "fp16"}))
    wrong = replace(source, spec=source.spec.with_(precision="bf16"))
    with pytest.raises(ModelError, match=r"should compute in bf16, but its layers do not \(2 in fp32\)"):
        build(wrong)
    assert build(wrong, check_precision=False)[0].record.precisions == {"fp32": 2}


def test_an_operator_that_tensorrt_lacks_is_named_with_the_way_out(tmp_path):
    net = Net()
    size = net.op("Resize", "picture", "", net.const([1, 1, 2, 2]), mode="cubic", antialias=1)
    model = net.model(net.op("Add", net.upscale("picture"), size), opset=18)
    words = r"TensorRT for RTX .* cannot read net: operator Resize, node core/resize_.*ntialias.*--backend onnxruntime$"
    with pytest.raises(ModelError, match=words):
        build(prepared(model, tmp_path))


def test_an_error_quotes_nothing_of_an_earlier_build(tmp_path):
    """Messages of a thread that has ended used to belong to whoever asked next."""
    net = Net()
    size = net.op("Resize", "picture", "", net.const([1, 1, 2, 2]), mode="cubic", antialias=1)
    model = net.model(net.op("Add", net.upscale("picture"), size), opset=18)
    with pytest.raises(ModelError, match="cannot read net"):
        build(prepared(model, tmp_path))
    with pytest.raises(ModelError, match="scratch memory") as caught:
        build(prepared(FORMS["half_ports"](), tmp_path), BuildOptions(tile=1024, workspace_mib=1))
    assert "Resize" not in str(caught.value)
    assert api.TensorRTLog(api.runtime(RTX)).take() == []


def test_a_build_leaves_no_message_behind(tmp_path):
    trt = api.runtime(RTX)
    source = prepared(FORMS["fixed_size"](), tmp_path)

    def stop(graph: onnx.GraphProto) -> None:
        graph.node[-1].op_type = "NoSuchOperator"

    with pytest.raises(ModelError):
        build(broken(source, stop))
    log = api.TensorRTLog(trt)
    assert log.take() == []
    assert log.last_message() == ""


def test_an_error_of_a_build_is_not_its_own_cause(tmp_path):
    source = prepared(FORMS["fixed_size"](), tmp_path)
    with pytest.raises(ModelError) as caught:
        build(broken(source, fourth_channel))
    assert caught.value.__cause__ is not caught.value


def test_a_transposed_convolution_that_bf16_lacks_needs_another_precision(tmp_path):
    """TensorRT for RTX 1.7.1 compiles it in fp16 and int8."""
    model = FORMS["luma_transposed_convolution"]()
    with pytest.raises(ModelError, match=r"Could not infer output types.*; use a file of another precision$"):
        build(prepared(converted(model, "bf16"), tmp_path))


def test_an_einsum_is_held_to_the_type_of_the_file(tmp_path):
    net = Net()
    mixed = net.op(
        "Einsum", "picture", net.const(net.random.normal(0, 0.3, (12, 3))), equation="nchw,dc->ndhw"
    )
    source = prepared(net.model(net.op("DepthToSpace", mixed, blocksize=2, mode="CRD")), tmp_path)
    ((node, kind),) = source.convolutions.items()
    assert kind == "fp32"
    assert build(source)[0].record.precisions == {"fp32": 1}
    with pytest.raises(ModelError, match=f"computes {node} in fp32 instead of fp16"):
        build(replace(source, convolutions={node: "fp16"}))


def test_turing_is_refused_for_types_that_it_lacks_before_the_build(tmp_path):
    """With 7.5 among the capabilities, every int8 convolution would quietly be compiled in fp32."""
    model = FORMS["fixed_size"]()
    for precision in ("bf16", "int8"):
        source = prepared(converted(model, precision), tmp_path)
        with pytest.raises(
            UsageError, match=rf"is {precision}, which .* lacks for compute capability 7.5; leave 7.5"
        ):
            build(source, BuildOptions(capabilities=("7.5", "8.6")))
    built, _ = build(prepared(converted(model, "fp16"), tmp_path), BuildOptions(capabilities=("7.5", "8.6")))
    assert built.record.options.capabilities == ("7.5", "8.6")


def test_int8_that_quietly_becomes_fp32_on_turing_is_named_after_the_build(tmp_path, monkeypatch):
    """Without the refusal before the build, the check of every convolution finds what 1.7.1 does."""
    monkeypatch.setattr("sr_deploy.engines.tensorrt.build.TURING", "none")
    source = prepared(converted(FORMS["fixed_size"](), "int8"), tmp_path)
    with pytest.raises(ModelError, match=r"computes \S+ in fp32 instead of int8"):
        build(source, BuildOptions(capabilities=("7.5", "8.6")))


def test_options_of_tensorrt_alone_are_refused(tmp_path):
    source = prepared(FORMS["fixed_size"](), tmp_path)
    for options in (BuildOptions(version_compatible=True), BuildOptions(hardware_compatible="ampere+")):
        with pytest.raises(UsageError, match="has no --version-compatible and no --hardware-compatible"):
            build(source, options)


def test_a_workspace_that_is_too_small_is_no_full_gpu(tmp_path):
    source = prepared(FORMS["half_ports"](), tmp_path)
    with pytest.raises(
        ModelError, match=r"the scratch memory for kernels is too small .*larger --workspace, or without it$"
    ):
        build(source, BuildOptions(tile=1024, workspace_mib=1))


def test_an_int8_file_whose_convolutions_cannot_be_int8_is_refused_before_the_build(tmp_path):
    model = FORMS["bytes_quantised"]()
    source = prepared(model, tmp_path)
    with pytest.raises(
        ModelError, match=r"no convolution that TensorRT can compute in int8.*sr-deploy convert"
    ):
        build(replace(source, spec=source.spec.with_(precision="int8")))


def test_the_package_is_known_by_its_name():
    trt = api.runtime(RTX)
    assert api.which_runtime(trt) is RTX
    assert api.title(trt).startswith("TensorRT for RTX 1.")
