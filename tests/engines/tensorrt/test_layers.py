"""Tests of reading precisions from TensorRT's description of layers: a real one of 8.6, and made-up ones.

`layers-8.6.json` contains six layers of TensorRT 8.6.0's description of rt-x4, fp32, five profiles, on an
H100.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.engines.tensorrt.layers import precisions, require_precision
from sr_deploy.errors import ModelError

REAL = (Path(__file__).parent / "layers-8.6.json").read_text(encoding="utf-8")
UNKNOWN = "N/A due to dynamic shapes"
"""Type that 8.6 gives for every tensor in an engine with profiles."""


def layers(*types: str, kind: str = "CaskConvolution", **more: Any) -> str:
    """A description of one layer for each of `types` (of its input), a layer that only moves values, and a bare
    name.
    """
    rows = [
        {"Name": "x", "LayerType": kind, "Inputs": [{"Name": "a", "Format/Datatype": t}], **more}
        for t in types
    ]
    moves = {"LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]}
    return json.dumps({"Layers": [*rows, moves, "only a name"]})


def test_a_real_description_is_no_strict_json_and_says_nothing_of_its_ports():
    with pytest.raises(ValueError, match="control character"):
        json.loads(REAL)
    assert REAL.count(UNKNOWN) > 10


def test_precision_is_read_off_a_real_description():
    assert precisions(REAL) == {"fp32": 3}


def test_a_real_description_with_weights_in_half_is_fp16():
    assert precisions(REAL.replace('"Type": "Float"', '"Type": "Half"')) == {"fp16": 3}


@pytest.mark.parametrize(
    ("weights", "expected"), [("Float", "fp32"), ("Half", "fp16"), ("Int8", "int8"), ("BFloat16", "bf16")]
)
def test_the_type_of_the_weights_counts_before_that_of_the_ports(weights, expected):
    found = layers("Row major linear FP32", UNKNOWN, Weights={"Type": weights, "Count": 864})
    assert precisions(found) == {expected: 2}


@pytest.mark.parametrize(
    ("tactic", "expected"),
    [
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x32", {"fp16": 1}),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x32", {"fp32": 1}),
        ("sm80_xmma_fprop_wngd_f32f32_f32_f32_nchwkcrs_nchw_tilesize8x16x32x8", {"fp32": 1}),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs", {"int8": 1}),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", {"bf16": 1}),
        ("some_kernel_without_types", {}),
    ],
)
def test_without_weights_the_name_of_the_kernel_says_what_is_multiplied(tactic, expected):
    assert precisions(layers(UNKNOWN, TacticName=tactic, Weights={"Type": "Half", "Count": 0})) == expected


def test_where_nothing_else_is_known_the_ports_say_it():
    half = "Channel major FP16 format where channel % 8 == 0"
    assert precisions(layers(half, half, "Row major linear FP32")) == {"fp16": 2, "fp32": 1}
    assert precisions(layers("Half", "Float", kind="gemm")) == {"fp16": 1, "fp32": 1}
    assert precisions(layers("Half", "Float", kind="kgen")) == {}
    assert precisions(layers("BFloat16", "Int8")) == {"bf16": 1, "int8": 1}
    assert precisions(layers(UNKNOWN)) == {}
    assert precisions("[TensorRT] no JSON") == {}


def test_an_engine_in_another_precision_is_an_error():
    with pytest.raises(ModelError, match=r"should compute in fp16.*3 in fp32"):
        require_precision(precisions(REAL), "fp16", "net")
    require_precision(precisions(REAL), "fp32", "net")
    require_precision({"fp32": 1, "fp16": 5}, "fp16", "net")
    require_precision({}, "fp16", "net")  # nothing known proves nothing
