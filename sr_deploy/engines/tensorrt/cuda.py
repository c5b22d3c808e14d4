"""CUDA as the TensorRT backend needs it, through PyCUDA: device, context, memory, streams and graphs.

PyCUDA has no CUDA graphs and cannot record events on a stream that it did not create; those few calls go to
the driver library directly. TensorRT is not used here. Everything except `GpuContext` and the functions that
describe the machine needs the CUDA context to be current in the calling thread (`GpuContext.current`).
"""

from __future__ import annotations

import atexit
import ctypes
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from sr_deploy.engines.nvidia import load_driver
from sr_deploy.engines.tensorrt.runtimes import RTX, TENSORRT, Runtime
from sr_deploy.engines.tensorrt.sidecar import BuildMachine
from sr_deploy.errors import MissingRuntimeError, OutOfMemoryError, SrDeployError, UsageError
from sr_deploy.system.arrays import AnyArray

_STREAM_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING."""
_EVENT_DISABLE_TIMING = 2
"""CU_EVENT_DISABLE_TIMING: events are used for order only."""
_CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL.

While a lane records a graph, other threads may allocate memory; the stricter global mode would forbid that.
"""
_ATTRIBUTE_MEMORY_TYPE, _HOST_MEMORY = 2, 1
"""CU_POINTER_ATTRIBUTE_MEMORY_TYPE and its value CU_MEMORYTYPE_HOST (page-locked)."""
_ALIGNMENT = 1 << 16
"""Allocations are rounded up to a multiple of this many bytes (64 KiB)."""
_primary_contexts: dict[int, Any] = {}
"""Primary contexts by GPU number, retained once per process and released at exit."""
_primary_lock = threading.Lock()


def driver(asking: Runtime = TENSORRT) -> ModuleType:
    """Return PyCUDA's driver interface, initialised; `asking` is the runtime that needs it, for messages.

    Raises MissingRuntimeError if PyCUDA, the NVIDIA driver or a GPU is missing.
    """
    try:
        import pycuda.driver as cuda  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except Exception as error:  # ImportError, or whatever loading the driver library raises
        missing = error if "libcuda" in str(error) or "nvcuda" in str(error) else _why_no_driver()
        if missing is not None:  # said first: without a driver, PyCUDA would not help
            hint = "; `sr-deploy build` works without one" if asking is RTX else ""
            raise MissingRuntimeError(
                f"there is no NVIDIA driver here ({missing}){hint}; install one, or use --backend onnxruntime"
            ) from error
        # PyCUDA is compiled on installation, so the extra of a runtime that builds without it leaves it out
        install = f"{asking.install} pycuda" if asking is RTX else asking.install
        raise MissingRuntimeError(
            f"the {asking.backend} backend needs PyCUDA, which cannot be imported ({error}); {install}"
        ) from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except Exception as error:
        raise MissingRuntimeError(
            f"the NVIDIA driver does not start ({error}); run `nvidia-smi`, update the driver, or use --backend onnxruntime"
        ) from error
    if not count:
        raise MissingRuntimeError("there is no NVIDIA GPU here; use --backend onnxruntime")
    return cuda  # type: ignore[no-any-return]


def _why_no_driver() -> OSError | None:
    """Return the error with which NVIDIA's driver library does not load; None if it does."""
    try:
        load_driver()
    except OSError as error:
        return error
    return None


def machine(ordinal: int, tensorrt: str, runtime: Runtime = TENSORRT) -> BuildMachine:
    """Describe what an engine on GPU number `ordinal` depends on; `tensorrt` is the version of `runtime`.

    Raises MissingRuntimeError if CUDA is missing, UsageError if there is no such GPU.
    """
    device = _device(driver(runtime), ordinal)
    major, minor = device.compute_capability()
    return BuildMachine(
        runtime=runtime.backend,
        tensorrt=tensorrt,
        gpu=str(device.name()),
        capability=(int(major), int(minor)),
        driver=driver_version(),
    )


def driver_version() -> str:
    """Version of the NVIDIA driver, for example "580.159.04".

    If the management library (NVML) is missing, the version of CUDA that the driver supports, for example
    "CUDA 12040".
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode("ascii", "replace")
    return f"CUDA {driver().get_driver_version()}"


def _device(cuda: ModuleType, ordinal: int) -> Any:
    """Return GPU number `ordinal`. Raises UsageError if there is no such GPU."""
    count = cuda.Device.count()
    if ordinal >= count:
        raise UsageError(f"there is no GPU number {ordinal}; this machine has {count}, numbered from 0")
    return cuda.Device(ordinal)


class GpuContext:
    """One GPU and the CUDA context in which everything on it happens.

    May be used by several threads; each must enter `current` for itself.
    """

    def __init__(self, ordinal: int, context: str, asking: Runtime = TENSORRT) -> None:
        """Use GPU number `ordinal` in its "primary" context, or in the "current" one of this thread.

        `asking` is the runtime that needs it, for messages. Raises MissingRuntimeError without a usable GPU,
        UsageError if "current" is asked for and there is none.
        """
        self.cuda = driver(asking)
        self._context = (
            _primary_context(self.cuda, ordinal) if context == "primary" else self._caller_context()
        )

    def _caller_context(self) -> Any:
        """Return the context that is current in this thread. Raises UsageError if there is none."""
        context = self.cuda.Context.get_current() if hasattr(self.cuda.Context, "get_current") else None
        if context is None:
            raise UsageError(
                "context='current' needs a current PyCUDA context in this thread, and there is none; push one first, or use "
                "context='primary'"
            )
        return context

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread, and restore the previous one afterwards.

        PyCUDA's out-of-memory error becomes OutOfMemoryError; other exceptions pass through.
        """
        self._context.push()
        try:
            yield
        except self.cuda.MemoryError as error:
            raise OutOfMemoryError(f"no memory left on the GPU ({error}); use smaller tiles") from error
        finally:
            self.cuda.Context.pop()

    def stream(self) -> Any:
        """Create a stream that does not wait for CUDA's default stream."""
        return self.cuda.Stream(_STREAM_NON_BLOCKING)


def _primary_context(cuda: ModuleType, ordinal: int) -> Any:
    with _primary_lock:
        if ordinal not in _primary_contexts:
            if not _primary_contexts:
                atexit.register(_release_primary_contexts)
            _primary_contexts[ordinal] = _device(cuda, ordinal).retain_primary_context()
        return _primary_contexts[ordinal]


def _release_primary_contexts() -> None:
    """Release the retained contexts at exit; errors are ignored, for the process ends anyway."""
    with _primary_lock:
        contexts = list(_primary_contexts.values())
        _primary_contexts.clear()
    for context in contexts:
        with suppress(Exception):
            context.push()
            context.detach()


class DeviceBuffer:
    """Device memory that grows on demand and never shrinks. Growing changes its address.

    `size` is its size in bytes and `address` its device address, both 0 while nothing is allocated. For one
    thread at a time.
    """

    def __init__(self, gpu: GpuContext) -> None:
        self._gpu, self.size, self.address = gpu, 0, 0
        self._memory: Any = None

    def reserve(self, size: int, before: Callable[[], None] | None = None) -> int:
        """Return the address of at least `size` bytes; old content is lost if the buffer grows.

        `before` is called before existing memory is released. It must make sure that nothing uses that memory
        any more. The old memory goes first, so that both are never held together.
        """
        if size > self.size or self._memory is None:
            if before is not None and self._memory is not None:
                before()
            self.free()
            wanted = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
            self._memory = self._gpu.cuda.mem_alloc(wanted)
            self.size, self.address = wanted, int(self._memory)
        return self.address

    def free(self) -> None:
        """Release the memory. Calling it again does nothing."""
        memory, self._memory = self._memory, None
        self.size = self.address = 0
        if memory is not None:
            memory.free()


class OwnedMemory:
    """Device memory of a result, `size` bytes, released when the last reference goes.

    That may happen in any thread, so the destructor makes the context current itself.
    """

    def __init__(self, gpu: GpuContext, size: int) -> None:
        self._gpu, self._memory = gpu, gpu.cuda.mem_alloc(max(size, 1))
        self.address = int(self._memory)

    def __del__(self) -> None:
        memory = self.__dict__.pop("_memory", None)
        if memory is not None:
            # at exit the context may be gone already, and the memory with it
            with suppress(Exception), self._gpu.current():
                memory.free()


class PinnedMemory:
    """Page-locked host memory of `size` bytes that belongs to a caller's array; freed with the last reference.

    That may happen in any thread. PyCUDA frees such memory only where a context is current, so the destructor
    makes it current itself. NumPy reads the memory through `__array_interface__` and keeps the object alive.
    """

    def __init__(self, gpu: GpuContext, size: int) -> None:
        """Allocate the memory; the CUDA context must be current. Raises PyCUDA's MemoryError."""
        self._gpu, self._block = gpu, pinned_empty(gpu.cuda, size)
        self._size = size

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Version 3 of NumPy's protocol: uninitialised bytes."""
        address = int(self._block.ctypes.data)
        return {"shape": (self._size,), "typestr": "|u1", "data": (address, False), "version": 3}

    def __del__(self) -> None:
        block = self.__dict__.pop("_block", None)
        if block is not None:
            # at exit the context may be gone already, and the memory with it
            with suppress(Exception), self._gpu.current():
                block.base.free()


class PinnedBuffer:
    """Page-locked host memory that grows on demand and never shrinks. For one thread at a time.

    Copies between page-locked memory and the GPU run without the CPU.
    """

    def __init__(self, gpu: GpuContext) -> None:
        self._gpu = gpu
        self._array: Any = None

    def view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> AnyArray:
        """Return an array of `shape` and `dtype` on this memory, uninitialised; valid until the next call."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self._array is None or self._array.nbytes < size:
            self.free()
            self._array = pinned_empty(self._gpu.cuda, size)
        array: AnyArray = self._array[:size].view(dtype).reshape(shape)
        return array

    def free(self) -> None:
        """Release the memory. Views of it must not be used afterwards."""
        array, self._array = self._array, None
        if array is not None:
            array.base.free()


def pinned_empty(cuda: ModuleType, size: int) -> Any:
    """Return a page-locked uint8 array of at least `size` bytes, rounded up to `_ALIGNMENT`."""
    return cuda.pagelocked_empty(-(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT, np.uint8)


class _DriverLibrary:
    """The few functions of the CUDA driver library that PyCUDA does not offer."""

    def __init__(self) -> None:
        self._library = load_driver()

    def call(self, name: str, *arguments: Any) -> None:
        """Call the driver function `name`. Raises RuntimeError with CUDA's error number if it fails."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with CUDA error {code}")


_driver_library: _DriverLibrary | None = None
"""The driver library, loaded at the first call."""


def _call(name: str, *arguments: Any) -> None:
    """Call a driver function, loading the library first. Raises RuntimeError if the call fails."""
    global _driver_library
    if _driver_library is None:
        _driver_library = _DriverLibrary()
    _driver_library.call(name, *arguments)


class CudaGraph:
    """The work that a function queues on a stream, recorded once and replayed with a single call.

    Shapes and device addresses are fixed by the recording; use a new graph after either changes.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        """Record what `work` queues on `stream` (a handle), without running it.

        Raises RuntimeError if something in `work` cannot be recorded, or what `work` raises. The stream stays
        usable.
        """
        self._executable, graph = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_CAPTURE_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):
                _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
                _destroy_graph(graph)
            raise
        _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        finally:
            _destroy_graph(graph)

    def launch(self, stream: int) -> None:
        """Queue the recorded work on `stream`, a handle."""
        _call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream))

    def free(self) -> None:
        """Release the graph. Calling it again does nothing."""
        executable, self._executable = self._executable, ctypes.c_void_p()
        if executable:
            _call("cuGraphExecDestroy", executable)


def _destroy_graph(graph: ctypes.c_void_p) -> None:
    """Release a recorded graph; the executable made from it does not need it."""
    if graph:
        _call("cuGraphDestroy", graph)


def order_streams(first: int, then: int) -> None:
    """Let work queued on stream `then` from now on wait for everything queued on `first` so far.

    Both are handles. Returns at once.
    """
    event = ctypes.c_void_p()
    _call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(_EVENT_DISABLE_TIMING))
    try:
        _call("cuEventRecord", event, ctypes.c_void_p(first))
        _call("cuStreamWaitEvent", ctypes.c_void_p(then), event, ctypes.c_uint(0))
    finally:
        _call("cuEventDestroy_v2", event)  # CUDA releases it only after it has been reached


def is_pinned(array: AnyArray) -> bool:
    """Return whether the memory of `array` is page-locked, so that a GPU can access it directly.

    It may have been locked by anyone. The first and the last byte are checked; any failure of the query means
    False.
    """
    kind = ctypes.c_uint(0)
    first = int(array.ctypes.data)
    for address in (first, first + max(array.nbytes - 1, 0)):
        try:
            _call(
                "cuPointerGetAttribute",
                ctypes.byref(kind),
                ctypes.c_int(_ATTRIBUTE_MEMORY_TYPE),
                ctypes.c_void_p(address),
            )
        except (RuntimeError, OSError, AttributeError):
            return False
        if kind.value != _HOST_MEMORY:
            return False
    return True


def translated_error(error: BaseException, what: str) -> SrDeployError | None:
    """Return an exception of CUDA as one of ours, or None if `error` is not CUDA's.

    `what` says what was being done. Our own exceptions are returned unchanged. A lack of memory becomes
    OutOfMemoryError, every other CUDA error MissingRuntimeError: a context is unusable after such an error.
    """
    if isinstance(error, SrDeployError):
        return error
    text = " ".join(str(error).split())
    if re.search(r"out of memory|CUDA error 2\b", text):
        return OutOfMemoryError(f"{what}: no memory left on the GPU ({text}); use smaller tiles")
    module = type(error).__module__ or ""
    if module.startswith("pycuda") or "CUDA error" in text:
        return MissingRuntimeError(
            f"{what}: the GPU failed ({text}); its context cannot be used again, so restart the program"
        )
    return None
