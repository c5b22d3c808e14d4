"""Export: a clean, self-describing file that computes the same as the net, or no file."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from sr_deploy.errors import CheckFailedError, InputError, ModelError, OutputError, UsageError
from sr_deploy.graph.nodes import node_roles
from sr_deploy.graph.onnx_file import load_model, read_spec
from sr_deploy.spec import ModelSpec, SizeRule
from sr_deploy.training.checkpoint import CheckpointInfo, load_net, read_checkpoint, save_checkpoint
from sr_deploy.training.export import to_onnx
from sr_deploy.training.export.halo import measure_halo
from sr_deploy.training.export.parity import CROPS, CropSource, check_parity, check_pictures, compare
from sr_deploy.training.export.to_onnx import (
    DEFAULT_OPSET,
    OPSETS,
    ExportResult,
    core_model,
    export_onnx,
    spec_of,
)
from sr_deploy.training.nets import build_net
from sr_deploy.training.nets.back_projection import shrinking_kernels

pytestmark = pytest.mark.long

RT: dict[str, object] = {"features": 6, "depth": 2}
NETS = [
    ("rt", 4, RT),
    ("rt", 3, RT | {"residual": "bilinear", "activation": "relu"}),
    ("rt", 2, RT | {"residual": "bicubic"}),
    ("rt", 2, RT | {"residual": "bicubic", "back_projection": True}),
    ("srresnet", 4, {"features": 6, "blocks": 2, "learn_residual_weight": True, "residual": "bicubic"}),
    ("unet", 2, {"features": 4, "levels": 2}),
]


def checkpoint_of(
    folder: Path, architecture: str = "rt", scale: int = 2, parameters: dict[str, object] | None = None
) -> Path:
    """Save a checkpoint of a small net with random weights that keep its output near 0..1."""
    parameters = RT if parameters is None else parameters
    torch.manual_seed(3)
    net = build_net(architecture, scale, parameters)
    path = folder / f"{architecture}-x{scale}.safetensors"
    info = CheckpointInfo(
        name=path.stem,
        architecture=architecture,
        scale=scale,
        parameters=parameters,
        recipe_sha256="ab" * 32,
    )
    save_checkpoint(path, net, info)
    return path


@dataclass(frozen=True)
class Made:
    """A checkpoint and its export, shared by several tests."""

    checkpoint: Path
    out: Path
    export: ExportResult


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Made]:
    """Function that exports a net of `NETS` when it is first asked for, in whatever order the tests run."""

    @cache
    def make(number: int) -> Made:
        folder = tmp_path_factory.mktemp("grün")
        checkpoint = checkpoint_of(folder, *NETS[number])
        out = folder / "grün.onnx"
        return Made(checkpoint, out, export_onnx(checkpoint, out, licence="CC0-1.0"))

    return make


@pytest.fixture(params=range(len(NETS)), ids=[f"{name}-x{scale}" for name, scale, _ in NETS])
def made(request: pytest.FixtureRequest, making: Callable[[int], Made]) -> Made:
    """One net of every architecture, exported."""
    return making(request.param)


@dataclass(frozen=True)
class Core:
    """Return a real-time net, its core graph and its spec. Each test gets its own to modify."""

    checkpoint: Path
    net: nn.Module
    model: onnx.ModelProto
    spec: ModelSpec


@pytest.fixture(scope="module")
def _core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    checkpoint = checkpoint_of(tmp_path_factory.mktemp("core"))
    net, info = load_net(checkpoint)
    spec = spec_of(net, info, checkpoint)
    return Core(checkpoint, net, core_model(net, spec), spec)


@pytest.fixture
def core(_core: Core) -> Core:
    return copy.deepcopy(_core)


def run_net(path: Path) -> tuple[nn.Module, np.ndarray, np.ndarray]:
    """Return the net of a checkpoint, a batch of three pictures [3, 3, 12, 20], and the net's result for it."""
    net, _ = load_net(path)
    batch = np.random.default_rng(5).random((3, 3, 12, 20), np.float32)
    with torch.no_grad():
        return net, batch, net(torch.from_numpy(batch)).numpy()


def test_the_file_computes_what_the_net_does_for_any_batch(made: Made) -> None:
    _, batch, expected = run_net(made.checkpoint)
    session = onnxruntime.InferenceSession(made.out.read_bytes(), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(["upscaled"], {"pixels": batch})[0] - expected).max() < 1e-5
    assert made.export.parity is not None
    assert made.export.parity.passed
    assert made.export.size == made.out.stat().st_size


def test_the_file_says_all_that_a_runner_must_know(made: Made) -> None:
    spec = read_spec(load_model(made.out))
    assert spec == made.export.spec
    _, info = load_net(made.checkpoint)
    assert (spec.name, spec.architecture, spec.scale) == (info.name, info.architecture, info.scale)
    assert (spec.parameters, spec.precision, spec.licence) == (info.parameters, "fp32", "CC0-1.0")
    assert spec.checkpoint_sha256 == hashlib.sha256(made.checkpoint.read_bytes()).hexdigest()
    assert spec.recipe_sha256 == "ab" * 32
    back_and_forth = 4 if "back_projection" in info.parameters else 0
    assert spec.halo == {"rt": 4, "srresnet": 7, "unet": 35}[info.architecture] + back_and_forth
    assert spec.size_rule == SizeRule(multiple_of=4 if info.architecture == "unet" else 1)


def test_the_graph_holds_nothing_but_what_computes(made: Made) -> None:
    model = load_model(made.out)
    allowed = {"Conv", "Clip", "Relu", "LeakyRelu", "Add", "DepthToSpace", "Concat", "Pad"}
    assert {node.op_type for node in model.graph.node} <= allowed
    assert [port.name for port in model.graph.input] == ["pixels"]
    assert [port.name for port in model.graph.output] == ["upscaled"]
    axes = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["n", 3, "h", "w"]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert b".py" not in made.out.read_bytes()


def test_the_real_time_net_is_convolutions_activations_one_addition_and_one_shuffle(
    tmp_path: Path, core: Core
) -> None:
    operators = [node.op_type for node in core.model.graph.node]
    body = ["Conv", "LeakyRelu"] * (RT["depth"] + 1)
    assert operators[: len(body)] == body
    assert sorted(operators[len(body) :]) == ["Add", "Conv", "Conv", "DepthToSpace"]
    assert operators[-1] == "DepthToSpace"


def test_the_parameters_counted_are_those_of_the_folded_net(tmp_path: Path) -> None:
    export = export_onnx(checkpoint_of(tmp_path), tmp_path / "net.onnx", check=False)
    shapes = [(6, 3), (6, 6), (6, 6), (12, 6)]
    assert export.parameters == sum(9 * a * b + a for a, b in shapes)


def test_the_same_checkpoint_gives_the_same_bytes_in_another_process_and_folder(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    first = tmp_path / "first.onnx"
    export_onnx(checkpoint, first)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    second = elsewhere / "second.onnx"
    code = (
        "import sys; from pathlib import Path; from sr_deploy.training.export.to_onnx import export_onnx;"
        "export_onnx(Path(sys.argv[1]), Path(sys.argv[2]), check=False)"
    )
    copy = elsewhere / "copy.safetensors"
    copy.write_bytes(checkpoint.read_bytes())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(copy), str(second)], check=True, env=environment)
    assert first.read_bytes() == second.read_bytes()


def test_the_newest_opset_is_written_and_runs(tmp_path: Path) -> None:
    out, opset = tmp_path / "net.onnx", OPSETS.stop - 1
    assert export_onnx(checkpoint_of(tmp_path), out, opset=opset).opset == opset
    assert [entry.version for entry in load_model(out).opset_import] == [opset]


def test_the_default_opset_is_one_that_the_oldest_supported_runtime_reads(core: Core) -> None:
    assert [entry.version for entry in core.model.opset_import] == [DEFAULT_OPSET]
    assert DEFAULT_OPSET <= 21  # the newest that ONNX Runtime 1.18 reads
    assert core.model.ir_version <= 10


@pytest.mark.parametrize(("precision", "io"), [("fp32", "uint8"), ("fp16", "float")])
def test_half_precision_and_pixel_io_pass_their_own_check(tmp_path: Path, precision: str, io: str) -> None:
    out = tmp_path / "net.onnx"
    checkpoint = checkpoint_of(tmp_path)
    export = export_onnx(checkpoint, out, precision=precision, io=io)
    assert export.spec.precision == precision
    assert export.parity is not None
    assert export.parity.largest.value < (1e-4 if precision == "fp32" else 1 / 255)
    net, batch, _ = run_net(checkpoint)
    pixels = np.rint(batch * 255).astype(np.uint8)
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels / np.float32(255))).clamp(0, 1).numpy() * 255
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    if io == "uint8":
        got = session.run(None, {"pixels": np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))})[0]
        assert got.dtype == np.uint8
        got = got.transpose(0, 3, 1, 2)
    else:
        got = np.clip(session.run(None, {"pixels": pixels / np.float32(255)})[0], 0, 1) * 255
    assert np.abs(got - expected).max() < (0.51 if precision == "fp32" else 1.5)


def spoil(model: onnx.ModelProto, name: str, change: float) -> None:
    """Add `change` to the first element of the weight `name`."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[0] += change
            tensor.CopyFrom(numpy_helper.from_array(values, name))
            return
    raise AssertionError(f"no weight {name}")


def test_an_altered_weight_fails_the_export_says_where_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: Path, core: Core
) -> None:
    spoil(core.model, "body.1.weight", 0.5)
    monkeypatch.setattr(to_onnx, "core_model", lambda *_: core.model)
    pattern = (
        r"of full scale .* in picture\d\.png, crop \d+x\d+ at .* output pixel \(\d+, \d+\), channel [RGB]"
    )
    with pytest.raises(CheckFailedError, match=pattern):
        export_onnx(core.checkpoint, tmp_path / "net.onnx", data=pictures)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, core: Core
) -> None:
    out = tmp_path / "net.onnx"
    out.write_bytes(b"older")
    spoil(core.model, "head.weight", float("nan"))
    monkeypatch.setattr(to_onnx, "core_model", lambda *_: core.model)
    with pytest.raises(CheckFailedError):
        export_onnx(core.checkpoint, out)
    assert out.read_bytes() == b"older"


def test_the_difference_is_found_in_its_channel(core: Core) -> None:
    with torch.no_grad():
        core.net.head.bias[4:8] += 0.01  # type: ignore[index,operator,union-attr]  # green, all four phases
    parity = compare(core.net, core.model, core.spec, check_pictures(None))
    assert not parity.passed
    assert parity.largest.value == pytest.approx(0.01, rel=1e-3)
    assert parity.largest.channel == "G"
    assert parity.crops == 2 * len(CROPS)


def test_a_difference_smaller_than_the_tolerance_passes_and_is_reported(core: Core) -> None:
    with torch.no_grad():
        core.net.head.bias += 5e-5  # type: ignore[operator]
    parity = check_parity(core.net, core.model, core.spec, check_pictures(None))
    assert parity.largest.value == pytest.approx(5e-5, rel=0.05)


def test_the_place_of_a_difference_is_that_of_the_pixel(core: Core) -> None:
    class OnePixelOff(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = core.net(x).clone()
            if x.shape[2:] == (53, 37):
                result[0, 2, 100, 7] += 0.5
            return result

    black = CropSource("black.png", np.zeros((60, 60, 3), np.uint8))
    largest = compare(OnePixelOff(), core.model, core.spec, [black]).largest
    assert (largest.crop[2:], largest.position, largest.channel) == ((53, 37), (100, 7), "B")
    assert "black.png, crop 37x53" in str(largest)
    assert "output pixel (7, 100)" in str(largest)


def test_at_least_five_sizes_odd_ones_too_are_compared() -> None:
    assert len(set(CROPS)) >= 5
    assert sum(height % 2 and width % 2 for height, width in CROPS) >= 3


def test_the_pictures_compared_are_spread_over_the_folder(pictures: Path) -> None:
    assert [p.name for p in check_pictures(pictures)] == [f"picture{n}.png" for n in (0, 2, 4, 6, 8)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"opset": 17}, "18 to 23"),
        ({"opset": 99}, "18 to 23"),
        ({"precision": "fp8"}, "fp32, fp16"),
        ({"io": "int4"}, "float, uint8"),
    ],
)
def test_an_argument_outside_its_range_is_named(
    tmp_path: Path, core: Core, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        export_onnx(core.checkpoint, tmp_path / "net.onnx", **arguments)


def test_a_folder_of_pictures_that_is_not_there_is_one_clear_error(tmp_path: Path, core: Core) -> None:
    with pytest.raises(InputError, match="no such folder; point --data"):
        export_onnx(core.checkpoint, tmp_path / "net.onnx", data=tmp_path / "nowhere")


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "net.safetensors"  # the output path is checked before the checkpoint
    with pytest.raises(OutputError, match="nowhere does not exist"):
        export_onnx(absent, tmp_path / "nowhere" / "net.onnx")
    with pytest.raises(OutputError, match="is a folder"):
        export_onnx(absent, tmp_path)

    def refused(path: object, *arguments: object, **options: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("sr_deploy.system.output_folder.os.open", refused)
    with pytest.raises(OutputError, match="no file can be made in"):
        export_onnx(absent, tmp_path / "net.onnx")


def test_a_net_that_torch_cannot_export_is_one_clear_error(core: Core) -> None:
    class Undecided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.mean() > 0.5 else -x

    with pytest.raises(ModelError, match="cannot export this net in opset 18"):
        core_model(Undecided(), core.spec)


def test_exporting_does_not_change_the_net(core: Core) -> None:
    _, tensors = read_checkpoint(core.checkpoint)
    assert all(torch.equal(value, tensors[name]) for name, value in core.net.state_dict().items())


def test_the_fixed_convolutions_of_back_projection_go_around_the_net_and_after_it() -> None:
    parameters = RT | {"residual": "bicubic", "back_projection": True, "foldable": False}
    net = build_net("rt", 2, parameters)
    model = core_model(net, ModelSpec(name="mine", scale=2, halo=measure_halo(net)))
    nodes, places = model.graph.node, node_roles(model)
    assert [nodes[i].op_type for i in sorted(places.skip_path)] == ["Pad", "Conv"]
    assert [nodes[i].op_type for i in sorted(places.tail)] == ["Add", "Add", "DepthToSpace"]
    weights = [nodes[i].input[1] for i in places.convolutions]
    assert weights[-5:] == ["head.weight", *(f"unseen.block.{number}.weight" for number in range(4))]
    fixed = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, kernel in zip(weights[-4:-2], shrinking_kernels(3, 2), strict=True):
        np.testing.assert_array_equal(fixed[name], kernel.float().numpy())
