"""Try one architecture from checkpoint to picture and write what was found to a JSON file, stage by stage.

A stage that fails leaves its reason in one line. The file is written after every stage, so a process that is stopped by
its time limit still tells how far it came.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.architectures.instances import weights_of
from sr_deploy.errors import SrDeployError, one_line
from sr_deploy.graph.onnx_file import load_model, save_model
from sr_deploy.quality.dead_leaves import dead_leaves
from sr_deploy.spec import ModelSpec
from sr_deploy.training.anynet.source import SourceNet

_TILE = 64


class Trial:
    """The record of one architecture, and the file that it is kept in."""

    def __init__(self, out: Path) -> None:
        self.out, self.record = out, dict[str, Any]()
        self.folder = ""
        """Folder of temporary files, which reasons do not show."""

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one stage and note its result, or the reason why it has none."""
        started = time.perf_counter()
        try:
            result = work()
        except SrDeployError as error:
            result = {"error": self._reason(error)}
        except Exception as error:  # what a library raises is the finding
            result = {"error": f"{type(error).__name__}: {self._reason(error)}"}
        self.record[name] = result
        self.record.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 1)
        self.out.write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        return result

    def _reason(self, error: Exception) -> str:
        return one_line(Exception(str(error).replace(f"{self.folder}/", "")), 300)


def run(name: str, weights: Path | None, out: Path, *, brief: bool = False) -> None:
    """Try the architecture `name`: its instance with random weights, or the file `weights`.

    `brief` stops after the export, and measures no halo.
    """
    from sr_deploy.training.anynet.community import load_community

    torch.set_num_threads(2)
    trial = Trial(out)
    with tempfile.TemporaryDirectory() as temporary:
        folder, trial.folder = Path(temporary), temporary
        checkpoint = weights or folder / f"{name}.pth"
        if weights is None:
            torch.save(weights_of(name), checkpoint)
        trial.record["weights"] = weights.name if weights else "random"
        sources: list[SourceNet] = []
        loaded = trial.stage("load", lambda: sources.append(load_community(checkpoint)) or {})
        if "error" in loaded:
            return
        target = folder / "model.onnx"
        source = replace(sources[0], halo=0) if brief else sources[0]
        exported = trial.stage("export", lambda: export(source, target))
        if brief and "halo" in exported:
            exported["halo"] = "not measured"
            trial.stage("brief", lambda: True)
        elif "error" not in exported:
            further(trial, sources[0], target)


def export(source: SourceNet, target: Path) -> dict[str, Any]:
    """Export in fp32; the facts for the table."""
    from sr_deploy.training.anynet.exporting import export_source

    result = export_source(source, target, say=lambda line: print(line, file=sys.stderr, flush=True))
    rule = result.spec.size_rule
    batch = load_model(target).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    return {
        "exporter": result.exporter,
        "nodes": result.nodes,
        "parameters": result.parameters,
        "scale": result.spec.scale,
        "channels": result.spec.channels,
        "fixed": rule.fixed,
        "multiple": rule.multiple_of,
        "minimum": rule.minimum,
        "batch": batch or "any",
        "halo": result.spec.halo,
        "parity": result.parity.largest.value if result.parity else None,
        "tried": list(result.tried),
        "notes": list(result.notes),
    }


def further(trial: Trial, source: SourceNet, target: Path) -> None:
    """Run the exported file on both CPU backends, whole and tiled, in other precisions, and build it for RTX."""
    from sr_deploy.spec import ModelSpec

    spec = ModelSpec.from_json(
        next(e.value for e in load_model(target).metadata_props if e.key == "sr_deploy")
    )
    picture = picture_for(spec)
    wanted = torch_result(source, spec, picture)
    for backend in ("onnxruntime", "openvino"):
        trial.stage(
            backend, lambda backend=backend: {"steps": steps(upscaled(target, backend, picture), wanted)}
        )
    trial.stage("tiled", lambda: tiled(target, spec, picture))
    for precision in ("fp16", "bf16", "int8"):
        trial.stage(precision, lambda precision=precision: converted(target, precision, picture, wanted))
    if find_spec("tensorrt_rtx") is not None:  # else it stays untried
        trial.stage("rtx", lambda: built(target))


def picture_for(spec: ModelSpec) -> Any:
    """Return a synthetic photograph [h, w, C] of uint8 that the model takes as it is, with odd sides if it can."""
    height, width = spec.size_rule.fixed or spec.size_rule.padded(117, 91)
    return np.ascontiguousarray(dead_leaves(height, width, seed=7)[..., : 3 if spec.channels == 3 else 1])


def torch_result(source: SourceNet, spec: ModelSpec, picture: Any) -> Any:
    """Return torch's picture [H, W, C] in 0..255, clipped and not rounded."""
    with torch.inference_mode():
        result = source.net(torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(255)))[0]
    return np.clip(result.numpy().transpose(1, 2, 0), 0, 1) * 255


def upscaled(target: Path, backend: str, picture: Any, tile: Any = None) -> Any:
    """Return the picture that sr-deploy makes, [H, W, C] of uint8."""
    from sr_deploy.images.image import Image
    from sr_deploy.upscale import Upscaler

    with Upscaler.open(target, backend=backend, tile=tile) as upscaler:
        return upscaler.upscale(Image(pixels=picture)).pixels


def steps(found: Any, wanted: Any) -> float:
    """Return the largest difference in 8-bit steps, beyond the half step of rounding."""
    found = found.reshape(wanted.shape) if found.ndim == 2 else found
    return round(float(max(np.abs(found.astype(np.float64) - wanted).max() - 0.5, 0)), 3)


def tiled(target: Path, spec: ModelSpec, picture: Any) -> dict[str, Any]:
    """Compare tiles with the whole picture on ONNX Runtime."""
    if spec.halo is None:
        return {"global": True}
    if spec.size_rule.fixed:
        return {"fixed": True}
    large = np.tile(picture, (spec.halo // 40 + 3, spec.halo // 40 + 3, 1))
    enlarged = np.ascontiguousarray(large[: 2 * spec.halo + 200, : 2 * spec.halo + 180])
    whole = upscaled(target, "onnxruntime", enlarged, None)
    step = spec.size_rule.multiple_of
    tile = -(-(2 * spec.halo + _TILE) // step) * step
    parts = upscaled(target, "onnxruntime", enlarged, tile)
    return {"steps": int(np.abs(whole.astype(int) - parts).max()), "tile": tile}


def converted(target: Path, precision: str, picture: Any, wanted: Any) -> dict[str, Any]:
    """Convert the file to another precision and compare its picture with torch's; bf16 and int8 run on OpenVINO too."""
    from sr_deploy.precision.convert import convert

    photographs = None
    if precision == "int8":
        photographs = target.parent / "photographs"
        if not photographs.exists():
            photographs.mkdir()
            from sr_deploy.images.image import Image, write_image

            for seed in range(4):
                write_image(Image(pixels=dead_leaves(192, 192, seed=seed)), photographs / f"{seed}.png")
    other = target.with_name(f"{precision}.onnx")
    result = convert(load_model(target), precision, data=photographs, tolerance=100.0)
    save_model(result.model, other)
    backend = "openvino" if precision == "bf16" else "onnxruntime"
    found = upscaled(other, backend, picture)
    error = np.mean((found.reshape(wanted.shape).astype(np.float64) - wanted) ** 2)
    return {"psnr": round(float(10 * np.log10(255**2 / max(error, 1e-9))), 1), "kept": len(result.notes.kept)}


def built(target: Path) -> dict[str, Any]:
    """Parse and build the file with TensorRT for RTX, which needs no GPU for that."""
    import subprocess

    engine = target.with_name("model.engine")
    command = [
        sys.executable,
        "-m",
        "sr_deploy",
        "build",
        str(target),
        "-o",
        str(engine),
        "--runtime",
        "tensorrt-rtx",
    ]
    done = subprocess.run(
        [*command, "--capabilities", "8.6"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        timeout=240,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": one_line(Exception(lines[-1] if lines else f"exit code {done.returncode}"), 300)}
    return {"bytes": engine.stat().st_size}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--brief", action="store_true")
    arguments = parser.parse_args()
    run(arguments.name, arguments.weights, arguments.out, brief=arguments.brief)
