"""Pixels of sruscale: the bytes of `upscale`, `pipe` and `video`, in every format and with padded rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest

from sr_deploy import Image, Upscaler, read_image, write_image
from sr_deploy.cli import main
from sr_deploy.frames.layout import layout_of
from sr_deploy.frames.pipe import PipeOptions, run_pipe
from sr_deploy.frames.streams import Geometry, read_frames

FORMATS = {
    "RGB": "rgb24",
    "BGR": "bgr24",
    "RGBA": "rgba",
    "BGRA": "bgra",
    "RGBx": "rgb0",
    "BGRx": "bgr0",
    "GRAY8": "gray8",
    "GRAY16_LE": "gray16le",
    "I420": "yuv420p",
    "NV12": "nv12",
    "P010_10LE": "p010le",
    "Y42B": "yuv422p",
    "NV16": "nv16",
    "Y444": "yuv444p",
    "NV24": "nv24",
    "I420_10LE": "yuv420p10le",
    "I422_10LE": "yuv422p10le",
    "Y444_10LE": "yuv444p10le",
}
"""GStreamer's name of each format, and the name that `pipe` has for it."""


def stride(name: str, width: int) -> int:
    """Bytes from one row of the first plane to the next, as GStreamer pads them: to a multiple of 4."""
    (shape, *_), size = layout_of(name).shapes(1, width), layout_of(name).dtype.itemsize
    return -(-int(np.prod(shape[1:])) * size // 4) * 4


def frames(path: Path, name: str, width: int, height: int) -> list[bytes]:
    """The bytes of each frame that GStreamer wrote, without padding."""
    geometry = Geometry(width=width, height=height, layout=layout_of(name), stride=stride(name, width))
    with open(path, "rb", buffering=0) as file:
        return [
            b"".join(plane.tobytes() for plane in planes)
            for planes in read_frames(file, geometry, marked=False)
        ]


def piped(
    data: list[bytes], name: str, size: tuple[int, int], backend: str = "nearest", **colours: str
) -> list[bytes]:
    """The frames that `pipe` makes of `data`, each as its bytes."""
    target = io.BytesIO()
    with Upscaler.open("rt-x2", backend=backend) as upscaler:
        run_pipe(io.BytesIO(b"".join(data)), target, upscaler, PipeOptions(format=name, size=size, **colours))
    length = layout_of(name).frame_bytes(size[1] * 2, size[0] * 2)
    made = target.getvalue()
    return [made[at : at + length] for at in range(0, len(made), length)]


def both(launch, tmp_path, caps, name, width, height, backend="nearest", more=""):
    """The frames before and after sruscale."""
    launch(
        f"videotestsrc num-buffers=2 ! video/x-raw,format={caps},width={width},height={height}{more} ! tee name=t ! queue ! "
        f"filesink location=in.raw t. ! queue ! sruscale model=rt-x2 backend={backend} ! filesink location=out.raw"
    )
    small = frames(tmp_path / "in.raw", name, width, height)
    return small, frames(tmp_path / "out.raw", name, width * 2, height * 2)


@pytest.mark.parametrize(("caps", "name"), FORMATS.items())
def test_frames_of_every_format_are_those_of_pipe(launch, tmp_path, caps, name):
    width, height = 51, 33
    small, large = both(launch, tmp_path, caps, name, width, height)
    # GStreamer takes chroma of small frames for centred, where their caps do not say
    expected = piped(small, name, (width, height), matrix="bt601", siting="center")
    assert len(small) == 2
    assert large == expected


@pytest.mark.parametrize(
    ("colorimetry", "options"),
    [
        ("bt709", {"matrix": "bt709"}),
        ("1:4:0:0", {"matrix": "bt601", "range": "full"}),
        ("bt2020", {"matrix": "bt2020"}),
    ],
)
@pytest.mark.parametrize(
    ("site", "siting"), [("mpeg2", "left"), ("cosited", "topleft"), ("jpeg", "center"), ("dv", "topleft")]
)
def test_yuv_is_converted_as_its_caps_say(launch, tmp_path, colorimetry, options, site, siting):
    more = f",colorimetry={colorimetry},chroma-site={site}"
    small, large = both(launch, tmp_path, "NV12", "nv12", 52, 36, more=more)
    assert large == piped(small, "nv12", (52, 36), siting=siting, **options)


def test_rgb_is_that_of_upscale(launch, tmp_path):
    small, large = both(launch, tmp_path, "RGB", "rgb24", 100, 60, backend="auto")
    for index, (before, after) in enumerate(zip(small, large, strict=True)):
        picture, target = tmp_path / f"{index}.png", tmp_path / f"{index}-x2.png"
        write_image(Image(pixels=np.frombuffer(before, np.uint8).reshape(60, 100, 3)), picture)
        main(
            ["upscale", str(picture), "-o", str(target), "--model", "rt-x2", "--quiet"], standalone_mode=False
        )
        assert read_image(target).pixels.tobytes() == after


def test_frames_of_a_file_are_those_of_video(launch, has, tmp_path):
    av = pytest.importorskip("av", reason="pip install sr-deploy[video]")
    has("avdec_h264", "h264parse", "matroskademux")
    film, large = tmp_path / "film.mkv", tmp_path / "film-x2.mkv"
    noise = np.random.default_rng(0).integers(0, 255, (9, 16, 3), np.uint8)
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for shift in range(12):
            pixels = np.roll(noise, shift, 1).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    launch(
        "filesrc location=film.mkv ! matroskademux ! h264parse ! avdec_h264 ! sruscale model=rt-x2 ! "
        "video/x-raw,format=I420 ! filesink location=out.raw"
    )
    main(
        ["video", str(film), "-o", str(large), "--model", "rt-x2", "--codec", "ffv1", "--quiet"],
        standalone_mode=False,
    )
    with av.open(str(large)) as container:
        expected = [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]
    assert len(expected) == 12
    assert frames(tmp_path / "out.raw", "yuv420p", 256, 144) == expected


def test_tiles_give_the_same_frames(launch, tmp_path):
    launch(
        "videotestsrc num-buffers=1 ! video/x-raw,format=I420,width=96,height=64 ! tee name=t ! queue ! sruscale "
        "model=rt-x2 tile=none ! filesink location=whole.raw t. ! queue ! sruscale model=rt-x2 tile=24 ! "
        "filesink location=tiles.raw"
    )
    assert (tmp_path / "whole.raw").read_bytes() == (tmp_path / "tiles.raw").read_bytes()


def test_caps_keep_what_is_not_the_size(launch):
    caps = (
        "video/x-raw,format=I420,width=64,height=36,framerate=30000/1001,pixel-aspect-ratio=4/3,"
        "colorimetry=bt709,chroma-site=mpeg2"
    )
    done = launch(f"-v videotestsrc num-buffers=1 ! {caps} ! sruscale name=up model=rt-x2 ! fakesink")
    (line,) = (line for line in done.stdout.splitlines() if "up.GstPad:src" in line)
    for text in (
        "width=(int)128",
        "height=(int)72",
        "framerate=(fraction)30000/1001",
        "pixel-aspect-ratio=(fraction)4/3",
        "colorimetry=(string)bt709",
        "chroma-site=(string)mpeg2",
        "interlace-mode=(string)progressive",
    ):
        assert text in line


@pytest.mark.parametrize("width", [64, 640])
def test_colours_that_caps_do_not_name_stay_those_of_the_small_size(launch, width):
    caps = f"video/x-raw,format=I420,width={width},height=400"
    done = launch(
        f"-v videotestsrc num-buffers=1 ! {caps} ! sruscale name=up model=rt-x2 backend=nearest ! fakesink"
    )
    (line,) = (line for line in done.stdout.splitlines() if "up.GstPad:src" in line)
    assert "height=(int)800" in line  # GStreamer would take it for BT.709
    assert "colorimetry=(string)bt601" in line
    assert "chroma-site=(string)jpeg" in line


def test_a_size_after_the_element_decides_the_size_before_it(launch):
    done = launch(
        "-v videotestsrc num-buffers=1 ! sruscale name=up model=rt-x2 backend=nearest ! video/x-raw,width=200,height=100 ! "
        "fakesink"
    )
    (line,) = (line for line in done.stdout.splitlines() if "up.GstPad:sink" in line)
    assert "width=(int)100, height=(int)50" in line


def test_the_place_of_chroma_counts_without_colorimetry_too(launch, tmp_path):
    # GStreamer 1.22 forgets it in its own reading of such caps
    launch(
        "videotestsrc num-buffers=1 ! video/x-raw,format=I420,width=64,height=36 ! filesink location=in.raw"
    )
    launch(
        "-v filesrc location=in.raw blocksize=3456 ! video/x-raw,format=I420,width=64,height=36,framerate=25/1,"
        "chroma-site=mpeg2 ! sruscale model=rt-x2 ! filesink location=out.raw"
    )
    small = frames(tmp_path / "in.raw", "yuv420p", 64, 36)
    large = frames(tmp_path / "out.raw", "yuv420p", 128, 72)
    assert large == piped(small, "yuv420p", (64, 36), backend="auto", matrix="bt601", siting="left")


def test_a_model_of_scale_1_leaves_its_input_as_it_was(launch, tiny, tmp_path):
    net = tiny("as-is")
    onnx.save(net.model, tmp_path / "as-is.onnx")
    launch(
        "videotestsrc num-buffers=2 ! video/x-raw,format=RGB,width=64,height=36 ! tee name=t ! queue ! "
        "filesink location=in.raw t. ! queue ! sruscale model=as-is.onnx ! filesink location=out.raw"
    )
    small, large = (frames(tmp_path / name, "rgb24", 64, 36) for name in ("in.raw", "out.raw"))
    with Upscaler.open(tmp_path / "as-is.onnx") as upscaler:
        for before, after in zip(small, large, strict=True):
            pixels = np.frombuffer(before, np.uint8).reshape(36, 64, 3)
            assert upscaler.upscale_pixels(pixels).tobytes() == after
    assert small != large
