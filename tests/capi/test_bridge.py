"""The bridge behind the C library: errors become statuses, and pictures on a GPU are addresses."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest

from sr_deploy import Upscaler, __version__
from sr_deploy.capi import bridge, handles
from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.engines.registry import available_backends
from sr_deploy.engines.tensorrt.device import as_device_array

U8, F32, RGB, BGR = 0, 2, 0, 1


def opened(path):
    return bridge.open_upscaler(__version__, str(path), bridge.COptions(backend="nearest", threads=1))


def test_a_library_of_another_version_is_told_to_be_built_again(model):
    status, text, number = bridge.open_upscaler("0.0.1", str(model("plain")), bridge.COptions())
    assert (status, number) == (bridge.RUNTIME, None)
    assert text.startswith(b"the C library has version 0.0.1")
    assert b"sr-deploy capi build" in text


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (MemoryError(), bridge.MEMORY, b"out of memory; close other programs"),
        (ZeroDivisionError("a\nb"), bridge.INTERNAL, b"ZeroDivisionError: a b"),
        (PermissionError(13, "denied", "m\0\udcff"), bridge.MODEL, b"PermissionError: [Errno 13] denied: "),
    ],
)
def test_what_nobody_raised_on_purpose_has_a_status_and_one_line_too(model, monkeypatch, error, status, text):
    def failing(self, *arguments):
        raise error

    _, _, number = opened(model("plain"))
    monkeypatch.setattr(Upscaler, "upscale_pixels", failing)
    small, large = (memoryview(bytearray(3)), 1, 1, 3, U8, RGB), (memoryview(bytearray(12)), 2, 2, 6, U8, RGB)
    found = bridge.upscale(number, (small,), (large,))
    assert found[0] == status
    assert found[1].startswith(text)
    assert b"\n" not in found[1]
    found[1].decode("utf-8")


class Watching(NearestEngine):
    """Upscaler that stores the addresses of the pictures it gets."""

    def run(self, batch, out=None):
        self.seen = (batch.ctypes.data, None if out is None else out.ctypes.data)
        return super().run(batch, out)


@pytest.mark.parametrize(("gap", "copied"), [(0, False), (8, True)])
@pytest.mark.parametrize("depth", [U8, F32])
def test_packed_pixels_are_read_and_written_where_they_lie(monkeypatch, depth, gap, copied):
    engine, size = Watching(2), {U8: 1, F32: 4}[depth]
    monkeypatch.setitem(handles._open, 10**9, handles.Handle(Upscaler(engine), None))
    small, large = np.zeros(3 * (12 * size + gap), np.uint8), np.ones(6 * (24 * size + gap), np.uint8)
    buffers = (
        ((memoryview(small), 4, 3, 12 * size + gap, depth, RGB),),
        ((memoryview(large), 8, 6, 24 * size + gap, depth, RGB),),
    )
    assert bridge.upscale(10**9, *buffers)[0] == bridge.OK
    assert [a != b.ctypes.data for a, b in zip(engine.seen, (small, large), strict=True)] == [copied, copied]


class MainMemoryAsGpu(NearestEngine):
    """Engine that takes addresses of main memory, as `TensorRTEngine.run_device` takes device addresses."""

    def run_device(self, source, out, stream):
        arrays = []
        for given in (source, out):
            array = as_device_array(given, stream)
            cells = (ctypes.c_ubyte * array.nbytes).from_address(array.address)
            arrays.append(np.frombuffer(cells, array.dtype).reshape(array.shape))
        self.stream = stream
        self.run(*arrays)


@pytest.fixture
def on_gpu(monkeypatch):
    engine = MainMemoryAsGpu(2)
    monkeypatch.setitem(handles._open, 10**9, handles.Handle(Upscaler(engine), 77))
    return engine


def described(pixels, layout=RGB, gap=0):
    height, width, _ = pixels.shape
    depth = U8 if pixels.dtype == np.uint8 else F32
    return pixels.ctypes.data, width, height, pixels.strides[0] + gap, depth, layout


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pictures_on_a_gpu_reach_the_engine_as_addresses(on_gpu, dtype):
    small = (np.random.default_rng(0).random((3, 5, 3)) * 200).astype(dtype)
    small = small / np.float32(200) if dtype == np.float32 else small
    large = np.zeros((6, 10, 3), dtype)
    assert bridge.upscale(10**9, (described(small),), (described(large),)) == (bridge.OK, b"", None)
    assert (large == small.repeat(2, 0).repeat(2, 1)).all()
    assert on_gpu.stream == 77


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": BGR}, b"takes only SR_RGB in SR_U8 or SR_F32; convert the picture first"),
        ({"gap": 4}, b"rows must have no gaps"),
    ],
)
def test_pictures_on_a_gpu_that_would_have_to_be_converted_are_refused(on_gpu, changes, said):
    small, large = np.zeros((3, 5, 3), np.uint8), np.zeros((6, 10, 3), np.uint8)
    status, text, _ = bridge.upscale(10**9, (described(small, **changes),), (described(large, **changes),))
    assert status == bridge.ARGUMENT
    assert said in text


def test_a_gpu_reads_and_writes_the_callers_memory_with_the_same_bytes(program, tmp_path):
    why = available_backends().get("tensorrt", "there is no backend tensorrt")
    if why is not None:
        pytest.skip(why)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    command = [program("cuda.c"), "rt-x2", "64", "48"]
    done = subprocess.run(command, input=pixels.tobytes(), cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    in_main_memory, on_gpu, in_stream = np.frombuffer(done.stdout, np.uint8).reshape(3, 96, 128, 3)
    assert in_main_memory.any()
    assert (on_gpu == in_main_memory).all()
    assert (in_stream == in_main_memory).all()


PYTHON = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
handle, width, height = ctypes.c_void_p(), ctypes.c_int32(), ctypes.c_int32()
assert library.sr_open(sys.argv[2].encode(), None, ctypes.byref(handle)) == 0
assert library.sr_output_size(handle, 3, 2, ctypes.byref(width), ctypes.byref(height)) == 0
print(width.value, height.value, library.sr_close(handle), library.sr_close(handle))
"""


def test_a_program_written_in_python_may_load_the_library_too(library, model):
    command = [sys.executable, "-c", PYTHON, str(library.library), str(model("plain"))]
    assert subprocess.check_output(command, encoding="utf-8").split() == ["6", "4", "0", str(bridge.CLOSED)]
