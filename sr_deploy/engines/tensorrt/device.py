"""Arrays in GPU memory: those of callers (`__cuda_array_interface__` or DLPack) and those that we return.

`as_device_array` reads either protocol without copying. `DeviceArray` is the result if the caller gave no
output array; torch, CuPy and Numba read it through `__cuda_array_interface__`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sr_deploy.errors import UsageError

_TYPES: dict[str, np.dtype[Any]] = {"|u1": np.dtype(np.uint8), "<f4": np.dtype(np.float32)}
"""The types that engines take, by their names in `__cuda_array_interface__`."""
_DLPACK_TYPES: dict[tuple[int, int], np.dtype[Any]] = {
    (1, 8): np.dtype(np.uint8),
    (2, 32): np.dtype(np.float32),
}
"""The same types, by DLPack's code (1: kDLUInt, 2: kDLFloat) and number of bits."""
_DLPACK_CUDA = 2
"""DLPack's device type kDLCUDA."""


@dataclass(frozen=True)
class DeviceArray:
    """A C-contiguous array in GPU memory. `owner` keeps the memory alive as long as the array exists."""

    address: int
    """Device address of the first element."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the protocol.

        It names no stream to wait for. After `run_device` without a stream the pixels are complete; with one,
        the caller orders its own work after that stream.
        """
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }


def as_device_array(source: Any, stream: int | None = None) -> DeviceArray:
    """Return `source` as a `DeviceArray`, without copying.

    `stream` is the handle of the caller's stream; DLPack producers make sure that their work is done before
    later work on it.

    Raises UsageError if the array is not in CUDA memory, is neither uint8 nor float32, or is not
    C-contiguous.
    """
    if isinstance(source, DeviceArray):
        return source
    interface = getattr(source, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(interface, source)
    if hasattr(source, "__dlpack__"):
        return _from_dlpack(source, stream)
    raise UsageError(
        f"expected an array on the GPU (__cuda_array_interface__ or DLPack), got {type(source).__name__}; use run() for arrays "
        "in main memory"
    )


def _from_interface(interface: dict[str, Any], owner: Any) -> DeviceArray:
    """Read a `__cuda_array_interface__`; `owner` is the object it came from."""
    dtype = _TYPES.get(str(interface["typestr"]).replace("|f4", "<f4"))
    shape = tuple(int(n) for n in interface["shape"])
    if dtype is None:
        raise UsageError(
            f"expected uint8 or float32 on the GPU, got {interface['typestr']}; convert it first"
        )
    _check_strides(shape, interface.get("strides"), dtype.itemsize)
    return DeviceArray(int(interface["data"][0]), shape, dtype, owner)


def _check_strides(shape: tuple[int, ...], strides: Any, unit: int) -> None:
    """Raises UsageError unless `strides`, with `unit` per element, are C-contiguous; None means they are."""
    if strides is None:
        return
    expected = zip(shape, strides, _contiguous_strides(shape, unit), strict=True)
    if any(length > 1 and int(found) != step for length, found, step in expected):
        raise UsageError("the array on the GPU is not C-contiguous; make a contiguous copy first")


def _contiguous_strides(shape: tuple[int, ...], unit: int) -> tuple[int, ...]:
    """Return the strides of a C-contiguous array of `shape`, in the unit of `unit`."""
    strides, step = [], unit
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


# The structures of dlpack.h; their fields and order are its ABI.


class _DLDevice(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32))


class _DLType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _DLPackOwner:
    """Owns a DLPack tensor whose capsule was consumed.

    When the last reference goes, it calls the tensor's deleter, which returns the memory to the producer.
    """

    def __init__(self, managed: int, deleter: int | None) -> None:
        self._managed, self._deleter = managed, deleter

    def __del__(self) -> None:
        if self._deleter:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._deleter)(self._managed)
            self._deleter = None


def _from_dlpack(source: Any, stream: int | None) -> DeviceArray:
    """Read an array through DLPack. Without a stream, 1 is passed: CUDA's legacy default stream. The protocol
    forbids 0, which would be ambiguous."""
    if int(source.__dlpack_device__()[0]) != _DLPACK_CUDA:
        raise UsageError("the DLPack array is not on a CUDA GPU; use run() for arrays in main memory")
    return read_capsule(source.__dlpack__(stream=stream if stream else 1))


def read_capsule(capsule: Any) -> DeviceArray:
    """Read the DLPack `capsule` and take over its tensor, which goes back to its producer with the array.

    The capsule is renamed as the protocol demands, so that nobody else takes it. Raises UsageError as
    `as_device_array` does.
    """
    get = _capsule_call("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    rename = _capsule_call("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
    address = get(capsule, b"dltensor")
    rename(capsule, _USED_NAME)
    managed = _DLManagedTensor.from_address(address)
    return _from_tensor(managed.tensor, _DLPackOwner(address, managed.deleter))


_USED_NAME = b"used_dltensor"
"""Name of a consumed capsule. Kept in a variable, because a capsule does not copy its name."""


def _from_tensor(tensor: _DLTensor, owner: Any) -> DeviceArray:
    """Make the array from DLPack's description of it. Raises UsageError for other types or layouts."""
    kind = (int(tensor.dtype.code), int(tensor.dtype.bits))
    if kind not in _DLPACK_TYPES or tensor.dtype.lanes != 1:
        raise UsageError(f"expected uint8 or float32 on the GPU, got DLPack type {kind}; convert it first")
    dtype = _DLPACK_TYPES[kind]
    shape = tuple(int(tensor.shape[axis]) for axis in range(tensor.ndim))
    strides = [int(tensor.strides[a]) for a in range(tensor.ndim)] if tensor.strides else None
    _check_strides(shape, strides, 1)  # DLPack counts strides in elements
    return DeviceArray(int(tensor.data) + int(tensor.byte_offset), shape, dtype, owner)


def _capsule_call(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Return a function of Python's C API with its result and argument types set."""
    function = getattr(ctypes.pythonapi, name)
    function.restype, function.argtypes = result, list(arguments)
    return function  # type: ignore[no-any-return]
