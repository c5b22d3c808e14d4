"""Pipe of frames: every frame comes out, equal to the frame upscaled alone."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.colour import Colours, from_rgb, to_rgb
from sr_deploy.frames.layout import ALL_LAYOUTS, LAYOUTS
from sr_deploy.frames.pipe import PipeOptions, run_pipe
from sr_deploy.frames.streams import read_header
from sr_deploy.upscale import Upscaler


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(NearestEngine(2))


def noise(name: str, count: int, height: int, width: int) -> list[np.ndarray]:
    layout, rng = ALL_LAYOUTS[name], np.random.default_rng(1)
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


CASES = Path(__file__).parent / "cases"


def padded(rows: np.ndarray, stride: int) -> bytes:
    """Return the bytes of rows of uint8, each followed by padding up to `stride` bytes."""
    result = np.full((rows.shape[0], stride), 99, np.uint8)
    result[:, : rows.shape[1]] = rows
    return result.tobytes()


def test_rows_that_gstreamer_padded_are_read_by_their_stride(upscaler):
    data = (CASES / "g_rgb.raw").read_bytes()  # three frames of 98x50, rows of 294 bytes padded to 296
    result = piped(upscaler, data, format="rgb24", size=(98, 50), stride=296)
    rows = np.frombuffer(data, np.uint8).reshape(3, 50, 296)[:, :, :294].reshape(3, 50, 98, 3)
    assert result == rows.repeat(2, 1).repeat(2, 2).tobytes()
    with pytest.raises(InputError, match="cut short"):
        piped(upscaler, data, format="rgb24", size=(98, 50))


@pytest.mark.parametrize(
    ("name", "stride", "chroma"), [("yuv420p", 100, 52), ("nv12", 100, 100), ("yuv444p", 100, 100)]
)
def test_planes_of_chroma_have_the_stride_that_gstreamer_gives_them(upscaler, name, stride, chroma):
    (frame,) = noise(name, 1, 6, 98)
    whole = piped(upscaler, bytes(frame), format=name, size=(98, 6))
    planes = ALL_LAYOUTS[name].planes(frame, 6, 98)
    data = padded(planes[0], stride) + b"".join(padded(p.reshape(len(p), -1), chroma) for p in planes[1:])
    assert piped(upscaler, data, format=name, size=(98, 6), stride=stride) == whole


GSTREAMER = [
    # name here, GStreamer's name, stride of 13 pixels, and (place, stride, rows) of each plane by GStreamer 1.22
    ("yuv420p", "I420", 16, [(0, 16, 5), (96, 8, 3), (120, 8, 3)]),
    ("nv12", "NV12", 16, [(0, 16, 5), (96, 16, 3)]),
    ("p010le", "P010_10LE", 28, [(0, 28, 5), (168, 28, 3)]),
    ("p016le", "P016_LE", 28, [(0, 28, 5), (168, 28, 3)]),
    ("yuv420p10le", "I420_10LE", 28, [(0, 28, 5), (168, 16, 3), (216, 16, 3)]),
    ("yuv420p12le", "I420_12LE", 28, [(0, 28, 5), (168, 16, 3), (216, 16, 3)]),
    ("yuv422p", "Y42B", 16, [(0, 16, 5), (80, 8, 5), (120, 8, 5)]),
    ("yuv422p10le", "I422_10LE", 28, [(0, 28, 5), (168, 16, 5), (264, 16, 5)]),
    ("nv16", "NV16", 16, [(0, 16, 5), (80, 16, 5)]),
    ("nv24", "NV24", 16, [(0, 16, 5), (80, 28, 5)]),
    ("yuv444p", "Y444", 16, [(0, 16, 5), (80, 16, 5), (160, 16, 5)]),
    ("yuv444p10le", "Y444_10LE", 28, [(0, 28, 5), (140, 28, 5), (280, 28, 5)]),
    ("gbrp", "GBR", 16, [(0, 16, 5), (80, 16, 5), (160, 16, 5)]),
    ("gray8", "GRAY8", 16, [(0, 16, 5)]),
    ("gray16le", "GRAY16_LE", 28, [(0, 28, 5)]),
]


def of_gstreamer(format: str, frames: int = 2) -> bytes:
    caps = f"video/x-raw,format={format},width=13,height=5"
    line = ["gst-launch-1.0", "-q", "videotestsrc", f"num-buffers={frames}", "!", caps, "!", "fdsink"]
    return subprocess.run(line, capture_output=True, check=True).stdout


@pytest.mark.parametrize(("name", "format", "stride", "places"), GSTREAMER, ids=[one[0] for one in GSTREAMER])
def test_frames_of_an_odd_size_are_read_as_gstreamer_stores_them(upscaler, name, format, stride, places):
    """Fails if GStreamer stores another number of bytes; without it, frames of noise stand in for its own."""
    layout = ALL_LAYOUTS[name]
    place, row, rows = places[-1]
    size = place + row * (rows + (name == "yuv422p10le"))
    if shutil.which("gst-launch-1.0"):
        data = of_gstreamer(format)
    else:
        data = np.random.default_rng(1).integers(0, 256, 2 * size, np.uint8).tobytes()
    assert len(data) == 2 * size
    plain = b""
    for frame in np.frombuffer(data, np.uint8).reshape(2, size):
        for (place, row, rows), shape in zip(places, layout.shapes(5, 13), strict=True):
            used = int(np.prod(shape[1:])) * layout.dtype.itemsize
            plain += frame[place : place + row * rows].reshape(rows, row)[:, :used].tobytes()
    options = {"format": name, "size": (13, 5)}
    assert piped(upscaler, data, stride=stride, **options) == piped(upscaler, plain, **options)


@pytest.mark.parametrize("name", ["yuv420p", "nv12", "nv24", "yuv422p10le"])
def test_a_stride_of_its_own_keeps_the_chroma_in_proportion(upscaler, name):
    """64 bytes for 13 pixels, as hardware aligns rows."""
    layout, (frame,) = ALL_LAYOUTS[name], noise(name, 1, 6, 13)
    data, stride = b"", {0: 64, 1: {"yuv420p": 32, "nv12": 64, "nv24": 128, "yuv422p10le": 32}[name]}
    for number, plane in enumerate(layout.planes(frame, 6, 13)):
        data += padded(plane.reshape(len(plane), -1).view(np.uint8), stride[min(number, 1)])
    options = {"format": name, "size": (13, 6)}
    assert piped(upscaler, data, stride=64, **options) == piped(upscaler, bytes(frame), **options)


@pytest.mark.parametrize(("name", "stride"), [("nv12", 13), ("p010le", 26)])
def test_a_stride_that_interleaved_chroma_does_not_fit_in_is_refused(upscaler, name, stride):
    with pytest.raises(UsageError, match="a stride of"):
        piped(upscaler, bytes(999), format=name, size=(13, 6), stride=stride)


@pytest.mark.parametrize(("name", "stride"), [("rgb24", 293), ("rgb48le", 589), ("rgb24", 98)])
def test_a_stride_that_cannot_be_is_refused(upscaler, name, stride):
    with pytest.raises(UsageError, match="a stride of"):
        piped(upscaler, bytes(9), format=name, size=(98, 6), stride=stride)


@pytest.mark.parametrize("name", ["rgb48be", "gray16be", "gray10be", "yuv420p10be", "p010be", "gbrp12be"])
def test_big_endian_frames_give_the_same_as_little_endian_ones(upscaler, name):
    (frame,) = noise(f"{name[:-2]}le", 1, 6, 8)
    little = piped(upscaler, bytes(frame), format=f"{name[:-2]}le", size=(8, 6))
    swapped = frame.view("<u2").byteswap().tobytes()
    big = piped(upscaler, swapped, format=name, size=(8, 6))
    assert np.frombuffer(big, "<u2").byteswap().tobytes() == little


@pytest.mark.parametrize("name", sorted(set(ALL_LAYOUTS) - set(LAYOUTS)))
def test_every_rarer_layout_goes_through(upscaler, name):
    layout = ALL_LAYOUTS[name]
    result = piped(upscaler, b"".join(map(bytes, noise(name, 2, 6, 8))), format=name, size=(8, 6))
    assert len(result) == 2 * layout.frame_bytes(12, 16)


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


@pytest.mark.parametrize(
    ("name", "chroma", "same"),
    [
        ("yuv420p9le", "420p9", "yuv420p9le"),
        ("yuv422p14le", "422p14", "yuv422p14le"),
        ("yuv420p10be", "420p10", "yuv420p10le"),
        ("yuv422p10be", "422p10", "yuv422p10le"),
        ("yuv444p10be", "444p10", "yuv444p10le"),
        ("nv12", "420mpeg2", "yuv420p"),
        ("nv16", "422", "yuv422p"),
        ("nv24", "444", "yuv444p"),
        ("p012le", "420p12", "yuv420p12le"),
        ("p210le", "422p10", "yuv422p10le"),
        ("p410le", "444p10", "yuv444p10le"),
        ("yuv440p", "444", "yuv444p"),
        ("yuv440p10be", "444p10", "yuv444p10le"),
        ("gray16be", "mono16", "gray16le"),
        ("gray9be", "mono9", "gray9le"),
        ("gray14le", "mono16", "gray16le"),
        ("rgba", "444", "yuv444p"),
        ("gbrp10le", "444p16", "yuv444p16le"),
    ],
)
def test_y4m_keeps_all_the_chroma_of_a_layout_it_cannot_name(upscaler, name, chroma, same):
    (frame,) = noise(name, 1, 6, 8)
    options = {"format": name, "size": (8, 6)}
    made = piped(upscaler, bytes(frame), output_format="y4m", **options)
    line, _, rest = made.partition(b"\n")
    assert f" C{chroma} ".encode() in line + b" "
    assert rest == b"FRAME\n" + piped(upscaler, bytes(frame), output_format=same, **options)
    if shutil.which("ffprobe"):
        probe = ["ffprobe", "-v", "error", "-show_entries", "stream=pix_fmt", "-of", "csv=p=0", "-"]
        assert subprocess.run(probe, input=made, capture_output=True).stdout.strip() == same.encode()


@pytest.mark.parametrize("name", sorted(ALL_LAYOUTS))
def test_every_layout_goes_out_as_y4m_and_is_read_again(upscaler, name):
    layout, (frame,) = ALL_LAYOUTS[name], noise(name, 1, 6, 8)
    made = piped(upscaler, bytes(frame), format=name, size=(8, 6), output_format="y4m")
    held = read_header(io.BytesIO(made)).layout
    assert held.across <= layout.across
    assert held.down <= layout.down
    assert held.depth >= layout.depth
    assert piped(upscaler, made, format="y4m")


def test_grey_frames_are_full_range_in_the_header_too(upscaler):
    line = piped(upscaler, bytes(48), format="gray8", size=(8, 6), output_format="y4m").split(b"\n")[0]
    assert b"XCOLORRANGE=FULL" in line
