"""Fine-tuning for int8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.cli.convert import note_lines
from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import write_spec
from sr_deploy.images.image import Image, write_image
from sr_deploy.precision.calibrate import measure
from sr_deploy.precision.convert import convert
from sr_deploy.precision.crops import photograph_crops, tuning_pictures
from sr_deploy.precision.effort import FULL
from sr_deploy.precision.measure import LossMeter
from sr_deploy.precision.quantise import quantised_inputs, to_int8
from sr_deploy.precision.search_int8 import Int8Start
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.training.finetune import tuning
from sr_deploy.training.finetune.tuning import FineTuner, QuantisedNet

BLACK_WHITE = (0.0, 1.0)


def hard_net(last: str = "Tanh", value_range: tuple[float, float] = BLACK_WHITE) -> onnx.ModelProto:
    """A x2 net that adds detail to the picture, with weights of which one per channel is far larger than the others.

    Balancing channels cannot help: no factor goes through `last`, if it is Tanh.
    """
    random = np.random.default_rng(1)
    weights = {
        "a.weight": random.normal(0, 0.2, (8, 3, 3, 3)),
        "a.bias": random.normal(0, 0.1, 8),
        "b.weight": random.normal(0, 0.2, (8, 8, 3, 3)),
        "c.weight": random.normal(0, 0.06, (12, 8, 3, 3)),
        "c.bias": random.normal(0, 0.01, 12),
        "scales": np.array([1, 1, 2, 2]),
    }
    weights["b.weight"][0] /= 10
    weights["c.weight"][:, 0, 1, 1] = random.choice([-0.6, 0.6], 12)
    around = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "a.weight", "a.bias"], ["a"], **around),
        helper.make_node("LeakyRelu", ["a"], ["a1"], alpha=0.2),
        helper.make_node("Conv", ["a1", "b.weight"], ["b"], **around),
        helper.make_node(last, ["b"], ["b1"]),
        helper.make_node("Conv", ["b1", "c.weight", "c.bias"], ["c"], **around),
        helper.make_node("DepthToSpace", ["c"], ["detail"], blocksize=2, mode="CRD"),
        helper.make_node("Resize", ["x", "", "scales"], ["large"], mode="linear"),
        helper.make_node("Add", ["large", "detail"], ["y"]),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, f"{name}h", f"{name}w"])
        for name in ("x", "y")
    ]
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "hard", ports[:1], ports[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return write_spec(model, ModelSpec(name="hard", scale=2, halo=4, value_range=value_range))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(4):
        write_image(Image(pixels=dead_leaves(96, 96, seed=seed)), folder / f"{seed}.png")
    return folder


def start(model: onnx.ModelProto, photographs: Path) -> Int8Start:
    """Ranges that hold all values, without a search."""
    crops = photograph_crops(photographs, ModelSpec(name="hard", scale=2, halo=4))
    found = measure(model, quantised_inputs(model).values(), [crop.small for crop in crops.calibrate])
    ranges = {name: magnitudes.largest for name, magnitudes in found.items()}
    made = to_int8(model, ranges)
    return Int8Start(model=model, int8=made, strength=0, ranges=ranges, unsigned=frozenset())


def test_it_brings_int8_closer_to_fp32(photographs):
    said: list[str] = []
    made = convert(
        hard_net(), "int8", data=photographs, tolerance=50, tuner=FineTuner(2 / 60), say=said.append
    )
    notes = made.notes
    assert notes.fidelity > notes.fidelity_before + 1.5
    plain = convert(hard_net(), "int8", data=photographs, tolerance=50).notes
    assert notes.fidelity > plain.fidelity + 1.5
    assert (notes.method, notes.finetuned, notes.kept) == ("fine-tuned", 2 / 60, ())
    assert said[-1].startswith("fine-tuning: ")
    lines = note_lines(notes)
    assert lines[0].startswith("weights and ranges fine-tuned for 0.0333333 minutes")
    assert lines[-1].startswith("before fine-tuning, all in int8: ")
    onnx.checker.check_model(made.model, full_check=True)


def test_the_loss_is_that_against_the_model_as_it_was_given(photographs):
    """A tuner that makes another net of it, all black but for the picture, cannot hide that."""

    class Spoiling(FineTuner):
        def tune(self, start, model, spec, pictures, say):
            made = super().tune(start, model, spec, pictures, say)
            for tensor in made.graph.initializer:
                if tensor.name == "c.bias":
                    tensor.CopyFrom(numpy_helper.from_array(np.full(12, 0.1, np.float32), tensor.name))
            return made

    made = convert(hard_net(), "int8", data=photographs, tolerance=50, tuner=Spoiling(1e-4))
    assert made.notes.fidelity < 25 < made.notes.fidelity_before


def test_the_net_in_torch_computes_what_the_int8_file_computes(photographs):
    begun, spec = start(hard_net(), photographs), ModelSpec(name="hard", scale=2, halo=4)
    crops = photograph_crops(photographs, spec)
    net = QuantisedNet(begun, spec)
    assert net.ranges()["a.weight"] == {"range": 1.0, "signed": False}  # pixels are exact
    made = to_int8(net.tuned_model(), {**begun.ranges, "x": 1.0}, unsigned=frozenset({"x"}))
    tuned = tuning._Tuning(
        net, tuning.GraphNet(begun.model), spec, [crop.small for crop in crops.measure], print
    )
    expected = LossMeter(begun.model, spec, crops.measure).distance(made).fidelity
    results = [tuned._pixels(tuned.target(picture)) for picture in tuned.held_out]
    assert tuned._fidelity(results) == pytest.approx(expected, abs=0.2)


def test_convolutions_with_the_same_weights_share_a_range(photographs):
    """The second reads values of both signs, so the range is signed for both."""
    model = hard_net()
    model.graph.node[3].op_type = "Relu"
    again = helper.make_node("Conv", ["b1", "b.weight"], ["b2"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    third = helper.make_node("Conv", ["b2", "b.weight"], ["b3"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    model.graph.node.insert(4, third)
    model.graph.node.insert(4, again)
    model.graph.node[6].input[0] = "b3"
    begun = replace(start(model, photographs), unsigned=frozenset({"b1"}))
    net = QuantisedNet(begun, ModelSpec(name="hard", scale=2, halo=6))
    assert net.inputs["b"] is net.inputs["b2"] is net.inputs["b3"]
    assert net.ranges()["b.weight"]["signed"] is True
    largest = max(begun.ranges[name] for name in ("a1", "b1", "b2"))
    assert net.ranges()["b.weight"]["range"] == pytest.approx(largest, rel=1e-5)


def test_a_state_that_is_worse_than_the_start_is_not_kept(photographs, monkeypatch):
    monkeypatch.setattr(tuning, "_WEIGHT_RATE", 10.0)
    begun, spec = start(hard_net(), photographs), ModelSpec(name="hard", scale=2, halo=4)
    pictures = tuning_pictures(photographs, spec, [], FULL.crop_side)
    made = FineTuner(0.5 / 60).tune(begun, begun.model, spec, pictures, lambda line: None)
    for before, after in zip(begun.model.graph.initializer, made.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))


def test_no_picture_is_of_a_photograph_that_is_measured_on(photographs):
    spec = ModelSpec(name="hard", scale=2, halo=4)
    crops = photograph_crops(photographs, spec)
    assert {crop.path.name for crop in crops.measure} == {"2.png"}
    pictures = tuning_pictures(photographs, spec, crops.measure, 32)
    assert len(pictures) == 3 * 16
    assert {picture.shape for picture in pictures} == {(1, 3, 32, 32)}


@pytest.mark.parametrize(
    ("precision", "model", "says"),
    [
        ("fp16", hard_net(), "--finetune is for int8, got fp16"),
        ("int8", hard_net(last="Selu"), "does not support the operator Selu"),
        ("int8", hard_net(last="Mish"), "does not support the operator Mish"),
    ],
)
def test_what_cannot_be_tuned_is_refused(photographs, precision, model, says):
    with pytest.raises(UsageError, match=says):
        convert(model, precision, data=photographs, tuner=FineTuner(1))


def test_without_photographs_it_is_refused():
    with pytest.raises(UsageError, match="point --data at a folder"):
        convert(hard_net(), "int8", tuner=FineTuner(1))


def test_a_file_for_one_picture_is_tuned_one_picture_at_a_time(photographs):
    model = hard_net()
    shape = numpy_helper.from_array(np.array([1, 3, -1, 1], np.int64), "shape")
    model.graph.initializer.append(shape)
    again = numpy_helper.from_array(np.array([1, 3, 48, -1], np.int64), "back")
    model.graph.initializer.append(again)
    model.graph.node[0].input[0] = "x2"
    model.graph.node.insert(0, helper.make_node("Reshape", ["x1", "back"], ["x2"]))
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["x1"]))
    spec = ModelSpec(name="hard", scale=2, halo=4, size_rule=SizeRule(fixed=(48, 48)))
    begun = start(model, photographs)
    pictures = tuning_pictures(photographs, spec, [], FULL.crop_side)
    run = tuning._Tuning(QuantisedNet(begun, spec), tuning.GraphNet(model), spec, pictures, print)
    assert (run.parts, len(run._batch())) == (tuning._BATCH, 1)
    assert FineTuner(1e-3).tune(begun, model, spec, pictures, print)
