"""Clips of VapourSynth come out as `upscale`, `pipe` and `video` would write them, with their properties."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.frames.layout import layout_of
from sr_deploy.frames.pipe import PipeOptions, run_pipe
from sr_deploy.images.image import read_image
from sr_deploy.models import find_model
from sr_deploy.upscale import Upscaler
from sr_deploy.vapoursynth import Upscale
from sr_deploy.vapoursynth import clip as clip_module
from tests.paths import EXAMPLE

vs = pytest.importorskip(
    "vapoursynth",
    reason="VapourSynth from PyPI needs Python 3.12; .ci/run tests it in an environment of its own",
)

MODEL = "rt-x2"
REFERENCE = "onnxruntime"
REPEATING = "nearest"
"""Backend that doubles pixels without a model, so that results are easy to check."""
FORMATS = {
    "RGB24": "gbrp",
    "RGB30": "gbrp10le",
    "RGB48": "gbrp16le",
    "YUV420P8": "yuv420p",
    "YUV422P8": "yuv422p",
    "YUV444P8": "yuv444p",
    "YUV440P8": "yuv440p",
    "YUV420P10": "yuv420p10le",
    "YUV422P12": "yuv422p12le",
    "YUV444P16": "yuv444p16le",
    "YUV420P16": "yuv420p16le",
    "GRAY8": "gray8",
    "GRAY10": "gray10le",
    "GRAY16": "gray16le",
}
"""Format of VapourSynth -> the one that `pipe` calls the same. VapourSynth's planes of RGB are in the order R, G, B."""


@pytest.fixture(scope="module")
def upscaler():
    with Upscaler.open(MODEL, backend=REFERENCE, threads=1) as opened:
        yield opened


def filled(clip: Any, values: Callable[[int, int, tuple[int, int]], np.ndarray]) -> Any:
    """Return a clip whose planes are `values(frame, plane, shape)`."""

    def write(n: int, f: Any) -> Any:
        made = f.copy()
        for plane in range(f.format.num_planes):
            target = np.asarray(made[plane])
            target[...] = values(n, plane, target.shape)
        return made

    return vs.core.std.ModifyFrame(clip, clip, write)


def blank(format: str, width: int = 34, height: int = 22, length: int = 3) -> Any:
    return vs.core.std.BlankClip(
        format=getattr(vs, format), width=width, height=height, length=length, fpsnum=30000, fpsden=1001
    )


def noisy(clip: Any) -> Any:
    """Fill a clip with smooth noise of its own depth, another one in each frame."""
    top = (1 << clip.format.bits_per_sample) - 1 if clip.format.sample_type == vs.INTEGER else 1

    def values(n: int, plane: int, shape: tuple[int, int]) -> np.ndarray:
        coarse = np.random.default_rng(10 * n + plane).random((shape[0] // 2 + 1, shape[1] // 2 + 1))
        return coarse.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]] * top

    return filled(clip, values)


def planes_of(frame: Any) -> list[np.ndarray]:
    return [np.asarray(frame[plane]).copy() for plane in range(frame.format.num_planes)]


def stacked(frame: Any) -> np.ndarray:
    """Return the pixels [H, W, C] of a frame that is not YUV."""
    return np.stack(planes_of(frame), axis=2)


def piped(upscaler: Upscaler, clip: Any, name: str, **options: Any) -> list[list[np.ndarray]]:
    """Return the planes that `pipe` writes for the frames of a clip."""
    order = [1, 2, 0] if layout_of(name).kind == "rgb" else range(clip.format.num_planes)
    data = b"".join(planes_of(frame)[i].tobytes() for frame in clip.frames() for i in order)
    target = io.BytesIO()
    run_pipe(
        io.BytesIO(data),
        target,
        upscaler,
        PipeOptions(format=name, size=(clip.width, clip.height), **options),
    )
    frames = np.frombuffer(target.getvalue(), np.uint8).reshape(clip.num_frames, -1)
    made = [layout_of(name).planes(frame, clip.height * 2, clip.width * 2) for frame in frames]
    return [[planes[list(order).index(i)] for i in range(len(planes))] for planes in made]


@pytest.mark.parametrize("format", FORMATS)
def test_frames_are_those_of_pipe(upscaler, format):
    clip = noisy(blank(format))
    range = "limited" if format.startswith("YUV") else "full"
    if format.startswith("GRAY"):
        clip = clip.std.SetFrameProps(_Range=1)
    wanted = piped(upscaler, clip, FORMATS[format], matrix="bt709", range=range, siting="left")
    large = Upscale(clip.std.SetFrameProps(_Matrix=1), MODEL, backend=REFERENCE, threads=1)
    assert (large.format.name, large.width, large.height) == (clip.format.name, 68, 44)
    assert (large.num_frames, large.fps) == (3, Fraction(30000, 1001))
    for frame, planes in zip(large.frames(), wanted, strict=True):
        assert [np.array_equal(*pair) for pair in zip(planes_of(frame), planes, strict=True)] == [True] * len(
            planes
        )


@pytest.mark.parametrize(("properties", "options"), [
    ({"_Matrix": 9, "_Range": 1, "_ChromaLocation": 2}, {"matrix": "bt2020", "range": "full", "siting": "topleft"}),
    ({"_ChromaLocation": 1}, {"matrix": "bt601", "siting": "center"}),
])  # fmt: skip
def test_the_properties_say_what_yuv_means(upscaler, properties, options):
    clip = noisy(blank("YUV420P8"))
    wanted = piped(upscaler, clip, "yuv420p", **options)
    large = Upscale(clip.std.SetFrameProps(**properties), MODEL, backend=REFERENCE, threads=1)
    for frame, planes in zip(large.frames(), wanted, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(planes_of(frame), planes, strict=True))


@pytest.mark.parametrize(
    ("format", "dtype"),
    [("RGB24", np.uint8), ("RGB48", np.uint16), ("RGBS", np.float32), ("GRAYS", np.float32)],
)
def test_rgb_and_floating_frames_are_those_of_upscale(upscaler, format, dtype):
    clip = noisy(blank(format))
    for small, large in zip(
        clip.frames(), Upscale(clip, MODEL, backend=REFERENCE, threads=1).frames(), strict=True
    ):
        wanted = upscaler.upscale_pixels(stacked(small))
        assert wanted.dtype == dtype
        assert np.array_equal(stacked(large), wanted)


def test_floating_values_beyond_white_and_black_are_clipped(upscaler):
    clip = filled(blank("RGBS", length=1), lambda n, plane, shape: np.linspace(-2, 3, shape[1])[None])
    (small,), (large,) = clip.frames(), Upscale(clip, MODEL, backend=REFERENCE).frames()
    wanted = upscaler.upscale_pixels(np.clip(stacked(small), 0, 1))
    assert np.array_equal(stacked(large), wanted)


def test_frames_are_those_of_the_video_command(tmp_path, upscaler):
    av = pytest.importorskip("av")
    from sr_deploy.video.encoder import EncodeOptions
    from sr_deploy.video.job import VideoOptions, upscale_video

    film, result = tmp_path / "film.mkv", tmp_path / "large.mkv"
    photograph = read_image(EXAMPLE).pixels
    with av.open(str(film), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 5, 1
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(photograph[number : number + 32, :48]), "rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    ffv1 = VideoOptions(encode=EncodeOptions(codec="ffv1"))
    upscale_video(film, result, upscaler, model=find_model(MODEL), options=ffv1)

    def decoded(path: Path) -> list[list[np.ndarray]]:
        with av.open(str(path)) as container:
            return [
                [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width] for plane in frame.planes]
                for frame in container.decode(video=0)
            ]  # fmt: skip

    small = decoded(film)
    clip = filled(blank("YUV420P8", 48, 32, 4), lambda n, plane, shape: small[n][plane])
    large = Upscale(clip.std.SetFrameProps(_Matrix=5, _Range=0), MODEL, backend=REFERENCE)
    for frame, planes in zip(large.frames(), decoded(result), strict=True):
        assert all(np.array_equal(*pair) for pair in zip(planes_of(frame), planes, strict=True))


def numbered(length: int, format: str = "GRAY8") -> Any:
    """Return a clip whose frames show their number."""
    return filled(blank(format, 6, 4, length), lambda n, plane, shape: np.full(shape, n)).std.SetFrameProps(
        _Range=1
    )


@pytest.mark.parametrize("length", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("streams", [1, 2, 3, 5])
def test_frames_keep_their_order_whatever_the_streams(length, streams):
    large = Upscale(numbered(length), MODEL, backend=REPEATING, streams=streams)
    assert [int(np.asarray(frame[0])[0, 0]) for frame in large.frames(prefetch=6)] == list(range(length))


def test_frames_can_be_asked_for_in_any_order():
    large = Upscale(numbered(40), MODEL, backend=REPEATING, streams=3)
    numbers = random.Random(3).choices(range(40), k=100)
    assert [int(np.asarray(large.get_frame(n)[0])[0, 0]) for n in numbers] == numbers
    asked = [large.get_frame_async(n) for n in numbers]
    assert [int(np.asarray(future.result()[0])[0, 0]) for future in asked] == numbers


def test_as_many_frames_are_computed_at_once_as_there_are_streams(monkeypatch):
    inside, together = threading.Barrier(2, timeout=20), []

    def waiting(frame: Any, upscaler: Upscaler) -> Any:
        together.append(inside.wait())
        return vs.core.create_video_frame(frame.format, 2 * frame.width, 2 * frame.height)

    monkeypatch.setattr(clip_module, "upscale_frame", waiting)
    before = vs.core.num_threads
    vs.core.num_threads = 2
    try:
        assert len(list(Upscale(numbered(6), MODEL, backend=REPEATING).frames(prefetch=2))) == 6
    finally:
        vs.core.num_threads = before
    assert len(together) == 6


def test_properties_are_carried():
    carried = {
        "_SARNum": 4,
        "_SARDen": 3,
        "numbers": [1, 2, 3],
        "ratio": 0.5,
        "text": "größer",
        "data": b"\xff\x00",
    }
    clip = blank("RGB24").std.SetFrameProps(**carried)
    clip = clip.std.ClipToProp(blank("GRAY8", 5, 5), prop="other")
    frame = Upscale(clip, MODEL, backend=REPEATING).get_frame(2)
    found = dict(frame.props)
    assert found.pop("other").width == 5
    assert found == {**carried, "_DurationNum": 1001, "_DurationDen": 30000}


@pytest.mark.parametrize(("height", "number"), [(400, 6), (720, 1)])
def test_a_matrix_that_players_guess_is_named_because_the_size_changes(height, number):
    clip = blank("YUV420P8", 64, height, 1)
    assert Upscale(clip, MODEL, backend=REPEATING).get_frame(0).props["_Matrix"] == number
    unspecified = clip.std.SetFrameProps(_Matrix=2)
    assert Upscale(unspecified, MODEL, backend=REPEATING).get_frame(0).props["_Matrix"] == number
    named = clip.std.SetFrameProps(_Matrix=9)
    assert Upscale(named, MODEL, backend=REPEATING).get_frame(0).props["_Matrix"] == 9


def test_grey_and_rgb_of_limited_range_keep_their_levels(upscaler):
    for format, levels in (
        ("GRAY8", (16, 120, 235)),
        ("RGB24", (16, 120, 235)),
        ("GRAY16", (4096, 30000, 60160)),
    ):
        for level in levels:
            clip = filled(blank(format, length=1), lambda n, plane, shape, level=level: np.full(shape, level))
            clip = clip.std.SetFrameProps(_Range=0)
            for plane in planes_of(Upscale(clip, MODEL, backend=REFERENCE, threads=1).get_frame(0)):
                assert np.abs(plane[8:-8, 8:-8].astype(int) - level).max() <= (
                    1 if plane.dtype == np.uint8 else 200
                )


@pytest.mark.parametrize("alpha", ["GRAY8", "GRAY16", "GRAYS"])
@pytest.mark.parametrize("format", ["RGB24", "RGB48", "RGBS", "YUV420P10"])
def test_opacity_is_enlarged_with_the_picture(format, alpha):
    def half(n: int, plane: int, shape: tuple[int, int]) -> np.ndarray:
        white = {"GRAY8": 255, "GRAY16": 65535}.get(alpha, 1)
        return np.where(np.arange(shape[1]) < shape[1] // 2, white, 0)[None]

    clip = noisy(blank(format)).std.ClipToProp(filled(blank(alpha), half), prop="_Alpha")
    frame = Upscale(clip, MODEL, backend=REPEATING).get_frame(1)
    opacity = frame.props["_Alpha"]
    assert (opacity.width, opacity.height, opacity.format.name) == (
        68,
        44,
        clip.get_frame(1).props["_Alpha"].format.name,
    )
    (plane,) = planes_of(opacity)
    assert (plane[:, :30] == plane.max()).all()
    assert plane.max() == {"GRAY8": 255, "GRAY16": 65535}.get(alpha, 1)
    assert (plane[:, 38:] == 0).all()


def test_opacity_of_another_size_is_refused():
    clip = blank("RGB24").std.ClipToProp(blank("GRAY8", 10, 10), prop="_Alpha")
    with pytest.raises(vs.Error, match=r"its opacity .* has 10x10 pixels and its picture 34x22"):
        Upscale(clip, MODEL, backend=REPEATING).get_frame(0)


def test_sizes_and_formats_may_change_within_a_clip():
    sizes = vs.core.std.Splice([blank("RGB24"), blank("RGB24", 10, 8)], mismatch=True)
    assert [(f.width, f.height) for f in Upscale(sizes, MODEL, backend=REPEATING).frames()] == [
        (68, 44)
    ] * 3 + [(20, 16)] * 3
    formats = vs.core.std.Splice([blank("RGB24"), blank("YUV420P8")], mismatch=True)
    large = Upscale(formats, MODEL, backend=REPEATING)
    assert large.width == 68
    assert [f.format.name for f in large.frames()] == ["RGB24"] * 3 + ["YUV420P8"] * 3
    both = vs.core.std.Splice([blank("GRAY8", 8, 8), blank("YUV420P8")], mismatch=True)
    assert [(f.width, f.format.name) for f in Upscale(both, MODEL, backend=REPEATING).frames()][2:4] == [
        (16, "Gray8"),
        (68, "YUV420P8"),
    ]


def test_an_unsupported_frame_within_a_clip_is_an_error_of_that_frame():
    clip = vs.core.std.Splice([blank("RGB24"), blank("RGBH")], mismatch=True)
    large = Upscale(clip, MODEL, backend=REPEATING)
    assert large.get_frame(2).width == 68
    with pytest.raises(vs.Error, match="Upscale: frame 3: clips of format RGBH cannot be upscaled"):
        large.get_frame(3)
    assert large.get_frame(1).width == 68  # the clip goes on


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"_FieldBased": 2}, "it is interlaced"),
        ({"_Matrix": 14}, "ICtCp"),
        ({"_ChromaLocation": 5}, "chroma samples"),
    ],
)
def test_a_frame_that_cannot_be_converted_says_why(properties, message):
    good, bad = blank("YUV420P8"), blank("YUV420P8").std.SetFrameProps(**properties)
    large = Upscale(good + bad, MODEL, backend=REPEATING)
    assert large.get_frame(2).width == 68
    with pytest.raises(vs.Error) as caught:
        large.get_frame(4)
    last = str(caught.value).strip().splitlines()[-1]
    assert last.startswith("vapoursynth.Error: Upscale: frame 4: ")
    assert message in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "no-model"}, "no bundled model is called 'no-model'; choose one of photo-x2"),
        ({"model": ""}, "the model's name is empty; give an .onnx file"),
        ({"model": "missing.onnx"}, "missing.onnx: no such file"),
        ({"backend": "none"}, "there is no backend 'none'"),
        ({"tile": 0}, "tile must be a number of pixels"),
        ({"overlap": -1}, "overlap must be at least 0"),
        ({"streams": 0}, "streams must be a number of frames from 1, got 0"),
        ({"streams": "2"}, "streams must be a number of frames from 1, got '2'"),
        ({"clip": None}, "clip must be a VapourSynth clip of video, got NoneType"),
    ],
)
def test_arguments_that_are_wrong_are_errors_of_vapoursynth(arguments, message):
    given = {"clip": blank("RGB24"), "model": MODEL, "backend": REPEATING} | arguments
    with pytest.raises(vs.Error, match=message) as caught:
        Upscale(**given)
    assert str(caught.value).startswith("Upscale: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["RGBH", "GRAYH", "YUV444PS", "YUV411P8", "YUV410P8"])
def test_formats_that_are_not_supported_are_refused_before_the_model_is_opened(format):
    clip = vs.core.std.BlankClip(format=getattr(vs, format), width=64, height=64)
    with pytest.raises(vs.Error, match=rf"Upscale: clips of format {clip.format.name} cannot be upscaled"):
        Upscale(clip, "no-model")


def test_clips_that_are_no_longer_used_leave_no_engine_behind():
    import gc
    import weakref

    opened = []

    def remember(*arguments: Any, **options: Any) -> Upscaler:
        made = Upscaler.open(*arguments, **options)
        opened.append(weakref.ref(made))
        return made

    class Spy:
        open = staticmethod(remember)

    original, clip_module.Upscaler = clip_module.Upscaler, Spy
    try:
        large = Upscale(numbered(4), MODEL, backend=REPEATING)
        assert len(list(large.frames())) == 4
        del large
        gc.collect()
    finally:
        clip_module.Upscaler = original
    assert [reference() for reference in opened] == [None]
