"""What an ONNX file is, apart from what its network does: size, checksum, opset, counts. Nothing is run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from sr_deploy.errors import ModelError
from sr_deploy.graph.record import opset_of


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
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            size = file.tell()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path} ({error.strerror}); check the path") from error
    return FileFacts(
        path=path,
        size=size,
        sha256=digest.hexdigest(),
        opset=opset_of(model),
        producer=f"{model.producer_name} {model.producer_version}".strip() or "unknown",
        nodes=len(model.graph.node),
        weights=sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in constant_tensors(model)),
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
