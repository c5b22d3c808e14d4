"""Tests of arrays in GPU memory: read correctly, refused if they do not fit, returned to their producers.

Capsules of NumPy arrays have the same form as those of arrays on a GPU, so NumPy stands in for them.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sr_deploy.engines.tensorrt.device import DeviceArray, as_device_array, read_capsule
from sr_deploy.errors import UsageError


class OnGpu:
    """An object that claims to be an array at address 4096 of a GPU; `changes` replace parts of its interface."""

    def __init__(self, **changes):
        self.__cuda_array_interface__ = {
            "shape": (1, 4, 6, 3),
            "typestr": "|u1",
            "data": (4096, False),
            "version": 3,
        } | changes


def test_the_cuda_array_interface_is_read():
    source = OnGpu()
    found = as_device_array(source)
    assert (found.address, found.shape, found.dtype, found.nbytes) == (4096, (1, 4, 6, 3), np.uint8, 72)
    assert found.owner is source


def test_what_it_gives_can_be_read_again():
    array = DeviceArray(4096, (2, 3), np.dtype(np.float32))
    again = as_device_array(OnGpu(**array.__cuda_array_interface__))
    assert (again.address, again.shape, again.dtype) == (4096, (2, 3), np.float32)
    assert as_device_array(array) is array


@pytest.mark.parametrize("strides", [None, (72, 18, 3, 1), (999, 18, 3, 1)])
def test_contiguous_arrays_are_taken(strides):
    assert as_device_array(OnGpu(strides=strides)).shape == (1, 4, 6, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strides": (72, 36, 6, 1)}, "not C-contiguous"),
        ({"typestr": "<f2"}, "expected uint8 or float32"),
        ({"typestr": "<i4"}, "expected uint8 or float32"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        as_device_array(OnGpu(**change))


def test_arrays_in_main_memory_are_refused():
    with pytest.raises(UsageError, match="is not on a CUDA GPU"):
        as_device_array(np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(UsageError, match="got list"):
        as_device_array([1, 2])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_dlpack_capsule_is_read(dtype):
    source = np.arange(24, dtype=dtype).reshape(1, 4, 2, 3)
    found = read_capsule(source.__dlpack__())
    assert (found.address, found.shape, found.dtype) == (source.ctypes.data, source.shape, source.dtype)


def test_an_offset_into_memory_counts():
    source = np.zeros((4, 2, 3), np.uint8)
    assert read_capsule(source[2:].__dlpack__()).address == source.ctypes.data + 12


def test_other_layouts_and_types_in_a_capsule_are_refused():
    with pytest.raises(UsageError, match="not C-contiguous"):
        read_capsule(np.zeros((4, 6), np.uint8)[:, ::2].__dlpack__())
    with pytest.raises(UsageError, match="DLPack type"):
        read_capsule(np.zeros(4, np.int32).__dlpack__())


def test_the_producer_gets_its_array_back_when_ours_goes():
    source = np.zeros((4, 3), np.uint8)
    before = sys.getrefcount(source)
    found = read_capsule(source.__dlpack__())
    assert sys.getrefcount(source) > before
    del found
    assert sys.getrefcount(source) == before
