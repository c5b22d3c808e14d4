#!/usr/bin/env bash
# TensorRT for RTX computes int8 convolutions in fp32 for every GPU as soon as Turing (7.5) is among the targets.
#
# Versions: tensorrt-rtx-cu12-libs and tensorrt-rtx-cu12-bindings 1.7.1.116 (TensorRT for RTX), onnx 1.23.2, numpy 2.4.6; no GPU and no
#           driver needed; seen in November 2026.
# Expected: a quantised convolution is compiled to int8, as Turing's tensor cores compute it too; or the build fails, or warns; and a
#           second target changes nothing for the first.
# Seen:     for 8.6 alone the convolution takes Int8. For 7.5 and 8.6 together the build succeeds without a warning, the weights are
#           turned back into Float first, and the convolution computes in Float.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q tensorrt-rtx-cu12-libs==1.7.1.116 tensorrt-rtx-cu12-bindings==1.7.1.116 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import re

import numpy as np
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.warnings, self.layers = [], ""

    def log(self, severity, message):
        if severity <= trt.ILogger.WARNING:
            self.warnings.append(message)
        elif message.startswith("Layers:"):
            self.layers = message


log = Log()


def quantised(source, result, scale, **axis):
    """QuantizeLinear and DequantizeLinear with a zero point of 0."""
    return [
        helper.make_node("QuantizeLinear", [source, scale, f"{scale}_zero"], [f"{result}_int8"], **axis),
        helper.make_node("DequantizeLinear", [f"{result}_int8", scale, f"{scale}_zero"], [result], **axis),
    ]


constants = {
    "weight": np.random.default_rng(0).normal(0, 0.1, (32, 32, 3, 3)).astype(np.float32),
    "x_scale": np.float32(0.02),
    "x_scale_zero": np.int8(0),
    "w_scale": np.full(32, 0.003, np.float32),
    "w_scale_zero": np.zeros(32, np.int8),
}
nodes = quantised("x", "xq", "x_scale") + quantised("weight", "wq", "w_scale", axis=0)
nodes.append(helper.make_node("Conv", ["xq", "wq"], ["y"], name="conv", pads=[1] * 4))
ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32, 64, 64]) for name in "xy"]
tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], tensors)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def input_type(*targets):
    """The type that the convolution reads, and the number of warnings of the build."""
    log.warnings.clear()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = len(targets)
    for number, target in enumerate(targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target), number)
    assert builder.build_serialized_network(network, config) is not None
    layer = re.search(r"Name: conv_\w+, LayerType: correlation, Inputs: \[.*?Datatype: (\w+)", log.layers)
    return layer[1], len(log.warnings)


seen = {targets: input_type(*targets) for targets in (("SM86",), ("SM75", "SM86"))}
for targets, (kind, warnings) in seen.items():
    print(" and ".join(targets), "->", kind, f"({warnings} warnings)")
assert seen == {("SM86",): ("Int8", 0), ("SM75", "SM86"): ("Float", 0)}, "the finding has changed"
PY
