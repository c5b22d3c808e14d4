"""`sr-deploy pipe` between other programs, with a model that repeats pixels, so that every result is known."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.cli import main
from sr_deploy.frames.colour import Colours, from_rgb, to_rgb
from sr_deploy.frames.layout import LAYOUTS
from tests.cli.conftest import repeating_model

CALL = "import sys; from sr_deploy.cli import main; main(sys.argv[1:])"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return repeating_model(tmp_path / "twice.onnx", 2)


def pipe(*arguments: object) -> list[str]:
    return [sys.executable, "-c", CALL, "pipe", *map(str, arguments)]


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def twice(frames: np.ndarray) -> bytes:
    return frames.repeat(2, axis=1).repeat(2, axis=2).tobytes()


def test_frames_go_through_and_the_last_line_says_how_many(model):
    frames = noise(7, 6, 8)
    arguments = pipe("--size", "8x6", "--format", "rgb24", "--model", model)
    result = subprocess.run(arguments, input=frames.tobytes(), capture_output=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == twice(frames)
    assert result.stderr.decode().startswith("7 frames in ")


def test_a_short_last_frame_ends_with_3_after_the_whole_ones(model):
    frames = noise(3, 6, 8)
    arguments = pipe("--size", "8x6", "--format", "rgb24", "--model", model, "-q")
    result = subprocess.run(arguments, input=frames.tobytes()[:-10], capture_output=True)
    assert result.returncode == 3
    assert result.stdout == twice(frames[:2])
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith("error: frame 3 is cut short: 10 of its 144 bytes are missing")


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows tells a closed pipe in other words; never run there"
)
def test_a_reader_that_leaves_ends_it_quietly_with_141(model):
    arguments = pipe("--size", "64x64", "--format", "rgb24", "--model", model, "-q")
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, bufsize=0, **streams) as process:  # type: ignore[call-overload]
        process.stdin.write(bytes(64 * 64 * 3))
        process.stdout.read(100)
        process.stdout.close()
        with suppress(BrokenPipeError):
            for _ in range(400):
                process.stdin.write(bytes(64 * 64 * 3))
        process.stdin.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_a_terminal_is_not_written_to(model, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["pipe", "--size", "8x6", "--format", "rgb24", "--model", str(model)])
    assert ended.value.code == 2
    assert "stdin is a terminal; pipe frames from another program" in capsys.readouterr().err


def test_a_scale_that_is_not_the_models_is_refused(model):
    arguments = pipe("--size", "8x6", "--format", "rgb24", "--model", model, "--scale", 4)
    result = subprocess.run(arguments, input="", capture_output=True, encoding="utf-8")
    assert result.returncode == 2
    assert "has scale 2 and --scale asks for 4" in result.stderr


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
@pytest.mark.parametrize("format", ["rgb24", "y4m"])
def test_between_two_ffmpegs_300_frames_arrive_and_each_is_right(model, tmp_path, format):
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    make = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=32x24:rate=30:duration=10",
        "-pix_fmt",
        "yuv444p",
        "-c:v",
        "ffv1",
    ]
    ffmpeg = ["ffmpeg", "-v", "error", "-nostdin"]
    subprocess.run([*ffmpeg, *make, source], check=True)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    out, in_ = (raw, [*raw, "-s", "64x48", "-r", "30"]) if format == "rgb24" else (["-f", "yuv4mpegpipe"], [])
    size = ["--size", "32x24"] if format == "rgb24" else []
    decode = subprocess.Popen([*ffmpeg, "-i", source, *out, "-"], stdout=subprocess.PIPE)
    middle = subprocess.Popen(
        pipe(*size, "--format", format, "--model", model, "-q"), stdin=decode.stdout, stdout=subprocess.PIPE
    )
    encoded = ["-pix_fmt", "gbrp" if format == "rgb24" else "yuv444p", "-c:v", "ffv1", target]
    encode = subprocess.Popen([*ffmpeg, *in_, "-i", "-", *encoded], stdin=middle.stdout)
    for process in (decode, middle):
        assert process.stdout is not None
        process.stdout.close()
    assert [process.wait(120) for process in (decode, middle, encode)] == [0, 0, 0]
    pixels = "rgb24" if format == "rgb24" else "yuv444p"
    read = ["-f", "rawvideo", "-pix_fmt", pixels, "-"]
    before, after = (
        subprocess.run([*ffmpeg, "-i", path, *read], check=True, stdout=subprocess.PIPE).stdout
        for path in (source, target)
    )
    assert len(after) == 4 * len(before) == 300 * 64 * 48 * 3
    if format == "rgb24":
        assert twice(np.frombuffer(before, np.uint8).reshape(300, 24, 32, 3)) == after
    else:
        assert b"".join(map(through_rgb, np.frombuffer(before, np.uint8).reshape(300, -1))) == after


def through_rgb(frame: np.ndarray) -> bytes:
    """The result of a frame of 32x24, which players take to be BT.601."""
    layout, colours = LAYOUTS["yuv444p"], Colours(matrix="bt601", range="limited")
    rgb = to_rgb(layout.planes(frame, 24, 32), layout, colours)
    return b"".join(plane.tobytes() for plane in from_rgb(rgb.repeat(2, 0).repeat(2, 1), layout, colours))
