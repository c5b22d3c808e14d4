"""Read and write ONNX files and the spec (`ModelSpec`) in them. No graph is changed and nothing is run.

The core graph on which all parts agree takes `pixels`, float [N, C, H, W], RGB, in the spec's value range,
and gives `upscaled`, float [N, C, H * scale, W * scale]. Foreign files have other names and layouts:
`picture_io` finds their input and output, and the spec says the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set
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
"""Names of the input and the output in files of our own."""
PICTURE_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.UINT8,
)
"""Element types that an input or output of pixels may have."""
_FOREIGN_FILES = {
    b"version https://git-lfs": "is a Git LFS pointer, not the model itself; run `git lfs pull`",
    b"PK\x03\x04": "is a PyTorch checkpoint, not an ONNX model; run `sr-deploy export` on it first",
}
"""First bytes of files that users often pass by mistake, and what to say of them."""
_SAFETENSORS = slice(8, 10), b'{"'
"""Bytes by which a safetensors file is recognised: 8 bytes of length, then a JSON object."""


@dataclass(frozen=True)
class Port:
    """The input or the output of a graph."""

    name: str
    elem_type: int
    """Element type, a number of `TensorProto.DataType`."""
    dims: tuple[int | None, ...]
    """Size of each axis; None: dynamic."""


def load_model(path: Path) -> onnx.ModelProto:
    """Read the model in the file `path`, with weights that it keeps in files beside it.

    Raises ModelError for a file that is missing, empty, unreadable, truncated or no ONNX file, and for one
    whose weights are missing.
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
    """Parse the bytes of an ONNX file. `name` stands in messages. Weights in other files are not read.

    Raises ModelError if the bytes are no ONNX model, or a damaged one.
    """
    if not data:
        raise ModelError(f"{name} is empty; copy or export it again")
    for head, answer in _FOREIGN_FILES.items():
        if data.startswith(head):
            raise ModelError(f"{name} {answer}")
    where, head = _SAFETENSORS
    if data[where] == head:
        raise ModelError(f"{name} is a checkpoint, not an ONNX model; run `sr-deploy export` on it first")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{name} is not an ONNX model, or is truncated; copy or export it again") from error
    if not (model.graph.node and model.opset_import):  # random bytes can parse as an empty message
        raise ModelError(f"{name} is not an ONNX model, or is truncated; copy or export it again")
    if not model.graph.output:
        raise ModelError(f"{name} has a graph without outputs; export it again")
    if not all(isinstance(text, str) for text in _texts(model)):  # protobuf gives bytes for other than UTF-8
        raise ModelError(
            f"{name} is a damaged ONNX model: it has names that are no text; copy or export it again"
        )
    for tensor in constant_tensors(model):
        if not _is_complete(tensor):
            raise ModelError(
                f"{name} is a damaged ONNX model: the constant {tensor.name!r} has other data than its shape "
                f"{list(tensor.dims)} says; copy or export it again"
            )
    return model


_ITEM_BYTES: dict[int, int] = {
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32), 4),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16), 2),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64), 8),
    **dict.fromkeys((TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL), 1),
}
"""Bytes of one value of the common element types."""


def _is_complete(tensor: onnx.TensorProto) -> bool:
    """Return False for a tensor that holds more or fewer values than its shape says.

    Weights in other files and rare element types are not counted.
    """
    size = _ITEM_BYTES.get(tensor.data_type)
    if size is None or uses_external_data(tensor):
        return True
    if tensor.HasField("raw_data"):
        count, rest = divmod(len(tensor.raw_data), size)
    else:
        fields: dict[int, Sequence[float]] = {
            TensorProto.FLOAT: tensor.float_data,
            TensorProto.DOUBLE: tensor.double_data,
            TensorProto.INT64: tensor.int64_data,
        }
        count, rest = len(fields.get(tensor.data_type, tensor.int32_data)), 0
    return min(tensor.dims, default=0) >= 0 and not rest and count == math.prod(tensor.dims)


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    yield from (model.producer_name, model.producer_version)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for opset in model.opset_import:
        yield opset.domain
    yield from _texts_of_graph(model.graph)


def _texts_of_graph(graph: onnx.GraphProto) -> Iterator[object]:
    """Yield every name in `graph` and in the graphs inside its nodes."""
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
    """Raise ModelError if `model` has weights in a file that was not read."""
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise ModelError(f"{name} keeps its weights in another file; load it from its path, not from bytes")


def picture_io(model: onnx.ModelProto, name: str = "the model") -> tuple[Port, Port]:
    """Return the one input and the one output of `model`, which hold pictures. Initialisers that old files
    list among the inputs do not count. Raises ModelError for a graph that takes no picture: several inputs or
    outputs, sequences, other than four axes, types that hold no pixels, a batch fixed at more than one."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for values, kind in ((inputs, "input"), (list(model.graph.output), "output")):
        if len(values) != 1:
            found = ", ".join(value.name for value in values) or "none"
            option = "--input NAME=NUMBER for the others" if kind == "input" else "--output-name NAME"
            what = f", or make a file with one by `sr-deploy stamp {option}`" if len(values) > 1 else ""
            raise ModelError(
                f"{name} has {len(values)} {kind}s ({found}), expected one picture; export it with a single {kind}{what}"
            )
    port_in, port_out = _port(inputs[0], name), _port(model.graph.output[0], name, may_be_shapeless=True)
    if port_in.dims[0] not in (None, 1):
        raise ModelError(
            f"{name} takes exactly {port_in.dims[0]} pictures a call, expected 1 or any number; "
            "export it with a dynamic batch axis"
        )
    return port_in, port_out


def _port(value: onnx.ValueInfoProto, name: str, *, may_be_shapeless: bool = False) -> Port:
    """Return an input or output as a Port; raises ModelError if it is no picture.

    With `may_be_shapeless` a missing shape means four dynamic axes.
    """
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
            f"{name}: {value.name!r} has {len(dims)} axes, expected the 4 of a batch of pictures; export it with 4"
        )
    return Port(value.name, tensor.elem_type, dims)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of `model`: the version of the standard operators. 1 if it names none."""
    return int(next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1))


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` that may be changed."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def read_spec(model: onnx.ModelProto) -> ModelSpec | None:
    """Return the spec in `model`; None if it has none. Raises ModelError for one that cannot be read."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return ModelSpec.from_json(entry.value)
    return None


def require_spec(model: onnx.ModelProto, name: str = "the model") -> ModelSpec:
    """Return the spec in `model`. Raises ModelError if it has none."""
    if (spec := read_spec(model)) is None:
        raise ModelError(
            f"{name} has no sr_deploy spec, so its scale and halo are not known{lost_spec(model)}; run `sr-deploy stamp` on it "
            "once"
        )
    return spec


def lost_spec(model: onnx.ModelProto) -> str:
    """Say which tool dropped the spec of `model`, in parentheses after a space; empty where nothing points to one.

    `onnx.utils.extract_model` drops all metadata, and many tools that rewrite graphs keep none (seen in onnx 1.22).
    """
    producer = model.producer_name
    if producer == "onnx.utils.extract_model":
        return " (onnx.utils.extract_model made this file, which drops all metadata)"
    names = {value.name for value in (*model.graph.input, *model.graph.output)}
    if {PIXELS, UPSCALED} <= names or any(value.name.startswith("io/") for value in model.graph.initializer):
        made = f" by {producer}" if producer and not producer.startswith(("pytorch", "sr-deploy")) else ""
        return (
            f" (it has the ports of a file of sr-deploy; its metadata was lost when it was rewritten{made})"
        )
    return ""


def write_spec(model: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Write `spec` into `model`, in place of the one it has. Changes `model` and returns it.

    Metadata entries are sorted, so that the same model gives the same bytes.
    """
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    record = onnx.StringStringEntryProto(key=METADATA_KEY, value=spec.to_json())
    others = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in kept]
    del model.metadata_props[:]
    model.metadata_props.extend(sorted([*others, record], key=lambda entry: str(entry.key)))
    return model


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write `model` to `path`: the same bytes for the same model, and all of them or none. A link is
    replaced, and an existing file keeps its permissions. Raises OutputError if `path` cannot be written; an
    existing file is then unchanged."""
    target = checked_target(path, overwrite=True)
    with atomic_output(path, target, overwrite=True, suffix=".onnx") as draft:
        draft.write_bytes(model.SerializeToString(deterministic=True))


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Facts of a model file."""

    path: Path
    size: int
    """Bytes of the .onnx file; weights in other files are not counted."""
    sha256: str
    """Checksum of the .onnx file, in hexadecimal digits."""
    opset: int
    producer: str
    """Name and version of the program that wrote the file; "unknown" if it does not say."""
    nodes: int
    """Nodes of the main graph."""
    constants: int
    """Numbers in all constant tensors of the graph: parameters, and whatever else the graph holds, such as fixed kernels."""


def file_facts(path: Path, model: onnx.ModelProto) -> FileFacts:
    """Return the facts of the file `path`, whose content is `model`. Raises ModelError if the file cannot
    be read."""
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
        constants=sum(math.prod(tensor.dims) for tensor in constant_tensors(model)),
    )


def remove_weights(graph: onnx.GraphProto, names: Set[str]) -> None:
    """Remove the initialisers called `names`, from the inputs too: old files list their weights there."""
    for entries in (graph.initializer, graph.input):
        for entry in [e for e in entries if e.name in names]:
            entries.remove(entry)


def constant_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the initialisers of the graph and the tensors in its nodes, such as Constant nodes."""
    attributes = (attribute for node in model.graph.node for attribute in node.attribute)
    inner = [attribute.t for attribute in attributes if attribute.type == onnx.AttributeProto.TENSOR]
    return [*model.graph.initializer, *inner]
