"""Imports of the package: no training code unless training, and no undeclared dependency anywhere."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sr_deploy
from sr_deploy.images.image import Image, write_image
from sr_deploy.spec import METADATA_KEY, ModelSpec

PACKAGE = Path(sr_deploy.__file__).parent
ANYWHERE = {
    "av",
    "click",
    "cv2",
    "google",
    "isal",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "pycuda",
    "pyvips",
    "ray",
    "rich",
    "tensorrt",
    "vapoursynth",
}
"""Third-party modules that the package may import; google is protobuf, a dependency of onnx."""
IN_TRAINING = ANYWHERE | {
    *("matplotlib", "onnxscript", "safetensors", "tomli", "torch"),
    *("openmodeldb", "spandrel", "spandrel_extra_arches"),
}

BLOCKING = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker())
"""


def python(code: str, *blocked: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = BLOCKING.format(blocked=set(blocked)) + code
    return subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", cwd=folder)


def command(*arguments: str) -> str:
    return f"from sr_deploy.cli import main; main({list(arguments)!r})"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A picture `hr/photo.png` and a model `model.onnx` that doubles both sides by repeating pixels."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "hr").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    write_image(Image(pixels=pixels), folder / "hr" / "photo.png")
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    node = helper.make_node("Resize", ["pixels", "", "scales"], ["upscaled"], mode="nearest", nearest_mode="floor",
                            coordinate_transformation_mode="asymmetric")  # fmt: skip
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, f"{n}h", f"{n}w"])
        for n in ("pixels", "upscaled")
    ]
    graph = helper.make_graph([node], "repeat", ports[:1], ports[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "foreign.onnx")
    helper.set_model_props(model, {METADATA_KEY: ModelSpec(name="model", scale=2, halo=0).to_json()})
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("upscale", "hr", "-o", "out", "--model", "model.onnx", "--overwrite"),
        ("eval", "hr", "--model", "model.onnx"),
        ("verify", "model.onnx", "--data", "hr"),
        ("info", "foreign.onnx"),
        ("stamp", "foreign.onnx", "-o", "stamped.onnx"),
        ("models",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_that_does_not_train_needs_torch(folder, arguments):
    result = python(command(*arguments), "torch", folder=folder)
    assert result.returncode == 0, result.stderr


def test_doctor_needs_neither_torch_nor_a_runtime(folder):
    result = python(command("doctor"), "torch", "onnxruntime", "openvino", folder=folder)
    assert result.returncode == 4, result.stderr
    assert "does not work" in result.stdout


def test_without_a_runtime_upscale_ends_in_the_install_line(folder):
    arguments = ("upscale", "hr/photo.png", "-o", "never.png", "--model", "model.onnx")
    result = python(command(*arguments), "onnxruntime", "openvino", folder=folder)
    assert result.returncode == 4
    assert len(result.stderr.splitlines()) == 1
    assert "sr-deploy[cpu]" in result.stderr


def test_every_module_outside_training_imports_without_torch():
    names = [
        module.name
        for module in pkgutil.walk_packages(sr_deploy.__path__, "sr_deploy.", onerror=lambda name: None)
        if not module.name.startswith("sr_deploy.training") and not module.name.endswith("__main__")
    ]
    assert len(names) > 20
    result = python("\n".join(f"import {name}" for name in names), "torch")
    assert result.returncode == 0, result.stderr


def test_importing_the_command_line_imports_click_and_nothing_else():
    code = "import sys; before = set(sys.modules); import sr_deploy.cli; print(*sorted(set(sys.modules) - before))"
    loaded = {name.partition(".")[0] for name in python(code).stdout.split()}
    assert {name for name in loaded if not name.startswith("_")} - set(sys.stdlib_module_names) <= {
        "sr_deploy",
        "click",
        "colorama",
    }


def imports(path: Path) -> Iterator[str]:
    """The top-level package of every absolute import in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_only_declared_packages_are_imported(path):
    allowed = IN_TRAINING if PACKAGE / "training" in path.parents else ANYWHERE
    # tomllib is in the standard library from Python 3.11 on
    found = set(imports(path)) - set(sys.stdlib_module_names) - {"sr_deploy", "tomllib"}
    assert found <= allowed


def test_only_the_commands_that_train_or_export_name_the_training_package():
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "training" in path.parents or path.name in (
            "convert.py",
            "eval.py",
            "export.py",
            "train.py",
            "verify.py",
            "info.py",
        ):
            continue
        if path == PACKAGE / "__init__.py":  # the public name `export`, imported by its first use
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("sr_deploy.training"), path
