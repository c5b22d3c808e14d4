"""Planes shuffled into pixels, against the definition of DepthToSpace."""

import subprocess
import sys

import numpy as np
import pytest

from sr_deploy.engines import planes
from sr_deploy.engines.planes import planes_for, settle_planes, shuffle_planes
from sr_deploy.graph.planes import name_planes, planes_of


def shuffled(values: np.ndarray, block: int, pixel_last: bool) -> np.ndarray:
    """[N, block * block * C, H, W] -> [N, H * block, W * block, C], as ONNX writes it for DCR and CRD."""
    count, size, height, width = values.shape
    channels = size // block**2
    parts = [block, block, channels] if pixel_last else [channels, block, block]
    order = (0, 4, 1, 5, 2, 3) if pixel_last else (0, 4, 2, 5, 3, 1)
    apart = values.reshape(count, *parts, height, width).transpose(order)
    return apart.reshape(count, height * block, width * block, channels)


@pytest.mark.parametrize("pixel_last", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block", [1, 2, 3, 4, 6, 8])
def test_planes_are_shuffled_as_depth_to_space_does_with_numpy_and_with_opencv(
    block, channels, pixel_last, monkeypatch
):
    values = np.random.default_rng(block).integers(0, 256, (2, block**2 * channels, 5, 7), np.uint8)
    for worth in (True, False):
        monkeypatch.setattr(planes, "_worth_loading", lambda size, worth=worth: worth)
        found = np.zeros((2, 5 * block, 7 * block, channels), np.uint8)
        shuffle_planes(values, block, pixel_last, found)
        np.testing.assert_array_equal(found, shuffled(values, block, pixel_last))


def test_the_name_of_an_output_tells_what_is_left_to_do():
    assert planes_of(name_planes(4, True)) == (4, True)
    assert planes_of(name_planes(8, False)) == (8, False)
    assert {
        planes_of(name) for name in ("upscaled", "planes", "planes_4", "planes_xyz_4", "planes_dcr_x")
    } == {None}


def test_pixels_are_written_where_they_belong_without_planes():
    out = np.zeros((1, 8, 8, 3), np.uint8)
    assert planes_for("upscaled", out) is out
    settle_planes("upscaled", out, out)
    assert planes_for("planes_crd_4", out).shape == (1, 48, 2, 2)


def test_a_small_picture_does_not_load_opencv_and_many_do():
    code = (
        "import sys, numpy as np; from sr_deploy.engines.planes import shuffle_planes\n"
        "planes, out = np.zeros((1, 12, 256, 256), np.uint8), np.zeros((1, 512, 512, 3), np.uint8)\n"
        "shuffle_planes(planes, 2, False, out); print('cv2' in sys.modules)\n"
        "for _ in range(50): shuffle_planes(planes, 2, False, out)\n"
        "print('cv2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
