#!/usr/bin/env bash
# OpenVINO's Relu and Clip turn NaN into 0 on the CPU, so a broken net merely has black spots.
#
# Versions: openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU plugin on x86-64; seen in November 2026.
# Expected: NaN stays NaN through Relu and Clip, as in ONNX Runtime and PyTorch, so that a check of the output finds it.
# Seen:     OpenVINO gives 0 for both. A check for NaN after the last clamp of a net can never fail there; look at the values
#           before it, or check with another runtime.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnxruntime
import openvino as ov
from onnx import TensorProto, checker, helper, numpy_helper, save

values = np.array([[np.nan, -1.0, 0.5, 2.0]], np.float32)
limits = [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", 0), ("high", 1))]
changed = False
for name, inputs in {"Relu": ["x"], "Clip": ["x", "low", "high"]}.items():
    graph = helper.make_graph(
        [helper.make_node(name, inputs, ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        limits if len(inputs) > 1 else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, "net.onnx")
    ours = onnxruntime.InferenceSession("net.onnx").run(None, {"x": values})[0][0]
    theirs = ov.Core().compile_model("net.onnx", "CPU")(values)[0][0]
    print(f"{name}: ONNX Runtime {ours}, OpenVINO {theirs}")
    changed |= not np.isnan(ours[0]) or theirs[0] != 0
assert not changed, "the finding has changed"
PY
