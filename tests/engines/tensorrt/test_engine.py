"""The engine as a whole, on stand-ins: what is released where, what is refused at load, what is ordered."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.engines.registry import choose_backend, open_engine
from sr_deploy.engines.tensorrt import build as build_module
from sr_deploy.engines.tensorrt import cuda as cuda_module
from sr_deploy.engines.tensorrt.build import write_engine
from sr_deploy.engines.tensorrt.cache import EngineCache
from sr_deploy.engines.tensorrt.device import DeviceArray, as_device_array
from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.engines.tensorrt.runtimes import RTX, TENSORRT
from sr_deploy.errors import MissingRuntimeError, ModelError
from tests.engines.tensorrt import standin
from tests.engines.tensorrt.test_device import OnGpu
from tests.engines.tensorrt.test_sidecar import PLAN, RTX_BUILD, RTX_HERE, a_record

ROOT = Path(__file__).parents[3]


@pytest.fixture
def engine(monkeypatch, tmp_path):
    """An engine on stand-ins that repeats pixels."""
    standin.log.clear()
    with standin.install(monkeypatch.setattr, tmp_path) as opened:
        yield opened


def picture(seed: int = 0, height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), np.uint8)


def test_the_stand_in_repeats_pixels(engine):
    large = engine.run(picture())
    np.testing.assert_array_equal(large, picture().repeat(4, axis=1).repeat(4, axis=2))
    results = list(engine.run_stream(picture(seed) for seed in range(5)))
    np.testing.assert_array_equal(results[3][:, ::4, ::4], picture(3))


def test_an_engine_whose_output_became_int8_is_refused_at_load(monkeypatch, tmp_path):
    with (
        standin.install(monkeypatch.setattr, tmp_path, out="INT8") as opened,
        pytest.raises(
            ModelError, match=r"the engine has a port upscaled of type INT8.*expected upscaled of type UINT8"
        ),
    ):
        opened.run(picture())


def test_page_locked_arrays_are_freed_where_a_context_is_current(engine):
    """PyCUDA warns and leaks if the last reference goes in a thread without a context."""
    array = engine.empty((1, 4, 4, 3))
    array[:] = 7
    part = array[0]
    del array
    gc.collect()
    assert ("free", "host", True) not in standin.log
    assert part.sum() == 7 * 48
    held = [part]
    del part
    worker = threading.Thread(target=held.clear)
    worker.start()
    worker.join()
    gc.collect()
    assert standin.log.count(("free", "host", True)) == 1
    assert ("free", "host", False) not in standin.log


def test_a_result_that_a_stream_still_writes_names_the_stream(engine):
    small = picture()
    given = DeviceArray(small.ctypes.data, small.shape, small.dtype, small)
    done = engine.run_device(given)
    assert (done.stream, "stream" in done.__cuda_array_interface__) == (None, False)
    queued = engine.run_device(given, stream=5)
    assert queued.__cuda_array_interface__["stream"] == 5
    assert as_device_array(OnGpu(**queued.__cuda_array_interface__)).stream == 5
    # the default stream is 1 in the protocol, which has no 0
    assert engine.run_device(given, stream=0).__cuda_array_interface__["stream"] == 1
    orders = [entry for entry in standin.log if entry[0] == "order"]
    assert orders == [("order", 5, 77), ("order", 77, 5), ("order", 0, 77), ("order", 77, 0)]


def test_streams_that_still_write_the_given_arrays_are_waited_for(engine):
    small, large = picture(), np.empty((1, 20, 28, 3), np.uint8)
    given = DeviceArray(small.ctypes.data, small.shape, small.dtype, small, stream=8)
    target = DeviceArray(large.ctypes.data, large.shape, large.dtype, large, stream=9)
    result = engine.run_device(given, target)
    orders = {entry for entry in standin.log if entry[0] == "order"}
    assert orders == {("order", 8, 77), ("order", 9, 77)}
    assert (result.address, result.stream) == (target.address, None)
    np.testing.assert_array_equal(large[:, ::4, ::4], small)


UNREAD = """
import sys
from pathlib import Path
import numpy as np
from tests.engines.tensorrt import standin

first = standin.install(setattr, Path(sys.argv[1]))
second = standin.install(setattr, Path(sys.argv[1]))
streams = []
for each, name in ((first, "first"), (second, "second")):
    each._copy_threads.close = lambda name=name: print(name, "closed", flush=True)
    big = np.zeros((1, 700, 600, 3), np.uint8)  # results of 20 MB, which threads copy
    streams.append(each.run_stream([big] * 4))
    next(streams[-1])
"""


def test_a_stream_that_nobody_reads_to_its_end_does_not_disturb_the_end_of_the_program(tmp_path):
    """Python ends its thread pools before the handlers that close engines."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UNREAD), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["first closed", "second closed"]


def test_an_engine_file_is_opened_by_the_library_that_built_it(tmp_path):
    for name, changes in (("a", {}), ("b", {"machine": RTX_BUILD})):
        write_engine(tmp_path / f"{name}.engine", PLAN, a_record(**changes))
    (tmp_path / "c.engine").write_bytes(b"no sidecar")
    assert [choose_backend("auto", tmp_path / f"{name}.engine") for name in "abc"] == [
        "tensorrt",
        "tensorrt-rtx",
        "tensorrt",
    ]


def test_without_tensorrt_for_rtx_the_error_ends_in_its_own_install_line(tiny, monkeypatch):
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingRuntimeError, match=r"^the tensorrt-rtx backend needs TensorRT for RTX"
    ) as caught:
        open_engine(tiny("plain").model, "tensorrt-rtx")
    assert str(caught.value).endswith('pip install "sr-deploy[rtx]"')


@pytest.mark.parametrize(
    ("capability", "works"), [((8, 9), True), ((12, 0), True), ((9, 0), False), ((10, 0), False)]
)
def test_tensorrt_for_rtx_is_not_for_data_centre_gpus(capability, works):
    device = type("Device", (), {"count": staticmethod(lambda: 1), "__init__": lambda self, n: None,
                                 "compute_capability": lambda self: capability})  # fmt: skip
    cuda = type("cuda", (), {"Device": device})
    if works:
        build_module._require_rtx_gpu(cuda)
        return
    with pytest.raises(MissingRuntimeError, match=r"this machine has \d+\.0; use --backend tensorrt$"):
        build_module._require_rtx_gpu(cuda)


def test_kernels_that_tensorrt_for_rtx_compiled_are_there_at_the_next_start(monkeypatch, tmp_path):
    standin.log.clear()
    for _ in range(2):
        with standin.install(monkeypatch.setattr, tmp_path, rtx=True, graphs=True) as opened:
            assert opened.backend == "tensorrt-rtx"
            for height in (5, 6, 5, 5):  # the third run of a shape would be a graph
                large = opened.run(picture(height, height))
                np.testing.assert_array_equal(large[:, ::4, ::4], picture(height, height))
    contexts = [entry[1] for entry in standin.log if entry[0] == "context"]
    assert len(contexts) == 4
    # slower kernels of the lazy strategy would stay in a recorded graph for ever
    assert contexts[0] == {"dynamic_shapes_kernel_specialization_strategy": "EAGER"}
    assert [entry for entry in standin.log if entry[0] == "deserialize"] == [
        ("deserialize", b"kernel kernel ")
    ]
    assert standin.log.count(("capturable?",)) == 2  # once for each context that ran twice
    (kept,) = (tmp_path / "cache").glob("kernels-*.cache")
    assert kept.read_bytes() == b"kernel kernel kernel kernel "
    EngineCache(tmp_path / "cache").prune()
    assert not kept.exists()


def test_no_kernels_are_kept_where_the_cache_is_off(monkeypatch, tmp_path):
    with standin.install(monkeypatch.setattr, tmp_path, rtx=True, cache=False) as opened:
        opened.run(picture())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (
            OSError("libcuda.so.1: cannot open"),
            r"^there is no NVIDIA driver here \(libcuda\.so\.1: cannot open\); `sr-deploy build` works without one; install",
        ),
        (None, r'^the tensorrt-rtx backend needs PyCUDA, .*; pip install "sr-deploy\[rtx\]" pycuda$'),
    ],
)
def test_a_missing_driver_is_said_before_a_missing_pycuda(monkeypatch, driver, words):
    def load_driver():
        if driver is not None:
            raise driver

    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setattr(cuda_module, "load_driver", load_driver)
    with pytest.raises(MissingRuntimeError, match=words):
        cuda_module.driver(RTX)


@pytest.mark.parametrize("count", [0, 1])
def test_a_driver_without_a_gpu_is_said(monkeypatch, count):
    device = type("Device", (), {"count": staticmethod(lambda: count)})
    fake = type(sys)("pycuda.driver")
    fake.init, fake.Device = lambda: None, device
    package = type(sys)("pycuda")
    package.driver = fake
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    if count:
        assert cuda_module.driver() is fake
        return
    with pytest.raises(MissingRuntimeError, match=r"^there is no NVIDIA GPU here"):
        cuda_module.driver()


@pytest.mark.parametrize(
    ("capability", "asked", "built"),
    [((8, 9), (), ()), ((7, 5), (), ("7.5",)), ((7, 5), ("8.6",), ("8.6",))],
)
def test_a_turing_card_gets_an_engine_of_its_own(monkeypatch, capability, asked, built):
    """The default leaves 7.5 out, because with it int8 would be compiled in fp32 for all."""
    here = replace(RTX_HERE, capability=capability)
    monkeypatch.setattr(build_module, "machine", lambda *_: here)
    assert build_module._for_gpu(BuildOptions(capabilities=asked), 0, RTX).capabilities == built
    assert build_module._for_gpu(BuildOptions(), 0, TENSORRT).capabilities == ()
