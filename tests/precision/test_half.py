"""Half precision: weights and arithmetic in fp16 or bf16, float32 inputs and outputs, and no overflow."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import read_spec
from sr_deploy.precision.half import fp16_overflows, to_bf16, to_fp16
from sr_deploy.precision.shuffle import shuffled_by_pixels

FLOAT32_TINIES = (
    "plain",
    "dcr",
    "grey",
    "scalars",
    "convolved",
    "mean-shifted",
    "nhwc",
    "-1..1",
    "old-opset",
)


def run(model: onnx.ModelProto, tensor: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


def core_input(tiny_model) -> np.ndarray:
    low, high = tiny_model.spec.value_range
    pixels = tiny_model.pictures()[-1] / np.float32(255) * np.float32(high - low) + np.float32(low)
    return pixels if tiny_model.spec.layout == "NHWC" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return values | {t.name: t.data_type for t in graph.initializer}


def computed_in(model: onnx.ModelProto, op_type: str) -> set[int]:
    types = value_types(model)
    return {types[node.output[0]] for node in model.graph.node if node.op_type == op_type}


def float_model(nodes, weights, outputs=("upscaled",), opset=17) -> onnx.ModelProto:
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, None, None])
        for name in ("pixels", *outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("name", FLOAT32_TINIES)
def test_half_precision_computes_nearly_the_same(tiny, name):
    full = tiny(name)
    span = full.spec.value_range[1] - full.spec.value_range[0]
    expected, got = (run(model, core_input(full)) for model in (full.model, to_fp16(full.model)))
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() <= 4e-3 * span


@pytest.mark.parametrize("name", FLOAT32_TINIES)
def test_every_weight_and_convolution_is_half_and_the_ports_are_not(tiny, name):
    half = to_fp16(tiny(name).model)
    assert {t.data_type for t in half.graph.initializer} == {TensorProto.FLOAT16}
    assert computed_in(half, "Conv") == {TensorProto.FLOAT16}
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 2
    types = value_types(half)
    assert {types[half.graph.input[0].name], types[half.graph.output[0].name]} == {TensorProto.FLOAT}


def test_the_file_is_half_as_large_and_the_original_is_untouched(tiny):
    full = tiny("plain")
    half = to_fp16(full.model)
    assert full.model == tiny("plain").model
    sizes = [sum(len(t.raw_data) for t in m.graph.initializer) for m in (full.model, half)]
    assert sizes[0] == 2 * sizes[1]


def test_the_record_says_so_and_a_second_time_is_refused(tiny):
    half = to_fp16(tiny("plain").model)
    assert read_spec(half) == tiny("plain").spec.with_(precision="fp16")
    with pytest.raises(UsageError, match="plain is already fp16"):
        to_fp16(half)


def test_a_weight_that_half_precision_cannot_hold_is_named_and_its_operator_kept(tiny):
    full = tiny("plain")
    large = next(t for t in full.model.graph.initializer if t.name == "w1")
    values = numpy_helper.to_array(large).copy()
    values[0, 0, 0, 0] = -70000.0
    large.CopyFrom(numpy_helper.from_array(values, "w1"))
    assert fp16_overflows(full.model) == {"w1": 70000.0}
    half = to_fp16(full.model)
    types = value_types(half)
    assert types["w1"] == TensorProto.FLOAT
    assert computed_in(half, "Conv") == {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert np.isfinite(run(half, core_input(full))).all()


def test_a_model_that_fits_names_nothing(tiny):
    assert fp16_overflows(tiny("plain").model) == {}


def test_a_constant_node_that_overflows_is_found_too():
    bound = numpy_helper.from_array(np.float32(3.4e38), "")
    nodes = [
        helper.make_node("Constant", [], ["bound"], value=bound),
        helper.make_node("Clip", ["pixels", "", "bound"], ["upscaled"]),
    ]
    model = float_model(nodes, {})
    assert list(fp16_overflows(model)) == ["bound"]
    tensor = np.full((1, 3, 2, 2), 7, np.float32)
    np.testing.assert_array_equal(run(to_fp16(model), tensor), tensor)


def test_resize_keeps_its_scales_in_full_precision():
    node = helper.make_node("Resize", ["pixels", "", "scales"], ["upscaled"], mode="nearest")
    half = to_fp16(float_model([node], {"scales": np.array([1, 1, 2, 2], np.float32)}))
    types = value_types(half)
    assert types["scales"] == TensorProto.FLOAT
    assert computed_in(half, "Resize") == {TensorProto.FLOAT16}
    assert run(half, np.ones((1, 3, 4, 5), np.float32)).shape == (1, 3, 8, 10)


def test_sizes_computed_in_floats_stay_exact():
    """A resize as `interpolate(scale_factor=...)` exports it; 4099 is not an fp16 number."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "factors"], ["grown"]),
        helper.make_node("Cast", ["grown"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["pixels", "", "", "sizes"], ["upscaled"], mode="nearest"),
    ]
    half = to_fp16(float_model(nodes, {"factors": np.array([1, 1, 1, 2], np.float32)}))
    assert run(half, np.ones((1, 3, 1, 4099), np.float32)).shape == (1, 3, 1, 8198)


def test_sums_over_the_picture_stay_in_full_precision():
    nodes = [
        helper.make_node("ReduceSum", ["pixels", "axes"], ["total"], keepdims=1),
        helper.make_node("Div", ["pixels", "total"], ["upscaled"]),
    ]
    half = to_fp16(float_model(nodes, {"axes": np.array([2, 3])}))
    assert computed_in(half, "ReduceSum") == {TensorProto.FLOAT}
    result = run(half, np.full((1, 3, 300, 300), 1.0, np.float32))
    assert np.isfinite(result).all()


def test_a_weight_that_both_precisions_read_is_there_in_both():
    nodes = [
        helper.make_node("Mul", ["pixels", "factor"], ["scaled"]),
        helper.make_node("Exp", ["scaled"], ["steep"]),
        helper.make_node("Pow", ["steep", "factor"], ["upscaled"]),
    ]
    model = float_model(nodes, {"factor": np.float32(0.5)})
    tensor = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 2, 2)
    np.testing.assert_allclose(run(to_fp16(model), tensor), run(model, tensor), atol=2e-3)


def test_a_branch_reads_what_is_around_it_in_full_precision():
    result = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)]
    branches = {
        branch: helper.make_graph(
            [helper.make_node(kind, ["scaled", "factor"], ["chosen"])], branch, [], result
        )
        for branch, kind in (("then_branch", "Mul"), ("else_branch", "Add"))
    }
    nodes = [
        helper.make_node("Mul", ["pixels", "factor"], ["scaled"]),
        helper.make_node("If", ["which"], ["upscaled"], **branches),
    ]
    model = float_model(nodes, {"factor": np.float32(0.5), "which": np.array(False)})
    half = to_fp16(model)
    assert computed_in(half, "Mul") == {TensorProto.FLOAT16}
    tensor = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 2, 2)
    np.testing.assert_allclose(run(half, tensor), run(model, tensor), atol=2e-3)


@pytest.mark.parametrize("name", [n for n in FLOAT32_TINIES if n != "old-opset"])
def test_bf16_is_the_nets_and_not_the_ports(tiny, name):
    converted = to_bf16(tiny(name).model)
    onnx.checker.check_model(converted, full_check=True)
    assert read_spec(converted).precision == "bf16"
    assert computed_in(converted, "Conv") == {TensorProto.BFLOAT16}
    types = value_types(converted)
    assert {types[converted.graph.input[0].name], types[converted.graph.output[0].name]} == {
        TensorProto.FLOAT
    }
    assert next(entry.version for entry in converted.opset_import if entry.domain == "") >= 22


def test_bf16_weights_are_rounded_to_nearest():
    exact = np.array([1.0, 1.00390625, 1.01171875, -2.0, 3.0e38, 0.0], np.float32)
    model = float_model(
        [helper.make_node("Conv", ["pixels", "w"], ["upscaled"])],
        {"w": np.resize(exact, (3, 3, 1, 2))},
        opset=22,
    )
    stored = next(t for t in to_bf16(model).graph.initializer)
    assert stored.data_type == TensorProto.BFLOAT16
    values = numpy_helper.to_array(stored).astype(np.float32).ravel()[:6]
    np.testing.assert_allclose(values, exact, rtol=2**-8)
    np.testing.assert_array_equal(values[:3], [1.0, 1.0, 1.015625])  # halfway goes to even


def test_bf16_leaves_the_pictures_way_around_the_net_and_the_end_in_full_precision():
    weights = {
        "w": np.random.default_rng(0).normal(0, 0.2, (3, 3, 3, 3)).astype(np.float32),
        "around": np.eye(3, dtype=np.float32)[:, :, None, None],
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "w"], ["deep"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["deep"], ["active"]),
        helper.make_node("Conv", ["active", "w"], ["detail"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["pixels", "around"], ["skip"]),
        helper.make_node("Add", ["detail", "skip"], ["upscaled"]),
    ]
    converted = to_bf16(float_model(nodes, weights))
    types = value_types(converted)
    assert types["skip"] == types["around"] == TensorProto.FLOAT
    assert computed_in(converted, "Add") == {TensorProto.FLOAT}
    assert computed_in(converted, "Relu") == {TensorProto.BFLOAT16}


def test_values_that_overflow_on_pictures_are_kept_in_full_precision(tiny):
    half = to_fp16(tiny("plain").model, too_large={"v0"})
    types = value_types(half)
    assert types["v0"] == TensorProto.FLOAT
    assert computed_in(half, "Conv") == {TensorProto.FLOAT, TensorProto.FLOAT16}
    np.testing.assert_allclose(
        run(half, core_input(tiny("plain"))), run(tiny("plain").model, core_input(tiny("plain"))), atol=4e-3
    )


def shuffling(mode: str = "CRD", activation: str = "LeakyRelu") -> onnx.ModelProto:
    """conv, activation, DepthToSpace, conv."""
    random = np.random.default_rng(3)
    weights = {
        "w": random.normal(0, 0.3, (12, 3, 3, 3)).astype(np.float32),
        "b": random.normal(0, 0.3, 12).astype(np.float32),
        "v": random.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node(activation, ["a"], ["c"]),
        helper.make_node("DepthToSpace", ["c"], ["d"], blocksize=2, mode=mode),
        helper.make_node("Conv", ["d", "v"], ["upscaled"], pads=[1, 1, 1, 1]),
    ]
    return float_model(nodes, weights)


def modes(model: onnx.ModelProto) -> list[bytes]:
    nodes = [node for node in model.graph.node if node.op_type == "DepthToSpace"]
    return [a.s for node in nodes for a in node.attribute if a.name == "mode"]


def test_depth_to_space_moves_whole_pixels_and_the_result_is_the_same():
    model, tensor = shuffling(), np.random.default_rng(0).random((1, 3, 5, 7), np.float32)
    faster = shuffled_by_pixels(model)
    assert (modes(model), modes(faster)) == ([b"CRD"], [b"DCR"])
    np.testing.assert_array_equal(run(faster, tensor), run(model, tensor))
    assert modes(shuffled_by_pixels(shuffling("DCR"))) == [b"DCR"]


def test_a_shuffle_is_left_alone_where_channels_do_not_all_count_alike():
    assert modes(shuffled_by_pixels(shuffling(activation="Softmax"))) == [b"CRD"]
    shared = shuffling()
    shared.graph.node.insert(2, helper.make_node("Abs", ["a"], ["unused"]))
    assert modes(shuffled_by_pixels(shared)) == [b"CRD"]
