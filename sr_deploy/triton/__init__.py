"""Model repositories for NVIDIA's Triton Inference Server.

`TritonPythonModel` is what the `model.py` of a written repository imports. Its place here is a promise: served
repositories outlive releases of this package.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TritonPythonModel"]


def __getattr__(name: str) -> Any:
    if name != "TritonPythonModel":
        raise AttributeError(f"module 'sr_deploy.triton' has no attribute {name!r}")
    from sr_deploy.triton.backend import TritonPythonModel

    return TritonPythonModel
