"""The picture carried to the last convolution of an int8 graph: the same picture, all in integers."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.engines.registry import open_engine
from sr_deploy.errors import MissingRuntimeError
from sr_deploy.graph.onnx_file import write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.graph.rewrites.carried import ends_in_integers, with_carried_picture
from sr_deploy.graph.rewrites.int8_form import int8_convolutions, spelled_for_cpu
from sr_deploy.precision.convert import convert
from sr_deploy.precision.learned import with_learned_ranges
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec, SizeRule

FEATURES, SCALE = 8, 4
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
BACKENDS = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")),
]


def nearest(unshuffle: int) -> np.ndarray:
    """Weights of the convolution that copies pixels by nearest neighbour, for channels in the order CRD."""
    factor = SCALE * unshuffle
    weights = np.zeros((3, factor, factor, 3, unshuffle, unshuffle), np.float32)
    for channel in range(3):
        for row in range(factor):
            for column in range(factor):
                weights[channel, row, column, channel, row // SCALE, column // SCALE] = 1
    return weights.reshape(3 * factor**2, 3, unshuffle, unshuffle)


def net(
    unshuffle: int = 1, detail: float = 0.02, around: np.ndarray | None = None, bias: bool = True
) -> onnx.ModelProto:
    """A net of two convolutions beside a copy of the picture, with learned ranges, in fp32."""
    rng = np.random.default_rng(3)
    outputs, side = 3 * (SCALE * unshuffle) ** 2, 3 if unshuffle == 1 else 2 * unshuffle
    weights = {
        "first.weight": rng.normal(0, 0.15, (FEATURES, 3, side, side)),
        "head.weight": rng.normal(0, detail, (outputs, FEATURES, 3, 3)),
        "head.bias": rng.normal(0, detail / 10, outputs),
        "around.weight": nearest(unshuffle) if around is None else around,
    }
    edge = (side - unshuffle) // 2 if unshuffle > 1 else 1
    nodes = [
        helper.make_node(
            "Conv",
            ["pixels", "first.weight"],
            ["a"],
            pads=[edge] * 4,
            strides=[unshuffle] * 2,
            kernel_shape=[side] * 2,
        ),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(
            "Conv",
            ["b", "head.weight", *["head.bias"] * bias],
            ["c"],
            pads=[1] * 4,
            strides=[1, 1],
            kernel_shape=[3, 3],
        ),
        helper.make_node(
            "Conv", ["pixels", "around.weight"], ["d"], strides=[unshuffle] * 2, kernel_shape=[unshuffle] * 2
        ),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("DepthToSpace", ["e"], ["upscaled"], blocksize=SCALE * unshuffle, mode="CRD"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, *sizes])
        for name, sizes in (("pixels", ["h", "w"]), ("upscaled", ["H", "W"]))
    ]
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rule = SizeRule(multiple_of=unshuffle)
    spec = ModelSpec(name="net", scale=SCALE, halo=2 + 4 * (unshuffle > 1), size_rule=rule)
    ranges = {"first.weight": {"range": 1.0, "signed": False}, "head.weight": {"range": 6.0, "signed": False}}
    return with_learned_ranges(write_spec(model, spec), ranges)


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` in int8, spelled for CPUs."""
    return spelled_for_cpu(convert(model, "int8").model)


def picture() -> np.ndarray:
    """A small picture [1, H, W, 3] with every value of a byte."""
    made = dead_leaves(32, 48)
    made[:16, :48:3, 0] = np.arange(256).reshape(16, 16)
    return np.ascontiguousarray(made[None])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unshuffle", [1, 2])
def test_it_computes_the_same_picture_all_in_integers(unshuffle, backend):
    """Its distance from fp32 is that of the plain form in int8: the scale of one convolution's weights differs."""
    model = convert(net(unshuffle), "int8").model
    with open_engine(net(unshuffle), backend) as engine:
        exact = engine.run(picture()).astype(int)
    distances = []
    for form in (model, with_pixel_io(model)):  # a file with pixel I/O of its own is run as it is
        with open_engine(form, backend) as engine:
            distances.append(float(np.square(engine.run(picture()) - exact).mean()))
            if form is model:
                assert engine.float_convolutions == {}
    assert distances[0] < 1.5 * distances[1] < 1.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unshuffle", [1, 2])
def test_a_picture_without_detail_is_that_of_nearest_neighbour_for_every_byte(unshuffle, backend):
    model = convert(net(unshuffle, bias=False), "int8").model
    numbers = next(t for t in model.graph.initializer if t.name == "first.weight_int8")
    numbers.CopyFrom(numpy_helper.from_array(np.zeros(numbers.dims, np.int8), numbers.name))
    with open_engine(model, backend) as engine:
        found = engine.run(picture())
    np.testing.assert_array_equal(found, picture().repeat(SCALE, axis=1).repeat(SCALE, axis=2))


def test_no_part_of_the_picture_is_computed_in_floating_point():
    model = with_carried_picture(int8(net()))
    assert ends_in_integers(model)
    assert len(int8_convolutions(model)) == sum(node.op_type == "Conv" for node in model.graph.node)
    assert "Add" not in {node.op_type for node in model.graph.node}
    onnx.checker.check_model(model, full_check=True)


def test_small_weights_get_more_copies_of_the_picture():
    def inputs(detail: float) -> int:
        model = with_carried_picture(int8(net(detail=detail)))
        return next(t.dims[1] for t in model.graph.initializer if t.name == "carried/head/weights")

    assert [inputs(detail) for detail in (0.5, 0.04, 0.015)] == [FEATURES + 3, FEATURES + 6, FEATURES + 12]


def bilinear() -> np.ndarray:
    """Weights that are no copy of pixels."""
    weights = nearest(1)
    weights[0] /= 2
    return weights


def as_it_is(model: onnx.ModelProto) -> bool:
    return with_carried_picture(model) is model


def test_another_way_around_the_net_is_left_alone():
    assert as_it_is(int8(net(around=bilinear())))


def test_a_net_whose_detail_is_float_is_left_alone():
    assert as_it_is(net())


def test_a_net_without_a_bias_is_carried_too():
    assert not as_it_is(int8(net(bias=False)))


def test_pictures_of_floats_are_not_rounded_to_bytes():
    """The float form adds the picture itself: half a step of a byte is still there."""
    model = convert(net(bias=False), "int8").model
    numbers = next(t for t in model.graph.initializer if t.name == "first.weight_int8")
    numbers.CopyFrom(numpy_helper.from_array(np.zeros(numbers.dims, np.int8), numbers.name))
    pixels = np.full((1, 8, 8, 3), 100.5 / 255, np.float32)
    with open_engine(model, "onnxruntime") as engine:
        assert np.abs(engine.run(pixels) * 255 - 100.5).max() < 0.01


@pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")
@pytest.mark.parametrize("unshuffle", [1, 2])
def test_bf16_gives_the_picture_of_fp32_whoever_asked_for_it(unshuffle):
    """By the file or by the option. OpenVINO 2026.4 would round to bytes within a bf16 convolution that it cannot run, or
    whose bytes are others (findings/openvino-bf16-sum-to-bytes.sh)."""
    from sr_deploy.engines.openvino.engine import OpenVinoEngine, OpenVinoOptions, check_bf16

    try:
        check_bf16()
    except MissingRuntimeError as error:
        pytest.skip(str(error))
    with OpenVinoEngine(net(unshuffle)) as engine:
        exact = engine.run(picture()).astype(int)
    by_option = OpenVinoEngine(net(unshuffle), OpenVinoOptions(precision="bf16"))
    for engine in (OpenVinoEngine(convert(net(unshuffle), "bf16").model), by_option):
        with engine:
            assert engine.computes_in == "bf16"
            assert np.abs(engine.run(picture()) - exact).max() <= 2


def test_a_net_whose_detail_is_all_zero_is_left_alone():
    """Such weights have no scale of their own; nets that begin at zero or were pruned have them."""
    model = convert(net(), "int8").model
    numbers = next(t for t in model.graph.initializer if t.name == "head.weight_int8")
    numbers.CopyFrom(numpy_helper.from_array(np.zeros(numbers.dims, np.int8), numbers.name))
    assert as_it_is(spelled_for_cpu(model))
    with open_engine(model, "onnxruntime") as engine:
        assert engine.run(picture()).shape == (1, 32 * SCALE, 48 * SCALE, 3)
