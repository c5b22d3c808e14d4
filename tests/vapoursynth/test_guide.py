"""The scripts of the guide and of the examples run, alone and in front of ffmpeg."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.images.image import read_image
from tests.paths import EXAMPLE, ROOT

vs = pytest.importorskip("vapoursynth", reason="VapourSynth is not installed")
av = pytest.importorskip("av", reason="PyAV is not installed")

PAGE = (ROOT / "docs" / "vapoursynth.md").read_text("utf-8")
SCRIPTS = ROOT / "examples" / "vapoursynth"
VSPIPE = Path(sys.executable).parent / "vspipe"
pytestmark = pytest.mark.skipif(not VSPIPE.exists(), reason="there is no vspipe beside this Python")
BEST_SOURCE = pytest.mark.skipif(not hasattr(vs.core, "bs"), reason="vapoursynth-bestsource is not installed")


def make_film(path: Path, frames: int = 4) -> None:
    photograph = read_image(EXAMPLE).pixels
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(frames):
            pixels = np.ascontiguousarray(photograph[number : number + 32, 60:108])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs a shell line in a folder with a film, where vspipe knows this Python."""
    make_film(tmp_path / "film.mkv")
    environment = os.environ | {
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PATH": f"{VSPIPE.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def call(line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, env=environment, capture_output=True
        )

    assert call("vapoursynth config").returncode == 0
    return call


def size_of(path: Path) -> tuple[int, int, int]:
    """Return width, height and number of frames of a video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return frames[0].width, frames[0].height, len(frames)


@BEST_SOURCE
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_the_guide_s_script_and_command_make_a_film(run, tmp_path):
    (script,) = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "film.vpy").write_text(script, "utf-8")
    (command,) = re.findall(r"^(vspipe .*)$", PAGE, re.MULTILINE)
    done = run(command)
    assert done.returncode == 0, done.stderr.decode()
    assert size_of(tmp_path / "film-x2.mkv") == (96, 64, 4)


@BEST_SOURCE
@pytest.mark.parametrize(("name", "size"), [("film.vpy", (96, 64)), ("restore.vpy", (96, 64))])
def test_the_examples_run(run, tmp_path, name, size):
    shutil.copy(SCRIPTS / name, tmp_path)
    done = run(f"vspipe {name} -c y4m - > large.y4m")
    assert done.returncode == 0, done.stderr.decode()
    assert size_of(tmp_path / "large.y4m") == (*size, 4)


def test_the_example_for_a_player_takes_the_clip_that_it_is_given():
    def play(width: int) -> Any:
        clip = vs.core.std.BlankClip(format=vs.YUV420P8, width=width, height=32, length=2)
        exec((SCRIPTS / "player.vpy").read_text("utf-8"), {"video_in": clip})
        return vs.get_output(0).clip

    assert play(64).get_frame(1).width == 128
    assert play(1280).width == 1280
    vs.clear_outputs()


def test_vspipe_ends_with_our_sentence(run, tmp_path):
    (tmp_path / "bad.vpy").write_text(
        "import vapoursynth as vs\nfrom sr_deploy.vapoursynth import Upscale\n"
        "Upscale(vs.core.std.BlankClip(), model='no-model').set_output()\n"
    )
    done = run("vspipe bad.vpy -c y4m - > large.y4m")
    assert done.returncode == 1
    assert b"vapoursynth.Error: Upscale: no bundled model is called 'no-model'" in done.stderr
    (tmp_path / "late.vpy").write_text(
        "import vapoursynth as vs\nfrom sr_deploy.vapoursynth import Upscale\n"
        "good = vs.core.std.BlankClip(width=32, height=32, length=2)\nbad = vs.core.std.SetFieldBased(good, 1)\n"
        "Upscale(good + bad, model='rt-x2', backend='nearest').set_output()\n"
    )
    done = run("vspipe late.vpy - | wc -c")
    assert done.returncode == 1
    assert int(done.stdout) in (3 * 64 * 64, 2 * 3 * 64 * 64)  # vspipe may drop a frame that is ready
    assert b"vapoursynth.Error: Upscale: frame 2: it is interlaced" in done.stderr
