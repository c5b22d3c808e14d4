"""Triton's own schema of `config.pbtxt`, from the package tritonclient."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def parse(text: str) -> Any:
    """`text` as Triton's parser reads it: a ModelConfig message. Fails for a field that the schema does not have."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, _schema().ModelConfig())


def _schema() -> ModuleType:
    """The generated module by its file: its package would import grpc, which is not needed to read a text."""
    client = pytest.importorskip(
        "tritonclient", reason="tritonclient, which has Triton's schema, is not installed"
    )
    spec = importlib.util.spec_from_file_location(
        "model_config_pb2", Path(client.__path__[0], "grpc", "model_config_pb2.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
