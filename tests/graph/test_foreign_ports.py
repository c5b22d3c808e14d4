"""Ports of foreign nets become ordinary ones: BGR, an output range of its own, an inset."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.engines.registry import open_engine
from sr_deploy.graph.foreign_ports import with_plain_ports
from sr_deploy.graph.onnx_file import picture_io, read_spec, write_spec
from sr_deploy.spec import ModelSpec
from sr_deploy.upscale import Upscaler
from sr_deploy.verify.plain import PlainGraph
from tests.probe.test_probe import build, keeping, node, weights

BACKENDS = ("onnxruntime", "openvino")
PICTURE = np.random.default_rng(3).integers(0, 256, (23, 31, 3), np.uint8)


def shuffling(*, pads: int = 1, ending=(), **tensors):
    """An x2 net with a convolution that treats the colours differently."""
    weight = keeping(weights(12, 3, 3, 3), 2)
    weight[:4] *= np.float32(0.5)
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[pads] * 4),
        node("DepthToSpace", ["c"], ["d" if ending else "y"], blocksize=2, mode="CRD"),
    ]
    return build([*nodes, *ending], {"w": weight, **tensors})


def upscaled(model, spec: ModelSpec, backend: str, picture=PICTURE, **options) -> np.ndarray:
    with open_engine(write_spec(model, spec), backend) as engine:
        return Upscaler(engine, **options).upscale_pixels(picture)


PLAIN = ModelSpec(name="net", scale=2, halo=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bgr_in_is_bgr_out(backend):
    result = upscaled(shuffling(), PLAIN.with_(channel_order="BGR"), backend)
    turned = upscaled(shuffling(), PLAIN, "onnxruntime", np.ascontiguousarray(PICTURE[..., ::-1]))
    assert np.abs(result.astype(int) - turned[..., ::-1]).max() <= 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("output_range", [(0.0, 255.0), (-1.0, 1.0)])
def test_an_output_range_is_brought_to_that_of_the_input(backend, output_range):
    low, high = output_range
    ending = [node("Mul", ["d", "span"], ["e"]), node("Add", ["e", "low"], ["y"])]
    model = shuffling(ending=ending, span=np.float32(high - low), low=np.float32(low))
    result = upscaled(model, PLAIN.with_(output_range=output_range), backend)
    assert np.abs(result.astype(int) - upscaled(shuffling(), PLAIN, "onnxruntime")).max() <= 1
    plain = PlainGraph(model, read_spec(write_spec(model, PLAIN.with_(output_range=output_range))))
    assert np.abs(np.clip(plain(PICTURE), 0, 1) * 255 - result).max() <= 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_inset_is_filled_up_and_tiles_equal_the_whole(backend):
    spec = PLAIN.with_(inset=2)
    whole = upscaled(shuffling(pads=0), spec, backend)
    assert whole.shape == (46, 62, 3)
    same = upscaled(shuffling(), PLAIN, "onnxruntime")
    assert np.abs(whole.astype(int) - same)[2:-2, 2:-2].max() <= 1
    tiled = upscaled(shuffling(pads=0), spec, backend, tile=16)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_an_inset_that_no_input_pixel_divides_is_cropped():
    model = build([node("Conv", ["x", "w"], ["c"]), node("DepthToSpace", ["c"], ["d"], blocksize=2),
                   node("Slice", ["d", "one", "end", "axes"], ["y"])],
                  {"w": keeping(weights(12, 3, 3, 3), 2), "one": np.array([1, 1]), "end": np.array([-1, -1]), "axes": np.array([2, 3])})  # fmt: skip
    result = upscaled(model, PLAIN.with_(inset=3), "onnxruntime")
    assert result.shape == (46, 62, 3)


def test_an_ordinary_graph_is_returned_as_it_is():
    model = shuffling()
    assert with_plain_ports(model, PLAIN) == (model, PLAIN)
    wrapped, spec = with_plain_ports(
        write_spec(model, PLAIN.with_(channel_order="BGR")), PLAIN.with_(channel_order="BGR")
    )
    assert spec == PLAIN == read_spec(wrapped)
    assert [port.name for port in picture_io(wrapped)] == ["x", "y"]
