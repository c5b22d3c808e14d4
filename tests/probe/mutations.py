"""Damaged and nonsensical ONNX files: `python -m tests.probe.mutations COUNT [SECONDS]` probes so many of them.

Half are valid protobuf whose graph was changed (attributes, sizes, types, names, nodes), half have changed bytes. Each
is probed under a time limit for a run; what is neither a spec nor one of the package's own errors is printed. A crash
of the runtime must not end this process. CI runs a few of them (`test_mutations.py`).
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto

from sr_deploy.errors import SrDeployError
from sr_deploy.graph.onnx_file import load_model
from sr_deploy.probe.probe import examine
from sr_deploy.probe.process import ProbeLimits
from tests.conftest import TINY_NAMES, build_tiny
from tests.probe.test_probe import esa, inner_grid

_OPERATORS = (
    "Relu",
    "MaxPool",
    "AveragePool",
    "Conv",
    "ConvTranspose",
    "Resize",
    "Reshape",
    "Transpose",
    "Add",
    "Loop",
)
_NUMBERS = (0, 1, -1, 2, 7, 1 << 20, 1 << 40, -(1 << 31))


def _attribute(graph: onnx.GraphProto, rng: random.Random) -> None:
    found = [a for node in graph.node for a in node.attribute]
    if found:
        attribute = rng.choice(found)
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
        else:
            attribute.i = rng.choice(_NUMBERS)


def _size(graph: onnx.GraphProto, rng: random.Random) -> None:
    tensor = rng.choice(list(graph.initializer) or [TensorProto(dims=[1])])
    if tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)


def _kind(graph: onnx.GraphProto, rng: random.Random) -> None:
    if graph.initializer:
        rng.choice(graph.initializer).data_type = rng.randrange(24)


def _wire(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _operator(graph: onnx.GraphProto, rng: random.Random) -> None:
    rng.choice(graph.node).op_type = rng.choice(_OPERATORS)


def _removal(graph: onnx.GraphProto, rng: random.Random) -> None:
    if len(graph.node) > 1:
        graph.node.remove(rng.choice(graph.node))


def _port(graph: onnx.GraphProto, rng: random.Random) -> None:
    value = rng.choice([*graph.input, *graph.output])
    dims = value.type.tensor_type.shape.dim
    if dims:
        dims[rng.randrange(len(dims))].dim_value = rng.choice((1, 3, 8, 1 << 14))


def _values(graph: onnx.GraphProto, rng: random.Random) -> None:
    if graph.initializer:
        tensor = rng.choice(graph.initializer)
        raw = bytearray(tensor.raw_data)
        if raw:
            raw[rng.randrange(len(raw))] = rng.randrange(256)
            tensor.raw_data = bytes(raw)


_CHANGES: tuple[Callable[[onnx.GraphProto, random.Random], None], ...] = (
    _attribute,
    _attribute,
    _size,
    _kind,
    _wire,
    _operator,
    _removal,
    _port,
    _values,
)


def mutated(seed: int) -> bytes:
    """Return the bytes of one damaged file; the same for the same seed."""
    rng = random.Random(seed)
    makers = [*(lambda name=name: build_tiny(name).model for name in TINY_NAMES), inner_grid, esa]
    model = onnx.ModelProto.FromString(rng.choice(makers)().SerializeToString())
    del model.metadata_props[:]
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 3)):
            rng.choice(_CHANGES)(model.graph, rng)
        return model.SerializeToString()
    data = bytearray(model.SerializeToString())
    for _ in range(rng.randint(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data))]) if rng.random() < 0.1 else bytes(data)


def outcome(seed: int, seconds: float) -> str:
    """Probe one damaged file; returns "stamped", the kind of the package's error, or the traceback of another one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(mutated(seed))
        try:
            examine(load_model(path), name="model", limits=ProbeLimits(seconds=seconds, memory=4 << 30))
            return "stamped"
        except SrDeployError as error:
            return type(error).__name__ if "\n" not in str(error) else f"several lines: {error}"
        except Exception:
            return traceback.format_exc()


def main() -> None:
    """Probe as many files as the command line says, and print what came out."""
    count, seconds = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0
    counts, longest = dict[str, int](), 0.0
    for seed in range(count):
        start = time.monotonic()
        result = outcome(seed, seconds)
        longest = max(longest, time.monotonic() - start)
        if "\n" in result:
            print(f"seed {seed}: {result}", flush=True)
            result = "other error"
        counts[result] = counts.get(result, 0) + 1
        if seed % 100 == 99:
            print(f"{seed + 1} files, longest {longest:.1f} s: {counts}", flush=True)
    print(f"{count} files, longest {longest:.1f} s: {counts}")


if __name__ == "__main__":
    main()
