#!/usr/bin/env bash
# ONNX Runtime computes a quantised convolution with ReLU in integers only if the zero point is the lowest value of its type.
#
# Versions: onnxruntime 1.32.0 (CPU), openvino 2026.4.1, onnx 1.23.2, numpy 2.4.6; x86-64; seen in November 2026.
# Expected: explicit Q/DQ around convolutions is computed in integers whatever the zero point is; the symmetric form (int8, zero
#           point 0) is the one that TensorRT requires and that tools write.
# Seen:     uint8 with zero point 0 and int8 with zero point -128: three of three convolutions become QLinearConv. uint8 with
#           128 and int8 with 0: none does, all three run in floating point between DequantizeLinear and QuantizeLinear, without
#           a warning. The ReLU decides: only at the lowest value can it be dropped. OpenVINO runs all four forms in integers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q onnxruntime==1.32.0 openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper


def net(kind, zero):
    """Three convolutions of 32 channels with ReLU, each with Q/DQ before it, and Q/DQ at the end."""
    random, nodes, tensors = np.random.default_rng(0), [], []

    def constant(name, value):
        tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def quantised(value, index):
        scale, point = constant(f"scale{index}", np.float32(0.02)), constant(f"zero{index}", np.dtype(kind).type(zero))
        nodes.append(helper.make_node("QuantizeLinear", [value, scale, point], [f"q{index}"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", scale, point], [f"d{index}"]))
        return f"d{index}"

    value = "pixels"
    for index in range(3):
        source = quantised(value, index)
        weights = constant(f"w{index}", random.integers(-127, 128, (32, 32, 3, 3)).astype(np.int8))
        scales, zeros = constant(f"ws{index}", np.full(32, 1e-3, np.float32)), constant(f"wz{index}", np.zeros(32, np.int8))
        nodes.append(helper.make_node("DequantizeLinear", [weights, scales, zeros], [f"wd{index}"], axis=0))
        nodes.append(helper.make_node("Conv", [source, f"wd{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        value = f"r{index}"
    end = quantised(value, 3)
    shape = [1, 32, 64, 64]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("pixels", end)]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layer(op, key):
    return op.get_rt_info()[key].astype(str)


expected = {("uint8", 0): 3, ("uint8", 128): 0, ("int8", 0): 0, ("int8", -128): 3}
for (kind, zero), count in expected.items():
    onnx.save(net(kind, zero), "net.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = "optimised.onnx", 3
    onnxruntime.InferenceSession("net.onnx", options, providers=["CPUExecutionProvider"])
    integer = sum(node.op_type == "QLinearConv" for node in onnx.load("optimised.onnx").graph.node)
    compiled = openvino.Core().compile_model("net.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    layers = [op for op in compiled.get_runtime_model().get_ops() if layer(op, "layerType") == "Convolution"]
    kinds = [layer(op, "runtimePrecision") for op in layers]
    print(f"{kind:5} zero point {zero:4}: ONNX Runtime {integer} of 3 in integers; OpenVINO {kinds}")
    assert integer == count and set(kinds) == {"u8"}, "the finding has changed"
PY
