#!/usr/bin/env bash
# OpenVINO leaves out a Transpose to channels last behind a convolution, but only if the sizes are fixed.
#
# Versions: openvino 2026.4.1, numpy 2.4.6; CPU plugin on x86-64 with AVX-512; seen in November 2026.
# Expected: the convolution gives channels-last memory for fixed and for dynamic sizes alike (its kernel is the same), so a
#           Transpose from NCHW to NHWC behind it moves nothing in both.
# Seen:     with fixed sizes the Transpose becomes a reorder that is not run; with dynamic height and width it is executed, one
#           element at a time. Behind a convolution in int8 with 48 channels it took longer than the convolution.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q openvino==2026.4.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import openvino as ov
from openvino import opset13 as op


def model(shape):
    x = op.parameter(shape, np.float32)
    weights = op.constant(np.ones((48, 16, 3, 3), np.float32) / 144)
    conv = op.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    return ov.Model([op.transpose(conv, op.constant(np.array([0, 2, 3, 1])))], [x])


settings = {"PERF_COUNT": "YES", "INFERENCE_PRECISION_HINT": "f32"}
executed = {}
for name, shape in (("fixed", [1, 16, 90, 160]), ("dynamic", [-1, 16, -1, -1])):
    request = ov.Core().compile_model(model(shape), "CPU", settings).create_infer_request()
    request.infer({0: np.ones((1, 16, 90, 160), np.float32)})
    nodes = [(node.node_type, str(node.status)) for node in request.profiling_info]
    executed[name] = [kind for kind, status in nodes if status.endswith("EXECUTED")]
    print(f"{name} sizes: {executed[name]}")
assert "Transpose" not in executed["fixed"] and "Transpose" in executed["dynamic"], "the finding has changed"
PY
