"""Stand-ins for PyCUDA and a loaded engine, so that `TensorRTEngine` runs as a whole in main memory.

"Device memory" is main memory, copies are done at once, and the "engine" repeats each pixel. `install()` puts them
in the place of the real ones; `log` then tells what was allocated, released and ordered.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from sr_deploy.engines.tensorrt import api, build, cuda, engine
from sr_deploy.engines.tensorrt.options import BuildOptions, TensorRTOptions
from sr_deploy.engines.tensorrt.profiles import plan_profiles
from sr_deploy.engines.tensorrt.sidecar import BuildMachine, EngineSidecar, digest
from sr_deploy.spec import ModelSpec
from tests.engines.tensorrt.test_build_8_6 import ports_of
from tests.engines.tensorrt.test_sidecar import HERE, RTX_BUILD, RTX_HERE
from tests.engines.tensorrt.test_versions import Enum, Module, Recorder

SPEC = ModelSpec(name="net", scale=4, halo=0)
log: list[tuple[Any, ...]] = []
"""What happened, in order: ("free", ...), ("order", first, then), ("closed",)."""
_current = threading.local()


def view(address: int, size: int) -> np.ndarray:
    """The bytes at an address."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


class Memory:
    """Allocated memory. Like PyCUDA's, it is freed only where a context is current."""

    def __init__(self, kind: str, size: int) -> None:
        self.kind, self.array = kind, np.zeros(size, np.uint8)

    def __int__(self) -> int:
        return int(self.array.ctypes.data)

    def free(self) -> None:
        log.append(("free", self.kind, getattr(_current, "depth", 0) > 0))


class Locked(np.ndarray):
    """Page-locked memory as PyCUDA gives it: an array whose base is the allocation."""

    base: Any = None


class Stream:
    """A stream whose work is done at once."""

    def __init__(self, flags: int) -> None:
        self.handle = 77

    def synchronize(self) -> None:
        """Nothing is left to wait for."""


class Event:
    """An event that has happened."""

    def __init__(self, flags: int) -> None:
        """Nothing to prepare."""

    def record(self, stream: Stream) -> None:
        """It has happened."""

    def synchronize(self) -> None:
        """It has happened."""


class Cuda:
    """The part of `pycuda.driver` that the backend uses."""

    Stream, Event = Stream, Event
    event_flags = type("flags", (), {"DISABLE_TIMING": 2})
    MemoryError = type("CudaMemoryError", (Exception,), {})

    def mem_alloc(self, size: int) -> Memory:
        """Device memory."""
        return Memory("device", size)

    def pagelocked_empty(self, size: int, dtype: Any) -> Locked:
        """Page-locked memory."""
        memory = Memory("host", size)
        array = memory.array.view(Locked)
        array.base = memory  # type: ignore[misc]
        return array

    def memcpy_htod_async(self, address: int, source: np.ndarray, stream: Stream) -> None:
        """Copy to the device."""
        view(address, source.nbytes)[:] = source.reshape(-1).view(np.uint8)

    def memcpy_dtoh_async(self, target: np.ndarray, address: int, stream: Stream) -> None:
        """Copy from the device."""
        target[:] = view(address, target.nbytes)


class Gpu:
    """A stand-in for `GpuContext`."""

    def __init__(self, *_: Any) -> None:
        self.cuda = Cuda()

    def stream(self) -> Stream:
        """Make a stream."""
        return Stream(1)

    def current(self) -> Any:
        """Note that a context is current in this thread."""

        class Entered:
            def __enter__(self) -> None:
                _current.depth = getattr(_current, "depth", 0) + 1

            def __exit__(self, *error: object) -> None:
                _current.depth -= 1

        return Entered()


class Context:
    """An execution context that repeats each pixel `scale` times along both axes."""

    nvtx_verbosity: Any = None
    active_optimization_profile = 0

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Set the shape of the input."""
        self.shape = shape
        return True

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        """Accept any profile."""
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of the output."""
        n, h, w, c = self.shape
        return n, h * SPEC.scale, w * SPEC.scale, c

    def update_device_memory_size_for_shapes(self) -> int:
        """No working memory is needed."""
        return 0

    def set_device_memory(self, address: int, size: int) -> None:
        """Accept the memory."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Place a tensor."""
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Repeat pixels."""
        source = view(self.addresses["pixels"], int(np.prod(self.shape))).reshape(self.shape)
        large = source.repeat(SPEC.scale, axis=1).repeat(SPEC.scale, axis=2)
        view(self.addresses["upscaled"], large.size)[:] = large.reshape(-1)
        return True


def trt_module(out: str = "UINT8") -> Module:
    """The package, whose runtime loads an engine with an output of the type `out`."""
    trt = Module("10.16")
    severity = type("S", (), {n: n for n in ("INTERNAL_ERROR", "ERROR", "WARNING")})
    trt.ILogger = type("ILogger", (), {"Severity": severity})  # type: ignore[attr-defined]
    answers = ports_of(out) | {
        "num_optimization_profiles": 1,
        "create_execution_context": lambda kind: Context(),
    }
    loaded = Recorder("10.16", "ICudaEngine", answers)
    make = Recorder("10.16", "Runtime", {"deserialize_cuda_engine": lambda plan: loaded})
    trt.Runtime = lambda logger: make  # type: ignore[attr-defined]
    return trt


class CapturableContext(Context):
    """A context of TensorRT for RTX, whose runs may not be recorded."""

    def is_stream_capturable(self, stream: int) -> bool:
        """Note that it was asked."""
        log.append(("capturable?",))
        return False


def rtx_module() -> Module:
    """The package of TensorRT for RTX. Its contexts compile one kernel each, which the runtime cache then holds."""
    version = "rtx-1.7"
    trt = trt_module()
    trt.__dict__["__name__"] = "tensorrt_rtx_bindings"
    trt.__version__ = "1.7.1.116"
    kernels: list[bytes] = []

    def make_context(runtime_config: Any) -> Context:
        log.append(("context", runtime_config.values))
        kernels.append(b"kernel ")
        return CapturableContext()

    def load_kernels(data: bytes) -> bool:
        log.append(("deserialize", data))
        kernels.append(data)
        return True

    answers = {"serialize": lambda: b"".join(kernels), "deserialize": load_kernels}
    cache = Recorder(version, "IRuntimeCache", answers)
    made = {"create_runtime_cache": lambda: kernels.clear() or cache, "get_runtime_cache": lambda: cache}
    config = Recorder(version, "IRuntimeConfig", made)
    answers = ports_of("UINT8") | {
        "num_optimization_profiles": 1,
        "create_runtime_config": lambda: config,
        "create_execution_context": make_context,
    }
    loaded = Recorder(version, "ICudaEngine", answers)
    runtime = Recorder(version, "Runtime", {"deserialize_cuda_engine": lambda plan: loaded})
    trt.Runtime = lambda logger: runtime  # type: ignore[attr-defined]
    kind = "DynamicShapesKernelSpecializationStrategy"
    setattr(trt, kind, Enum(version, kind))
    return trt


def record(machine: BuildMachine = HERE) -> EngineSidecar:
    """The sidecar of the engine."""
    options = BuildOptions(tile=2048)
    return EngineSidecar(
        spec=SPEC,
        pixels="uint8",
        model_sha256="ab" * 32,
        model_name="net.onnx",
        options=options,
        machine=machine,
        profiles=plan_profiles(SPEC, options)[-1:],
        plan_sha256=digest(b"plan"),
        plan_size=4,
    )


def install(
    patch: Any, folder: Any, *, out: str = "UINT8", rtx: bool = False, **options: Any
) -> engine.TensorRTEngine:
    """Put the stand-ins in place with `patch(object, name, value)`, and open the engine file that it writes."""
    trt = rtx_module() if rtx else trt_module(out)
    patch(api, "runtime", lambda which=None: trt)
    patch(engine, "GpuContext", Gpu)
    patch(engine, "machine", lambda *_: RTX_HERE if rtx else HERE)
    patch(engine, "order_streams", lambda first, then: log.append(("order", first, then)))
    patch(cuda, "load_driver", _no_driver)
    path = folder / "net.engine"
    build.write_engine(path, b"plan", record(RTX_BUILD if rtx else HERE))
    kind = engine.TensorRTRtxEngine if rtx else engine.TensorRTEngine
    return kind(path, TensorRTOptions(**{"graphs": False, "folder": folder / "cache", **options}))


def _no_driver() -> None:
    """No array is page-locked, as far as the driver can tell."""
    raise OSError("no driver")
