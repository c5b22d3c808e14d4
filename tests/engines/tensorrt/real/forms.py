"""Tiny nets in forms that other exporters write, as TensorRT has to take them. Random weights, scale 2.

Each function returns a model with its spec. The forms differ in ports, types, sizes, and operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.onnx_file import write_spec
from sr_deploy.precision.half import to_bf16, to_fp16
from sr_deploy.spec import ModelSpec, SizeRule

U8, F32, F16 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT16
FORMS: dict[str, Callable[[], onnx.ModelProto]] = {}
"""The forms by name."""


class Net:
    """Collects the nodes and weights of one graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its result."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(self, x: str, taken: int, given: int, *, size: int = 3, group: int = 1) -> str:
        """Add a padded convolution with bias."""
        weights = self.random.normal(0, 0.3, (given, taken // group, size, size))
        bias = self.random.normal(0.1, 0.1, given)
        return self.op("Conv", x, self.const(weights), self.const(bias), pads=[size // 2] * 4, group=group)

    def upscale(self, x: str, channels: int = 3) -> str:
        """Add two convolutions and a pixel shuffle by 2."""
        y = self.op("Relu", self.conv(x, channels, 8))
        return self.op("DepthToSpace", self.conv(y, 8, channels * 4), blocksize=2, mode="CRD")

    def nearest(self, x: str) -> str:
        """Double the size by repeating values."""
        return self.op("Resize", x, "", self.const([1, 1, 2, 2]), mode="nearest",
                       coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip

    def model(
        self,
        result: str,
        *,
        kinds: tuple[int, int] = (F32, F32),
        channels: int = 3,
        size: Sequence[Any] = ("h", "w"),
        batch: Any = "n",
        layout: str = "NCHW",
        opset: int = 17,
        **spec: Any,
    ) -> onnx.ModelProto:
        """Finish the graph from "picture" to "large"."""
        self.nodes.append(helper.make_node("Identity", [result], ["large"], name="last"))
        double = [2 * side if isinstance(side, int) else side.upper() for side in size]
        ports = [
            helper.make_tensor_value_info(name, kind, [batch, channels, *axes] if layout == "NCHW" else [batch, *axes, channels])
            for name, kind, axes in zip(("picture", "large"), kinds, (size, double), strict=True)
        ]  # fmt: skip
        graph = helper.make_graph(self.nodes, "net", ports[:1], ports[1:], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        if isinstance(size[0], int):
            spec["size_rule"] = SizeRule(fixed=tuple(size))
        return write_spec(
            model, ModelSpec(name="net", scale=2, halo=9, channels=channels, layout=layout, **spec)
        )


def form(make: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    """Enter a function in `FORMS`."""
    FORMS[make.__name__] = make
    return make


@form
def fixed_size() -> onnx.ModelProto:
    net = Net()
    return net.model(net.upscale("picture"), size=(24, 32), batch=1)


@form
def half_ports() -> onnx.ModelProto:
    net = Net()
    return to_fp16(net.model(net.upscale("picture")))


@form
def brain_floats() -> onnx.ModelProto:
    net = Net()
    return to_bf16(net.model(net.upscale("picture")))


@form
def bytes_channels_last() -> onnx.ModelProto:
    """`(net(x.permute(0, 3, 1, 2).float() / 255) * 255).round().clamp(0, 255).to(uint8).permute(0, 2, 3, 1)`."""
    net = Net()
    x = net.op("Cast", net.op("Transpose", "picture", perm=[0, 3, 1, 2]), to=F32)
    y = net.op("Mul", net.upscale(net.op("Div", x, net.const(255))), net.const(255))
    y = net.op("Clip", net.op("Round", y), net.const(0), net.const(255))
    y = net.op("Transpose", net.op("Cast", y, to=U8), perm=[0, 2, 3, 1])
    return net.model(y, kinds=(U8, U8), layout="NHWC", value_range=(0, 255))


@form
def bytes_cut_off() -> onnx.ModelProto:
    """The same without `round()`."""
    net = Net()
    x = net.op("Cast", net.op("Transpose", "picture", perm=[0, 3, 1, 2]), to=F32)
    y = net.op("Mul", net.upscale(net.op("Div", x, net.const(255))), net.const(255))
    y = net.op("Cast", net.op("Clip", y, net.const(0), net.const(255)), to=U8)
    return net.model(
        net.op("Transpose", y, perm=[0, 2, 3, 1]), kinds=(U8, U8), layout="NHWC", value_range=(0, 255)
    )


@form
def bytes_in_channels_first() -> onnx.ModelProto:
    net = Net()
    x = net.op("Div", net.op("Cast", "picture", to=F32), net.const(255))
    return net.model(net.op("Mul", net.upscale(x), net.const(255)), kinds=(U8, F32), value_range=(0, 255))


@form
def bytes_out_channels_first() -> onnx.ModelProto:
    net = Net()
    y = net.op("Mul", net.upscale(net.op("Div", "picture", net.const(255))), net.const(255))
    y = net.op("Clip", net.op("Round", y), net.const(0), net.const(255))
    return net.model(net.op("Cast", y, to=U8), kinds=(F32, U8), value_range=(0, 255))


@form
def bytes_quantised() -> onnx.ModelProto:
    """Bytes out by QuantizeLinear and in by DequantizeLinear, with zero points."""
    net = Net()
    step, zero, low = net.const(1 / 255), net.const(0, np.uint8), net.const(3, np.uint8)
    x = net.op("DequantizeLinear", "picture", step, low)
    return net.model(
        net.op("QuantizeLinear", net.upscale(x), step, zero), kinds=(U8, U8), value_range=(0, 255)
    )


@form
def luma_transposed_convolution() -> onnx.ModelProto:
    net = Net()
    x = net.op("PRelu", net.conv("picture", 1, 8, size=5), net.const(np.full((8, 1, 1), 0.2)))
    weights = net.const(net.random.normal(0, 0.2, (8, 1, 9, 9)))
    y = net.op("ConvTranspose", x, weights, strides=[2, 2], pads=[4] * 4, output_padding=[1, 1])
    return net.model(y, channels=1)


@form
def attention() -> onnx.ModelProto:
    """Attention over channels: products of values, not of weights."""
    net = Net()
    x = net.conv("picture", 3, 8)
    flat = net.op("Reshape", x, net.const([0, 8, -1], np.int64))
    scores = net.op("MatMul", flat, net.op("Transpose", flat, perm=[0, 2, 1]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), flat)
    back = net.op("Reshape", mixed, net.op("Shape", x))
    return net.model(net.op("DepthToSpace", net.conv(back, 8, 12), blocksize=2, mode="CRD"))


@form
def bicubic_skip() -> onnx.ModelProto:
    net = Net()
    skip = net.op("Resize", "picture", "", net.const([1, 1, 2, 2]), mode="cubic", cubic_coeff_a=-0.75)
    return net.model(net.op("Add", net.upscale("picture"), skip))


@form
def edge_padding() -> onnx.ModelProto:
    net = Net()
    x = net.op("Pad", "picture", net.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="edge")
    y = net.op("Conv", x, net.const(net.random.normal(0, 0.3, (3, 3, 3, 3))))
    return net.model(net.nearest(y))


@form
def pooling() -> onnx.ModelProto:
    net = Net()
    x = net.conv("picture", 3, 3)
    low = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=0)
    return net.model(net.nearest(net.op("Add", low, net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4))))


@form
def depthwise_and_gelu() -> onnx.ModelProto:
    net = Net()
    x = net.op("Gelu", net.conv(net.conv("picture", 3, 12, size=1), 12, 12, group=12), approximate="tanh")
    y = net.op("DepthToSpace", net.conv(x, 12, 12, size=1), blocksize=2, mode="DCR")
    return net.model(y, opset=20)


@form
def linear_light() -> onnx.ModelProto:
    net = Net()
    x = net.op("Pow", "picture", net.const(2.2))
    y = net.op("Clip", net.conv(x, 3, 3), net.const(0), net.const(1))
    return net.model(net.nearest(net.op("Pow", y, net.const(1 / 2.2))), opset=13)


@form
def global_statistics() -> onnx.ModelProto:
    net = Net()
    mean = net.op("GlobalAveragePool", "picture")
    return net.model(
        net.op("Mul", net.upscale("picture"), net.op("Add", net.op("Sigmoid", mean), net.const(0.5)))
    )


@form
def int8_by_another_quantiser() -> onnx.ModelProto:
    """Symmetric int8 with an int32 bias behind a DequantizeLinear, as ONNX Runtime's quantiser writes it."""
    net = Net()
    step, zero, weight_step = net.const(1 / 127), net.const(0, np.int8), net.const([0.01] * 12)
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", "picture", step, zero), step, zero)
    weights = net.const(net.random.integers(-127, 128, (12, 3, 3, 3)), np.int8)
    factors = net.op("DequantizeLinear", weights, weight_step, net.const([0] * 12, np.int8), axis=0)
    bias = net.const(net.random.integers(-500, 500, 12), np.int32)
    shift = net.op("DequantizeLinear", bias, net.const([0.01 / 127] * 12), axis=0)
    y = net.op("Conv", x, factors, shift, pads=[1] * 4)
    return net.model(net.op("DepthToSpace", y, blocksize=2, mode="CRD"), precision="int8")
