"""Triton's own schema of `config.pbtxt`, from the package tritonclient."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def parse(text: str) -> Any:
    """Parse `text` into Triton's ModelConfig message. Fails for a field that the schema lacks."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, _schema().ModelConfig())


def _schema() -> ModuleType:
    """Import the generated module by its file: its package would import grpc, which is not needed here."""
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
