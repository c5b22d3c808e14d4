"""CUDA as the TensorRT runner needs it, through PyCUDA: the device, its context, memory, streams, graphs.

PyCUDA has no graphs and cannot record events on a caller's stream; those few calls go to the driver library
itself. Nothing of TensorRT is named here. All of it but `GpuContext` wants the context to be current (`GpuContext.current`).
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
from sr_deploy.engines.tensorrt.sidecar import BuildMachine
from sr_deploy.errors import MissingRuntimeError, OutOfMemoryError, SrDeployError, UsageError

INSTALL = 'pip install "sr-deploy[gpu]"'
_NON_BLOCKING = 1
_NO_TIMING = 2
_THREAD_LOCAL = 1
_MEMORY_TYPE, _HOST = 2, 1
_ALIGNMENT = 1 << 16
_primary: dict[int, Any] = {}
_primary_lock = threading.Lock()


def driver() -> ModuleType:
    """PyCUDA's driver interface, started. Raises MissingRuntimeError where package, driver or GPU is not there."""
    try:
        import pycuda.driver as cuda
    except Exception as error:  # ImportError, or what its loading of the driver library raises
        if "libcuda" in str(error) or "nvcuda" in str(error):
            raise MissingRuntimeError(
                f"there is no NVIDIA driver here ({error}); install one, or use --backend onnxruntime"
            ) from error
        raise MissingRuntimeError(
            f"the tensorrt backend needs PyCUDA, which cannot be imported ({error}); {INSTALL}"
        ) from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except Exception as error:
        raise MissingRuntimeError(
            f"the NVIDIA driver does not start ({error}); see `nvidia-smi`, update the driver, or use --backend onnxruntime"
        ) from error
    if not count:
        raise MissingRuntimeError("there is no NVIDIA GPU here; use --backend onnxruntime")
    return cuda  # type: ignore[no-any-return]


def machine(ordinal: int, tensorrt: str) -> BuildMachine:
    """What an engine built here depends on. Raises MissingRuntimeError, UsageError for a GPU that is not there."""
    device = _device(driver(), ordinal)
    return BuildMachine(
        tensorrt=tensorrt,
        gpu=str(device.name()),
        capability=device.compute_capability(),
        driver=driver_version(),
    )


def driver_version() -> str:
    """As "580.159.04", or what CUDA says of itself where the management library is not there."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, 96) == 0:
            return text.value.decode("ascii", "replace")
    return f"CUDA {driver().get_driver_version()}"


def _device(cuda: ModuleType, ordinal: int) -> Any:
    count = cuda.Device.count()
    if ordinal >= count:
        raise UsageError(f"there is no GPU number {ordinal}, this machine has {count}; count from 0")
    return cuda.Device(ordinal)


class GpuContext:
    """One device and the context that everything on it happens in."""

    def __init__(self, ordinal: int, context: str) -> None:
        self.cuda = driver()
        self._context = _primary_context(self.cuda, ordinal) if context == "primary" else self._callers()

    def _callers(self) -> Any:
        context = self.cuda.Context.get_current() if hasattr(self.cuda.Context, "get_current") else None
        if context is None:
            raise UsageError(
                "context='current' was asked for, and this thread has no current PyCUDA context; push one first, or use "
                "context='primary'"
            )
        return context

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current in this thread, and put back what was before. What goes wrong inside is told apart."""
        self._context.push()
        try:
            yield
        except self.cuda.MemoryError as error:
            raise OutOfMemoryError(f"no memory left on the GPU ({error}); use smaller tiles") from error
        finally:
            self.cuda.Context.pop()

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.cuda.Stream(_NON_BLOCKING)


def _primary_context(cuda: ModuleType, ordinal: int) -> Any:
    with _primary_lock:
        if ordinal not in _primary:
            if not _primary:
                atexit.register(_let_go_of_primary)
            _primary[ordinal] = _device(cuda, ordinal).retain_primary_context()
        return _primary[ordinal]


def _let_go_of_primary() -> None:
    with _primary_lock:
        contexts = list(_primary.values())
        _primary.clear()
    for context in contexts:
        with suppress(Exception):
            context.push()
            context.detach()


class DeviceBuffer:
    """Device memory that grows. Its address changes when it does."""

    def __init__(self, gpu: GpuContext) -> None:
        self._gpu, self.size, self.address = gpu, 0, 0
        self._memory: Any = None

    def reserve(self, size: int, before: Callable[[], None] | None = None) -> int:
        """The address of at least `size` bytes. `before` is called where the old ones are about to go."""
        if size > self.size or self._memory is None:
            if before is not None and self._memory is not None:
                before()
            self.free()
            wanted = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
            self._memory = self._gpu.cuda.mem_alloc(wanted)
            self.size, self.address = wanted, int(self._memory)
        return self.address

    def free(self) -> None:
        """Give it back. Calling it again does nothing."""
        memory, self._memory = self._memory, None
        self.size = self.address = 0
        if memory is not None:
            memory.free()


class OwnedMemory:
    """Device memory of a result, given back when nobody holds it any more, in whatever thread that is."""

    def __init__(self, gpu: GpuContext, size: int) -> None:
        self._gpu, self._memory = gpu, gpu.cuda.mem_alloc(max(size, 1))
        self.address = int(self._memory)

    def __del__(self) -> None:
        memory = self.__dict__.pop("_memory", None)
        if memory is not None:
            with (
                suppress(Exception),
                self._gpu.current(),
            ):  # at exit, the context may be gone, and this with it
                memory.free()


class PinnedBuffer:
    """Page-locked host memory that grows."""

    def __init__(self, gpu: GpuContext) -> None:
        self._gpu = gpu
        self._array: Any = None

    def view(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of `shape` over it; valid until the next call."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self._array is None or self._array.nbytes < size:
            self.free()
            self._array = pinned_empty(self._gpu.cuda, size)
        array: npt.NDArray[Any] = self._array[:size].view(dtype).reshape(shape)
        return array

    def free(self) -> None:
        """Give it back. No view of it may be used afterwards."""
        array, self._array = self._array, None
        if array is not None:
            array.base.free()


def pinned_empty(cuda: ModuleType, size: int) -> Any:
    """uint8 [size], page-locked."""
    return cuda.pagelocked_empty(-(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT, np.uint8)


class _Driver:
    """The few calls of the CUDA driver that PyCUDA lacks."""

    def __init__(self) -> None:
        self._library = load_driver()

    def call(self, name: str, *arguments: Any) -> None:
        """Raises RuntimeError with CUDA's own number where it fails."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with CUDA error {code}")


_driver: _Driver | None = None


def _call(name: str, *arguments: Any) -> None:
    global _driver
    if _driver is None:
        _driver = _Driver()
    _driver.call(name, *arguments)


class CudaGraph:
    """What `work` queues on a stream, recorded once, replayed with one call."""

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        """Raises RuntimeError where something in `work` cannot be recorded; the stream is usable afterwards."""
        self._made, graph = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))
        try:
            work()
        except BaseException:
            with suppress(RuntimeError):
                _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
                _destroy_graph(graph)
            raise
        _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(self._made), graph, ctypes.c_ulonglong(0))
        finally:
            _destroy_graph(graph)

    def launch(self, stream: int) -> None:
        """Queue it on `stream`."""
        _call("cuGraphLaunch", self._made, ctypes.c_void_p(stream))

    def free(self) -> None:
        """Give it back. Calling it again does nothing."""
        made, self._made = self._made, ctypes.c_void_p()
        if made:
            _call("cuGraphExecDestroy", made)


def _destroy_graph(graph: ctypes.c_void_p) -> None:
    if graph:
        _call("cuGraphDestroy", graph)


def order(first: int, then: int) -> None:
    """Let what is queued on stream `then` from now on wait for what is queued on `first` by now."""
    event = ctypes.c_void_p()
    _call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(_NO_TIMING))
    try:
        _call("cuEventRecord", event, ctypes.c_void_p(first))
        _call("cuStreamWaitEvent", ctypes.c_void_p(then), event, ctypes.c_uint(0))
    finally:
        _call("cuEventDestroy_v2", event)  # CUDA keeps it until it has happened


def is_pinned(array: npt.NDArray[Any]) -> bool:
    """Whether all of `array` is page-locked, whoever locked it, so that a GPU can copy from and to it by itself."""
    kind = ctypes.c_uint(0)
    first = int(array.ctypes.data)
    for address in (first, first + max(array.nbytes - 1, 0)):
        try:
            _call(
                "cuPointerGetAttribute",
                ctypes.byref(kind),
                ctypes.c_int(_MEMORY_TYPE),
                ctypes.c_void_p(address),
            )
        except (RuntimeError, OSError, AttributeError):
            return False
        if kind.value != _HOST:
            return False
    return True


def explained(error: BaseException, what: str) -> SrDeployError | None:
    """An error of CUDA's as one of ours; None for what is not CUDA's."""
    if isinstance(error, SrDeployError):
        return error
    text = " ".join(str(error).split())
    if re.search(r"out of memory|CUDA error 2\b", text):
        return OutOfMemoryError(f"{what}: no memory left on the GPU ({text}); use smaller tiles")
    module = type(error).__module__ or ""
    if module.startswith("pycuda") or "CUDA error" in text:
        return MissingRuntimeError(
            f"{what}: the GPU failed ({text}); a failed GPU context cannot be used again, so start the program anew"
        )
    return None
