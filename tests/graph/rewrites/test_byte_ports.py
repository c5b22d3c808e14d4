"""Bytes at the ports alone: the form that TensorRT takes gives the same pixels as the file it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import load_model, write_spec
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.graph.rewrites.byte_ports import has_inner_bytes, with_bytes_at_ports
from sr_deploy.graph.runnable import RunnableModel
from sr_deploy.models import find_model
from sr_deploy.precision.half import to_fp16
from sr_deploy.spec import ModelSpec

U8, F32 = TensorProto.UINT8, TensorProto.FLOAT


def run(model: onnx.ModelProto | bytes, picture: np.ndarray) -> np.ndarray:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


def inner_bytes(model: onnx.ModelProto) -> set[str]:
    """The values of bytes that are no ports."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == U8}
    ports = {v.name for v in (*graph.input, *graph.output)}
    return (values | {t.name for t in graph.initializer if t.data_type == U8}) - ports


def net(
    nodes: list[tuple[Any, ...]],
    *tensors: tuple[str, Any],
    kinds: tuple[int, int] = (U8, U8),
    opset: int = 21,
) -> onnx.ModelProto:
    """A graph from "x" to "y", both [N, 3, H, W], of `kinds`. A node is (operator, inputs, output, attributes)."""
    named = zip("xy", kinds, ("hw", "HW"), strict=True)
    ports = [helper.make_tensor_value_info(name, kind, ["n", 3, *axes]) for name, kind, axes in named]
    made = [
        helper.make_node(op, inputs.split(), [output], name=output, **(more[0] if more else {}))
        for op, inputs, output, *more in nodes
    ]
    inits = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors]
    graph = helper.make_graph(made, "g", ports[:1], ports[1:], inits)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


F = np.float32
SCALE, ZERO = ("s", F(1 / 255)), ("z", np.uint8(0))
NETS = {
    "quantised last": net([("Cast", "x", "f", {"to": F32}), ("Mul", "f s", "g"), ("QuantizeLinear", "g s z", "y")], SCALE, ZERO),
    "quantised without a zero point": net([("Cast", "x", "f", {"to": F32}), ("QuantizeLinear", "f k", "y")], ("k", F(2))),
    "moved after": net([("Cast", "x", "f", {"to": F32}), ("Div", "f k", "g"), ("QuantizeLinear", "g k z", "q"),
                        ("Transpose", "q", "t", {"perm": [0, 2, 3, 1]}), ("Transpose", "t", "y", {"perm": [0, 3, 1, 2]})], ("k", F(0.7)), ("z", np.uint8(9))),
    "moved before": net([("Transpose", "x", "t", {"perm": [0, 1, 3, 2]}), ("Cast", "t", "f", {"to": F32}), ("Mul", "f k", "g"),
                         ("Cast", "g", "y", {"to": U8})], ("k", F(0.3))),
    "moved without arithmetic": net([("Concat", "x x x x", "p", {"axis": 1}), ("DepthToSpace", "p", "y", {"blocksize": 2})]),
    "cut off and back": net([("Cast", "x", "f", {"to": F32}), ("Mul", "f k", "g"), ("Cast", "g", "q", {"to": U8}),
                             ("Cast", "q", "h", {"to": F32}), ("Mul", "h l", "i"), ("Round", "i", "r"), ("Cast", "r", "w", {"to": U8}), ("Identity", "w", "y")],
                            ("k", F(0.9)), ("l", F(1.1))),
    "asymmetric inside": net([("DequantizeLinear", "x s zz", "f"), ("QuantizeLinear", "f t zt", "q"), ("DequantizeLinear", "q t zt", "g"),
                              ("QuantizeLinear", "g t zt", "y")], SCALE, ("zz", np.uint8(3)), ("t", F(0.0061)), ("zt", np.uint8(17))),
    "along an axis": net([("DequantizeLinear", "wb ws wz", "d", {"axis": 0}), ("Cast", "x", "f", {"to": F32}), ("QuantizeLinear", "f ks zs", "q", {"axis": 1}),
                          ("DequantizeLinear", "q ks zs", "g", {"axis": 1}), ("Conv", "g d", "c"), ("Clip", "c lo hi", "e"), ("Cast", "e", "y", {"to": U8})],
                         ("ks", F([1, 2, 3])), ("zs", np.uint8([0, 1, 2])), ("wb", np.uint8(np.arange(9).reshape(3, 3, 1, 1) + 120)),
                         ("ws", F([1 / 32, 1 / 16, 1 / 8])), ("wz", np.uint8([120, 118, 122])), ("lo", F(0)), ("hi", F(255))),
    "chosen and repeated": net([("Cast", "x", "f", {"to": F32}), ("Less", "f k", "m"), ("Where", "m x c", "v"), ("Max", "v c", "w"),
                                  ("Clip", "w lo hi", "u"), ("Identity", "u", "y")],
                               ("k", F(100)), ("c", np.uint8([[[[7]]]])), ("lo", np.uint8(9)), ("hi", np.uint8(90))),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_inner_bytes_become_whole_numbers_and_every_pixel_stays(name):
    model = NETS[name]
    assert has_inner_bytes(model)
    made = with_bytes_at_ports(model)
    onnx.checker.check_model(made, full_check=True)
    assert inner_bytes(made) == set()
    assert not has_inner_bytes(made)
    assert [(p.name, p.type.tensor_type.elem_type) for p in (*made.graph.input, *made.graph.output)] == [
        ("x", U8),
        ("y", U8),
    ]
    picture = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 18), np.uint8)
    if name == "chosen and repeated" and onnxruntime.__version__.startswith("1.23."):
        pytest.skip("ONNX Runtime 1.23, the last for Python 3.10, has no Max of bytes to compare with")
    np.testing.assert_array_equal(run(made, picture), run(model, picture))


def test_a_graph_with_bytes_at_its_ports_alone_stays_as_it_is(tiny):
    model = with_pixel_io(tiny("plain").model, for_tensorrt=True)
    assert not has_inner_bytes(model)
    assert with_bytes_at_ports(model) == model
    assert with_bytes_at_ports(tiny("plain").model) == tiny("plain").model


@pytest.mark.parametrize("name", ["rt-x2", "rt-x4", "srresnet-x4"])
def test_a_file_that_was_exported_with_bytes_gives_its_own_pixels(name):
    file = with_pixel_io(load_model(find_model(name)))
    made = with_pixel_io(file, for_tensorrt=True)
    assert has_inner_bytes(file)
    assert not has_inner_bytes(made)
    picture = np.random.default_rng(1).integers(0, 256, (1, 17, 24, 3), np.uint8)
    np.testing.assert_array_equal(run(made, picture), run(file, picture))


@pytest.mark.parametrize("ports", [(U8, U8), (U8, F32), (F32, U8)])
@pytest.mark.parametrize("change", [lambda m: m, to_fp16], ids=["fp32", "fp16"])
def test_channel_first_byte_ports_are_cast_before_they_are_moved(ports, change):
    """The graph that exporters write for `x.float() / 255` in and `(y * 255).round().to(uint8)` out, channels first."""
    model = net(
        [
            ("Cast", "x", "f", {"to": F32}),
            ("Div", "f full", "g"),
            ("Conv", "g w", "c", {"pads": [1, 1, 1, 1]}),
            ("DepthToSpace", "c", "d", {"blocksize": 2, "mode": "CRD"}),
            ("Mul", "d full", "e"),
            ("Round", "e", "r"),
            ("Clip", "r lo full", "v"),
            ("Cast", "v", "y", {"to": ports[1]}),
        ],
        ("full", F(255)),
        ("lo", F(0)),
        ("w", np.random.default_rng(2).normal(0.05, 0.15, (12, 3, 3, 3)).astype(F)),
        kinds=ports,
        opset=17,
    )  # fmt: skip
    model = change(write_spec(model, ModelSpec(name="net", scale=2, halo=1, value_range=(0, 255))))
    made = with_pixel_io(model, for_tensorrt=True)
    assert inner_bytes(made) == set()
    assert not has_inner_bytes(made)
    picture = np.random.default_rng(3).integers(0, 256, (1, 9, 12, 3), np.uint8)
    np.testing.assert_array_equal(run(made, picture), run(with_pixel_io(model), picture))


def test_an_operator_that_computes_on_bytes_is_refused_by_name():
    weights = ("w", np.ones((3, 3, 1, 1), np.uint8))
    model = net([("ConvInteger", "x w", "i"), ("Cast", "i", "y", {"to": U8})], weights)
    with pytest.raises(
        ModelError, match=r"operator ConvInteger \(node i\) computes on bytes.*--backend onnxruntime$"
    ):
        with_bytes_at_ports(model)


def test_the_form_for_tensorrt_is_kept_apart_from_the_other(tiny, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(tiny("plain").model, path)
    for _ in range(2):  # made, then from the cache
        plain, form = (
            RunnableModel(path).graph(np.dtype(np.uint8), for_tensorrt=wanted) for wanted in (False, True)
        )
        assert has_inner_bytes(onnx.load_model_from_string(plain))
        assert not has_inner_bytes(onnx.load_model_from_string(form))
