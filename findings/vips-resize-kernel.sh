#!/usr/bin/env bash
# libvips' resize, when it enlarges: the name of the kernel is ignored, and the grid is half an output pixel off.
#
# Versions: pyvips 3.2.0 with pyvips-binary 8.18.7 (libvips 8.18), numpy 2.4.6, opencv-python-headless 5.0.0.93, Pillow 13.0.0;
#           seen in November 2026.
# Expected: resize(4, kernel="lanczos3") differs from kernel="cubic", and a ramp has the values that other libraries give.
# Seen:     1. lanczos2, lanczos3 and mitchell give the bytes of cubic: these kernels are used to shrink only.
#           2. enlarged four times by "linear", a ramp of steps of 8 is 1 below the one of OpenCV and Pillow, which agree: the
#           picture is shifted by half an output pixel. Shrinking is not. A comparison against "libvips lanczos3" is one
#           against a shifted cubic.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q pyvips==3.2.0 pyvips-binary==8.18.7 numpy==2.4.6 opencv-python-headless==5.0.0.93 pillow==13.0.0
"$work/venv/bin/python" - <<'PY'
import cv2
import numpy as np
import pyvips
from PIL import Image

noise = pyvips.Image.new_from_array(np.random.default_rng(0).integers(0, 256, (24, 32), np.uint8))
large = {name: noise.resize(4, kernel=name).numpy().astype(int) for name in ("cubic", "lanczos2", "lanczos3", "mitchell", "linear")}
for name, pixels in large.items():
    print(f"{name:9} differs from cubic by at most {np.abs(pixels - large['cubic']).max()}")
assert all((large[name] == large["cubic"]).all() for name in ("lanczos2", "lanczos3", "mitchell")), "the finding has changed"
assert not (large["linear"] == large["cubic"]).all(), "the finding has changed"

ramp = np.tile(np.arange(0, 256, 8, dtype=np.float32), (8, 1))
vips = pyvips.Image.new_from_array(ramp).resize(4, kernel="linear").numpy()[16, 40:48]
opencv = cv2.resize(ramp, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)[16, 40:48]
pillow = np.asarray(Image.fromarray(ramp).resize((128, 32), Image.Resampling.BILINEAR))[16, 40:48]
print("libvips", vips, "OpenCV", opencv, "Pillow", pillow, sep="\n")
assert np.allclose(opencv, pillow) and np.allclose(opencv - vips, 1), "the finding has changed"
PY
