"""Converting a model: the loss is measured, overflowing values are named, and a bad result is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import CheckFailedError, InputError, MissingRuntimeError, UsageError
from sr_deploy.graph.onnx_file import read_spec, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.images.image import Image, write_image
from sr_deploy.precision.convert import NOTES_KEY, convert
from sr_deploy.precision.crops import drawn_crops, photograph_crops
from sr_deploy.precision.effort import _SHORT, FULL, effort_for
from sr_deploy.precision.half import to_fp16
from sr_deploy.precision.measure import LossMeter
from sr_deploy.precision.search_int8 import best_int8, costs_of
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec, SizeRule


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of drawn pictures: one grey, one of 16 bits, one too small, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(5):
        write_image(Image(pixels=dead_leaves(96, 128, seed=seed)), folder / f"{seed}.png")
    write_image(Image(pixels=np.ascontiguousarray(dead_leaves(96, 96, seed=7)[..., :1])), folder / "grey.png")
    write_image(Image(pixels=dead_leaves(96, 96, seed=8).astype(np.uint16) * 257), folder / "deep.png")
    write_image(Image(pixels=dead_leaves(20, 20, seed=9)), folder / "small.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def gentle(model: onnx.ModelProto) -> onnx.ModelProto:
    """The tiny model with an output around mid-grey, so that clipping hides nothing."""
    for tensor in model.graph.initializer:
        if tensor.name in ("w0", "w1"):
            values = numpy_helper.to_array(tensor) * np.float32(0.4)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return model


def notes_of(model: onnx.ModelProto) -> dict:
    return json.loads(next(entry.value for entry in model.metadata_props if entry.key == NOTES_KEY))


def test_int8_is_calibrated_measured_and_described_in_the_file(tiny, photographs):
    made = convert(gentle(tiny("plain").model), "int8", data=photographs)
    assert made.spec.precision == read_spec(made.model).precision == "int8"
    zeros = [t.data_type for t in made.model.graph.initializer if t.name.endswith("_zero") and not t.dims]
    assert TensorProto.UINT8 in zeros  # the values behind ReLU
    assert made.notes.photographs == 7
    assert -0.1 <= made.notes.psnr_change <= 0.1
    assert made.notes.fidelity > 35
    assert notes_of(made.model)["method"] == made.notes.method
    onnx.checker.check_model(made.model, full_check=True)


def test_the_same_photographs_give_the_same_bytes(tiny, photographs):
    first, second = (convert(gentle(tiny("plain").model), "int8", data=photographs).model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["grey", "nhwc", "-1..1", "fixed", "old-opset"])
def test_every_kind_of_model_can_be_int8(tiny, name, photographs):
    made = convert(gentle(tiny(name).model), "int8", data=photographs, tolerance=3)
    assert made.notes.fidelity > 30


def test_convolutions_are_kept_until_the_tolerance_is_met(tiny, photographs):
    loose = convert(gentle(tiny("plain").model), "int8", data=photographs, tolerance=100)
    assert len(loose.notes.kept) < 2
    crops = photograph_crops(photographs, tiny("plain").spec)
    model = gentle(tiny("plain").model)
    with pytest.raises(
        CheckFailedError, match=r"plain in int8 changes PSNR by -.* dB on 2 photographs, but only 0 dB are"
    ):
        convert(_sharp(model, crops), "int8", data=photographs, tolerance=0.0)


def _sharp(model: onnx.ModelProto, crops) -> onnx.ModelProto:
    """A model that any rounding makes worse on the photographs: nearest neighbours, through
    convolutions whose other channels are noise that cancels."""
    random = np.random.default_rng(0)
    first = np.zeros((8, 3, 3, 3), np.float32)
    first[:3, :, 1, 1] = np.eye(3)
    noise = random.normal(0, 3, (2, 3, 3, 3))
    first[3:5], first[5:7] = noise, noise
    second = np.zeros((12, 8, 3, 3), np.float32)
    for channel in range(3):
        second[4 * channel : 4 * channel + 4, channel, 1, 1] = 1
    second[:, 3:5, 1, 1], second[:, 5:7, 1, 1] = 2.0, -2.0
    values = {"w0": first, "w1": second, "b0": np.zeros(8, np.float32), "b1": np.zeros(12, np.float32)}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return model


def test_fp16_names_what_would_overflow_on_pictures_and_keeps_it(tiny):
    model = tiny("plain").model
    bright = numpy_helper.from_array(np.float32(1e5), "bright")
    model.graph.initializer.append(bright)
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Mul", ["before", "bright"], ["large"]))
    model.graph.node.append(helper.make_node("Div", ["large", "bright"], ["upscaled"]))
    made = convert(model, "fp16")
    assert made.notes.kept == ("bright", "large")
    assert made.notes.psnr_change is None
    assert made.notes.unmeasured == "no photographs were given"
    with pytest.raises(StopIteration):
        next(t for t in made.model.graph.initializer if t.name == "w0")  # the others are fp16


def test_half_precision_costs_next_to_nothing(tiny, photographs):
    made = convert(gentle(tiny("plain").model), "fp16", data=photographs)
    assert abs(made.notes.psnr_change) < 0.01
    assert made.notes.kept == ()


def test_bf16_is_measured_where_it_can_be_run_and_else_says_why_not(tiny, photographs, monkeypatch):
    made = convert(gentle(tiny("plain").model), "bf16", data=photographs, tolerance=1)
    assert (made.notes.psnr_change is None) == (made.notes.unmeasured is not None)
    reason = "no bf16 here"

    def lacking() -> None:
        raise MissingRuntimeError(reason)

    monkeypatch.setattr("sr_deploy.engines.openvino.engine.check_bf16", lacking)
    made = convert(gentle(tiny("plain").model), "bf16", data=photographs)
    assert (made.notes.psnr_change, made.notes.unmeasured) == (None, reason)


def test_what_cannot_be_converted_is_said_before_any_work(tiny, photographs, tmp_path):
    plain = tiny("plain")
    with pytest.raises(UsageError, match="int8 is calibrated on photographs; point --data"):
        convert(plain.model, "int8")
    with pytest.raises(UsageError, match="expected a precision of fp16, bf16, int8, got 'int4'"):
        convert(plain.model, "int4")
    with pytest.raises(UsageError, match="plain has uint8 pixel I/O; convert the file with float pixels"):
        convert(with_pixel_io(plain.model), "fp16")
    with pytest.raises(InputError, match="expected a folder of pictures"):
        convert(plain.model, "int8", data=tmp_path / "none")
    write_image(Image(pixels=dead_leaves(96, 96)), tmp_path / "alone.png")
    with pytest.raises(
        InputError, match="expected at least 2 pictures of 32x32 pixels or more, found 1 among 1"
    ):
        convert(plain.model, "int8", data=tmp_path)
    half = write_spec(tiny("plain").model, plain.spec.with_(precision="fp16"))
    with pytest.raises(UsageError, match="plain is already fp16"):
        convert(half, "fp16", data=photographs)
    whole = write_spec(tiny("plain").model, plain.spec.with_(precision="int8"))
    with pytest.raises(UsageError, match="plain is already int8"):
        convert(whole, "int8", data=photographs)


def test_a_file_in_fp16_is_widened_first_and_says_so(tiny, photographs):
    said: list[str] = []
    half = convert(gentle(tiny("half-ports").model), "int8", data=photographs, tolerance=3, say=said.append)
    assert said[0].startswith("half-ports is fp16; it is widened to fp32 first")
    assert (half.spec.precision, half.notes.precision) == ("int8", "int8")
    onnx.checker.check_model(half.model, full_check=True)
    made = convert(to_fp16(tiny("plain").model), "bf16")
    assert made.spec.precision == "bf16"


def deep(convolutions: int = 8) -> onnx.ModelProto:
    """A net whose first convolutions carry an outlier each, which int8 has no steps for."""
    random, nodes, weights, name = np.random.default_rng(1), [], [], "x"
    for index in range(convolutions):
        depth = 12 if index == convolutions - 1 else 8
        weight = random.normal(0, 0.2, (depth, 3 if index == 0 else 8, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        bias = np.zeros(depth, np.float32)
        bias[0] = 40.0 if index < 3 else 0.0
        weights.append(numpy_helper.from_array(bias, f"b{index}"))
        nodes.append(helper.make_node("Conv", [name, f"w{index}", f"b{index}"], [f"c{index}"], pads=[1] * 4))
        name = f"c{index}"
        if index < convolutions - 1:
            nodes.append(helper.make_node("Tanh" if index else "Relu", [name], [f"a{index}"]))
            name = f"a{index}"
    nodes.append(helper.make_node("DepthToSpace", [name], ["d"], blocksize=2, mode="CRD"))
    nodes.append(helper.make_node("Sigmoid", ["d"], ["y"]))
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 3, "h", "w"]) for n in "xy"]
    graph = helper.make_graph(nodes, "deep", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return write_spec(model, ModelSpec(name="deep", scale=2, halo=8))


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "estimated"])
def test_no_convolution_is_kept_that_the_tolerance_does_not_need(photographs, measured):
    model = deep()
    spec, crops = read_spec(model), photograph_crops(photographs, ModelSpec(name="deep", scale=2, halo=8))
    meter = LossMeter(model, spec, crops.measure)
    effort = replace(FULL, strengths=(0.0,), methods=("max",), measured_gains=measured)
    loss = -best_int8(
        model, meter, crops.calibrate, target=99, say=lambda line: None, effort=effort
    ).distance.change
    said: list[str] = []
    target = loss / 2
    best = best_int8(model, meter, crops.calibrate, target=target, say=said.append, effort=effort)
    assert -best.distance.change <= target
    assert 0 < len(best.kept) < 7
    assert any("in fp32 PSNR changes by" in line for line in said)


def test_a_large_net_is_searched_with_less_effort(tiny):
    assert effort_for(tiny("plain").model, tiny("plain").spec) == FULL
    wide = tiny("plain").model
    for tensor in wide.graph.initializer:
        sizes = {"w0": (24576, 3, 3, 3), "b0": (24576,), "w1": (12, 24576, 3, 3)}
        if tensor.name in sizes:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(sizes[tensor.name], np.float32), tensor.name))
    assert effort_for(wide, tiny("plain").spec) == _SHORT  # 3.3 million multiply-adds
    assert _SHORT.photographs < FULL.photographs


def test_a_crop_is_measured_on_or_calibrated_on_and_never_both(photographs, tiny):
    crops = photograph_crops(photographs, tiny("plain").spec)
    assert (len(crops.calibrate), len(crops.measure)) == (5, 2)
    assert not {id(c) for c in crops.calibrate} & {id(c) for c in crops.measure}
    for crop in (*crops.calibrate, *crops.measure):
        assert crop.small.shape[2:] == tuple(n // 2 for n in crop.large.shape[1:3])
        assert 0 <= crop.small.min() <= crop.small.max() <= 1
        np.testing.assert_array_equal(crop.small * 255, np.rint(crop.small * 255))  # steps of 8 bits
    odd = photograph_crops(photographs, tiny("plain").spec.with_(size_rule=SizeRule(multiple_of=7)))
    assert all(c.small.shape[2] % 7 == c.small.shape[3] % 7 == 0 for c in odd.measure)


def test_a_spoiled_model_is_far_from_the_one_it_was(tiny, photographs):
    plain = tiny("plain")
    meter = LossMeter(plain.model, plain.spec, drawn_crops(plain.spec).measure)
    same = meter.distance(tiny("plain").model)
    assert (same.change, same.fidelity > 100) == (0.0, True)
    spoiled = tiny("plain").model
    bias = next(t for t in spoiled.graph.initializer if t.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(np.nan), "b1"))
    assert meter.distance(spoiled).fidelity == -np.inf


def test_what_a_convolution_costs_is_what_it_multiplies_and_reads(tiny):
    plain = tiny("plain")
    crop = drawn_crops(plain.spec).measure[0]
    cost = costs_of(plain.model, crop.small)
    first, second = 8 * 3 * 9 + 100 * 3, 12 * 8 * 9 + 100 * 8
    assert cost == {
        "v0": pytest.approx(first / (first + second)),
        "v2": pytest.approx(second / (first + second)),
    }
