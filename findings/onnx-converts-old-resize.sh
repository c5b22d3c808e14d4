#!/usr/bin/env bash
# The version converter of onnx moves pictures when it raises the opset of an old linear Upsample.
#
# Versions: onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6; seen in November 2026.
# Expected: onnx.version_converter gives a model with the same result in a newer opset.
# Seen:     Upsample of opset 9 in mode linear means "asymmetric" coordinates. The converted Resize says nothing about
#           coordinates, and the default of Resize is "half_pixel", so the picture moves by up to half an output pixel.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper, save, version_converter

scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
graph = helper.make_graph(
    [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="linear")],
    "net",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 8])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 8, 16])],
    [scales],
)
old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)
checker.check_model(old)
new = version_converter.convert_version(old, 17)
ramp = np.tile(np.arange(8, dtype=np.float32) * 10, (4, 1))[None, None]
rows = []
for name, model in (("opset 9", old), ("opset 17", new)):
    save(model, "net.onnx")
    rows.append(onnxruntime.InferenceSession("net.onnx").run(None, {"x": ramp})[0][0, 0, 0])
    print(f"{name:8}", [node.op_type for node in model.graph.node], rows[-1][:6])
assert np.abs(rows[0] - rows[1]).max() >= 2.5, "the finding has changed"
PY
