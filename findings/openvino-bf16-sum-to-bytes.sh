#!/usr/bin/env bash
# OpenVINO cannot run a bf16 net that adds a convolution of the picture and rounds to bytes at its end.
#
# Versions: openvino 2026.4.1, numpy 2.4.6; CPU plugin on x86-64 with AVX-512 BF16; seen in November 2026. The script needs a
#           processor that OpenVINO computes bf16 on, and says so elsewhere.
# Expected: INFERENCE_PRECISION_HINT=bf16 is a hint: the net runs with it as it does with f32, with rounding as the difference.
# Seen:     the model compiles; the first inference ends with "Convolution node ... object is not initialized". Sum and
#           FakeQuantize are fused into a bf16 convolution with a uint8 result, for which there is no kernel. Without the
#           second convolution, or without the rounding, it runs.
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

core = ov.Core()
if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
    print("OpenVINO does not compute in bf16 on this processor")
    raise SystemExit


def conv(x, weights):
    edge = [weights.shape[2] // 2] * 2
    return op.convolution(x, op.constant(weights.astype(np.float32)), [1, 1], edge, edge, [1, 1])


def model(picture, to_bytes):
    random = np.random.default_rng(1)
    x = op.parameter([-1, 3, -1, -1], np.float32)
    hidden = op.relu(conv(x, random.normal(0, 0.1, (16, 3, 3, 3))))
    y = conv(hidden, random.normal(0, 0.02, (12, 16, 3, 3)))
    if picture:
        copies = np.zeros((12, 3, 1, 1))
        copies[np.arange(12), np.arange(12) // 4] = 1
        y = op.add(y, conv(x, copies))
    if to_bytes:
        black, white, full = (op.constant(np.float32(value)) for value in (0, 1, 255))
        y = op.convert(op.fake_quantize(y, black, white, black, full, 256), "u8")
    return ov.Model([y], [x])


pixels = np.random.default_rng(0).uniform(0, 1, (1, 3, 24, 32)).astype(np.float32)
found = {}
for form in ((True, True), (True, False), (False, True)):
    for hint in ("f32", "bf16"):
        try:
            core.compile_model(model(*form), "CPU", {"INFERENCE_PRECISION_HINT": hint})(pixels)
            found[(*form, hint)] = "runs"
        except RuntimeError as error:
            found[(*form, hint)] = str(error).strip().splitlines()[-1]
        print(f"picture added: {form[0]}, to bytes: {form[1]}, {hint}: {found[(*form, hint)]}")
failed = [key for key, value in found.items() if value != "runs"]
assert failed == [(True, True, "bf16")], "the finding has changed"
assert "is not initialized" in found[failed[0]], "the finding has changed"
PY
