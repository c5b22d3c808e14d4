"""Triton's own parser reads the text of a configuration."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.triton.config import Config, Tensor, config_text, read_parameters
from tests.triton.triton_schema import parse

PLAIN = Config(
    name="rt-x4",
    backend="onnxruntime",
    max_batch=8,
    input_tensor=Tensor(name="pixels", data_type="TYPE_UINT8", dims=(-1, -1, 3)),
    output_tensor=Tensor(name="upscaled", data_type="TYPE_UINT8", dims=(-1, -1, 3)),
    default_file="model.onnx",
)


def test_ports_batch_and_file_arrive() -> None:
    read = parse(config_text(PLAIN))
    assert (read.name, read.backend, read.max_batch_size) == ("rt-x4", "onnxruntime", 8)
    assert read.default_model_filename == "model.onnx"
    assert [(p.name, list(p.dims)) for p in read.input] == [("pixels", [-1, -1, 3])]
    assert [(p.name, list(p.dims)) for p in read.output] == [("upscaled", [-1, -1, 3])]
    types = type(read.input[0]).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    assert types[read.input[0].data_type].name == "TYPE_UINT8"


def test_pictures_are_batched_without_waiting_unless_a_delay_is_asked_for() -> None:
    read = parse(config_text(PLAIN))
    assert read.HasField("dynamic_batching")
    assert read.dynamic_batching.max_queue_delay_microseconds == 0
    waiting = parse(config_text(replace(PLAIN, queue_delay=500)))
    assert waiting.dynamic_batching.max_queue_delay_microseconds == 500


@pytest.mark.parametrize("batch", [0, 1])
def test_without_a_batch_there_is_no_batching(batch: int) -> None:
    assert not parse(config_text(replace(PLAIN, max_batch=batch))).HasField("dynamic_batching")


def test_files_by_capability_profiles_and_versions_arrive() -> None:
    read = parse(
        config_text(
            replace(
                PLAIN,
                files_by_capability={"9.0": "model-sm90.plan", "8.9": "model-sm89.plan"},
                profiles=2,
                keep=3,
                kind="KIND_GPU",
                instances=2,
            )
        )
    )
    assert dict(read.cc_model_filenames) == {"8.9": "model-sm89.plan", "9.0": "model-sm90.plan"}
    assert list(read.instance_group[0].profile) == ["0", "1"]
    assert read.instance_group[0].count == 2
    assert read.instance_group[0].kind == read.instance_group[0].KIND_GPU
    assert read.version_policy.latest.num_versions == 3


def test_every_size_to_warm_up_is_a_picture_of_noise() -> None:
    read = parse(config_text(replace(PLAIN, warm_up=((360, 640), (64, 64)))))
    shapes = [list(sample.inputs["pixels"].dims) for sample in read.model_warmup]
    assert shapes == [[360, 640, 3], [64, 64, 3]]
    assert all(sample.batch_size == 1 and sample.inputs["pixels"].random_data for sample in read.model_warmup)


def test_a_model_without_a_batch_axis_is_warmed_up_with_whole_shapes() -> None:
    input_tensor = replace(PLAIN.input_tensor, dims=(1, -1, -1, 3))
    read = parse(config_text(replace(PLAIN, max_batch=0, input_tensor=input_tensor, warm_up=((64, 64),))))
    assert list(read.model_warmup[0].inputs["pixels"].dims) == [1, 64, 64, 3]
    assert read.model_warmup[0].batch_size == 0


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_arrives_as_it_was(text: str) -> None:
    written = config_text(replace(PLAIN, parameters={"note": text}))
    assert written.isascii()
    assert parse(written).parameters["note"].string_value == text


def test_parameters_come_back_from_triton_s_json() -> None:
    config = {"name": "rt-x4", "parameters": {"threads": {"string_value": "2"}}}
    assert read_parameters(config) == {"threads": "2"}
    assert read_parameters({"name": "rt-x4"}) == {}
