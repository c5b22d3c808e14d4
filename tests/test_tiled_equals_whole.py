"""The halo's promise: with any net, scale, size and tile, the tiled result equals the whole one.

Every net is really exported and run through ONNX Runtime. Its weights are larger than training leaves
them, so that a pixel at the edge of the halo matters.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sr_deploy.engines.onnxruntime.cpu import OnnxRuntimeEngine
from sr_deploy.engines.onnxruntime.session import OnnxRuntimeOptions
from sr_deploy.images.image import read_image
from sr_deploy.spec import ModelSpec
from sr_deploy.training.export.halo import measure_halo
from sr_deploy.training.export.to_onnx import core_model
from sr_deploy.training.nets import build_net, size_rule_of
from sr_deploy.upscale import Upscaler
from tests.paths import EXAMPLE

pytestmark = pytest.mark.long

NETS = {
    "rt-x2": ("rt", 2, {"features": 8, "depth": 3, "residual": "bicubic"}),
    "rt-x2-back-projected": (
        "rt",
        2,
        {"features": 8, "depth": 2, "residual": "bicubic", "back_projection": True},
    ),
    "rt-x3": ("rt", 3, {"features": 8, "depth": 2, "residual": "bilinear"}),
    "rt-x4": ("rt", 4, {"features": 8, "depth": 3}),
    "srresnet-x3": ("srresnet", 3, {"features": 8, "blocks": 2, "residual": "bicubic"}),
    "srresnet-x4": ("srresnet", 4, {"features": 8, "blocks": 2}),
    "srresnet-x8": ("srresnet", 8, {"features": 8, "blocks": 1}),
    "unet-x2": ("unet", 2, {"features": 8, "levels": 2, "residual": "bilinear"}),
    "unet-x4": ("unet", 4, {"features": 8, "levels": 1}),
}


@cache
def engine_of(name: str) -> OnnxRuntimeEngine:
    architecture, scale, parameters = NETS[name]
    torch.manual_seed(0)
    net = build_net(architecture, scale, parameters)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.mul_(1.5)
    spec = ModelSpec(
        name=name,
        scale=scale,
        halo=measure_halo(net),
        architecture=architecture,
        parameters=parameters,
        size_rule=size_rule_of(net),
    )
    return OnnxRuntimeEngine(core_model(net, spec), OnnxRuntimeOptions(spinning=False))


def same(tiled: np.ndarray, whole: np.ndarray) -> None:
    if tiled.dtype == np.float32:
        assert np.abs(tiled - whole).max() <= 1e-4
    else:  # a value exactly between two integers may be rounded either way
        difference = np.abs(tiled.astype(int) - whole)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("name", NETS)
@settings(deadline=None, max_examples=8)
@given(
    rows=st.floats(0.02, 1.6),
    columns=st.floats(1.05, 3.0),
    extra=st.integers(0, 20),
    eight_bit=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tiled_equals_whole(name, rows, columns, extra, eight_bit, seed):
    """Pictures from a part of a tile to two tiles high and three wide, always with more than one tile."""
    engine = engine_of(name)
    tile = max(2 * engine.spec.halo, 1) + extra
    read = tile + 2 * engine.spec.halo + engine.spec.size_rule.multiple_of
    height, width = int(rows * read) + 1, int(columns * read) + 1
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    if not eight_bit:
        pixels = pixels.astype(np.float32) / 255
    whole = Upscaler(engine, tile=None).upscale_pixels(pixels)
    assert Upscaler(engine, tile=tile).plan(height, width).count > 1
    same(Upscaler(engine, tile=tile).upscale_pixels(pixels), whole)


def tiled_by(engine: OnnxRuntimeEngine, tile: int, overlap: int, pixels: np.ndarray) -> np.ndarray:
    """Upscale a picture in tiles that overlap by other than the halo."""
    return Upscaler(engine, tile=tile, overlap=overlap).upscale_pixels(pixels)


@pytest.mark.parametrize("name", NETS)
def test_a_halo_one_too_small_would_be_seen(name):
    """The measured halo is not merely large enough: with a pixel less (a step less, where tiles must start at
    multiples) the tiles differ by far more than rounding."""
    engine = engine_of(name)
    halo, step = engine.spec.halo, engine.spec.size_rule.multiple_of
    side = 4 * halo + 3 * step
    pixels = np.random.default_rng(0).random((side, side, 3), dtype=np.float32)
    whole = Upscaler(engine, tile=None).upscale_pixels(pixels)
    assert any(
        float(np.abs(tiled_by(engine, tile, max(halo - step, 0), pixels) - whole).max()) > 1e-5
        for tile in range(max(step, halo // 3), 2 * halo, max(1, halo // 3))
    )
    same(Upscaler(engine, tile=2 * halo).upscale_pixels(pixels), whole)


@pytest.mark.parametrize("name", ["rt-x4", "srresnet-x4", "unet-x2"])
def test_a_photograph_in_tiles_is_the_photograph_whole(name):
    engine = engine_of(name)
    pixels = read_image(EXAMPLE).pixels[3:154, 5:208].copy()  # odd sizes on purpose
    for picture in (pixels, pixels.astype(np.float32) / 255):
        whole = Upscaler(engine, tile=None).upscale_pixels(picture)
        for tile in (2 * engine.spec.halo, 77):
            same(Upscaler(engine, tile=tile).upscale_pixels(picture), whole)
