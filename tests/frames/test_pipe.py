"""Pipe of frames: every frame comes out, equal to the frame upscaled alone."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.colour import Colours, from_rgb, to_rgb
from sr_deploy.frames.layout import LAYOUTS
from sr_deploy.frames.pipe import PipeOptions, run_pipe
from sr_deploy.upscale import Upscaler


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(NearestEngine(2))


def noise(name: str, count: int, height: int, width: int) -> list[np.ndarray]:
    layout, rng = LAYOUTS[name], np.random.default_rng(1)
    words = layout.frame_bytes(height, width) // layout.dtype.itemsize
    frames = (rng.integers(0, 1 << layout.depth, words) << layout.shift for _ in range(count))
    return [frame.astype(layout.dtype).view(np.uint8) for frame in frames]


def piped(upscaler: Upscaler, data: bytes, **options: object) -> bytes:
    target = io.BytesIO()
    run_pipe(io.BytesIO(data), target, upscaler, PipeOptions(**options))  # type: ignore[arg-type]
    return target.getvalue()


def test_every_rgb_frame_is_what_the_upscaler_makes_of_it(upscaler):
    frames = noise("rgb24", 20, 5, 7)
    result = piped(upscaler, b"".join(map(bytes, frames)), format="rgb24", size=(7, 5))
    expected = [upscaler.upscale_pixels(frame.reshape(5, 7, 3)) for frame in frames]
    assert result == b"".join(frame.tobytes() for frame in expected)


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_layout_goes_through(upscaler, name):
    layout = LAYOUTS[name]
    result = piped(upscaler, b"".join(map(bytes, noise(name, 3, 6, 8))), format=name, size=(8, 6))
    assert len(result) == 3 * layout.frame_bytes(12, 16)


def test_a_yuv_frame_becomes_rgb_is_upscaled_and_becomes_yuv(upscaler):
    layout, (frame,) = LAYOUTS["nv12"], noise("nv12", 1, 6, 8)
    options = {"matrix": "bt709", "range": "full", "siting": "center"}
    result = piped(upscaler, bytes(frame), format="nv12", size=(8, 6), **options)
    colours = Colours(**options)  # type: ignore[arg-type]
    large = upscaler.upscale_pixels(to_rgb(layout.planes(frame, 6, 8), layout, colours))
    assert result == b"".join(plane.tobytes() for plane in from_rgb(large, layout, colours))


def test_opacity_is_kept(upscaler):
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[:, :, 3] = 77
    result = np.frombuffer(piped(upscaler, pixels.tobytes(), format="rgba", size=(4, 4)), np.uint8)
    assert set(result.reshape(-1, 4)[:, 3]) == {77}


def test_another_format_may_go_out(upscaler):
    data = b"".join(map(bytes, noise("bgr24", 2, 4, 6)))
    assert len(piped(upscaler, data, format="bgr24", size=(6, 4), output_format="p010le")) == 2 * 8 * 12 * 3


def test_y4m_keeps_its_header_and_changes_the_size(upscaler):
    header = b"YUV4MPEG2 W8 H6 F30000:1001 Ip A10:11 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL XFOO=1\n"
    data = header + b"".join(b"FRAME\n" + bytes(frame) for frame in noise("yuv420p", 2, 6, 8))
    line, _, rest = piped(upscaler, data, format="y4m").partition(b"\n")
    assert line == b"YUV4MPEG2 W16 H12 F30000:1001 Ip A10:11 C420jpeg XFOO=1 XCOLORRANGE=FULL"
    assert rest.startswith(b"FRAME\n")
    assert len(rest) == 2 * (6 + LAYOUTS["yuv420p"].frame_bytes(12, 16))


def test_raw_frames_may_go_out_as_y4m_with_the_rate_that_was_given(upscaler):
    data = bytes(noise("rgb24", 1, 4, 6)[0])
    options = {"format": "rgb24", "size": (6, 4), "output_format": "y4m", "rate": "24000/1001"}
    line = piped(upscaler, data, **options).partition(b"\n")[0]
    assert line == b"YUV4MPEG2 W12 H8 F24000:1001 Ip A0:0 C444 XCOLORRANGE=LIMITED"


def test_whole_frames_are_written_before_a_short_one_is_complained_of(upscaler):
    first, second = map(bytes, noise("gray8", 2, 3, 4))
    target = io.BytesIO()
    with pytest.raises(InputError, match="frame 2 is cut short: 5 of its 12 bytes are missing"):
        run_pipe(io.BytesIO(first + second[:7]), target, upscaler, PipeOptions(format="gray8", size=(4, 3)))
    assert len(target.getvalue()) == 48


def test_interlaced_frames_are_remarked_upon(upscaler):
    said: list[str] = []
    data = b"YUV4MPEG2 W2 H2 F25:1 It C420jpeg\nFRAME\n" + bytes(6)
    run_pipe(io.BytesIO(data), io.BytesIO(), upscaler, PipeOptions(format="y4m"), say=said.append)
    assert len(said) == 1
    assert "deinterlace" in said[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "rgb24"}, "carry no size"),
        ({"format": "rgb25", "size": (4, 3)}, "did you mean rgb24"),
        (
            {"format": "rgb24", "size": (4, 3), "output_format": "y4m", "rate": "fast"},
            "a frame rate must be a number",
        ),
        (
            {"format": "rgb24", "size": (4, 3), "output_format": "y4m", "rate": "0"},
            "a frame rate must be a number",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(upscaler, options, message):
    with pytest.raises(UsageError, match=message):
        piped(upscaler, bytes(36), **options)


def test_a_size_that_is_not_the_y4m_headers_is_refused(upscaler):
    with pytest.raises(UsageError, match="the y4m header says 2x2"):
        piped(upscaler, b"YUV4MPEG2 W2 H2 C420jpeg\n", format="y4m", size=(4, 4))


def test_a_stream_without_a_frame_is_an_error(upscaler):
    with pytest.raises(InputError, match="ended before the first frame"):
        piped(upscaler, b"", format="rgb24", size=(4, 3))
