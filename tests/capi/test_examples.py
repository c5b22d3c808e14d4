"""The example programs work and give the bytes of `sr-deploy upscale`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from sr_deploy.cli import main
from tests.capi.conftest import EXAMPLES

PHOTO = EXAMPLES / "colosseum.png"
OPENCV = [Path(place, "opencv4") for place in ("/usr/include", "/usr/local/include", "/opt/homebrew/include")]


def upscaled(picture: Path, result: Path, *options: str) -> np.ndarray:
    """Return the result of the command line in BGR."""
    main(
        ["upscale", str(picture), "-o", str(result), "-m", "rt-x2", "--quiet", *options],
        standalone_mode=False,
    )
    return cv2.imread(str(result), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("size", [(1, 1), (37, 22), (160, 90)])
def test_the_ppm_example_gives_what_the_command_line_gives(run, tmp_path, size):
    part = cv2.imread(str(PHOTO))[: size[1], : size[0]]
    cv2.imwrite(str(tmp_path / "in.ppm"), part)
    cv2.imwrite(str(tmp_path / "in.png"), part)
    run("c/upscale_ppm.c", "rt-x2", tmp_path / "in.ppm", tmp_path / "out.ppm")
    expected = upscaled(tmp_path / "in.png", tmp_path / "out.png")
    assert (cv2.imread(str(tmp_path / "out.ppm")) == expected).all()


def test_the_ppm_example_is_under_sixty_lines():
    assert len((EXAMPLES / "c" / "upscale_ppm.c").read_text(encoding="utf-8").splitlines()) < 60


def test_the_ppm_example_says_what_is_wrong(program, tmp_path):
    example = str(program("c/upscale_ppm.c"))
    (tmp_path / "in.ppm").write_bytes(b"P6 2 2 255\n123456789012")
    done = subprocess.run(
        [example, "rt-x5", "in.ppm", "out.ppm"], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no bundled model is called 'rt-x5'; did you mean")
    assert not (tmp_path / "out.ppm").exists()


@pytest.mark.parametrize("kind", ["BGR", "BGRA", "grey", "BGR of 16 bits"])
def test_the_opencv_example_gives_what_the_command_line_gives(program, tmp_path, kind):
    place = next((place for place in OPENCV if (place / "opencv2" / "core.hpp").is_file()), None)
    if place is None:
        pytest.skip("OpenCV's C++ headers are not installed")
    picture = cv2.imread(str(PHOTO))[40:80, 100:161]
    if kind == "grey":
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    elif kind == "BGRA":
        picture = np.dstack([picture, np.tile(np.arange(61, dtype=np.uint8) * 4, (40, 1))])
    elif "16" in kind:
        picture = picture.astype(np.uint16) * 251
    cv2.imwrite(str(tmp_path / "in.png"), picture)
    example = program("cpp/upscale_mat.cpp", "-isystem", str(place), "-lopencv_core", "-lopencv_imgcodecs")
    subprocess.run([example, "rt-x2", tmp_path / "in.png", tmp_path / "out.png"], check=True)
    result = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    expected = upscaled(tmp_path / "in.png", tmp_path / "expected.png")
    assert (result == expected).all()
