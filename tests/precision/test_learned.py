"""Conversion to int8 with ranges that a training has learnt."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.cli.convert import note_lines
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.onnx_file import write_spec
from sr_deploy.images.image import Image, write_image
from sr_deploy.precision.convert import convert
from sr_deploy.precision.learned import RANGES_KEY, learned_ranges, with_learned_ranges
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec

FIRST, SECOND, THIRD = "first.weight", "second.weight", "third.weight"


def model() -> onnx.ModelProto:
    """Two convolutions that read one value after ReLU, and one that reads their difference."""
    random = np.random.default_rng(0)
    inits = [
        numpy_helper.from_array((0.2 * random.standard_normal((m, n, 3, 3))).astype(np.float32), name)
        for name, m, n in (("stem.weight", 4, 3), (FIRST, 4, 4), (SECOND, 4, 4), (THIRD, 12, 4))
    ]
    around = [{"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}] * 4
    nodes = [
        helper.make_node("Conv", ["pixels", "stem.weight"], ["a"], name="stem", **around[0]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", FIRST], ["c"], name="one", **around[0]),
        helper.make_node("Conv", ["b", SECOND], ["d"], name="two", **around[0]),
        helper.make_node("Sub", ["c", "d"], ["e"], name="difference"),
        helper.make_node("Conv", ["e", THIRD], ["f"], name="three", **around[0]),
        helper.make_node("DepthToSpace", ["f"], ["upscaled"], name="shuffle", blocksize=2, mode="CRD"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, *size])
        for name, size in (("pixels", ("h", "w")), ("upscaled", ("H", "W")))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], inits)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return write_spec(made, ModelSpec(name="three", scale=2, halo=3))


LEARNT = {
    FIRST: {"range": 2.0, "signed": False},
    SECOND: {"range": 3.0, "signed": False},
    THIRD: {"range": 1.5, "signed": True},
}


def test_each_value_has_the_range_that_was_learnt_and_the_rest_stays_in_fp32() -> None:
    made = convert(with_learned_ranges(model(), LEARNT), "int8")
    assert made.notes.kept == ("stem",)
    held = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    assert held["b_scale"] == pytest.approx(3 / 255)
    assert (held["b_zero"].dtype, held["e_zero"].dtype) == (np.uint8, np.int8)
    assert held["e_scale"] == pytest.approx(1.5 / 127)
    assert sum(node.op_type == "QuantizeLinear" for node in made.model.graph.node) == 2
    onnx.checker.check_model(made.model, full_check=True)
    assert note_lines(made.notes)[0] == "ranges learnt in the training"
    assert "not measured: no photographs were given" in note_lines(made.notes)


def test_a_value_is_signed_if_one_of_its_readers_says_so() -> None:
    found = learned_ranges(with_learned_ranges(model(), LEARNT | {FIRST: {"range": 9, "signed": True}}))
    assert found is not None
    assert (found.ranges["b"], found.unsigned) == (9.0, frozenset())


def test_the_loss_is_measured_on_photographs_where_there_are_some(tmp_path) -> None:
    for seed in range(2):
        write_image(Image(pixels=dead_leaves(64, 64, seed=seed)), tmp_path / f"{seed}.png")
    made = convert(with_learned_ranges(model(), LEARNT), "int8", data=tmp_path, tolerance=50)
    assert made.notes.photographs == 2
    assert made.notes.method == "learned"
    assert made.notes.fidelity > 20


def test_without_learned_ranges_photographs_are_still_needed_and_a_broken_record_is_told() -> None:
    assert learned_ranges(model()) is None
    assert with_learned_ranges(model(), {}).metadata_props == model().metadata_props
    with pytest.raises(UsageError, match="int8 is calibrated on photographs"):
        convert(model(), "int8")
    broken = model()
    broken.metadata_props.append(onnx.StringStringEntryProto(key=RANGES_KEY, value='{"first.weight": 3}'))
    with pytest.raises(ModelError, match="export the checkpoint again"):
        convert(broken, "int8")
