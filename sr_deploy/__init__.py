"""sr-deploy: super-resolution networks from PyTorch to production.

>>> from sr_deploy import Upscaler, read_image, write_image
>>> with Upscaler.open("rt-x4") as upscaler:
...     write_image(upscaler.upscale(read_image("photo.jpg")), "photo-x4.png")

The names below are the public Python API; each is imported when it is first used, so that `import
sr_deploy` alone costs nothing. Importing it also switches ONNX Runtime's telemetry off (it writes a device
identifier into the home folder, and more), unless ORT_DISABLE_TELEMETRY says otherwise.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sr_deploy.version import __version__ as __version__

if TYPE_CHECKING:
    from sr_deploy.engines.base import Engine as Engine
    from sr_deploy.engines.registry import open_engine as open_engine
    from sr_deploy.errors import SrDeployError as SrDeployError
    from sr_deploy.images.image import Image as Image
    from sr_deploy.images.image import read_image as read_image
    from sr_deploy.images.image import write_image as write_image
    from sr_deploy.images.resize import resize as resize
    from sr_deploy.quality.bicubic import imresize as imresize
    from sr_deploy.quality.metrics import psnr as psnr
    from sr_deploy.quality.metrics import ssim as ssim
    from sr_deploy.spec import ModelSpec as ModelSpec
    from sr_deploy.spec import SizeRule as SizeRule
    from sr_deploy.upscale import Upscaler as Upscaler


os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is loaded

_MODULE_OF = {
    "Engine": "sr_deploy.engines.base",
    "Image": "sr_deploy.images.image",
    "ModelSpec": "sr_deploy.spec",
    "SizeRule": "sr_deploy.spec",
    "SrDeployError": "sr_deploy.errors",
    "Upscaler": "sr_deploy.upscale",
    "imresize": "sr_deploy.quality.bicubic",
    "open_engine": "sr_deploy.engines.registry",
    "psnr": "sr_deploy.quality.metrics",
    "read_image": "sr_deploy.images.image",
    "resize": "sr_deploy.images.resize",
    "ssim": "sr_deploy.quality.metrics",
    "write_image": "sr_deploy.images.image",
}

__all__ = [
    "Engine",
    "Image",
    "ModelSpec",
    "SizeRule",
    "SrDeployError",
    "Upscaler",
    "imresize",
    "open_engine",
    "psnr",
    "read_image",
    "resize",
    "ssim",
    "write_image",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sr_deploy' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
