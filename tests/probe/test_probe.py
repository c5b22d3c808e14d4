"""Probing finds the spec of a model without one. Every model here is built by hand, and so are its expected
facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given as every
from hypothesis import settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import ModelError
from sr_deploy.probe.probe import KnownFacts, probe
from sr_deploy.probe.structure import structure_of
from sr_deploy.spec import ModelSpec, SizeRule

COLOURS = "RGB or BGR"
node = helper.make_node


def weights(*shape: int) -> np.ndarray:
    """Return noise as large as trained weights; the same for the same shape."""
    random = np.random.default_rng(shape)
    return (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def keeping(weight: np.ndarray, scale: int) -> np.ndarray:
    """Return a head [C * scale**2, C, K, K] whose middle repeats pixels, so that the model does upscale
    pictures."""
    weight = 0.05 * weight
    middle = weight.shape[2] // 2
    for output in range(weight.shape[0]):
        weight[output, output // scale**2, middle, middle] += 1
    return weight.astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, Any],
    *,
    shape: Sequence[int | str] = ("n", 3, "h", "w"),
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    inputs: Sequence[str] = ("x",),
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "foreign",
        [helper.make_tensor_value_info(name, kinds[0], list(shape)) for name in inputs],
        [helper.make_tensor_value_info("y", kinds[1], None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def shuffled(kernel: int = 3, *, scale: int = 2, channels: int = 3, **build_options: Any) -> onnx.ModelProto:
    """Build one convolution, then PixelShuffle; the halo is kernel // 2."""
    pads = [kernel // 2] * 4
    weight = keeping(weights(channels * scale**2, channels, kernel, kernel), scale)
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=pads),
        node("DepthToSpace", ["c"], ["y"], blocksize=scale, mode="CRD"),
    ]
    build_options.setdefault("shape", ("n", channels, "h", "w"))
    return build(nodes, {"w": weight}, **build_options)


def found(model: onnx.ModelProto) -> ModelSpec:
    return probe(model, name="foreign")


def strided_and_dilated() -> onnx.ModelProto:
    """Build an NHWC model: a convolution of stride 2, one of dilation 2 on that grid, and a shuffle by 4;
    x2 in all.

    By hand: inner pixel j reads 2j-1..2j+1, and the dilated convolution reads j-2..j+2 of these, which is
    2j-5..2j+5 of the input. Its result lies at input pixels 2j and 2j+1, so the farthest read is 2j+1 -
    (2j-5) = 6.
    """
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "a"], ["c"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "b"], ["d"], pads=[2] * 4, dilations=[2, 2]),
        node("DepthToSpace", ["d"], ["s"], blocksize=4),
        node("Transpose", ["s"], ["y"], perm=[0, 2, 3, 1]),
    ]
    tensors = {"a": weights(8, 3, 3, 3), "b": weights(48, 8, 3, 3)}
    return build(nodes, tensors, shape=("n", "h", "w", 3))


def test_stride_dilation_and_a_channels_last_layout_are_found_with_the_true_halo() -> None:
    spec = found(strided_and_dilated())
    assert (spec.scale, spec.layout, spec.channels) == (2, "NHWC", 3)
    assert spec.size_rule == SizeRule(minimum=1, multiple_of=2)
    assert spec.halo == 6


def test_a_transposed_convolution_reaches_differently_to_either_side() -> None:
    # Output o reads inputs with 2i - 1 <= o <= 2i + 2 (kernel 4, stride 2, pad 1): o // 2 - 1 .. o // 2 + 1.
    nodes = [
        node("Conv", ["x", "a"], ["c"], pads=[0, 0, 2, 4]),
        node("ConvTranspose", ["c", "b"], ["y"], strides=[2, 2], pads=[1] * 4),
    ]
    # The first convolution reads rows i..i+2 and columns i..i+4, so both together read -1..+3 and -1..+5.
    spec = found(build(nodes, {"a": weights(8, 3, 3, 5), "b": weights(8, 3, 4, 4)}))
    assert (spec.scale, spec.halo) == (2, 5)


@pytest.mark.parametrize(("kernel", "scale", "channels"), [(1, 2, 3), (3, 3, 1), (5, 4, 3), (7, 1, 1)])
def test_kernel_scale_and_channels_are_found(kernel: int, scale: int, channels: int) -> None:
    spec = found(shuffled(kernel, scale=scale, channels=channels))
    assert (spec.halo, spec.scale, spec.channels) == (kernel // 2, scale, channels)
    assert spec.size_rule == SizeRule()


LAYER = st.tuples(
    st.sampled_from([1, 3, 5]), st.integers(1, 4), st.sampled_from(["Relu", "Tanh", "Identity"])
)


@every(st.lists(LAYER, min_size=1, max_size=5))
@settings(max_examples=12, deadline=None)
def test_radii_of_dilated_layers_add_up(layers: list[tuple[int, int, str]]) -> None:
    nodes, tensors, at = [], {}, "x"
    for i, (kernel, dilation, activation) in enumerate(layers):
        tensors[f"w{i}"] = weights(3, 3, kernel, kernel)
        pads, dilations = [kernel // 2 * dilation] * 4, [dilation] * 2
        nodes.append(node("Conv", [at, f"w{i}"], [f"c{i}"], pads=pads, dilations=dilations))
        nodes.append(node(activation, [f"c{i}"], [at := f"a{i}"]))
    nodes.append(node("Resize", [at, "", "scales"], ["y"], mode="nearest"))
    spec = found(build(nodes, {**tensors, "scales": np.float32([1, 1, 3, 3])}))
    assert spec.halo == sum(kernel // 2 * dilation for kernel, dilation, _ in layers)


def test_channels_that_the_graph_leaves_open_are_found_by_running() -> None:
    spec = found(shuffled(channels=1, shape=("n", "c", "h", "w")))
    assert (spec.layout, spec.channels) == ("NCHW", 1)


def test_a_path_behind_a_dead_activation_still_counts() -> None:
    nodes = [
        node("Conv", ["x", "wide", "never"], ["a"], pads=[4] * 4),
        node("Relu", ["a"], ["dead"]),
        node("Conv", ["x", "narrow"], ["b"], pads=[1] * 4),
        node("Add", ["dead", "b"], ["s"]),
        node("DepthToSpace", ["s"], ["y"], blocksize=2, mode="CRD"),
    ]
    tensors = {
        "wide": weights(12, 3, 9, 9),
        "never": np.full(12, -1e9, np.float32),
        "narrow": keeping(weights(12, 3, 3, 3), 2),
    }
    spec = found(build(nodes, tensors))
    assert spec.halo == 4
    assert any("structure allows; perturbed pictures showed 1 px" in sentence for sentence in spec.undecided)


def test_an_operator_that_cannot_be_followed_leaves_a_measured_halo_and_says_so() -> None:
    nodes = [
        node("Conv", ["x", "a"], ["c"], pads=[2] * 4),
        node("Greater", ["c", "zero"], ["g"]),
        node("Where", ["g", "c", "zero"], ["r"]),
        node("Conv", ["r", "b"], ["d"], pads=[1] * 4),
        node("DepthToSpace", ["d"], ["y"], blocksize=2),
    ]
    tensors = {"a": weights(8, 3, 5, 5), "b": weights(12, 8, 3, 3), "zero": np.float32(0)}
    spec = found(build(nodes, tensors))
    assert spec.halo == 3
    assert any("Greater, Where" in sentence for sentence in spec.undecided)


def gated(pool: Sequence[onnx.NodeProto], **tensors: Any) -> onnx.ModelProto:
    """Build a convolution times a value (`g`) that `pool` computes from it."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        *pool,
        node("Mul", ["c", "g"], ["m"]),
        node("DepthToSpace", ["m"], ["y"], blocksize=2),
    ]
    return build(nodes, {"w": weights(12, 3, 3, 3), **tensors})


@pytest.mark.parametrize(
    "pool",
    [
        [node("GlobalAveragePool", ["c"], ["p"]), node("Sigmoid", ["p"], ["g"])],
        [node("GlobalMaxPool", ["c"], ["g"])],
        [node("InstanceNormalization", ["c", "one", "one"], ["g"])],
        [node("ReduceMean", ["c"], ["g"], axes=[2, 3])],
        [node("Softmax", ["c"], ["g"], axis=3), node("Softmax", ["c"], ["unused"], axis=2)],
    ],
    ids=["average", "max", "instance-norm", "mean", "softmax"],
)
def test_what_sees_the_whole_picture_has_no_halo(pool: list[onnx.NodeProto]) -> None:
    spec = found(gated(pool, one=np.ones(12, np.float32)))
    assert spec.halo is None
    assert any("global" in sentence for sentence in spec.undecided)


def test_attention_over_all_places_is_global() -> None:
    nodes = [
        node("Shape", ["c"], ["shape"]),
        node("Reshape", ["c", "flat"], ["f"]),
        node("Transpose", ["f"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["t", "f"], ["qk"]),
        node("Softmax", ["qk"], ["p"], axis=-1),
        node("MatMul", ["p", "t"], ["o"]),
        node("Transpose", ["o"], ["ot"], perm=[0, 2, 1]),
        node("Reshape", ["ot", "shape"], ["g"]),
    ]
    assert found(gated(nodes, flat=np.array([0, 0, -1]))).halo is None


def test_attention_inside_windows_is_not_global() -> None:
    # A pixel depends on its 4x4 window alone: 3 px from one end of it to the other.
    nodes = [
        node("SpaceToDepth", ["x"], ["s"], blocksize=4),
        node("Transpose", ["s"], ["t"], perm=[0, 2, 3, 1]),
        node("Unsqueeze", ["t", "last"], ["u"]),
        node("Transpose", ["u"], ["v"], perm=[0, 1, 2, 4, 3]),
        node("MatMul", ["u", "v"], ["qk"]),
        node("Softmax", ["qk"], ["p"], axis=-1),
        node("MatMul", ["p", "u"], ["o"]),
        node("Squeeze", ["o", "last"], ["q"]),
        node("Transpose", ["q"], ["r"], perm=[0, 3, 1, 2]),
        node("DepthToSpace", ["r"], ["d"], blocksize=4),
        node("Resize", ["d", "", "twice"], ["y"], mode="nearest"),
    ]
    spec = found(build(nodes, {"last": np.array([-1]), "twice": np.float32([1, 1, 2, 2])}))
    assert (spec.halo, spec.size_rule.multiple_of) == (3, 4)


def test_a_net_that_halves_twice_takes_multiples_of_four() -> None:
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["a", "w"], ["b"], pads=[1] * 4, strides=[2, 2]),
        node("DepthToSpace", ["b"], ["y"], blocksize=8),
    ]
    # Inner pixel j reads 2j-1..2j+1 of `a`, which is 4j-2..4j+3 of the input. It lies at 4j..4j+3.
    spec = found(build(nodes, {"w": weights(192, 3, 3, 3)}))
    assert (spec.scale, spec.halo) == (2, 5)
    assert spec.size_rule == SizeRule(minimum=1, multiple_of=4)


def inner_grid() -> onnx.ModelProto:
    """Build an x2 model for any size that averages 2x2 cells, counted from the picture's corner."""
    nodes = [
        node("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Resize", ["a", "", "four"], ["b"], mode="nearest"),
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "two", "end", "zero"], ["hw"]),
        node("Mul", ["hw", "two"], ["stop"]),
        node("Slice", ["b", "start", "stop", "axes"], ["y"]),
    ]
    tensors = {
        "four": np.float32([1, 1, 4, 4]),
        "two": np.array([2]),
        "end": np.array([4]),
        "zero": np.array([0]),
        "start": np.array([0, 0]),
        "axes": np.array([2, 3]),
    }
    return build(nodes, tensors)


def test_tiles_are_kept_to_the_inner_grid_of_a_net_that_takes_any_size() -> None:
    spec = found(inner_grid())
    assert (spec.halo, spec.size_rule.multiple_of, spec.size_rule.step) == (1, 1, 2)
    assert any("repeats every 2 px" in sentence for sentence in spec.undecided)


RUNTIME = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


@pytest.mark.skipif(RUNTIME < (1, 25), reason="ONNX Runtime before 1.25 reflects more pixels than there are")
def test_a_smallest_size_is_found() -> None:
    nodes = [
        node("Pad", ["x", "ring"], ["p"], mode="reflect"),  # takes only pictures larger than the ring
        node("Conv", ["p", "w"], ["c"]),
        node("DepthToSpace", ["c"], ["y"], blocksize=2),
    ]
    model = build(nodes, {"ring": np.array([0, 0, 5, 5, 0, 0, 5, 5]), "w": weights(12, 3, 11, 11)})
    spec = found(model)
    assert (spec.halo, spec.size_rule) == (5, SizeRule(minimum=6))


def test_a_fixed_size_is_read_from_the_axes() -> None:
    spec = found(shuffled(5, shape=(1, 3, 40, 48)))
    assert (spec.halo, spec.size_rule) == (2, SizeRule(fixed=(40, 48)))


def test_axes_called_dynamic_that_take_one_size_only_are_found_out() -> None:
    nodes = [
        node("Reshape", ["x", "baked"], ["r"]),
        node("Conv", ["r", "w"], ["c"], pads=[1] * 4),
        node("DepthToSpace", ["c"], ["y"], blocksize=2),
    ]
    spec = found(build(nodes, {"baked": np.array([1, 3, 64, 64]), "w": weights(12, 3, 3, 3)}))
    assert (spec.halo, spec.size_rule) == (1, SizeRule(fixed=(64, 64)))
    assert any("only 64x64 ran" in sentence for sentence in spec.undecided)


def test_a_result_that_depends_on_the_place_has_no_halo() -> None:
    resize = node(
        "Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners"
    )
    spec = found(build([resize], {"s": np.float32([1, 1, 2, 2])}))
    assert spec.halo is None
    assert any("depends on where a tile lies" in sentence for sentence in spec.undecided)


def in_range(low: float, high: float) -> onnx.ModelProto:
    """Build an x2 model that sharpens pictures between `low` and `high`, as trained nets do.

    Faint edges stay as they are (they lie under a bias), strong ones are limited (an activation is full),
    and nothing falls below black.
    """
    edges = np.float32([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 8
    nodes = [
        node("Sub", ["x", "low"], ["a"]),
        node("Div", ["a", "span"], ["b"]),
        node("Relu", ["b"], ["unit"]),
        node(
            "Conv",
            ["unit", "edges"],
            [
                "up",
            ],
            pads=[1] * 4,
            group=3,
        ),
        node("Neg", ["up"], ["down"]),
        *(node("Sub", [side, "faint"], [f"{side}_1"]) for side in ("up", "down")),
        *(node("Clip", [f"{side}_1", "zero", "full"], [f"{side}_2"]) for side in ("up", "down")),
        node("Sub", ["up_2", "down_2"], ["detail"]),
        node("Add", ["unit", "detail"], ["sharp"]),
        node("Resize", ["sharp", "", "twice"], ["big"], mode="linear"),
        node("Mul", ["big", "span"], ["c"]),
        node("Add", ["c", "low"], ["y"]),
    ]
    numbers = {"low": low, "span": high - low, "zero": 0, "faint": 0.02, "full": 0.3}
    tensors = {name: np.float32(value) for name, value in numbers.items()}
    return build(nodes, {**tensors, "edges": np.stack([edges[None]] * 3), "twice": np.float32([1, 1, 2, 2])})


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)], ids=str)
def test_the_value_range_is_the_one_in_which_sharp_pictures_come_back(
    value_range: tuple[float, float],
) -> None:
    spec = found(in_range(*value_range))
    assert (spec.value_range, spec.halo) == (value_range, 2)
    assert all(COLOURS in sentence for sentence in spec.undecided)


def test_a_clip_at_the_end_tells_the_range_of_a_net_that_fits_all() -> None:
    nodes = [
        node("Resize", ["x", "", "s"], ["b"], mode="nearest"),
        node("Clip", ["b", "low", "high"], ["y"]),
    ]
    tensors = {"s": np.float32([1, 1, 2, 2]), "low": np.float32(0), "high": np.float32(255)}
    assert found(build(nodes, tensors)).value_range == (0.0, 255.0)


def test_a_linear_model_fits_every_range_and_says_so() -> None:
    resize = node("Resize", ["x", "", "s"], ["y"], mode="linear")
    spec = found(build([resize], {"s": np.float32([1, 1, 2, 2])}))
    assert (spec.value_range, spec.halo) == ((0.0, 1.0), 1)
    assert any("linear and has no biases" in s and "0..1 is taken" in s for s in spec.undecided)


def test_a_linear_net_of_any_gain_is_not_taken_for_one_of_another_range() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("DepthToSpace", ["c"], ["y"], blocksize=2),
    ]
    kernel = 0.01 * weights(12, 3, 3, 3)
    kernel[:, :, 1, 1] += 0.9 * np.tile(np.eye(3, dtype=np.float32), (4, 1))
    spec = found(build(nodes, {"w": kernel}))
    assert spec.value_range == (0.0, 1.0)
    assert any("linear and has no biases" in s for s in spec.undecided)


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    nodes = [
        node("Resize", ["x", "", "s"], ["b"], mode="nearest"),
        node("Mul", ["b", "zero"], ["z"]),
        node("Div", ["z", "z"], ["y"]),
    ]
    with pytest.raises(ModelError, match="no numbers"):
        found(build(nodes, {"s": np.float32([1, 1, 2, 2]), "zero": np.float32(0)}))


def test_a_model_that_upscales_nothing_says_that_no_range_fits() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("DepthToSpace", ["c"], ["y"], blocksize=2)]
    spec = found(build(nodes, {"w": weights(12, 3, 1, 1) - 1}))
    assert any("In no value range" in sentence for sentence in spec.undecided)


def test_bytes_in_means_zero_to_255() -> None:
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node("Conv", ["f", "w"], ["c"], pads=[2] * 4),
        node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="CRD"),
        node("Clip", ["d", "low", "high"], ["e"]),
        node("Cast", ["e"], ["y"], to=TensorProto.UINT8),
    ]
    tensors = {"w": keeping(weights(12, 3, 5, 5), 2), "low": np.float32(0), "high": np.float32(255)}
    spec = found(build(nodes, tensors, kinds=(TensorProto.UINT8, TensorProto.UINT8)))
    assert (spec.value_range, spec.halo) == ((0.0, 255.0), 2)


def half(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """Return the same model in fp16 or bf16, its input and output included."""
    tensor = model.graph.initializer[0]
    values = numpy_helper.to_array(tensor)
    raw = helper.make_tensor(tensor.name, kind, values.shape, values.ravel())
    tensor.CopyFrom(raw)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize(
    ("kind", "precision"), [(TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16")], ids=str
)
def test_half_precision_is_found_and_probed(kind: int, precision: str) -> None:
    spec = found(half(shuffled(5, opset=22), kind))
    assert (spec.precision, spec.halo, spec.scale) == (precision, 2, 2)


def test_quantized_models_are_int8_and_their_halo_is_followed_through_the_quantization() -> None:
    def quantized(name: str) -> list[onnx.NodeProto]:
        return [
            node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]),
            node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_d"]),
        ]

    nodes = [
        *quantized("x"),
        node("DequantizeLinear", ["w", "step", "zero"], ["wd"]),
        node("Conv", ["x_d", "wd"], ["c"], pads=[1] * 4),
        *quantized("c"),
        node("DepthToSpace", ["c_d"], ["y"], blocksize=2, mode="CRD"),
    ]
    weight = np.round(keeping(weights(12, 3, 3, 3), 2) * 127).clip(-127, 127).astype(np.int8)
    spec = found(build(nodes, {"w": weight, "step": np.float32(1 / 127), "zero": np.int8(0)}))
    assert (spec.precision, spec.halo) == ("int8", 1)
    assert all(COLOURS in sentence for sentence in spec.undecided)


def test_functions_inside_the_file_are_followed() -> None:
    call = node("Sharpen", ["x", "w"], ["c"], domain="mine")
    model = build([call, node("DepthToSpace", ["c"], ["y"], blocksize=2)], {"w": weights(12, 3, 7, 7)})
    body = [node("Conv", ["i", "k"], ["o"], pads=[3] * 4)]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Sharpen", ["i", "k"], ["o"], body, opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert found(model).halo == 3


def test_what_is_given_is_not_probed() -> None:
    given = KnownFacts(value_range=(-1.0, 1.0), halo="global")
    spec = probe(shuffled(), name="foreign", given=given)
    assert (spec.value_range, spec.halo) == ((-1.0, 1.0), None)
    assert all(COLOURS in sentence for sentence in spec.undecided)


def test_a_file_is_probed_as_a_model_in_memory_is(tmp_path: Path) -> None:
    model = shuffled()
    onnx.save(model, tmp_path / "netz-ö.onnx")
    assert probe(tmp_path / "netz-ö.onnx", name="foreign") == found(model)


def refused() -> dict[str, tuple[onnx.ModelProto, str]]:
    resize = [node("Resize", ["x", "", "s"], ["y"], mode="linear")]
    valid = [node("Conv", ["x", "w"], ["y"])]  # a border of 3 pixels, which has no half
    baked = [node("Reshape", ["x", "shape"], ["r"]), node("Identity", ["r"], ["y"])]
    kept = [node("Conv", ["x", "w"], ["y"])]
    classifier = [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["y"])]
    unknown = [node("Mystery", ["x"], ["y"], domain="nobody")]
    mystery = build(unknown, {})
    mystery.opset_import.append(helper.make_opsetid("nobody", 1))
    return {
        "two inputs": (build([node("Add", ["x", "z"], ["y"])], {}, inputs=("x", "z")), "2 inputs"),
        "not 4-D": (build([node("Identity", ["x"], ["y"])], {}, shape=("n", 3, "w")), "axes"),
        "scale 1.5": (build(resize, {"s": np.float32([1, 1, 1.5, 1.5])}), "48x48.*whole scale"),
        "stretched": (build(resize, {"s": np.float32([1, 1, 2, 3])}), "96x64"),
        "unpadded": (build(valid, {"w": weights(3, 3, 4, 4)}), "do not pad; export it with padding"),
        "two layouts": (
            build(
                [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Resize", ["t", "", "s"], ["y"])],
                {"s": np.float32([1, 1, 2, 2])},
                shape=("n", "h", "w", 3),
            ),
            "takes NHWC and gives NCHW",
        ),
        "alpha": (shuffled(channels=4), "expected 3 channels"),
        "other channels": (build(kept, {"w": weights(5, 3, 1, 1)}), "32x32 of 5"),
        "classifier": (build(classifier, {}), "2-D"),
        "batch of 4": (shuffled(shape=(4, 3, "h", "w")), "4 pictures"),
        "unusual size": (build(baked, {"shape": np.array([1, 3, 17, 19])}), "at none of"),
        "unknown operator": (mystery, "cannot be loaded by ONNX Runtime"),
    }


@pytest.mark.parametrize("case", refused())
def test_what_is_no_upscaler_is_refused_in_one_sentence(case: str) -> None:
    model, message = refused()[case]
    with pytest.raises(ModelError, match=message) as caught:
        found(model)
    assert "foreign" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "export" in str(caught.value)  # the message ends with what to do


def test_channels_with_a_public_meaning_are_refused_by_that_name() -> None:
    for channels, meaning in ((4, "noise map"), (12, "2x2 pixels"), (48, "4x4 pixels")):
        with pytest.raises(ModelError, match=meaning):
            found(shuffled(channels=channels))


@pytest.mark.parametrize("scale", [1, 2])
def test_a_net_without_padding_has_an_inset(scale: int) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("DepthToSpace", ["c"], ["y"], blocksize=scale)]
    spec = found(build(nodes, {"w": keeping(weights(3 * scale**2, 3, 5, 5), scale)}))
    assert (spec.scale, spec.inset, spec.halo) == (scale, 2 * scale, 2)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8], ids=["float", "bytes"])
@pytest.mark.parametrize("factor", [255.0, 1.0])
def test_an_output_range_of_its_own_is_found(kind: int, factor: float) -> None:
    tensors = {
        "w": keeping(weights(12, 3, 3, 3), 2),
        "factor": np.float32(factor),
        "low": np.float32(0),
        "high": np.float32(factor),
    }
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        *(
            [node("Div", ["f", "white"], ["g"])]
            if kind == TensorProto.UINT8
            else [node("Identity", ["f"], ["g"])]
        ),
        node("Conv", ["g", "w"], ["c"], pads=[1] * 4),
        node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="CRD"),
        node("Mul", ["d", "factor"], ["e"]),
        node("Clip", ["e", "low", "high"], ["y"]),
    ]
    spec = found(build(nodes, tensors | {"white": np.float32(255)}, kinds=(kind, TensorProto.FLOAT)))
    taken = (0.0, 255.0) if kind == TensorProto.UINT8 else (0.0, 1.0)
    assert spec.value_range == taken
    assert spec.output_range == (None if taken[1] == factor else (0.0, factor))


def esa() -> onnx.ModelProto:
    """Build an x1 net with an ESA block, whose max pooling has no output for small pictures."""
    nodes = [
        node("Conv", ["x", "down"], ["a"], strides=[2, 2]),
        node("MaxPool", ["a"], ["b"], kernel_shape=[7, 7], strides=[3, 3]),
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "two", "end", "zero"], ["hw"]),
        node("Slice", ["shape", "zero", "two", "zero"], ["nc"]),
        node("Concat", ["nc", "hw"], ["size"], axis=0),
        node("Resize", ["b", "", "", "size"], ["c"], mode="linear"),
        node("Sigmoid", ["c"], ["d"]),
        node("Mul", ["x", "d"], ["y"]),
    ]
    tensors = {
        "down": weights(3, 3, 3, 3),
        **{name: np.array([value]) for name, value in {"two": 2, "end": 4, "zero": 0}.items()},
    }
    return build(nodes, tensors)


def test_a_size_at_which_the_runtime_dies_is_told_and_the_next_is_tried() -> None:
    spec = found(esa())
    assert spec.scale == 1
    assert 5 <= spec.size_rule.minimum <= 20
    if any(
        "ended with SIG" in sentence for sentence in spec.undecided
    ):  # a runtime that refuses says nothing
        assert any("pixels; such sizes count as not taken" in sentence for sentence in spec.undecided)


def test_the_structural_twin_carries_nothing_but_the_paths() -> None:
    structure = structure_of(strided_and_dilated(), "x")
    assert structure.twin is not None
    assert all(not numpy_helper.to_array(t).any() for t in structure.twin.graph.initializer)
    assert "Relu" not in {n.op_type for n in structure.twin.graph.node}


def test_probing_leaves_the_model_as_it_was() -> None:
    model = strided_and_dilated()
    before = model.SerializeToString(deterministic=True)
    found(model)
    assert model.SerializeToString(deterministic=True) == before
