"""Grafted pixel I/O: pixels go in and come out, whatever the core takes."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from sr_deploy.errors import ModelError
from sr_deploy.graph.footprint import peak_bytes
from sr_deploy.graph.onnx_file import picture_io, read_spec
from sr_deploy.graph.pixel_io import has_pixel_io, with_float_io, with_pixel_io
from sr_deploy.precision.half import to_fp16


def runner(model: onnx.ModelProto):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    return lambda pixels: session.run(None, {port.name: pixels})[0]


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_bytes_in_bytes_out_to_the_nearest_step(each_tiny):
    each_tiny.check_uint8(runner(with_pixel_io(each_tiny.model)))


def test_floats_in_floats_out_and_clipped(each_tiny):
    each_tiny.check_float(runner(with_float_io(each_tiny.model)))


def test_the_model_itself_is_left_alone(each_tiny, tiny):
    with_pixel_io(each_tiny.model)
    with_float_io(each_tiny.model)
    assert each_tiny.model == tiny(each_tiny.name).model


def test_the_new_ports_are_declared_and_recorded(each_tiny):
    for graft, elem_type, white in (
        (with_pixel_io, TensorProto.UINT8, 255),
        (with_float_io, TensorProto.FLOAT, 1),
    ):
        grafted = graft(each_tiny.model)
        spec, (taken, given) = each_tiny.spec, picture_io(grafted)
        assert (taken.name, given.name) == ("pixels", "upscaled")
        assert taken.elem_type == given.elem_type == elem_type
        assert taken.dims == (None, *(spec.size_rule.fixed or (None, None)), spec.channels)
        assert read_spec(grafted) == spec.with_(layout="NHWC", value_range=(0, white))


@pytest.mark.parametrize("name", ["plain", "dcr", "grey", "scalars", "half-ports", "old-opset"])
def test_a_last_pixel_shuffle_moves_finished_bytes(tiny, name):
    order = kinds(with_pixel_io(tiny(name).model))
    assert "DepthToSpace" not in order
    assert order.index("QuantizeLinear") < order.index("Transpose", order.index("QuantizeLinear"))


@pytest.mark.parametrize("name", ["convolved", "mean-shifted"])
def test_a_pixel_shuffle_that_something_else_follows_stays(tiny, name):
    assert "DepthToSpace" in kinds(with_pixel_io(tiny(name).model))


def test_a_pixel_shuffle_that_is_read_twice_stays(tiny):
    plain = tiny("plain")
    plain.model.graph.node[-1].output[0] = "shuffled"
    plain.model.graph.node.append(helper.make_node("Mul", ["shuffled", "shuffled"], ["upscaled"]))
    grafted = with_pixel_io(plain.model)
    assert "DepthToSpace" in kinds(grafted)
    picture = plain.pictures()[0]
    core = runner(plain.model)((picture / np.float32(255)).transpose(0, 3, 1, 2))
    expected = np.clip(core.transpose(0, 2, 3, 1), 0, 1) * 255
    assert np.abs(runner(grafted)(picture) - expected).max() <= 0.501


def test_a_constant_node_counts_as_a_scalar_too(tiny):
    plain = tiny("plain")
    plain.model.graph.node[-1].output[0] = "shuffled"
    plain.model.graph.node.extend(
        [
            helper.make_node(
                "Constant", [], ["half"], value=helper.make_tensor("", TensorProto.FLOAT, [], [0.5])
            ),
            helper.make_node("Mul", ["half", "shuffled"], ["upscaled"]),
        ]
    )
    grafted = with_pixel_io(plain.model)
    assert "DepthToSpace" not in kinds(grafted)
    picture = plain.pictures()[0]
    core = runner(plain.model)((picture / np.float32(255)).transpose(0, 3, 1, 2))
    expected = np.clip(core.transpose(0, 2, 3, 1), 0, 1) * 255
    assert np.abs(runner(grafted)(picture) - expected).max() <= 0.501


def test_a_branch_that_reads_a_weight_keeps_reading_it(tiny):
    plain = tiny("plain")
    plain.model.graph.node[-1].output[0] = "shuffled"
    result = [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)]
    branches = {
        branch: helper.make_graph(
            [helper.make_node(kind, ["shuffled", "factor"], ["chosen"])], branch, [], result
        )
        for branch, kind in (("then_branch", "Mul"), ("else_branch", "Add"))
    }
    plain.model.graph.initializer.extend(
        [
            helper.make_tensor("factor", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("which", TensorProto.BOOL, [], [True]),
        ]
    )
    plain.model.graph.node.append(helper.make_node("If", ["which"], ["upscaled"], **branches))
    picture = plain.pictures()[0]
    expected = np.rint(plain.reference(picture / np.float32(255)) * 127.5)
    assert np.abs(runner(with_pixel_io(plain.model))(picture) - expected).max() <= 1


def test_half_precision_inside_is_still_pixels_outside(tiny):
    plain = tiny("plain")
    plain.tolerance = 4e-3
    half = to_fp16(plain.model)
    plain.check_uint8(runner(with_pixel_io(half)))
    plain.check_float(runner(with_float_io(half)))


def test_every_byte_survives_a_model_that_changes_nothing(tiny):
    model = tiny("as-is").model
    node = helper.make_node("Identity", ["pixels"], ["upscaled"])
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(node)
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    for value_range in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (16.0, 235.0)):
        grafted = with_pixel_io(model, read_spec(model).with_(value_range=value_range))
        np.testing.assert_array_equal(runner(grafted)(every), every)


def test_a_model_with_pixel_io_takes_no_second_one(tiny):
    plain = tiny("plain")
    once = with_pixel_io(plain.model)
    assert has_pixel_io(once)
    assert not has_pixel_io(plain.model)
    plain.check_uint8(runner(with_pixel_io(once)))
    with pytest.raises(ModelError, match="--io float"):
        with_float_io(once)


def test_a_model_without_a_record_needs_a_spec(tiny):
    plain = tiny("plain")
    del plain.model.metadata_props[:]
    with pytest.raises(ModelError, match="sr-deploy stamp"):
        with_pixel_io(plain.model)
    plain.check_uint8(runner(with_pixel_io(plain.model, plain.spec)))


def test_the_footprint_of_a_graph_follows_from_its_shapes(tiny):
    graph = tiny("plain").model
    # alive at once: eight channels before and after Relu; later eight after it and twelve of the second convolution
    assert peak_bytes(graph, (1, 3, 10, 20)) == 10 * 20 * 4 * max(8 + 8, 8 + 12, 12 + 12)
    assert peak_bytes(with_pixel_io(graph), (2, 10, 20, 3)) >= 2 * 10 * 20 * 4 * (8 + 12)
    graph.graph.node[0].op_type, graph.graph.node[0].domain = "Mystery", "com.example"
    assert peak_bytes(graph, (1, 3, 10, 20)) is None
