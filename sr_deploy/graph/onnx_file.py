"""Read and write ONNX files and the record (`ModelSpec`) in them. Changes no graph and runs nothing.

The core graph every part agrees on is `pixels`, float [N, C, H, W], RGB, in the record's value range, to
`upscaled`, float [N, C, H * scale, W * scale]. Foreign files name and lay out theirs as they like:
`picture_io` finds the two ports, the record says the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from sr_deploy.errors import ModelError
from sr_deploy.spec import METADATA_KEY, ModelSpec
from sr_deploy.system.files import digest_of
from sr_deploy.system.output_file import atomic_output, checked_target

PIXELS, UPSCALED = "pixels", "upscaled"
PICTURE_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.UINT8,
)
_FOREIGN_FILES = {
    b"version https://git-lfs": "is a Git LFS pointer, not the model itself; run `git lfs pull`",
    b"PK\x03\x04": "is a PyTorch checkpoint, not an ONNX model; run `sr-deploy export` on it first",
}


@dataclass(frozen=True)
class Port:
    """The input or the output of a graph: its name, ONNX element type and axes (None: dynamic)."""

    name: str
    elem_type: int
    dims: tuple[int | None, ...]


def load_model(path: Path) -> onnx.ModelProto:
    """The model in the file `path`, weights that it keeps in files beside it included.

    Raises ModelError for a file that is missing, empty, unreadable, truncated or not ONNX at all, and for
    one whose weights are missing.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"there is no model file {path}; check the path") from error
    except OSError as error:
        raise ModelError(f"cannot read the model file {path} ({error.strerror}); check the path") from error
    model = parse_model(data, str(path))
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{path} keeps its weights in another file, which cannot be used ({error}); put it beside the model"
        ) from error
    return model


def parse_model(data: bytes, name: str = "the model") -> onnx.ModelProto:
    """The model in `data`, the bytes of an ONNX file. Raises ModelError where they are not one."""
    if not data:
        raise ModelError(f"{name} is empty; copy or export it again")
    for head, answer in _FOREIGN_FILES.items():
        if data.startswith(head):
            raise ModelError(f"{name} {answer}")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{name} is not an ONNX model, or is truncated; copy or export it again") from error
    if not (model.graph.node and model.opset_import):  # garbage can parse, as a message with nothing in it
        raise ModelError(f"{name} is not an ONNX model, or is truncated; copy or export it again")
    if not model.graph.output:
        raise ModelError(f"{name} has a graph without outputs; export it again")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf gives bytes for what is not UTF-8
        raise ModelError(f"{name} is a damaged ONNX model: names in it are no text; copy or export it again")
    return model


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Everything in `model` that names something, in graphs within its graph too."""
    yield from (model.producer_name, model.producer_version)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for opset in model.opset_import:
        yield opset.domain
    yield from _texts_of_graph(model.graph)


def _texts_of_graph(graph: onnx.GraphProto) -> Iterator[object]:
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield named.name
    for value in (*graph.input, *graph.output):
        yield from (axis.dim_param for axis in value.type.tensor_type.shape.dim)
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from _texts_of_graph(inner)


def require_embedded(model: onnx.ModelProto, name: str = "the model") -> None:
    """Raises ModelError where weights of `model` lie in a file that was not read."""
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise ModelError(f"{name} keeps its weights in another file; load it from its path, not from bytes")


def picture_io(model: onnx.ModelProto, name: str = "the model") -> tuple[Port, Port]:
    """The one picture that goes in and the one that comes out.

    Raises ModelError for a graph that no picture can be run through: several inputs or outputs, sequences,
    other than four axes, types that do not hold pixels, a batch fixed at more than one.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for values, kind in ((inputs, "input"), (list(model.graph.output), "output")):
        if len(values) != 1:
            found = ", ".join(value.name for value in values) or "none"
            raise ModelError(
                f"{name} has {len(values)} {kind}s ({found}), expected one picture; export it with a single {kind}"
            )
    taken, given = _port(inputs[0], name), _port(model.graph.output[0], name, may_be_shapeless=True)
    if taken.dims[0] not in (None, 1):
        raise ModelError(
            f"{name} takes exactly {taken.dims[0]} pictures a call, expected 1 or any number; "
            "export it with a dynamic batch axis"
        )
    return taken, given


def _port(value: onnx.ValueInfoProto, name: str, *, may_be_shapeless: bool = False) -> Port:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "untyped value"
        raise ModelError(
            f"{name}: {value.name!r} is a {kind.replace('_type', '')}, expected a picture; export it with tensors"
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in PICTURE_TYPES:
        kinds = dict(zip(TensorProto.DataType.values(), TensorProto.DataType.keys(), strict=True))
        raise ModelError(
            f"{name}: {value.name!r} holds {kinds.get(tensor.elem_type, 'values of no known type')}, expected float or uint8 "
            "pixels; export it with float32 pictures"
        )
    dims = tuple(axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim)
    if not dims and may_be_shapeless:
        dims = (None,) * 4
    if len(dims) != 4:
        raise ModelError(
            f"{name}: {value.name!r} has {len(dims)} axes, expected the 4 of a batch of pictures; export it so"
        )
    return Port(value.name, tensor.elem_type, dims)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that `model` is written in."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1))


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to change."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def read_spec(model: onnx.ModelProto) -> ModelSpec | None:
    """The record in `model`, None where there is none. Raises ModelError for one that cannot be read."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return ModelSpec.from_json(entry.value)
    return None


def require_spec(model: onnx.ModelProto, name: str = "the model") -> ModelSpec:
    """The record in `model`. Raises ModelError where there is none."""
    spec = read_spec(model)
    if spec is None:
        raise ModelError(
            f"{name} has no sr_deploy record, so its scale and halo are not known; run `sr-deploy stamp` on it once"
        )
    return spec


def write_spec(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Put `spec` into `model`, in place of the record it has. Changes `model` and returns it."""
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    record = onnx.StringStringEntryProto(key=METADATA_KEY, value=spec.to_json())
    others = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in kept]
    del model.metadata_props[:]
    model.metadata_props.extend(sorted([*others, record], key=lambda entry: str(entry.key)))
    return model


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to `path`: the same bytes for the same model, and all of them or none.

    A link is written through, and a file that was there keeps its permissions. Raises OutputError where `path`
    cannot be written; what was there is then still there.
    """
    target = checked_target(path, overwrite=True)
    with atomic_output(path, target, overwrite=True, suffix=".onnx") as draft:
        draft.write_bytes(model.SerializeToString(deterministic=True))


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """The file around a model."""

    path: Path
    size: int
    """Bytes; of the .onnx file alone, where weights lie in another."""
    sha256: str
    opset: int
    producer: str
    nodes: int
    weights: int
    """Numbers in the graph's constant tensors, biases and all."""


def file_facts(path: Path, model: onnx.ModelProto) -> FileFacts:
    """The facts of `path`, whose content is `model`. Raises ModelError where the file cannot be read."""
    try:
        size, digest = path.stat().st_size, digest_of(path)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path} ({error.strerror}); check the path") from error
    return FileFacts(
        path=path,
        size=size,
        sha256=digest,
        opset=opset_of(model),
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        nodes=len(model.graph.node),
        weights=sum(math.prod(tensor.dims) for tensor in constant_tensors(model)),
    )


def constant_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initialisers of the graph and the tensors in its nodes, Constant nodes above all."""
    inner = [
        attribute.t
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
    ]
    return [*model.graph.initializer, *inner]
