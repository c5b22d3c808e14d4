"""NVIDIA's driver library, by the name each system has for it. Starts nothing on a GPU."""

from __future__ import annotations

import ctypes
import sys


def load_driver() -> ctypes.CDLL:
    """The library. Raises OSError where it is not there."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
