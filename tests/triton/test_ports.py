"""The graph and the configuration of a served model agree, by the rules of the server's ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from sr_deploy.errors import OutputError
from sr_deploy.graph.onnx_file import parse_model, save_model
from sr_deploy.graph.pixel_io import with_pixel_io
from sr_deploy.triton.config import Tensor
from sr_deploy.triton.plan import ServeOptions
from sr_deploy.triton.ports import ports_of, refusal
from sr_deploy.triton.repository import ServedModel, write_repository
from tests.triton.triton_schema import parse

Tiny = Callable[[str], Any]


def with_axes(port: onnx.ValueInfoProto, axes: list[int | str] | None) -> None:
    """Declare other axes; None: no shape at all, as exporters leave it."""
    port.type.tensor_type.ClearField("shape")
    for axis in axes or ():
        key = "dim_value" if isinstance(axis, int) else "dim_param"
        port.type.tensor_type.shape.dim.add(**{key: axis})


def without_output_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    with_axes(model.graph.output[0], None)
    return model


def with_the_traced_size(model: onnx.ModelProto) -> onnx.ModelProto:
    with_axes(model.graph.output[0], [1, 3, 128, 128])
    return model


def of_one_picture(model: onnx.ModelProto) -> onnx.ModelProto:
    with_axes(model.graph.input[0], [1, 3, "h", "w"])
    return model


def of_one_picture_without_output_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    return without_output_shape(of_one_picture(model))


def with_foreign_pixel_io(model: onnx.ModelProto) -> onnx.ModelProto:
    """A file whose uint8 ports have each other's names."""
    made = with_pixel_io(model)
    swapped = {"pixels": "upscaled", "upscaled": "pixels"}
    for node in made.graph.node:
        for names in (node.input, node.output):
            names[:] = [swapped.get(name, name) for name in names]
    for port in (*made.graph.input, *made.graph.output):
        port.name = swapped[port.name]
    return made


FORMS = [
    without_output_shape,
    with_the_traced_size,
    of_one_picture,
    of_one_picture_without_output_shape,
    with_foreign_pixel_io,
]


@pytest.fixture
def serve(tmp_path: Path, tiny: Tiny) -> Callable[..., ServedModel]:
    """Write a form of a tiny model into a repository."""

    def call(form: Callable[[Any], Any], name: str = "plain", **options: Any) -> ServedModel:
        save_model(form(tiny(name).model), tmp_path / "model.onnx")
        settings = ServeOptions(**options)
        (served,) = write_repository(tmp_path / "repository", [tmp_path / "model.onnx"], options=settings)
        return served

    return call


def file_of(served: ServedModel) -> Path:
    return served.folder / str(served.version) / "model.onnx"


@pytest.mark.parametrize(
    ("form", "name"),
    [*((form, "plain") for form in FORMS), (without_output_shape, "fixed"), (with_foreign_pixel_io, "fixed")],
)
def test_the_configuration_repeats_what_onnx_runtime_says(
    form: Any, name: str, serve: Any, tiny: Tiny
) -> None:
    served = serve(form, name)
    read = parse((served.folder / "config.pbtxt").read_text(encoding="ascii"))
    session = onnxruntime.InferenceSession(file_of(served), providers=["CPUExecutionProvider"])
    for port, found in zip(
        (*read.input, *read.output), (*session.get_inputs(), *session.get_outputs()), strict=True
    ):
        axes = [axis if isinstance(axis, int) else -1 for axis in found.shape]
        assert (port.name, axes) == (found.name, ([-1] if read.max_batch_size else []) + list(port.dims))
        assert found.type == "tensor(uint8)"
    picture = tiny(name).pictures()[0][:1]
    (result,) = session.run(["upscaled"], {"pixels": picture})
    expected = tiny(name).reference(picture / np.float32(255)) * 255
    assert np.abs(result - expected).max() <= 0.51


def test_every_difference_that_the_server_refuses_is_found(serve: Any) -> None:
    served = serve(lambda model: model)
    ports = ports_of(parse_model(file_of(served).read_bytes()))
    config, taken, given = served.config, *ports
    assert refusal(config, ports) is None
    # An input axis that the graph leaves open may be fixed by the configuration.
    fixed_input = replace(config, input_tensor=replace(config.input_tensor, dims=(64, 64, 3)))
    assert refusal(fixed_input, ports) is None

    def output(**changes: Any) -> Any:
        return replace(config, output_tensor=replace(config.output_tensor, **changes))

    broken = [
        (output(dims=(128, 128, 3)), ports),
        (output(dims=(-1, -1, 1)), ports),
        (output(dims=(1, -1, -1, 3)), ports),
        (output(name="output"), ports),
        (output(data_type="TYPE_FP32"), ports),
        (replace(config, input_tensor=replace(config.input_tensor, dims=(-1, -1, 1))), ports),
        (replace(config, max_batch=0), ports),
        (config, (one_picture(taken), given)),
        (config, (taken, one_picture(given))),
    ]
    for wrong, seen in broken:
        reason = refusal(wrong, seen)
        assert reason is not None
        assert reason.startswith("the configuration ")


def one_picture(port: Tensor) -> Tensor:
    return replace(port, dims=(1, *port.dims[1:]))


def test_a_version_that_the_shared_configuration_does_not_fit_is_found(serve: Any) -> None:
    serve(of_one_picture)
    with pytest.raises(OutputError, match=r"does not fit version 1 \(.*serve fewer versions with --keep"):
        serve(lambda model: model, version=2, keep=2)
    assert serve(lambda model: model, version=2).version == 2
