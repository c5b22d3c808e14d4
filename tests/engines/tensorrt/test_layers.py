"""Tests of reading precisions from TensorRT's description of layers: real ones, and made-up ones.

`layers/8.6.json` contains six layers of TensorRT 8.6.0's description of rt-x4, fp32, five profiles, on an
H100. `layers/rtx-1.7-*.txt` are what builds with TensorRT for RTX 1.7.1.116 logged: rt-x4 in bf16, rt-x2 in fp16, and a
tiny attention net in int8, whose matrix products are fp32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sr_deploy.engines.tensorrt.layers import convolutions, precisions, require_precision, require_types
from sr_deploy.errors import ModelError

REAL = (Path(__file__).parent / "layers" / "8.6.json").read_text(encoding="utf-8")
LOGGED = {
    kind: (Path(__file__).parent / "layers" / f"rtx-1.7-{kind}.txt").read_text(encoding="utf-8")
    for kind in ("bf16", "fp16", "int8")
}
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


def test_every_convolution_in_the_log_of_a_real_build_counts_and_nothing_else():
    """The generated kernels that only move, round or add values are most of the layers."""
    assert precisions(LOGGED["bf16"]) == {"bf16": 19, "fp32": 1}
    assert precisions(LOGGED["fp16"]) == {"fp16": 17}
    assert precisions(LOGGED["int8"]) == {"int8": 2, "fp32": 2}
    kinds = {kind: sum(f"LayerType: {kind}," in text for text in LOGGED["fp16"].splitlines())
             for kind in ("runtime_fusion", "correlation", "kgen")}  # fmt: skip
    assert kinds == {"runtime_fusion": 11, "correlation": 6, "kgen": 3}


def test_right_engines_of_a_real_compiler_pass_and_others_are_named_by_their_convolutions():
    require_precision(precisions(LOGGED["bf16"]), "bf16", "net", convolutions=19)
    # two of four convolutions are int8, as in the file
    require_precision(precisions(LOGGED["int8"]), "int8", "net", convolutions=2)
    with pytest.raises(ModelError, match=r"should compute in fp16.*19 in bf16, 1 in fp32"):
        require_precision(precisions(LOGGED["bf16"]), "fp16", "net", convolutions=19)
    found = {node: layer.precision for layer in convolutions(LOGGED["bf16"]) for node in layer.nodes}
    types = {f"core/Conv_{number}": kind for number, kind in ((0, "bf16"), (2, "bf16"), (38, "fp32"))}
    assert {name: found[name] for name in types} == types
    require_types(LOGGED["bf16"], types, "net")
    require_types(LOGGED["bf16"], {"core/Conv_999": "int8"}, "net")  # not named by the compiler
    with pytest.raises(ModelError, match=r"engine of net computes core/Conv_38 in fp32 instead of bf16; use"):
        require_types(LOGGED["bf16"], types | {"core/Conv_38": "bf16"}, "net")
    with pytest.raises(ModelError, match=r"Conv_2 in bf16 instead of fp16, .* and 16 more; use"):
        require_types(LOGGED["bf16"], {f"core/Conv_{number}": "fp16" for number in range(37)}, "net")


def test_pixels_are_no_int8_and_pointwise_kernels_no_convolutions():
    assert precisions(layers("UInt8", kind="correlation")) == {}
    named = {"Name": "__myl_CastMulMoveTran_myl0_1", "TacticName": "__myl_CastMulMoveTran_0x905a"}
    assert precisions(layers("Int8", kind="kgen", **named)) == {}
    fused = {"Name": "__myl_CorrCastMaxMin_myl0_2"}
    assert precisions(layers("Half", kind="runtime_fusion", **fused)) == {"fp16": 1}
