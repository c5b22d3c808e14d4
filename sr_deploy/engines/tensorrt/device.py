"""Pixels that are on the GPU already: arrays of callers (`__cuda_array_interface__`, DLPack), and ours to give.

`as_device_array` reads either protocol; nothing is copied. `DeviceArray` is what comes out where the caller brought
no array for it: torch, CuPy and Numba take it through `__cuda_array_interface__`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sr_deploy.errors import UsageError

_TYPES: dict[str, np.dtype[Any]] = {"|u1": np.dtype(np.uint8), "<f4": np.dtype(np.float32)}
_DLPACK_TYPES: dict[tuple[int, int], np.dtype[Any]] = {
    (1, 8): np.dtype(np.uint8),
    (2, 32): np.dtype(np.float32),
}
"""(kDLUInt, kDLFloat) and bits."""
_DLPACK_CUDA = 2


@dataclass(frozen=True)
class DeviceArray:
    """An array on the GPU: address, shape, type. `owner` keeps its memory alive."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the protocol; what is in it is finished, so no stream has to be waited for."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }


def as_device_array(source: Any, stream: int | None = None) -> DeviceArray:
    """`source` as a `DeviceArray`. `stream`: the caller's, for producers that order their work by it.

    Raises UsageError for what lies in no CUDA memory, is neither uint8 nor float32, or is not contiguous.
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
    dtype = _TYPES.get(str(interface["typestr"]).replace("|f4", "<f4"))
    shape = tuple(int(n) for n in interface["shape"])
    if dtype is None:
        raise UsageError(
            f"expected uint8 or float32 on the GPU, got {interface['typestr']}; convert it first"
        )
    _check_strides(shape, interface.get("strides"), dtype.itemsize)
    return DeviceArray(int(interface["data"][0]), shape, dtype, owner)


def _check_strides(shape: tuple[int, ...], strides: Any, unit: int) -> None:
    if strides is None:
        return
    expected = zip(shape, strides, _contiguous_strides(shape, unit), strict=True)
    if any(length > 1 and int(found) != step for length, found, step in expected):
        raise UsageError("the array on the GPU is not C-contiguous; make a contiguous copy of it first")


def _contiguous_strides(shape: tuple[int, ...], unit: int) -> tuple[int, ...]:
    strides, step = [], unit
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


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
    """A DLPack tensor that is ours until this goes; its producer is told then."""

    def __init__(self, managed: int, deleter: int | None) -> None:
        self._managed, self._deleter = managed, deleter

    def __del__(self) -> None:
        if self._deleter:
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._deleter)(self._managed)
            self._deleter = None


def _from_dlpack(source: Any, stream: int | None) -> DeviceArray:
    if int(source.__dlpack_device__()[0]) != _DLPACK_CUDA:
        raise UsageError("the DLPack array does not lie on a CUDA GPU; use run() for arrays in main memory")
    return read_capsule(source.__dlpack__(stream=stream if stream else 1))  # 1: the default stream of CUDA


def read_capsule(capsule: Any) -> DeviceArray:
    """What the DLPack `capsule` holds. Its producer gets it back when the array is let go of."""
    get = _capsule_call("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    rename = _capsule_call("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
    address = get(capsule, b"dltensor")
    rename(capsule, _USED_NAME)
    managed = _DLManagedTensor.from_address(address)
    return _from_tensor(managed.tensor, _DLPackOwner(address, managed.deleter))


_USED_NAME = b"used_dltensor"
"""Kept alive here: a capsule holds no copy of its name."""


def _from_tensor(tensor: _DLTensor, owner: Any) -> DeviceArray:
    kind = (int(tensor.dtype.code), int(tensor.dtype.bits))
    if kind not in _DLPACK_TYPES or tensor.dtype.lanes != 1:
        raise UsageError(f"expected uint8 or float32 on the GPU, got DLPack type {kind}; convert it first")
    dtype = _DLPACK_TYPES[kind]
    shape = tuple(int(tensor.shape[axis]) for axis in range(tensor.ndim))
    strides = [int(tensor.strides[a]) for a in range(tensor.ndim)] if tensor.strides else None
    _check_strides(shape, strides, 1)  # DLPack counts in elements
    return DeviceArray(int(tensor.data) + int(tensor.byte_offset), shape, dtype, owner)


def _capsule_call(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(ctypes.pythonapi, name)
    function.restype, function.argtypes = result, list(arguments)
    return function  # type: ignore[no-any-return]
