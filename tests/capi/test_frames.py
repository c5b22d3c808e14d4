"""Video frames through the bridge of the C library: the bytes of `pipe` in every format, and wrong frames refused."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest

from sr_deploy import Upscaler, __version__
from sr_deploy.capi import bridge
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.frames.convert import narrowed, widened
from sr_deploy.frames.layout import ALL_LAYOUTS, layout_of
from sr_deploy.frames.pipe import PipeOptions, run_pipe

WIDTH, HEIGHT, GAP = 7, 5, 12
SCALE = 2


@pytest.fixture
def number(model) -> Iterator[int]:
    """The handle of a model that doubles the side of a picture."""
    status, text, opened = bridge.open_upscaler(__version__, str(model("plain")), bridge.COptions(threads=1))
    assert status == bridge.OK, text
    yield opened
    bridge.close(opened)


def planes(name, width, height, gap=0, fill=None):
    """The memory of a frame's planes, as the C library passes them, and views without the gaps after rows."""
    layout, result, views = layout_of(name), [], []
    for shape in layout.shapes(height, width):
        row = int(np.prod(shape[1:])) * layout.dtype.itemsize
        memory = bytearray(shape[0] * (row + gap))
        rows = np.frombuffer(memory, np.uint8).reshape(shape[0], row + gap)
        view = rows[:, :row]
        if fill is not None:
            view[...] = fill.integers(0, 1 << min(8, layout.depth), view.shape, np.uint8)
            words = np.ascontiguousarray(view).view(layout.dtype)
            if layout.depth > 8:
                words = (words >> (16 - layout.depth) << layout.shift).astype(layout.dtype)
            view[...] = words.view(np.uint8)
        result.append((memoryview(memory), row + gap))
        views.append(view)
    return tuple(result), views


def upscaled(number, name, *, gap=0, colours=(0, 0, 0)):
    """Status, text, the bytes of a random frame and those of its result."""
    small, sources = planes(name, WIDTH, HEIGHT, gap, np.random.default_rng(1))
    large, targets = planes(name, WIDTH * SCALE, HEIGHT * SCALE, gap)
    status, text, _ = bridge.upscale_frame(
        number, (name, WIDTH, HEIGHT, *colours, small), (name, WIDTH * SCALE, HEIGHT * SCALE, 0, 0, 0, large)
    )
    return status, text, *(b"".join(view.tobytes() for view in views) for views in (sources, targets))


class Stream(io.BytesIO):
    """A pipe's end in memory."""


@pytest.mark.parametrize("gap", [0, GAP])
@pytest.mark.parametrize("name", ALL_LAYOUTS)
def test_a_frame_has_the_bytes_of_pipe_in_every_format(number, model, name, gap):
    status, text, small, large = upscaled(number, name, gap=gap)
    assert status == bridge.OK, text
    target = Stream()
    with Upscaler.open(model("plain"), threads=1) as upscaler:
        run_pipe(Stream(small), target, upscaler, PipeOptions(format=name, size=(WIDTH, HEIGHT), streams=1))
    assert large == target.getvalue()


@pytest.mark.parametrize(
    ("colours", "options"),
    [
        ((9, 2, 2), {"matrix": "bt2020", "range": "full", "siting": "topleft"}),
        ((1, 1, 1), {"matrix": "bt709", "range": "limited", "siting": "center"}),
        ((2, 0, 0), {"matrix": "bt601"}),
    ],
)
def test_yuv_has_the_colours_that_the_frame_names(number, model, colours, options):
    status, text, small, large = upscaled(number, "nv12", colours=colours)
    assert status == bridge.OK, text
    target = Stream()
    with Upscaler.open(model("plain"), threads=1) as upscaler:
        pipe = PipeOptions(format="nv12", size=(WIDTH, HEIGHT), streams=1, **options)
        run_pipe(Stream(small), target, upscaler, pipe)
    assert large == target.getvalue()


def test_grey_of_limited_range_is_computed_in_full_range_and_stays_limited(model):
    _, _, opened = bridge.open_upscaler(__version__, str(model("plain")), bridge.COptions(backend="nearest"))
    _, _, small, large = upscaled(opened, "gray8", colours=(0, 1, 0))
    pixels = np.frombuffer(small, np.uint8).reshape(HEIGHT, WIDTH)
    expected = narrowed(widened(pixels, 8), 8).repeat(SCALE, 0).repeat(SCALE, 1)
    assert large == expected.tobytes()


def test_rgb_without_gaps_is_read_and_written_in_place(number, monkeypatch):
    seen = []

    class Watched(NearestEngine):
        def run(self, batch, out=None):
            seen.append((batch.ctypes.data, out.ctypes.data))
            return super().run(batch, out)

    small, sources = planes("rgb24", WIDTH, HEIGHT)
    large, targets = planes("rgb24", WIDTH * SCALE, HEIGHT * SCALE)
    monkeypatch.setattr(bridge, "handle_of", lambda number: Upscaler(Watched(SCALE)))
    frames = (
        ("rgb24", WIDTH, HEIGHT, 0, 0, 0, small),
        ("rgb24", WIDTH * SCALE, HEIGHT * SCALE, 0, 0, 0, large),
    )
    assert bridge.upscale_frame(number, *frames)[:2] == (bridge.OK, b"")
    assert seen == [(sources[0].ctypes.data, targets[0].ctypes.data)]


def changed(frame, **fields):
    names = ("format", "width", "height", "matrix", "range", "siting", "planes")
    return tuple({**dict(zip(names, frame, strict=True)), **fields}.values())


@pytest.mark.parametrize(
    ("small", "large", "text"),
    [
        ({"format": "yuv421p"}, {}, b"unknown frame format 'yuv421p'; did you mean yuv422p? choose"),
        ({}, {"format": "nv12"}, b"the output is nv12, but its input is yuv420p; give both the same format"),
        ({}, {"width": 15}, b"the output is 15x10, for an input of 7x5 expected 14x10; call sr_output_size"),
        ({"matrix": 10}, {}, b"frames in BT.2020 constant luminance are not converted; convert them to"),
        ({"matrix": 77}, {}, b"frames in matrix 77 of ITU-T H.273 are not converted; convert them to"),
        ({"range": 3}, {}, b"unknown range 3, expected 0..2; see sr_deploy.h"),
        ({"siting": -1}, {}, b"unknown siting -1, expected 0..2; see sr_deploy.h"),
    ],
)
def test_a_wrong_frame_is_refused_in_a_sentence(number, small, large, text):
    frames = (
        changed(("yuv420p", WIDTH, HEIGHT, 0, 0, 0, planes("yuv420p", WIDTH, HEIGHT)[0]), **small),
        changed(
            ("yuv420p", WIDTH * SCALE, HEIGHT * SCALE, 0, 0, 0, planes("yuv420p", WIDTH * 2, HEIGHT * 2)[0]),
            **large,
        ),
    )
    status, found, _ = bridge.upscale_frame(number, *frames)
    assert status == bridge.ARGUMENT
    assert found.startswith(text)


def plane(size, stride):
    return memoryview(bytearray(size)), stride


@pytest.mark.parametrize(
    ("format", "given", "text"),
    [
        ("nv12", (plane(35, 7),), b"the input has 1 planes, but nv12 has 2; give all of them"),
        ("gray8", (plane(34, 7),), b"plane 0 of the input has 34 bytes, expected at least 35; give its true size"),
        ("gray8", (plane(35, 6),), b"plane 0 of the input has rows of 6 bytes, expected a multiple of 1 of at least 7"),
        ("gray16le", (plane(80, 15),), b"plane 0 of the input has rows of 15 bytes, expected a multiple of 2 of at"),
        ("gray8", (plane(0, 7),), b"plane 0 of the input has 0 bytes, expected at least 35; give its true size"),
    ],
)  # fmt: skip
def test_planes_that_are_missing_or_too_small_are_refused(number, format, given, text):
    large = (format, WIDTH * SCALE, HEIGHT * SCALE, 0, 0, 0, planes(format, WIDTH * 2, HEIGHT * 2)[0])
    status, found, _ = bridge.upscale_frame(number, (format, WIDTH, HEIGHT, 0, 0, 0, given), large)
    assert status == bridge.ARGUMENT
    assert found.startswith(text)


def test_a_result_in_the_memory_of_the_input_is_refused(number):
    memory = memoryview(bytearray(WIDTH * HEIGHT * 4))
    frames = (
        ("gray8", WIDTH, HEIGHT, 0, 0, 0, ((memory, WIDTH),)),
        ("gray8", WIDTH * SCALE, HEIGHT * SCALE, 0, 0, 0, ((memory, WIDTH * SCALE),)),
    )
    status, found, _ = bridge.upscale_frame(number, *frames)
    assert (status, found) == (
        bridge.ARGUMENT,
        b"input and output share memory; give the output memory of its own",
    )


def test_rgb_of_limited_range_is_refused(number):
    status, found, *_ = upscaled(number, "rgb24", colours=(0, 1, 0))
    assert status == bridge.ARGUMENT
    assert found == b"rgb24 of limited range is not converted; convert it to full range first"
