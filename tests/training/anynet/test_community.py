"""Community checkpoints through spandrel: small instances with random weights, and the four real nets where they lie."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("spandrel")
pytestmark = [pytest.mark.xdist_group("community"), pytest.mark.filterwarnings("ignore:.*torch.meshgrid.*")]

from sr_deploy.errors import InputError, SrDeployError  # noqa: E402
from sr_deploy.images.image import Image, read_image, write_image  # noqa: E402
from sr_deploy.quality.dead_leaves import dead_leaves  # noqa: E402
from sr_deploy.training.anynet.community import load_community  # noqa: E402
from sr_deploy.upscale import Upscaler  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from benchmarks.architectures.instances import INSTANCES, weights_of  # noqa: E402

NETS = Path(os.environ.get("SR_DEPLOY_NETS", "no-nets"))
"""Folder with trained weights; tests that need them are skipped where it is absent."""
IN_CI = (
    "Compact", "ESRGAN", "SPAN", "PLKSR", "DnCNN", "DRUNet", "NAFNet", "RealCUGAN", "RCAN", "SAFMN", "SwiftSRGAN",
    "MoSR", "SwinIR", "SeemoRe",
)  # fmt: skip
"""Architectures that are exported here: those of most published files, one with windows, and one of experts."""


@pytest.fixture
def export(tmp_path, monkeypatch):
    """Run `sr-deploy export` in this process; returns the result and the path of the file."""
    from click.testing import CliRunner

    from sr_deploy.cli import main

    def call(source: Path, *options: str):
        out = tmp_path / "net.onnx"
        result = CliRunner().invoke(main, ["export", str(source), "-o", str(out), *options])
        return result, out

    return call


def checkpoint_of(name: str, folder: Path) -> Path:
    path = folder / f"{name}.pth"
    torch.save({"params_ema": weights_of(name)}, path)
    return path


def torch_picture(path: Path, pixels: np.ndarray, spec) -> np.ndarray:
    """What torch computes, in 0..255, with the padding of sr-deploy."""
    source = load_community(path)
    height, width = pixels.shape[:2]
    tall, wide = spec.size_rule.padded(height, width)
    padded = np.pad(pixels, ((0, tall - height), (0, wide - width), (0, 0)), mode="reflect")
    with torch.inference_mode():
        result = source.net(torch.from_numpy(padded.transpose(2, 0, 1)[None] / np.float32(255)))[0]
    cropped = result.numpy().transpose(1, 2, 0)[: height * spec.scale, : width * spec.scale]
    return np.clip(cropped, 0, 1) * 255


@pytest.mark.parametrize("name", IN_CI)
def test_an_architecture_goes_from_checkpoint_to_picture(export, tmp_path, name):
    path = checkpoint_of(name, tmp_path)
    result, out = export(path)
    assert result.exit_code == 0, result.output
    pixels = np.ascontiguousarray(dead_leaves(45, 53, seed=3))
    with Upscaler.open(out, backend="onnxruntime") as upscaler:
        got = upscaler.upscale(Image(pixels=pixels)).pixels
        wanted = torch_picture(path, pixels, upscaler.spec)
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("name", ["SeemoRe", "HVICIDNet"])
def test_a_net_that_follows_values_computes_the_same_on_whole_tensors(tmp_path, name):
    from spandrel import ModelLoader

    path = checkpoint_of(name, tmp_path)
    adapted, own = load_community(path).net, ModelLoader("cpu").load_from_file(path)
    picture = torch.from_numpy(dead_leaves(64, 48, seed=3).transpose(2, 0, 1)[None].copy()) / 255
    picture[:, :, :8, :8] = 0
    picture[:, :, 8:16, :8] = picture[:, :1, 8:16, :8]
    with torch.no_grad():
        assert torch.allclose(adapted(picture).clamp(0, 1), own(picture), atol=1e-6)  # spandrel clamps


class Normalised(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torchvision.transforms.functional import normalize

        return normalize(x, [0.5, 0.25, 0.5], [0.5, 0.5, 0.25])


def test_normalize_of_torchvision_exports():
    import onnxruntime

    from sr_deploy.training.anynet.exporters import AxesRequest, export_with

    model = export_with("dynamo", Normalised(), AxesRequest(channels=3), 18)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, 9, 7)
    assert np.allclose(session.run(None, {"pixels": x.numpy()})[0], Normalised()(x).numpy(), atol=1e-6)


def test_the_instances_are_all_that_spandrel_loads():
    from spandrel import MAIN_REGISTRY

    assert {entry.architecture.id for entry in MAIN_REGISTRY.architectures()} == set(INSTANCES)


def test_info_tells_the_architecture(tmp_path):
    from click.testing import CliRunner

    from sr_deploy.cli import main

    result = CliRunner().invoke(main, ["info", str(checkpoint_of("SPAN", tmp_path))])
    assert result.exit_code == 0, result.output
    assert "SPAN" in result.output
    assert "sr-deploy export" in result.output


def test_an_unknown_architecture_names_the_nearest_and_the_other_way(tmp_path):
    weights = weights_of("SPAN")
    weights.pop("conv_1.sk.weight")
    torch.save(
        {f"renamed.{key}" if "block_1" in key else key: value for key, value in weights.items()},
        tmp_path / "x.pth",
    )
    with pytest.raises(InputError, match=r"no architecture that spandrel knows.*SPAN.*--weights"):
        load_community(tmp_path / "x.pth")


def test_missing_and_extra_weights_are_listed(tmp_path):
    weights = weights_of("Compact")
    weights["body.99.bias"] = torch.zeros(1)
    del weights["body.2.bias"]
    torch.save(weights, tmp_path / "x.pth")
    with pytest.raises(SrDeployError, match=r"looks like") as caught:
        load_community(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)


def test_a_net_that_needs_a_mask_is_told(tmp_path):
    with pytest.raises(InputError, match="needs a mask beside the picture"):
        load_community(checkpoint_of("LaMa", tmp_path))


@pytest.mark.skipif(not NETS.is_dir(), reason="no trained weights here")
@pytest.mark.parametrize("name", ["realesr-animevideov3.pth", "craft_x4.pth"])
def test_a_published_net_equals_torch_whole_and_tiled_on_both_cpu_backends(export, tmp_path, name):
    result, out = export(NETS / name)
    assert result.exit_code == 0, result.output
    pixels = np.ascontiguousarray(dead_leaves(86, 57, seed=3))
    write_image(Image(pixels=pixels), tmp_path / "small.png")
    for backend in ("onnxruntime", "openvino"):
        with Upscaler.open(out, backend=backend) as upscaler:
            wanted = torch_picture(NETS / name, pixels, upscaler.spec)
            assert np.abs(upscaler.upscale(read_image(tmp_path / "small.png")).pixels - wanted).max() <= 1
