#!/usr/bin/env bash
# The libvips of pyvips-binary opens a HEIC, tells its size, and cannot decode it.
#
# Versions: pyvips 3.2.0, pyvips-binary 8.18.7, pillow-heif 1.8.1, pillow 13.0.0, numpy 2.4.6; seen in November 2026.
# Expected: a library that has no decoder for a format refuses the file when it is opened, or does not list the format.
# Seen:     vips lists .heic among its suffixes, `new_from_file` succeeds and gives width and height; only the first access to
#           pixels fails ("Support for this compression format has not been built in: HEVC"). A program that trusts the header
#           fails in the middle of its work. AVIF, the other kind of HEIF, is decoded.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q pyvips==3.2.0 pyvips-binary==8.18.7 pillow-heif==1.8.1 pillow==13.0.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import pillow_heif
import pyvips
from PIL import Image

pillow_heif.register_heif_opener()
Image.fromarray(np.full((64, 96, 3), 200, np.uint8)).save("a.heic")
opened = pyvips.Image.new_from_file("a.heic")
print("opened:", opened.width, "x", opened.height, "loader", opened.get("vips-loader"))
assert (opened.width, opened.height) == (96, 64), "the finding has changed"
try:
    opened.numpy()
except pyvips.Error as error:
    print("pixels:", str(error).strip().splitlines()[-1])
    assert "has not been built in" in str(error), "the finding has changed"
else:
    raise SystemExit("the finding has changed")
PY
