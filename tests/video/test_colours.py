"""Colour bars come out with their colours, in every pixel format, with and without tags."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.errors import InputError
from sr_deploy.frames.colour import Colours
from sr_deploy.frames.convert import FramePixels
from sr_deploy.video.encoder import EncodeOptions, _pixel_format
from sr_deploy.video.pixels import layout_for, to_frame, to_picture
from tests.video.conftest import Said, av

FFV1 = EncodeOptions(codec="ffv1")
DEPTHS = ("", "9le", "10le", "12le", "14le", "16le")
FORMATS = [
    *(f"yuv{chroma}p{depth}" for chroma in ("420", "422", "444") for depth in DEPTHS),
    *("yuv440p", "yuv411p", "yuv410p", "yuvj420p", "yuvj422p", "yuvj444p"),
    *("yuv420p10be", "yuv422p16be", "yuv444p12be"),
    *("nv12", "nv21", "nv16", "nv24", "p010le", "p012le", "p016le", "p210le", "p216le"),
    *("yuyv422", "uyvy422", "yvyu422", "y210le", "vuya", "vuyx", "xv30le"),
    *("yuva420p", "yuva422p", "yuva444p", "yuva444p10le", "yuva444p16le"),
    *("rgb24", "bgr24", "rgba", "bgra", "argb", "abgr", "bgr0", "rgb0", "0rgb", "0bgr"),
    *(f"gbrp{depth}" for depth in DEPTHS),
    *("gbrap", "gbrap16le", "rgb48le", "rgb48be", "bgr48le", "rgba64le", "rgba64be", "x2rgb10le"),
    *("gray", "gray9le", "gray10le", "gray12le", "gray14le", "gray16le", "gray16be", "ya8", "ya16le"),
]
BARS = np.array(
    [[235, 235, 235], [191, 191, 16], [16, 191, 191], [16, 191, 16], [191, 16, 191], [191, 16, 16], [16, 16, 191], [16, 16, 16]],
    np.uint8,
)  # fmt: skip
SIDE = 32
"""Pixels of a bar's width; the picture is as high."""


def bars(name: str) -> Any:
    """Return a frame of bars."""
    picture = np.broadcast_to(BARS.repeat(SIDE, 0), (2 * SIDE, 8 * SIDE, 3))
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(format=name)


def write(path: Path, frame: Any, tags: dict[str, int], codec: str = "rawvideo") -> bool:
    """Write a frame into a file. Returns whether the file keeps its pixel format."""
    name = frame.format.name
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = frame.width, frame.height, name
        for tag, value in tags.items():
            setattr(video.codec_context, tag, value)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return str(first_frame(path).format.name) == name


def first_frame(path: Path) -> Any:
    """Return the first frame of a file."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


def plain(frame: Any) -> Any:
    """Return a frame without its plane of opacity, and under a name that says nothing of its range."""
    name = frame.format.name.replace("yuvj", "yuv").replace("gbrap", "gbrp")
    if name == frame.format.name:
        return frame
    made = av.VideoFrame(frame.width, frame.height, name)
    for target, plane in zip(made.planes, frame.planes, strict=False):
        target.update(bytes(plane))
    return made


def numbers(frame: Any) -> list[np.ndarray]:
    """Return the planes of a frame in the 16-bit format of its kind, without opacity, and not converted to RGB."""
    if frame.format.name.startswith(("gray", "ya")):
        kind = "gray16le"
    else:
        kind = "gbrp16le" if frame.format.is_rgb else "yuv444p16le"
    # Tags do not matter here, and with them libswscale would change the range.
    frame = plain(frame)
    frame.colorspace, frame.color_range = 2, 0
    wide = frame.reformat(format=kind)
    rows = [np.frombuffer(plane, "<u2").reshape(plane.height, -1)[:, : plane.width] for plane in wide.planes]
    return [plane.astype(float) for plane in rows]


def assert_twice(small: Any, large: Any) -> None:
    """Check the inner parts of the bars: a mean error of at most 1 of 255 for every plane."""
    inner = np.tile(np.abs(np.arange(2 * SIDE) - SIDE + 0.5) < SIDE / 2, 8)
    before, after = numbers(small), numbers(large)
    assert len(after) == len(before)  # grey stays grey
    assert large.format.is_rgb == small.format.is_rgb
    for plane, wanted in zip(after, before, strict=True):
        assert np.abs(plane - wanted.repeat(2, 0).repeat(2, 1))[:, inner].mean() <= 257


@pytest.mark.parametrize("tagged", [False, True], ids=["untagged", "tagged"])
@pytest.mark.parametrize("name", FORMATS)
def test_flat_areas_of_bars_keep_their_colours(upscale, tmp_path, name, tagged):
    yuv = not av.VideoFormat(name).is_rgb
    tags = {"colorspace": 9 if yuv else 0, "color_range": 1 if yuv else 2} if tagged else {}
    if tagged and name.startswith("yuvj"):
        tags["color_range"] = 2
    if write(tmp_path / "in.nut", bars(name), tags):
        result = upscale(tmp_path / "in.nut", tmp_path / "out.mkv", encode=FFV1)
        large = first_frame(result.target)
    else:  # no file holds this format; decoders and cameras give it
        layout, colours = layout_for(name), Colours(matrix="bt2020" if tagged else "bt601")
        picture = to_picture(bars(name), layout, colours)
        pixels = FramePixels(picture.pixels.repeat(2, 0).repeat(2, 1))
        wanted = _pixel_format(av.codec.Codec("ffv1", "w"), layout, None)
        large = to_frame(pixels, layout_for(wanted), wanted, colours)
    assert_twice(bars(name), large)


@pytest.mark.parametrize(("space", "kept"), [(1, 1), (4, 4), (5, 6), (6, 6), (7, 7), (8, 8), (9, 9)])
def test_every_matrix_is_used_both_ways(upscale, tmp_path, space, kept):
    frame = bars("yuv444p10le")
    if space == 8:  # bars of the other matrices lie outside the RGB cube of YCgCo
        frame = to_frame(
            to_picture(bars("gbrp10le"), layout_for("gbrp10le"), Colours()),
            layout_for("yuv444p10le"),
            "yuv444p10le",
            Colours(matrix="ycgco"),
        )
    write(tmp_path / "in.mkv", frame, {"colorspace": space, "color_range": 1}, "ffv1")
    target = upscale(tmp_path / "in.mkv", tmp_path / "out.mkv", encode=FFV1).target
    large = first_frame(target)
    assert large.colorspace == kept
    assert_twice(frame, large)


@pytest.mark.parametrize(("space", "name"), [(10, "BT.2020 constant luminance"), (14, "ICtCp")])
def test_a_matrix_that_is_not_converted_is_refused_by_name(upscale, engine, tmp_path, space, name):
    write(tmp_path / "in.mkv", bars("yuv444p"), {"colorspace": space}, "ffv1")
    with pytest.raises(InputError, match=f"stored as {name}, which is not converted"):
        upscale(tmp_path / "in.mkv", tmp_path / "out.mkv", encode=FFV1)
    assert engine.calls == 0


@pytest.mark.parametrize(
    ("name", "white"),
    [("rgb48le", 65535), ("gbrp10le", 1023), ("gbrp16le", 65535), ("rgba64le", 65535), ("x2rgb10le", 1023),
     ("gray16le", 65535), ("rgb24", 255), ("gbrp", 255), ("gbrp14le", 16383)],
)  # fmt: skip
def test_white_stays_white(name, white):
    frame, layout = av.VideoFrame(32, 16, name), layout_for(name)
    for plane in frame.planes:
        word = white if white < 65535 and name != "x2rgb10le" else 65535
        plane.update(
            word.to_bytes(1 if white == 255 else 2, "little")
            * (plane.buffer_size // (1 if white == 255 else 2))
        )
    picture = to_picture(frame, layout, Colours(range="full"))
    top = {"u1": 255, "u2": 65535}.get(picture.pixels.dtype.str[1:], 1)
    assert picture.pixels.min() == top
    wanted = _pixel_format(av.codec.Codec("ffv1", "w"), layout, None)
    large = to_frame(picture, layout_for(wanted), wanted, Colours(range="full"))
    kind = "rgb24" if wanted == "bgr0" else wanted
    assert large.to_ndarray(format=kind).min() == white


@pytest.mark.parametrize(
    ("source", "name", "codec", "suffix", "made"),
    [
        ("ffv1", "bgra", "ffv1", ".mkv", "bgra"),
        ("ffv1", "yuva420p", "ffv1", ".mkv", "yuva420p"),
        ("ffv1", "yuva444p16le", "ffv1", ".mkv", "yuva444p16le"),
        ("ffv1", "gbrap16le", "ffv1", ".mkv", "gbrap16le"),
        ("ffv1", "gbrap10le", "ffv1", ".mkv", "gbrap10le"),
        ("ffv1", "rgba64le", "ffv1", ".mkv", "gbrap16le"),
        ("qtrle", "argb", "qtrle", ".mov", "argb"),
        ("png", "rgba", "png", ".mov", "rgba"),
        ("prores_ks", "yuva444p10le", "prores", ".mov", "yuva444p10le"),
        ("qtrle", "argb", "prores", ".mov", "yuva444p10le"),
    ],
)
def test_opacity_is_kept_by_codecs_that_hold_it(upscale, tmp_path, source, name, codec, suffix, made):
    alpha = np.zeros((32, 48), np.uint8)
    alpha[8:24, 12:36] = 255
    alpha[8:16, 12:24] = 128
    pixels = np.dstack([np.full((32, 48, 3), (200, 60, 30), np.uint8), alpha])
    frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=name)
    write(tmp_path / f"in{suffix}", frame, {}, source)
    said = Said()
    result = upscale(
        tmp_path / f"in{suffix}", tmp_path / f"out{suffix}", encode=EncodeOptions(codec=codec), watcher=said
    )
    assert (result.pixel_format, said.notes) == (made, [])
    large = first_frame(result.target).reformat(format="rgba").to_ndarray()
    wanted = alpha.repeat(2, 0).repeat(2, 1)
    flat = np.ones(wanted.shape, bool)
    for edge in (16, 32, 48):
        flat[edge - 3 : edge + 3] = False
    for edge in (24, 48, 72):
        flat[:, edge - 3 : edge + 3] = False
    assert np.abs(large[:, :, 3].astype(int) - wanted)[flat].max() <= 2
    seen = flat & (wanted == 255)
    assert np.abs(large[:, :, :3].astype(int) - (200, 60, 30))[seen].mean() <= 3
