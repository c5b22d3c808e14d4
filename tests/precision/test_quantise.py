"""int8 as Q/DQ: the right operators are quantised, and the graph computes nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.engines.onnxruntime.session import OnnxRuntimeOptions, session_options
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.nodes import node_roles
from sr_deploy.graph.onnx_file import read_spec, write_spec
from sr_deploy.graph.pixel_io import with_float_io, with_pixel_io
from sr_deploy.precision.calibrate import METHODS, Magnitudes, choose_ranges, measure, measure_largest
from sr_deploy.precision.equalise import equalised, find_links
from sr_deploy.precision.quantise import (
    quantisable,
    quantised_inputs,
    rounded_weights,
    to_int8,
    weight_scales,
)
from sr_deploy.spec import ModelSpec

NETS = ("plain", "dcr", "grey", "scalars", "convolved", "mean-shifted", "nhwc", "-1..1", "old-opset")


def run(model: onnx.ModelProto, tensor: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    options = session_options(OnnxRuntimeOptions())  # the default options let int8 overflow without VNNI
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


def core_input(tiny_model, size: int = 12) -> np.ndarray:
    """Random pixels as the model takes them."""
    spec = tiny_model.spec
    pixels = np.random.default_rng(0).random((1, spec.channels, size, size), np.float32)
    pixels = pixels * np.float32(spec.value_range[1] - spec.value_range[0]) + np.float32(spec.value_range[0])
    return pixels if spec.layout == "NCHW" else np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def ranges_of(tiny_model) -> dict[str, float]:
    found = measure(tiny_model.model, quantised_inputs(tiny_model.model).values(), [core_input(tiny_model)])
    return choose_ranges(found, "max")


def residual_net(activation: str = "Relu", middle: float = 1.0) -> onnx.ModelProto:
    """conv, activation, conv, activation, DepthToSpace, conv; and the picture around it by a convolution."""
    random = np.random.default_rng(5)
    spread = np.geomspace(0.02, 1, 8).astype(np.float32) * middle
    weights = {
        "first": random.normal(0, 0.4, (8, 3, 3, 3)) * spread[:, None, None, None],
        "bias": random.normal(0, 0.1, 8) * spread,
        "second": random.normal(0, 0.2, (12, 8, 3, 3)) / spread[None, :, None, None],
        "last": random.normal(0, 0.2, (3, 3, 3, 3)),
        "around": np.repeat(np.eye(3), 4, axis=0)[:, :, None, None],
    }
    extra = ["slope"] if activation == "PRelu" else []
    weights |= {"slope": np.full((8, 1, 1), 0.1)} if extra else {}
    conv = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["pixels", "first", "bias"], ["a"], **conv),
        helper.make_node(activation, ["a", *extra], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], **conv),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("DepthToSpace", ["d"], ["e"], blocksize=2, mode="CRD"),
        helper.make_node("Conv", ["e", "last"], ["f"], **conv),
        helper.make_node("Conv", ["pixels", "around"], ["g"]),
        helper.make_node("DepthToSpace", ["g"], ["h"], blocksize=2, mode="CRD"),
        helper.make_node("Add", ["f", "h"], ["upscaled"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, None, None])
        for name in ("pixels", "upscaled")
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return write_spec(model, ModelSpec(name="residual", scale=2, halo=4))


PICTURE = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)


@pytest.mark.parametrize("name", NETS)
def test_int8_computes_nearly_the_same_and_says_so(tiny, name):
    full = tiny(name)
    small = to_int8(full.model, ranges_of(full))
    span = full.spec.value_range[1] - full.spec.value_range[0]
    expected, got = run(full.model, core_input(full)), run(small, core_input(full))
    assert 0 < np.abs(got - expected).max() < 0.06 * span
    assert read_spec(small) == full.spec.with_(precision="int8")
    assert full.model == tiny(name).model


def test_everything_is_as_tensorrt_wants_it(tiny):
    """Symmetric, zero point 0, int8 both ways; weights by output channel; Q/DQ in front of convolutions."""
    small = to_int8(tiny("plain").model, ranges_of(tiny("plain")))
    tensors = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    makers = {name: node for node in small.graph.node for name in node.output}
    for node in small.graph.node:
        if "QuantizeLinear" in node.op_type or "DequantizeLinear" in node.op_type:
            zero = tensors[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "Conv":
            pixels, weights = makers[node.input[0]], makers[node.input[1]]
            assert (pixels.op_type, weights.op_type) == ("DequantizeLinear", "DequantizeLinear")
            assert makers[pixels.input[0]].op_type == "QuantizeLinear"
            steps = tensors[weights.input[0]]
            assert tensors[weights.input[1]].shape == (len(steps),)
            assert (steps.dtype, steps.min() >= -127) == (np.int8, True)


def test_the_pictures_way_around_the_net_stays_as_it_is():
    model = residual_net()
    assert quantisable(model) == ("a", "c", "f")
    places = node_roles(model)
    assert [model.graph.node[i].output[0] for i in sorted(places.skip_path)] == ["g"]
    assert {model.graph.node[i].output[0] for i in places.tail} == {"h", "upscaled"}
    small = to_int8(model, dict.fromkeys(quantised_inputs(model).values(), 4.0))
    around = next(node for node in small.graph.node if node.output[0] == "g")
    assert list(around.input) == ["pixels", "around"]


def test_what_prepares_the_picture_on_its_way_around_belongs_to_it():
    model = residual_net()
    around = next(node for node in model.graph.node if node.output[0] == "g")
    model.graph.node.insert(0, helper.make_node("Relu", [around.input[0]], ["prepared"]))
    around.input[0] = "prepared"
    assert [model.graph.node[i].output[0] for i in sorted(node_roles(model).skip_path)] == ["prepared", "g"]


def test_values_are_quantised_before_they_are_moved():
    """A quarter of the bytes goes through DepthToSpace, and the result is the same."""
    model = residual_net()
    assert quantised_inputs(model) == {"a": "pixels", "c": "b", "f": "d"}
    small = to_int8(model, {"pixels": 1.0, "b": 3.0, "d": 3.0})
    shuffle = next(node for node in small.graph.node if node.output[0] == "e")
    maker = next(node for node in small.graph.node if node.output[0] == shuffle.input[0])
    assert maker.op_type == "DequantizeLinear"
    assert next(node for node in small.graph.node if node.output[0] == "f").input[0] == "e"


def test_what_is_kept_stays_in_single_precision():
    model = residual_net()
    ranges = dict.fromkeys(quantised_inputs(model).values(), 4.0)
    small = to_int8(model, ranges, keep={"a", "f"})
    inputs = {node.output[0]: list(node.input) for node in small.graph.node}
    assert inputs["a"] == ["pixels", "first", "bias"]
    assert inputs["f"] == ["e", "last"]
    assert inputs["e"] == ["d"]
    assert inputs["c"] == ["b_steps", "second_steps"]


def test_a_value_read_twice_is_quantised_once(tiny):
    model = residual_net()
    model.graph.node.insert(1, helper.make_node("Conv", ["pixels", "first"], ["a2"], pads=[1, 1, 1, 1]))
    model.graph.node[2].CopyFrom(helper.make_node("Add", ["a", "a2"], ["b"]))
    small = to_int8(model, dict.fromkeys(quantised_inputs(model).values(), 4.0))
    quantised = [node.input[0] for node in small.graph.node if node.op_type == "QuantizeLinear"]
    assert sorted(quantised) == ["b", "d", "pixels"]
    assert sum(t.name == "first_int8" for t in small.graph.initializer) == 1


@pytest.mark.parametrize("graft", [with_pixel_io, with_float_io])
def test_pixels_are_grafted_onto_an_int8_model_as_onto_any(tiny, graft):
    small = to_int8(tiny("plain").model, ranges_of(tiny("plain")))
    session = onnxruntime.InferenceSession(
        graft(small).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    picture = np.full((1, 5, 7, 3), 1, np.uint8 if graft is with_pixel_io else np.float32)
    assert session.run(None, {"pixels": picture})[0].shape == (1, 10, 14, 3)


def test_a_second_time_and_a_net_without_convolutions_are_refused(tiny):
    small = to_int8(tiny("plain").model, ranges_of(tiny("plain")))
    with pytest.raises(UsageError, match="plain is already int8; convert the fp32 file"):
        to_int8(small, {})
    bare = residual_net()
    del bare.graph.node[:]
    bare.graph.node.append(helper.make_node("Identity", ["pixels"], ["upscaled"]))
    with pytest.raises(
        ModelError, match="no convolution with constant weights to make int8; use --precision fp16"
    ):
        quantisable(bare)


def test_weights_that_are_no_numbers_are_named():
    model = residual_net()
    broken = next(t for t in model.graph.initializer if t.name == "second")
    broken.CopyFrom(numpy_helper.from_array(np.full((12, 8, 3, 3), np.nan, np.float32), "second"))
    with pytest.raises(ModelError, match="weights of second hold NaN or infinity"):
        to_int8(model, dict.fromkeys(quantised_inputs(model).values(), 4.0))


def test_rounding_weights_is_off_by_half_a_step_at_most():
    weights = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)
    weights[2] = 0
    scales = weight_scales(weights)
    back = rounded_weights(weights, scales) * scales[:, None, None, None]
    assert (np.abs(back - weights) <= scales[:, None, None, None] / 2 + 1e-7).all()


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "PRelu"])
def test_balancing_channels_changes_nothing_but_their_magnitudes(activation):
    model = residual_net(activation)
    assert [link.value for link in find_links(model)] == ["b"]
    balanced = equalised(model, [PICTURE])
    np.testing.assert_allclose(run(balanced, PICTURE), run(model, PICTURE), atol=2e-5)

    def spread(net: onnx.ModelProto) -> float:
        net = onnx.ModelProto.FromString(net.SerializeToString())
        net.graph.output.append(onnx.ValueInfoProto(name="b"))
        session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
        peaks = np.abs(session.run(["b"], {"pixels": PICTURE})[0]).max(axis=(0, 2, 3))
        return float(peaks.max() / peaks.min())

    assert 20 * spread(balanced) < spread(model)


def test_channels_are_left_alone_where_an_activation_has_bounds_or_others_read_between():
    bounded = residual_net("Tanh")
    assert find_links(bounded) == []
    watched = residual_net()
    watched.graph.node.insert(2, helper.make_node("Abs", ["a"], ["unused"]))
    assert find_links(watched) == []


def test_balanced_channels_survive_int8_better():
    model = residual_net("LeakyRelu")
    errors = []
    for net in (model, equalised(model, [PICTURE])):
        found = measure(net, quantised_inputs(net).values(), [PICTURE])
        small = to_int8(net, choose_ranges(found, "max"))
        errors.append(float(np.square(run(small, PICTURE) - run(model, PICTURE)).mean()))
    assert errors[1] < errors[0] / 2


def test_magnitudes_are_those_of_the_values():
    model = residual_net()
    found = measure(model, ["pixels", "b"], [PICTURE, PICTURE / 2])
    assert found["pixels"].largest == pytest.approx(float(PICTURE.max()), rel=1e-3)
    assert found["pixels"].counts.sum() == 2 * PICTURE.size
    assert found["b"].counts.sum() == 2 * 8 * 16 * 16
    assert measure_largest(model, ["b"], [PICTURE])["b"] == pytest.approx(found["b"].largest, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_one_outlier_narrows_the_range_of_all_methods_but_the_largest(method):
    values = np.append(np.abs(np.random.default_rng(0).normal(0, 1, 400_000)), 60.0)
    counts = np.histogram(values, bins=2048, range=(0, 60.0))[0]
    chosen = METHODS[method](Magnitudes(60.0, counts))
    assert chosen == 60.0 if method == "max" else 2.5 < chosen < 20


@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_is_always_zero_has_a_range_too(method):
    counts = np.zeros(2048, np.int64)
    counts[0] = 100
    assert METHODS[method](Magnitudes(0.0, counts)) == 0.0


def test_a_net_that_computes_no_number_is_named_with_the_value():
    model = residual_net(middle=np.inf)
    with pytest.raises(ModelError, match=r"the value a is NaN or infinite on a picture"):
        measure(model, ["a"], [PICTURE])
