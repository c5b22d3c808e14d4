"""Checks that every TensorRT name used in `api.py` exists in the bindings of 8.6, 10.16 and 11.4, and of RTX 1.7.

Names that a version lacks must be tested for before they are used. The lists in `names/` were read from the
wheels named in their first lines.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sr_deploy.engines.tensorrt import api as tensorrt_api

VERSIONS = ("8.6", "10.16", "11.4")
RTX = "rtx-1.7"
"""TensorRT for RTX, whose names are those of 11.x with a few more."""
OBJECTS = {
    "trt": "module",
    "tensorrt": "module",
    "flags": "",  # NetworkDefinitionCreationFlag in one function, BuilderFlag in another; see `class_of`
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "cache": "ITimingCache",
    "features": "PreviewFeature",
    "levels": "HardwareCompatibilityLevel",
    "sources": "TacticSource",
    "severity": "Severity",
    "trt_runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "strategies": "ExecutionContextAllocationStrategy",
    "inspector": "EngineInspector",
}
"""TensorRT classes by the names that their objects have in `api.py`."""
LACKING = {
    ("module", "ExecutionContextAllocationStrategy"): {"8.6"},
    ("module", "IProgressMonitor"): {"8.6"},
    ("DataType", "BF16"): {"8.6"},
    ("module", "ComputeCapability"): {"8.6", "10.16", "11.4"},
    ("module", "DynamicShapesKernelSpecializationStrategy"): {"8.6", "10.16", "11.4"},
    ("ICudaEngine", "create_runtime_config"): {"8.6"},
    ("IExecutionContext", "is_stream_capturable"): {"8.6", "10.16", "11.4"},
    ("IBuilderConfig", "num_compute_capabilities"): {"8.6", "10.16", "11.4"},
    ("IBuilderConfig", "set_compute_capability"): {"8.6", "10.16", "11.4"},
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): {"11.4", RTX},
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): {"8.6"},
    ("ExecutionContextAllocationStrategy", "USER_MANAGED"): {"8.6"},
    ("PreviewFeature", "PROFILE_SHARING_0806"): {"11.4", RTX},
    ("PreviewFeature", "RUNTIME_ACTIVATION_RESIZE_10_10"): {"8.6"},
    ("IBuilderConfig", "progress_monitor"): {"8.6"},
    ("ParserError", "node_name"): {"8.6"},
    ("ParserError", "node_operator"): {"8.6"},
    ("ICudaEngine", "create_execution_context_without_device_memory"): {"11.4", RTX},
    ("ICudaEngine", "device_memory_size"): {"11.4", RTX},
    ("ICudaEngine", "get_device_memory_size_for_profile"): {"8.6", "11.4", RTX},
    ("IExecutionContext", "set_device_memory"): {"8.6"},
    ("IExecutionContext", "update_device_memory_size_for_shapes"): {"8.6"},
}
"""Names that some version lacks, with those versions; the code tests for each, or for its partner."""
ONLY_RTX = {"IRuntimeConfig", "IRuntimeCache", "DynamicShapesKernelSpecializationStrategy"}
"""Classes that only TensorRT for RTX is asked for, behind a test for the last of them."""
STAND_INS = {
    "ExecutionContextAllocationStrategy": "create_execution_context_without_device_memory",
    "IProgressMonitor": "progress_monitor",
    "set_compute_capability": "ComputeCapability",
    "create_runtime_config": "DynamicShapesKernelSpecializationStrategy",
    "USER_MANAGED": "create_execution_context_without_device_memory",
    "device_memory_size": "get_device_memory_size_for_profile",
}
"""Names that need no test of their own, each with the name whose presence implies it or its absence."""


def read_names(version: str) -> dict[str, set[str]]:
    """Return the names of each class in one version."""
    text = (Path(__file__).parent / "names" / f"{version}.txt").read_text(encoding="utf-8")
    rows = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {kind: set(names.split()) for kind, _, names in rows}


NAMES = {version: read_names(version) for version in (*VERSIONS, RTX)}
TREE = ast.parse(Path(tensorrt_api.__file__).read_text(encoding="utf-8"))


def class_of(node: ast.expr, function: ast.AST) -> str | None:
    """Return the TensorRT class of an expression, or None if it is not TensorRT's."""
    if isinstance(node, ast.Name) and node.id == "flags":
        return "BuilderFlag" if "BuilderFlag" in ast.dump(function) else "NetworkDefinitionCreationFlag"
    if isinstance(node, ast.Name):
        return OBJECTS.get(node.id)
    if isinstance(node, ast.Attribute):
        if node.attr == "Severity":
            return "Severity"
        if class_of(node.value, function) == "module":
            return node.attr
    return None


def uses() -> set[tuple[str, str]]:
    """Return (class, name) of every TensorRT attribute that the code uses or tests for."""
    found = set()
    for function in (node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                kind = class_of(node.value, function)
                name = node.attr
            elif is_hasattr(node):
                kind = class_of(node.args[0], function)
                name = node.args[1].value if isinstance(node.args[1], ast.Constant) else None
            else:
                continue
            if kind and name and not name.startswith("__"):
                found.add((kind, name))
    return found


def is_hasattr(node: ast.AST) -> bool:
    """Return whether `node` is a call of `hasattr`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"


def test_the_lists_are_of_the_versions_they_say():
    for version in (*VERSIONS, RTX):
        path = Path(__file__).parent / "names" / f"{version}.txt"
        title = version.replace("rtx-", "for RTX ")
        assert path.read_text(encoding="utf-8").startswith(f"# TensorRT {title}")
        assert len(NAMES[version]["module"]) > 50


def test_the_code_uses_what_a_reader_would_expect_of_it():
    found = uses()
    assert len(found) > 60
    assert {("IExecutionContext", "execute_async_v3"), ("Builder", "build_serialized_network")} <= found
    assert ("IExecutionContext", "execute_async_v2") not in found


@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_every_name_is_in_the_bindings_or_known_to_be_lacking(version):
    names = NAMES[version]
    asked = {use for use in uses() if version == RTX or use[0] not in ONLY_RTX}
    missing = {(kind, name) for kind, name in asked if name not in names.get(kind, set())}
    expected = {use for use, versions in LACKING.items() if version in versions}
    assert missing == expected


@pytest.mark.parametrize("name", sorted({name for _, name in LACKING}))
def test_a_name_that_a_version_lacks_is_asked_for_first(name):
    asked = {node.args[1].value for node in ast.walk(TREE)
             if is_hasattr(node) and isinstance(node.args[1], ast.Constant)}  # fmt: skip
    partner = STAND_INS.get(name)
    reverse = {stand_in for one, stand_in in STAND_INS.items() if one in asked}
    assert name in asked or partner in asked or name in reverse or partner in reverse


def test_no_other_module_of_the_backend_names_tensorrt():
    for path in Path(tensorrt_api.__file__).parent.glob("*.py"):
        if path.name == "api.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "tensorrt" not in names, path
