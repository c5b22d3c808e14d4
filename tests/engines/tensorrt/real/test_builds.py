"""Every bundled model in every precision and with both kinds of ports, compiled by NVIDIA's real compiler.

TensorRT for RTX builds without a GPU; loading an engine is what needs one.
"""

from __future__ import annotations

import pytest

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.layers import convolutions
from sr_deploy.engines.tensorrt.runtimes import RTX
from tests.engines.tensorrt.real.compiler import PRECISIONS, build, bundled, needs_rtx, prepared

MODELS = ("rt-x2", "rt-x4", "srresnet-x4", "srresnet-x4-perceptual")

pytestmark = needs_rtx


@pytest.mark.parametrize("pixels", ["uint8", "float32"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_bundled_model_becomes_an_engine_that_computes_as_its_file_says(name, precision, pixels, tmp_path):
    source = prepared(bundled(name, precision), tmp_path, pixels)
    built, warnings = build(source)  # raises unless ports and types are right
    assert warnings == []
    found = {
        node: layer.precision
        for layer in convolutions(built.layers)
        for node in layer.nodes
        if node in source.convolutions
    }
    assert found == dict(source.convolutions)
    assert len(found) >= 17
    # in a bf16 or int8 file the last convolutions that stay in fp32 are known from the file itself
    assert list(found.values()).count(precision) >= len(found) - 1
    assert built.record.machine.title == f"TensorRT for RTX {api.version(api.runtime(RTX))}"
    assert f"Name: pixels, IOMode: Input, DataType: {WORDS[pixels]}" in built.layers
    assert f"Name: upscaled, IOMode: Output, DataType: {WORDS[pixels]}" in built.layers


WORDS = {"uint8": "UInt8", "float32": "Float"}
