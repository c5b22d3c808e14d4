#!/usr/bin/env python
"""Compute pictures on one machine and compare them with those of another; `scripts/try_arm64.sh` does so for arm64.

arm64_pixels.py make FILE.npz               compute on all backends, and store
arm64_pixels.py compare FILE.npz BACKEND    compute on one backend, and print the differences from what is stored

Runs in the folder that contains `examples`, with an installed sr-deploy and no checkout.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sr_deploy import Image, SrDeployError, Upscaler, read_image, resize, write_image

MODELS = ("rt-x2", "rt-x4", "srresnet-x4")
BACKENDS = ("onnxruntime", "openvino")
TILE = 24
"""Side of a tile in input pixels; the crop below gives six of them."""


def crop() -> np.ndarray:
    """Return a part of the example photograph, [48, 72, 3] in uint8."""
    return np.ascontiguousarray(read_image("examples/colosseum.png").pixels[20:68, 30:102])


def upscaled(backends: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield results of the models by name, whole and in tiles."""
    small = crop()
    kinds = {"uint8": small, "uint16": small * np.uint16(257), "float32": small / np.float32(255)}
    for backend in filter(is_there, backends):
        for model in MODELS:
            for tile in (None, TILE):
                with Upscaler.open(model, backend=backend, tile=tile) as upscaler:
                    for name, pixels in kinds.items():
                        if tile is None or name != "uint16":
                            where = "whole" if tile is None else "tiles"
                            yield f"{backend} {model} {name} {where}", upscaler.upscale_pixels(pixels)


def is_there(backend: str) -> bool:
    """Return whether a runtime is installed."""
    try:
        Upscaler.open(MODELS[0], backend=backend).close()
    except SrDeployError as error:
        print(error)
        return False
    return True


def other_steps() -> Iterator[tuple[str, np.ndarray]]:
    """Yield results of what happens before and after a model."""
    small = crop()
    height, width = small.shape[:2]
    for name in ("yuv420p", "p010le"):
        planes = piped(small.tobytes(), f"{width}x{height}", "rgb24", name)
        yield f"RGB to {name}", planes
        yield f"{name} to RGB", piped(planes.tobytes(), f"{2 * width}x{2 * height}", name, "rgb24")
    yield "resize", resize(Image(pixels=small), 150, 100).pixels
    for suffix in ("jpg", "webp", "png"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"picture.{suffix}")
            write_image(Image(pixels=small), path)
            yield f"bytes of {suffix}", np.frombuffer(path.read_bytes(), np.uint8)
            yield f"pixels of {suffix}", read_image(path).pixels


def piped(data: bytes, size: str, given: str, wanted: str) -> np.ndarray:
    """Return the bytes of one frame whose pixels are doubled, in another format."""
    command = [sys.executable, "-m", "sr_deploy", "pipe", "--backend", "nearest", "--scale", "2", "--quiet"]
    formats = ["--size", size, "--format", given, "--output-format", wanted]
    done = subprocess.run([*command, *formats], input=data, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8 if wanted != "p010le" else "<u2")


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Describe how two arrays differ."""
    if ours.shape != theirs.shape:
        return f"{ours.size} values, there {theirs.size}"
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if not apart.any():
        return "equal"
    return f"{np.count_nonzero(apart)} of {apart.size} values differ, at most by {apart.max():.3g}"


def main() -> None:
    """Run the command."""
    action, path, *backends = sys.argv[1:]
    made = dict([*other_steps(), *upscaled(backends or BACKENDS)])
    if action == "make":
        np.savez(path, **made)
        return
    stored = np.load(path)
    for name, pixels in made.items():
        print(f"{name:45} {difference(pixels, stored[name]) if name in stored else 'not computed there'}")
    for name in (name for name in made if name.endswith("tiles")):
        print(f"{name + ' and whole':45} {difference(made[name], made[name[:-5] + 'whole'])}")


if __name__ == "__main__":
    main()
