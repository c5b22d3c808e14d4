"""sr-deploy: super-resolution networks from PyTorch to production.

>>> from sr_deploy import Upscaler, read_image, write_image
>>> with Upscaler.open("rt-x4") as upscaler:
...     write_image(upscaler.upscale(read_image("photo.jpg")), "photo-x4.png")

The names in `__all__` are the public Python API. Each name is imported on first use, so `import
sr_deploy` alone takes almost no time.

Importing sr_deploy also switches off ONNX Runtime's telemetry, which among other things writes a device
identifier into the home folder. Set the environment variable ORT_DISABLE_TELEMETRY to override this.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sr_deploy.version import __version__ as __version__

# Type checkers and editors see the real imports; at run time `__getattr__` below does the work.
if TYPE_CHECKING:
    from sr_deploy.engines.base import Engine as Engine
    from sr_deploy.engines.base import Limits as Limits
    from sr_deploy.engines.onnxruntime.gpu import OnnxRuntimeGpuOptions as OnnxRuntimeGpuOptions
    from sr_deploy.engines.onnxruntime.session import OnnxRuntimeOptions as OnnxRuntimeOptions
    from sr_deploy.engines.openvino.engine import OpenVinoOptions as OpenVinoOptions
    from sr_deploy.engines.tensorrt.options import BuildOptions as BuildOptions
    from sr_deploy.engines.tensorrt.options import TensorRTOptions as TensorRTOptions
    from sr_deploy.engines.verdict import FailedVerdictWarning as FailedVerdictWarning
    from sr_deploy.errors import CheckFailedError as CheckFailedError
    from sr_deploy.errors import ImageError as ImageError
    from sr_deploy.errors import InputError as InputError
    from sr_deploy.errors import MissingRuntimeError as MissingRuntimeError
    from sr_deploy.errors import ModelError as ModelError
    from sr_deploy.errors import OutOfMemoryError as OutOfMemoryError
    from sr_deploy.errors import OutputError as OutputError
    from sr_deploy.errors import SrDeployError as SrDeployError
    from sr_deploy.errors import UsageError as UsageError
    from sr_deploy.images.image import Image as Image
    from sr_deploy.images.image import Metadata as Metadata
    from sr_deploy.images.image import decode_image as decode_image
    from sr_deploy.images.image import encode_image as encode_image
    from sr_deploy.images.image import read_image as read_image
    from sr_deploy.images.image import write_image as write_image
    from sr_deploy.images.resize import resize as resize
    from sr_deploy.models import ModelEntry as ModelEntry
    from sr_deploy.models import find_model as find_model
    from sr_deploy.models import list_models as list_models
    from sr_deploy.models.open import open_engine as open_engine
    from sr_deploy.quality.bicubic import imresize as imresize
    from sr_deploy.quality.metrics import psnr as psnr
    from sr_deploy.quality.metrics import ssim as ssim
    from sr_deploy.spec import ModelSpec as ModelSpec
    from sr_deploy.spec import SizeRule as SizeRule
    from sr_deploy.tiles import Plan as Plan
    from sr_deploy.tiles import Span as Span
    from sr_deploy.training.anynet.api import export as export
    from sr_deploy.upscale import Upscaler as Upscaler


# ONNX Runtime reads this variable once, while it is being loaded. Therefore it is set here, before any module
# of the package can import onnxruntime. setdefault: the user's own setting wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULE_OF = {
    "BuildOptions": "sr_deploy.engines.tensorrt.options",
    "CheckFailedError": "sr_deploy.errors",
    "Engine": "sr_deploy.engines.base",
    "FailedVerdictWarning": "sr_deploy.engines.verdict",
    "Image": "sr_deploy.images.image",
    "ImageError": "sr_deploy.errors",
    "InputError": "sr_deploy.errors",
    "Limits": "sr_deploy.engines.base",
    "Metadata": "sr_deploy.images.image",
    "MissingRuntimeError": "sr_deploy.errors",
    "ModelEntry": "sr_deploy.models",
    "ModelError": "sr_deploy.errors",
    "ModelSpec": "sr_deploy.spec",
    "OnnxRuntimeGpuOptions": "sr_deploy.engines.onnxruntime.gpu",
    "OnnxRuntimeOptions": "sr_deploy.engines.onnxruntime.session",
    "OpenVinoOptions": "sr_deploy.engines.openvino.engine",
    "OutOfMemoryError": "sr_deploy.errors",
    "OutputError": "sr_deploy.errors",
    "Plan": "sr_deploy.tiles",
    "SizeRule": "sr_deploy.spec",
    "Span": "sr_deploy.tiles",
    "SrDeployError": "sr_deploy.errors",
    "TensorRTOptions": "sr_deploy.engines.tensorrt.options",
    "Upscaler": "sr_deploy.upscale",
    "UsageError": "sr_deploy.errors",
    "decode_image": "sr_deploy.images.image",
    "encode_image": "sr_deploy.images.image",
    "export": "sr_deploy.training.anynet.api",
    "find_model": "sr_deploy.models",
    "imresize": "sr_deploy.quality.bicubic",
    "list_models": "sr_deploy.models",
    "open_engine": "sr_deploy.models.open",
    "psnr": "sr_deploy.quality.metrics",
    "read_image": "sr_deploy.images.image",
    "resize": "sr_deploy.images.resize",
    "ssim": "sr_deploy.quality.metrics",
    "write_image": "sr_deploy.images.image",
}
"""The module that defines each public name. A test checks that its keys equal `__all__`."""

__all__ = [
    "BuildOptions",
    "CheckFailedError",
    "Engine",
    "FailedVerdictWarning",
    "Image",
    "ImageError",
    "InputError",
    "Limits",
    "Metadata",
    "MissingRuntimeError",
    "ModelEntry",
    "ModelError",
    "ModelSpec",
    "OnnxRuntimeGpuOptions",
    "OnnxRuntimeOptions",
    "OpenVinoOptions",
    "OutOfMemoryError",
    "OutputError",
    "Plan",
    "SizeRule",
    "Span",
    "SrDeployError",
    "TensorRTOptions",
    "Upscaler",
    "UsageError",
    "decode_image",
    "encode_image",
    "export",
    "find_model",
    "imresize",
    "list_models",
    "open_engine",
    "psnr",
    "read_image",
    "resize",
    "ssim",
    "write_image",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562). Raises AttributeError for any other name."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sr_deploy' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """The public names and `__version__`, so that `dir()` lists names not imported yet."""
    return sorted([*__all__, "__version__"])
