"""Engines by the names of bundled models, and by files."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy import open_engine
from sr_deploy.errors import ModelError, UsageError
from sr_deploy.graph.onnx_file import save_model
from sr_deploy.models import find_model


def test_a_bundled_models_name_opens_as_its_file_does():
    picture = np.random.default_rng(0).integers(0, 256, (1, 12, 16, 3), np.uint8)
    with (
        open_engine("rt-x2", "onnxruntime") as named,
        open_engine(find_model("rt-x2"), "onnxruntime") as file,
    ):
        np.testing.assert_array_equal(named.run(picture), file.run(picture))


def test_files_bytes_and_models_open_too(tiny, tmp_path):
    model = tiny("plain")
    save_model(model.model, tmp_path / "plain.onnx")
    for source in (str(tmp_path / "plain.onnx"), (tmp_path / "plain.onnx").read_bytes(), model.model):
        with open_engine(source, "onnxruntime") as engine:
            model.check_uint8(engine.run)


def test_an_unknown_name_names_near_ones():
    with pytest.raises(ModelError, match="did you mean rt-x"):
        open_engine("rt-x5")
    with pytest.raises(UsageError, match="name is empty"):
        open_engine("")
