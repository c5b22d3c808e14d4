"""Prepares what `tests/gpu/run.py` takes to a GPU machine: graphs with pixel I/O, pictures, and the CPU's
results.

Needs onnx and ONNX Runtime, which the GPU machine need not have. Called by `python -m tests.gpu.run
--prepare`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference

from benchmarks.pages import ROOT
from sr_deploy import ModelSpec
from sr_deploy.engines.onnxruntime.cpu import OnnxRuntimeEngine
from sr_deploy.engines.tensorrt.build import FLOAT32, BuildSource, source_of
from sr_deploy.errors import UsageError
from sr_deploy.graph.onnx_file import load_model, require_spec, save_model
from sr_deploy.images.image import read_image
from sr_deploy.models import find_model, list_models
from sr_deploy.precision.half import to_fp16
from sr_deploy.quality.bicubic import imresize

EXAMPLE = ROOT / "examples" / "colosseum.png"
SCALE = 4
PLAIN = "-plain"
"""Suffix of models whose last convolution stays behind the PixelShuffle."""
CROPS = ((120, 180), (97, 131), (64, 64), (1, 17), (131, 150))
"""(height, width) of the pictures whose results are compared; two of them odd, one a single row."""


def prepare(folder: Path, models: list[Path], int8: list[Path], photos: Path | None, srresnet: str) -> None:
    """Write everything into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _pictures(folder / "pictures.npz", photos)
    with TemporaryDirectory() as spare:
        found = [find_model("rt-x4"), *models]
        if not srresnet and not any(path.stem == "srresnet-x4" for path in models):
            found += [entry.path for entry in list_models() if entry.name == "srresnet-x4"]
        if srresnet:
            found.append(_srresnet(folder, Path(spare), srresnet))
        rows = [row for path in found for row in _model(folder, Path(spare), path)]
    rows += [_int8(folder, path, rows) for path in int8]
    (folder / "models.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    _unsupported(folder / "unsupported.onnx")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(rows)} graphs and their references in {folder}: {size / 1e6:.1f} MB")


def _model(folder: Path, spare: Path, path: Path) -> list[dict[str, Any]]:
    """Rows for the fp32 file `path` in every form that is built, with reference results of the fp32 form."""
    model = load_model(path)
    spec = require_spec(model, str(path))
    _references(folder, spec, path)
    half = spare / f"{spec.name}-fp16.onnx"
    save_model(to_fp16(model), half)
    operations = operations_per_pixel(model, spec.channels)
    forms = [source_of(path), source_of(half)]
    if spec.architecture == "rt":  # one model is enough to show that the float form works
        forms.append(source_of(half, FLOAT32))
    rows = [_row(folder, form, spec.name, operations) for form in forms]
    plain = source_of(half, shuffle_late=False)
    if (
        plain.graph != source_of(half).graph
    ):  # shows what moving the last convolution in front of the shuffle saves
        rows.append(_row(folder, plain, f"{spec.name}{PLAIN}", operations))
    return rows


def _int8(folder: Path, path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Row for a Q/DQ file, compared with the fp32 model of the same architecture and scale."""
    spec = require_spec(load_model(path), str(path))
    like = next(
        row
        for row in rows
        if (row["spec"]["architecture"], row["spec"]["scale"]) == (spec.architecture, spec.scale)
    )
    return _row(folder, source_of(path), str(like["model"]), like["operations_per_pixel"])


def _row(folder: Path, source: BuildSource, model: str, operations: int) -> dict[str, Any]:
    """Write a graph into `folder`, and return its row for `models.json`."""
    name = f"{model}-{source.spec.precision}-{source.pixels}.graph"
    (folder / name).write_bytes(source.graph)
    return {
        "model": model,
        "precision": source.spec.precision,
        "pixels": source.pixels,
        "graph": name,
        "onnx": f"{model}.onnx",
        "sha256": source.sha256,
        "spec": json.loads(source.spec.to_json()),
        "operations_per_pixel": operations,
    }


def _pictures(target: Path, photos: Path | None) -> None:
    """Write originals and small versions of them, uint8, for models of scale 4."""
    files = sorted(p for p in photos.iterdir() if p.suffix == ".png") if photos else []
    files = files or [EXAMPLE]
    arrays: dict[str, Any] = {}
    for number, (height, width) in enumerate(CROPS):
        large = read_image(files[number * 7 % len(files)]).pixels
        times = (-(-height * SCALE // large.shape[0]), -(-width * SCALE // large.shape[1]), 1)
        large = np.tile(large, times)[
            : height * SCALE, : width * SCALE
        ]  # the example picture is small, so it is repeated
        small = np.ascontiguousarray(_shrunk(large, height, width, SCALE))
        arrays |= {f"hr{number}": large, f"lr{number}": small}
    np.savez_compressed(target, **arrays)


def _references(folder: Path, spec: ModelSpec, model: Path) -> None:
    """Write ONNX Runtime's fp32 results for the small pictures on the CPU."""
    if spec.scale != SCALE:
        raise UsageError(f"{model}: this suite compares models of scale {SCALE}, got {spec.scale}")
    data = np.load(folder / "pictures.npz")
    with OnnxRuntimeEngine(model) as engine:
        found = {f"sr{number}": engine.run(data[f"lr{number}"][None])[0] for number in range(len(CROPS))}
    np.savez_compressed(folder / f"{spec.name}.npz", **found)


def _shrunk(large: Any, height: int, width: int, scale: int) -> Any:
    """The original, made smaller."""
    if min(height, width) == 1:  # nothing to interpolate along that axis
        return large[::scale, ::scale]
    return imresize(large, size=(height, width))


def operations_per_pixel(model: onnx.ModelProto, channels: int, side: int = 64) -> int:
    """Multiplications and additions of all convolutions, per input pixel."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    port = twin.graph.input[0]
    port.CopyFrom(
        helper.make_tensor_value_info(port.name, port.type.tensor_type.elem_type, [1, channels, side, side])
    )
    for value in twin.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(twin, data_prop=True).graph
    sizes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.value_info, *graph.output)
    }
    weights = {t.name: t.dims for t in graph.initializer}
    total = sum(
        2 * int(np.prod(weights[node.input[1]])) * int(np.prod(sizes[node.output[0]][2:]))
        for node in graph.node
        if node.op_type == "Conv"
    )
    return total // side**2


def _srresnet(folder: Path, spare: Path, source: str) -> Path:
    """Export a checkpoint to ONNX; for a number, an untrained net with that seed, for a rehearsal."""
    from sr_deploy.training.checkpoint import CheckpointInfo, find_checkpoint, save_checkpoint
    from sr_deploy.training.export.to_onnx import export_onnx

    kept = folder / "srresnet-x4.safetensors"
    if source.isdecimal():
        import torch

        from sr_deploy.training.nets import build_net

        torch.manual_seed(int(source))
        save_checkpoint(kept, build_net("srresnet", 4, {}), _info(CheckpointInfo))
    else:
        shutil.copy(find_checkpoint(Path(source)), kept)
    target = spare / "srresnet-x4.onnx"
    export_onnx(kept, target, check=False)
    return target


def _info(kind: Any) -> Any:
    return kind(name="srresnet-x4", architecture="srresnet", scale=4, parameters={})


def _unsupported(path: Path) -> None:
    """Write a graph with an operator that no runtime has; the error must name it."""
    pictures = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3, f"{name}h", f"{name}w"])
        for name in ("pixels", "upscaled")
    ]
    node = helper.make_node("Sharpen", ["pixels"], ["upscaled"], name="sharpen_1", domain="com.example")
    graph = helper.make_graph([node], "unsupported", pictures[:1], pictures[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
