"""Model repositories for NVIDIA's Triton Inference Server.

The `model.py` of a written repository imports `TritonPythonModel` from here. The import path must stay,
because repositories are used longer than one release of this package.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TritonPythonModel"]


def __getattr__(name: str) -> Any:
    """Import `TritonPythonModel` on first use, so that writing a repository does not load the runtimes."""
    if name != "TritonPythonModel":
        raise AttributeError(f"module 'sr_deploy.triton' has no attribute {name!r}")
    from sr_deploy.triton.backend import TritonPythonModel

    return TritonPythonModel
