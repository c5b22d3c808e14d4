#!/usr/bin/env bash
# FFmpeg's scaler (libswscale) does not map the white of 8-bit RGB to the white of deeper RGB.
#
# Versions: av 18.1.0 (PyAV, with FFmpeg's libraries inside), numpy 2.4.6; seen in November 2026.
# Expected: 255 of 255 becomes 65535 of 65535, 1023 of 1023, 1.0: both formats are full-range RGB.
# Seen:     65283 (rgb48le and gbrp16le), 1020 (gbrp10le), 4080 (gbrp12le), 0.99615 (gbrpf32le). Pictures that go through
#           a wider format and back are a little darker each time. Multiply by 257 (or divide by 255) instead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q av==18.1.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PY'
import av
import numpy as np

white = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 255, np.uint8), format="rgb24")
expected = {"rgb48le": 65283, "gbrp10le": 1020, "gbrp12le": 4080, "gbrp16le": 65283, "gbrpf32le": 0.9961547}
for name, value in expected.items():
    pixels = white.reformat(format=name).to_ndarray()
    print(f"{name:9}", pixels.min(), pixels.max())
    assert np.allclose(pixels, value, rtol=1e-6), "the finding has changed"
PY
