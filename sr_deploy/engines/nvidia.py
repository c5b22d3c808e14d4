"""Load NVIDIA's driver library. Starts nothing on a GPU."""

from __future__ import annotations

import ctypes
import sys


def load_driver() -> ctypes.CDLL:
    """Load the library by the name that the system has for it. Raises OSError if it is not installed."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
