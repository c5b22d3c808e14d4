#!/usr/bin/env bash
# OpenVINO's Convert from float32 to uint8 depends on whether the shape is known.
#
# Versions: openvino 2026.4.1, numpy 2.4.6; CPU plugin on x86-64; seen in November 2026.
# Expected: the same graph gives the same bytes for a fixed and for a symbolic shape (either wrapped or saturated).
# Seen:     with a fixed shape values outside 0..255 wrap around (256 becomes 0, 300 becomes 44, -1 becomes 255); with a
#           symbolic shape they saturate (255, 255, 0). A net whose last operator is a Cast to uint8 is right in a test with
#           dynamic axes and has black spots in its highlights once the size is fixed. Clamp before the cast.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q openvino==2026.4.1 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import numpy as np
import openvino as ov
from openvino import opset13 as op

values = np.array([[-20.0, -1.0, 0.0, 200.0, 255.0, 256.0, 300.0, 511.0, 1000.0]], np.float32)
seen = {}
for name, shape in {"fixed": [1, 9], "symbolic": [-1, -1]}.items():
    port = op.parameter(shape, np.float32)
    compiled = ov.Core().compile_model(ov.Model([op.convert(port, "u8")], [port]), "CPU")
    seen[name] = compiled(values)[0][0].tolist()
    print(f"{name:9}", seen[name])
assert seen["fixed"] == [236, 255, 0, 200, 255, 0, 44, 255, 232], "the finding has changed"
assert seen["symbolic"] == [0, 0, 0, 200, 255, 255, 255, 255, 255], "the finding has changed"
PY
