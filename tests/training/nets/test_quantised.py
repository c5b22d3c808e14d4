"""Quantisation-aware training: what is rounded, which gradients there are, and that the int8 file computes the same."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr_deploy.graph.onnx_file import load_model
from sr_deploy.graph.session import open_session
from sr_deploy.precision.convert import convert
from sr_deploy.precision.quantise import rounded_weights, weight_scales
from sr_deploy.training.checkpoint import CheckpointInfo, load_net, read_checkpoint, save_checkpoint
from sr_deploy.training.export.to_onnx import export_onnx
from sr_deploy.training.nets import build_net
from sr_deploy.training.nets.blocks import fold
from sr_deploy.training.nets.quantised import (
    QuantisedInput,
    calibrate,
    learned_ranges,
    plain_tensors,
    quantise,
    rounded_weight,
)

RT = {"features": 8, "depth": 2, "activation": "relu"}


def net_of(architecture: str = "rt", scale: int = 2, **parameters: object) -> nn.Module:
    torch.manual_seed(0)
    return build_net(architecture, scale, parameters or RT).eval()


def pictures(count: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 12, 16), generator=random).float() / 255


def quantised(net: nn.Module) -> nn.Module:
    quantise(net)
    calibrate(net, pictures())
    return net


def inputs_of(net: nn.Module) -> dict[str, QuantisedInput]:
    return {name: module for name, module in net.named_modules() if isinstance(module, QuantisedInput)}


def test_weights_are_rounded_as_the_int8_file_stores_them() -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    scales = weight_scales(weight.numpy())
    wanted = rounded_weights(weight.numpy(), scales) * scales[:, None, None, None]
    assert np.allclose(rounded_weight(weight).numpy(), wanted, atol=1e-7)


@pytest.mark.parametrize("signed", [False, True])
def test_an_input_is_rounded_to_steps_from_zero_and_clipped_to_its_range(signed: bool) -> None:
    net = quantised(net_of())
    module = inputs_of(net)["body.1"]
    with torch.no_grad():
        module.log_range.fill_(2.0).log_()
        module.low.fill_(-127 if signed else 0)
        module.high.fill_(127 if signed else 255)
    step = 2 / (127 if signed else 255)
    got = module.rounded(torch.tensor([-9.0, -0.6 * step, 0.0, 0.4 * step, 0.9, 3.0]))
    lowest = [-2.0, -step] if signed else [0.0, 0.0]
    assert torch.allclose(got, torch.tensor([*lowest, 0.0, 0.0, round(0.9 / step) * step, 2.0]), atol=1e-6)


def test_gradients_pass_the_rounding_and_a_range_learns_as_in_lsq() -> None:
    module = inputs_of(quantised(net_of()))["body.1"]
    with torch.no_grad():
        module.log_range.fill_(2.0).log_()
    x = torch.tensor([-1.0, 0.3, 1.1, 2.5], requires_grad=True)
    module.rounded(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 0])
    step = 2 / 255
    inside = sum(round(value / step) - value / step for value in (0.3, 1.1))
    assert module.log_range.grad is not None
    assert float(module.log_range.grad) == pytest.approx((inside + 255) * step, rel=1e-3)


def test_pixels_are_exact_and_stay_so() -> None:
    net = quantised(net_of())
    first = inputs_of(net)["body.0"]
    assert learned_ranges(net)["body.0"] == {"range": 1.0, "signed": False}
    assert torch.allclose(first.rounded(pictures()), pictures(), atol=1e-7)
    net(pictures() + 0.01).square().sum().backward()
    assert first.log_range.grad is not None
    assert float(first.log_range.grad) == 0


def test_only_what_may_be_negative_is_signed() -> None:
    found = learned_ranges(quantised(net_of("srresnet", features=6, blocks=1, activation="relu")))
    signed = {name for name, it in found.items() if it["signed"]}
    assert signed == {"head.stages.0.conv"}  # it reads the sum of a residual block
    assert not any(it["signed"] for it in learned_ranges(quantised(net_of())).values())


def test_a_quantised_net_keeps_the_names_of_its_weights_and_its_checkpoint_is_plain(tmp_path: Path) -> None:
    net = net_of()
    before = copy.deepcopy(net.state_dict())
    quantised(net)
    kept = plain_tensors(net.state_dict())
    assert kept.keys() == before.keys()
    assert all(torch.equal(kept[name], before[name]) for name in before)
    path = tmp_path / "net.safetensors"
    info = CheckpointInfo(name="q", architecture="rt", scale=2, parameters=RT, ranges=learned_ranges(net))
    save_checkpoint(path, net, info)
    assert read_checkpoint(path)[0].ranges == learned_ranges(net)
    assert not inputs_of(load_net(path)[0])
    assert torch.allclose(
        fold(net).state_dict()["body.1.weight"], fold(net_of()).state_dict()["body.1.weight"]
    )


@pytest.mark.parametrize("more", [{}, {"foldable": False}, {"unshuffle": 2, "foldable": False}], ids=str)
def test_the_int8_file_computes_what_was_trained(tmp_path: Path, more: dict[str, object]) -> None:
    net = net_of(**RT, **more)
    plain = copy.deepcopy(net)
    quantised(net)
    with torch.no_grad():
        for module in inputs_of(net).values():
            module.log_range.add_(0.01 * (module.log_range != 0))  # as if it had been learnt
    info = CheckpointInfo(
        name="q", architecture="rt", scale=2, parameters={**RT, **more}, ranges=learned_ranges(net)
    )
    save_checkpoint(tmp_path / "net.safetensors", net, info)
    export_onnx(tmp_path / "net.safetensors", tmp_path / "net.onnx", check=False)
    made = convert(load_model(tmp_path / "net.onnx"), "int8")
    assert (made.notes.method, made.notes.kept, made.notes.photographs) == ("learned", (), 0)
    zeros = [t for t in made.model.graph.initializer if t.name.endswith("_zero") and not t.dims]
    assert len(zeros) == 4  # one for each convolution
    assert all(t.data_type == 2 and not any(t.raw_data) for t in zeros)  # uint8, zero
    x = pictures()
    (got,) = open_session(made.model, "q").run(None, {"pixels": x.numpy()})
    with torch.no_grad():
        trained, whole = net(x).numpy(), plain(x).numpy()
    # Where a sum lies at half a step, the order of additions decides, and a step more or less spreads a little.
    assert np.abs(got - trained).mean() < 0.1 * np.abs(whole - trained).mean()
