"""Find out which spellings of int8 each runtime computes in integers, and keep it for the table of docs/precision.md.

python -m benchmarks.int8_forms                # examine the runtimes that are installed, write results/int8-forms.json
python -m benchmarks.tables                    # put the table into the page

A net of three quantised convolutions is written in every form and given to each runtime twice: as it is written, and
by way of the engines of sr-deploy, which spell it for the runtime. Nothing is timed. TensorRT for RTX needs no GPU for
that; where it is missing, its cells stay as they are in the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.pages import ROOT
from sr_deploy.errors import ModelError
from sr_deploy.graph.onnx_file import save_model, write_spec
from sr_deploy.spec import ModelSpec

RESULT = ROOT / "benchmarks" / "results" / "int8-forms.json"
RUNTIMES = {
    "onnxruntime": "ONNX Runtime, as written",
    "onnxruntime by sr-deploy": "ONNX Runtime, in sr-deploy",
    "openvino": "OpenVINO, as written",
    "openvino by sr-deploy": "OpenVINO, in sr-deploy",
    "tensorrt-rtx by sr-deploy": "TensorRT for RTX, in sr-deploy",
}
"""Column of the result -> its title in the table."""
PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt-rtx": "tensorrt-rtx-cu12-bindings",
}
"""Runtime -> distribution whose version the result depends on."""
CONVOLUTIONS = 3
"""Number of convolutions in the net."""
REFUSED = -1
"""Stands in the result for a file that an engine refuses."""
_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Form:
    """One spelling of a net in int8."""

    kind: str = "uint8"
    """Type of the quantised values between the convolutions."""
    zero: int = 0
    """Their zero point."""
    activation: str = "Relu"
    """Operator between two convolutions; empty for none."""
    weights: str = "int8"
    """Type of the weights; zero point 0 for int8 and 128 for uint8."""
    weights_zero: int = 0
    """Added to the zero point of the weights."""
    closed: bool = True
    """True if the result of the last convolution is quantised too."""
    moved: bool = False
    """True if values are quantised before a DepthToSpace, and not behind it."""


FORMS = {
    "uint8, zero point 0 (canonical)": Form(),
    "int8, zero point 0": Form(kind="int8"),
    "int8, zero point -128": Form(kind="int8", zero=-128),
    "uint8, zero point 128": Form(zero=128),
    "uint8, zero point 3": Form(zero=3),
    "uint8, zero point 0, last result not quantised": Form(closed=False),
    "uint8, zero point 0, DepthToSpace behind Q/DQ": Form(moved=True),
    "no activation; int8, zero point 0": Form(kind="int8", activation=""),
    "no activation; uint8, zero point 128": Form(zero=128, activation=""),
    "Clip; uint8, zero point 0": Form(activation="Clip"),
    "LeakyReLU; int8, zero point 0": Form(kind="int8", activation="LeakyRelu"),
    "LeakyReLU; uint8, zero point 128": Form(zero=128, activation="LeakyRelu"),
    "PReLU; int8, zero point 0": Form(kind="int8", activation="PRelu"),
    "PReLU; uint8, zero point 128": Form(zero=128, activation="PRelu"),
    "weights in uint8, zero point 128": Form(weights="uint8"),
    "weights in int8, zero point 3": Form(weights_zero=3),
}
"""Title of a row -> form."""


class _Net:
    """Collects the nodes and constants of a form."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def quantised(self, value: str, top: float, *, signed: bool) -> str:
        """Quantise `value` up to `top` and back. Signed values have room below zero in every form."""
        form = self.form
        kind, zero = (
            (form.kind, form.zero) if not signed else ("int8", 0) if form.kind == "int8" else ("uint8", 128)
        )
        step = self.constant(top / (np.iinfo(kind).max - zero))
        point = self.constant(zero, kind)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, step, point), step, point)

    def convolution(self, value: str, taken: int, given: int) -> str:
        """Add a convolution with quantised weights of mean 0 and a bias."""
        form, shift = self.form, 128 if self.form.weights == "uint8" else 0
        steps = self.random.integers(-120, 121, (given, taken, 3, 3)) + shift + form.weights_zero
        scale = self.constant(np.full(given, 0.02 / np.sqrt(taken * 9)))
        zero = self.constant(np.full(given, shift + form.weights_zero), form.weights)
        weights = self.op("DequantizeLinear", self.constant(steps, form.weights), scale, zero, axis=0)
        return self.op("Conv", value, weights, self.constant(np.full(given, 0.05)), pads=[1] * 4)

    def activated(self, value: str) -> str:
        """Add the activation of the form."""
        kind = self.form.activation
        if kind == "PRelu":
            return self.op(kind, value, self.constant(np.full((_CHANNELS, 1, 1), 0.1)))
        if kind == "Clip":
            return self.op(kind, value, self.constant(0.0), self.constant(2.0))
        return self.op(kind, value) if kind else value


def net(form: Form) -> onnx.ModelProto:
    """Return a net of three convolutions in `form`, which enlarges a picture by 2 and says that it is int8."""
    made = _Net(form)
    value, taken = "pixels", 3
    signed = form.activation in ("", "LeakyRelu", "PRelu")
    for _ in range(CONVOLUTIONS - 1):
        value = made.quantised(value, 1.0 if taken == 3 else 2.0, signed=signed)
        value = made.activated(made.convolution(value, taken, _CHANNELS))
        taken = _CHANNELS
    value = made.quantised(value, 2.0, signed=signed)
    if form.moved:
        value, taken = made.op("DepthToSpace", value, blocksize=2, mode="CRD"), _CHANNELS // 4
    value = made.convolution(value, taken, 3 if form.moved else 12)
    if form.closed:
        value = made.quantised(value, 2.0, signed=True)
    if not form.moved:
        value = made.op("DepthToSpace", value, blocksize=2, mode="CRD")
    made.nodes.append(helper.make_node("Identity", [value], ["upscaled"], name="end"))
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, None, None])
        for n in ("pixels", "upscaled")
    ]
    graph = helper.make_graph(made.nodes, "net", ports[:1], ports[1:], made.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return write_spec(model, ModelSpec(name="net", scale=2, halo=3, precision="int8"))


def by_onnxruntime(model: onnx.ModelProto) -> int:
    """Count the convolutions that a plain session of ONNX Runtime computes in integers."""
    import onnxruntime

    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder, "optimised.onnx"))
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sum(node.op_type == "QLinearConv" for node in nodes)


def by_openvino(model: onnx.ModelProto) -> int:
    """Count the convolutions that OpenVINO computes in integers."""
    import openvino

    from sr_deploy.engines.openvino.integers import count_integers

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return count_integers(core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings))


def by_engine(backend: str) -> Callable[[onnx.ModelProto], int]:
    """Return a function that counts the convolutions that an engine of sr-deploy computes in integers."""

    def count(model: onnx.ModelProto) -> int:
        from sr_deploy.engines.registry import open_engine

        with open_engine(model, backend) as engine:
            try:
                engine.run(np.zeros((1, 16, 16, 3), np.float32))
            except ModelError:  # none is computed in integers, or one is not and nothing explains it
                return REFUSED
            floats: Mapping[str, str] = engine.float_convolutions  # type: ignore[attr-defined]
            return CONVOLUTIONS - len(floats)

    return count


def by_tensorrt_rtx(model: onnx.ModelProto) -> int:
    """Count the convolutions that an engine of TensorRT for RTX computes in integers, by the list of its layers."""
    from sr_deploy.engines.tensorrt.build import build_engine, source_of
    from sr_deploy.engines.tensorrt.layers import convolutions
    from sr_deploy.engines.tensorrt.options import BuildOptions
    from sr_deploy.engines.tensorrt.runtimes import RTX

    with TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        save_model(model, path)
        source = source_of(path, "float32", shuffle_late=False)
    try:
        built = build_engine(source, BuildOptions(tile=64), runtime=RTX, check_precision=False)
    except ModelError:  # its parser takes no other zero point than 0 in weights
        return REFUSED
    return sum(layer.precision == "int8" for layer in convolutions(built.layers))


COUNTERS: Mapping[str, Callable[[onnx.ModelProto], int]] = {
    "onnxruntime": by_onnxruntime,
    "onnxruntime by sr-deploy": by_engine("onnxruntime"),
    "openvino": by_openvino,
    "openvino by sr-deploy": by_engine("openvino"),
    "tensorrt-rtx by sr-deploy": by_tensorrt_rtx,
}
"""Column of the result -> function that counts the convolutions in integers."""


def installed() -> dict[str, str]:
    """Return the version of each runtime that is installed."""
    found = {}
    for runtime, package in PACKAGES.items():
        try:
            found[runtime] = version(package)
        except PackageNotFoundError:
            continue
    return found


def examined(column: str) -> dict[str, int]:
    """Return the number of convolutions in integers for each form in one column."""
    return {title: COUNTERS[column](net(form)) for title, form in FORMS.items()}


def table() -> str:
    """Return the table of the committed result."""
    record = json.loads(RESULT.read_text(encoding="utf-8"))
    columns = [column for column in RUNTIMES if column in record["integers"]]
    lines = [
        f"| form | {' | '.join(RUNTIMES[column] for column in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for title in FORMS:
        cells = [_cell(record["integers"][column][title]) for column in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    body = "\n".join(lines)
    return f"`python -m benchmarks.int8_forms`, {versions}, on {record['processor']}:\n\n{body}\n"


def _cell(integers: int) -> str:
    """Return a cell for the number of convolutions in integers."""
    return {CONVOLUTIONS: "integer", 0: "float", REFUSED: "refused"}.get(
        integers, f"{integers} of {CONVOLUTIONS} integer"
    )


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    from sr_deploy.system.cpu import describe_cpu

    record: dict[str, Any] = {"versions": {}, "integers": {}}
    if RESULT.exists():
        record = json.loads(RESULT.read_text(encoding="utf-8"))
    found = installed()
    record["versions"] |= found
    record["processor"] = f"{describe_cpu().name} ({', '.join(describe_cpu().features)})"
    for column in RUNTIMES:
        if column.split()[0] in found:
            record["integers"][column] = examined(column)
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
