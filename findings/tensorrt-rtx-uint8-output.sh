#!/usr/bin/env bash
# TensorRT's ONNX parser turns a uint8 output into an INT8 one, with a warning only.
#
# Versions: tensorrt-rtx-cu12-libs and tensorrt-rtx-cu12-bindings 1.7.1.116 (TensorRT for RTX, the parser of TensorRT 11), onnx 1.23.2,
#           numpy 2.4.6; no GPU and no driver needed; seen in November 2026.
# Expected: a graph that ends in QuantizeLinear with a uint8 zero point and declares a uint8 output is parsed as UINT8 or refused.
# Seen:     parse() succeeds and the network's output is INT8: values above 127 saturate. A picture whose bytes are made that way
#           comes out with everything brighter than middle grey cut off. A Cast to uint8 as the last node gives a UINT8 output.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q tensorrt-rtx-cu12-libs==1.7.1.116 tensorrt-rtx-cu12-bindings==1.7.1.116 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper

warnings = []


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        if severity <= trt.ILogger.WARNING:
            warnings.append(message)


log = Log()


def output_type(nodes, tensors):
    """The type of the network's output after parsing float32 -> `nodes` -> uint8."""
    shape = [1, 8, 8, 3]
    ports = [helper.make_tensor_value_info(n, t, shape) for n, t in (("x", TensorProto.FLOAT), ("bytes", TensorProto.UINT8))]
    graph = helper.make_graph(nodes, "graph", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model.SerializeToString())
    return network.get_output(0).dtype


scale, zero = numpy_helper.from_array(np.float32(1 / 255), "scale"), numpy_helper.from_array(np.uint8(0), "zero")
quantised = output_type([helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["bytes"])], [scale, zero])
cast = output_type([helper.make_node("Cast", ["x"], ["bytes"], to=TensorProto.UINT8)], [])
print("QuantizeLinear:", quantised, "Cast:", cast)
print("\n".join(warnings))
assert quantised == trt.DataType.INT8 and cast == trt.DataType.UINT8, "the finding has changed"
PY
