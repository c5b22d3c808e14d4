"""The nets: shapes, folding, the weights that carry over from x2 to x4, and the halo."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sr_deploy.errors import UsageError
from sr_deploy.training.export.halo import measure_halo
from sr_deploy.training.nets import NETS, build_net, size_rule_of
from sr_deploy.training.nets.blocks import (
    FoldableConv,
    Folding,
    InterpolatedChannels,
    WeightedResidual,
    conv3x3,
    fold,
    stages_of,
)
from sr_deploy.training.nets.unet import mirrored_index

SMALL = {
    "rt": {"features": 6, "depth": 2},
    "srresnet": {"features": 6, "blocks": 2},
    "unet": {"features": 4, "levels": 2},
}
SCALES = (2, 3, 4, 8)


def small_net(architecture: str, scale: int, **changes: object) -> nn.Module:
    """Build a small net in which every weight matters: all are random and none is zero."""
    torch.manual_seed(1)
    net = build_net(architecture, scale, SMALL[architecture] | changes).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def picture(height: int, width: int, channels: int = 3, count: int = 1) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("architecture", sorted(NETS))
def test_a_net_multiplies_any_size_by_its_scale(architecture: str, scale: int) -> None:
    net = small_net(architecture, scale)
    for height, width in ((8, 12), (7, 5), (1, 1), (2, 9)):
        with torch.no_grad():
            assert net(picture(height, width, count=2)).shape == (2, 3, height * scale, width * scale)


@pytest.mark.parametrize("architecture", sorted(NETS))
def test_a_grey_net_takes_and_gives_one_channel(architecture: str) -> None:
    with torch.no_grad():
        assert small_net(architecture, 2, channels=1)(picture(8, 8, channels=1)).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("architecture", sorted(NETS))
def test_a_fresh_net_starts_near_the_nearest_neighbour_picture(architecture: str) -> None:
    torch.manual_seed(0)
    net = build_net(architecture, 4, SMALL[architecture])
    small = picture(16, 16)
    nearest = small.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    with torch.no_grad():
        assert (net(small) - nearest).square().mean() < 0.1 * nearest.var()


def test_a_deep_plain_net_passes_on_from_the_start_what_it_sees() -> None:
    torch.manual_seed(0)
    net = build_net("rt", 2, {"features": 16, "depth": 20, "foldable": False})
    features, powers = picture(24, 24), []
    with torch.no_grad():
        for conv in net.body:  # type: ignore[union-attr]
            features = net.activation(conv(features))  # type: ignore[operator]
            powers.append(features.square().mean())
    assert 0.1 < powers[-1] / powers[0] < 10


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("rt", {}),
        ("rt", {"residual": "bicubic"}),
        ("rt", {"foldable": False, "activation": "relu"}),
        ("rt", {"foldable": False, "residual": "bicubic", "back_projection": True}),
        ("srresnet", {"residual_weight": 0.3, "residual": "bicubic"}),
        ("srresnet", {"learn_residual_weight": True}),
        ("unet", {"learn_residual_weight": True, "blocks": 2}),
    ],
)
def test_a_folded_net_computes_the_same_with_plain_convolutions(
    architecture: str, changes: dict[str, object]
) -> None:
    net = small_net(architecture, 2, **changes)
    plain = net.fold()  # type: ignore[operator]
    small = picture(13, 18)
    with torch.no_grad():
        assert (net(small) - plain(small)).abs().max() < 1e-5
        assert (plain(small) - plain.fold()(small)).abs().max() == 0
    assert not any(isinstance(m, Folding) for m in plain.modules())


def test_folding_leaves_the_net_itself_as_it_was() -> None:
    net = small_net("srresnet", 2, residual_weight=0.3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.fold()  # type: ignore[operator]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_folded_convolution_is_exact_for_unequal_channels_and_keeps_its_bias() -> None:
    conv = FoldableConv(3, 7)
    nn.init.normal_(conv.bias)
    with torch.no_grad():
        assert (conv(picture(9, 9)) - conv.fold()(picture(9, 9))).abs().max() < 1e-5


def test_a_residual_weight_multiplies_the_branch_and_not_the_skip() -> None:
    block = nn.Sequential(conv3x3(3, 3))
    small = picture(6, 6)
    with torch.no_grad():
        expected = small + 0.25 * block(small)
        assert torch.allclose(WeightedResidual(block, 0.25)(small), expected)


def test_a_learned_residual_weight_is_a_parameter_of_every_block_and_receives_gradient() -> None:
    net = small_net("srresnet", 2, learn_residual_weight=True)
    net(picture(8, 8)).mean().backward()
    weights = [p for name, p in net.named_parameters() if name.endswith(".weight") and p.ndim == 0]
    assert len(weights) == 2
    assert all(w.grad is not None and w.grad != 0 for w in weights)


def test_a_fixed_residual_weight_is_a_setting_that_checkpoints_do_not_carry() -> None:
    names = small_net("srresnet", 2, residual_weight=0.3).state_dict()
    assert not any(name.endswith("body.0.weight") for name in names)


@pytest.mark.parametrize(
    ("architecture", "fresh"),
    [
        ("rt", {"head.weight", "head.bias"}),
        ("srresnet", {"head.stages.1.conv.weight", "head.stages.1.conv.bias"}),
        ("unet", {"head.stages.1.conv.weight", "head.stages.1.conv.bias"}),
    ],
)
def test_all_but_the_second_stage_carries_from_x2_to_x4_by_name_and_shape(
    architecture: str, fresh: set[str]
) -> None:
    small, large = (small_net(architecture, scale).state_dict() for scale in (2, 4))
    fitting = {k for k, v in large.items() if k in small and small[k].shape == v.shape}
    assert set(large) - fitting == fresh


def test_bilinear_and_nearest_residuals_share_their_weights() -> None:
    nearest, bilinear = (small_net("rt", 2, residual=kind) for kind in ("nearest", "bilinear"))
    assert nearest.state_dict().keys() == bilinear.state_dict().keys()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", SCALES)
def test_the_way_around_is_interpolation_before_and_after_folding(scale: int, mode: str) -> None:
    around, small = InterpolatedChannels(3, scale, mode), picture(5, 7)
    expected = functional.interpolate(small, scale_factor=float(scale), mode=mode)
    assert torch.equal(functional.pixel_shuffle(around(small), scale), expected)
    assert torch.allclose(functional.pixel_shuffle(around.fold()(small), scale), expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in around.fold().parameters())


def test_the_stages_of_a_scale_multiply_to_it() -> None:
    assert {scale: stages_of(scale) for scale in SCALES} == {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


def test_an_odd_picture_through_the_unet_is_mirrored_and_cropped() -> None:
    net = small_net("unet", 2)
    small = picture(6, 9)
    mirrored = torch.cat([small, small[:, :, [4, 3]]], dim=2)
    mirrored = torch.cat([mirrored, mirrored[:, :, :, [7, 6, 5]]], dim=3)
    with torch.no_grad():
        assert torch.equal(net(small), net(mirrored)[:, :, :12, :18])


def test_mirroring_repeats_the_first_pixel_where_the_mirror_runs_out() -> None:
    assert mirrored_index(1, 4).tolist() == [0, 0, 0, 0]
    assert mirrored_index(2, 4).tolist() == [0, 1, 0, 0]
    assert mirrored_index(7, 4).tolist() == [0, 1, 2, 3, 4, 5, 6, 5]


def test_only_the_unet_has_a_size_rule() -> None:
    assert size_rule_of(small_net("unet", 2, levels=3)).multiple_of == 8
    assert size_rule_of(small_net("rt", 2)).multiple_of == 1


@pytest.mark.parametrize(
    ("architecture", "parameters", "says"),
    [
        ("rtt", {}, "unknown architecture 'rtt'"),
        ("rt", {"width": 3}, "'width'"),
        ("rt", {"residual": "cubic"}, "nearest, bilinear, bicubic"),
        ("unet", {"residual": "lanczos"}, "nearest, bilinear, bicubic"),
        ("rt", {"depth": 0}, "depth"),
        ("srresnet", {"activation": "swish"}, "leaky_relu, relu, relu6"),
        ("srresnet", {"blocks": 1.5}, "blocks"),
        ("unet", {"levels": True}, "levels"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(
    architecture: str, parameters: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        build_net(architecture, 2, parameters)


@pytest.mark.parametrize("architecture", sorted(NETS))
def test_a_scale_the_nets_do_not_have_is_refused(architecture: str) -> None:
    with pytest.raises(UsageError, match="2, 3, 4, 8"):
        build_net(architecture, 5, {})


# The halo by hand. Go from one output pixel back to the input and widen an interval [low, high]: a 3x3 convolution
# adds one on both sides, an upsampling by f divides (rounding down), and a 2x2 convolution of stride 2 reads
# [2 low, 2 high + 1].


def read_by_convolutions(span: tuple[int, int], count: int) -> tuple[int, int]:
    return span[0] - count, span[1] + count


def read_by_shuffle(span: tuple[int, int], factor: int) -> tuple[int, int]:
    return span[0] // factor, span[1] // factor


def halo_by_hand(architecture: str, scale: int, **p: int) -> int:
    halos = []
    for pixel in range(64 * scale, 72 * scale):
        span = _read(architecture, scale, (pixel, pixel), p)
        halos += [pixel // scale - span[0], span[1] - pixel // scale]
    return max(halos)


def _read(architecture: str, scale: int, span: tuple[int, int], p: dict[str, int]) -> tuple[int, int]:
    if architecture == "rt":
        added_halo = 4 if p.get("back_projection") else 0
        return read_by_convolutions(read_by_shuffle(span, scale), p["depth"] + 2 + added_halo)
    span = read_by_convolutions(span, 1)  # the last convolution
    for factor in reversed(stages_of(scale)):
        span = read_by_convolutions(read_by_shuffle(span, factor), 1)
    if architecture == "srresnet":
        return read_by_convolutions(span, 2 * p["blocks"] + 1)
    for _ in range(
        p["levels"]
    ):  # the way up, backwards: residual blocks, merge, shuffle, the convolution before it
        span = read_by_convolutions(span, 2 * p["blocks"] + 1)
        span = read_by_convolutions(read_by_shuffle(span, 2), 1)
    span = read_by_convolutions(span, 2 * p["blocks"])
    for _ in range(p["levels"]):
        span = (2 * span[0], 2 * span[1] + 1)
        span = read_by_convolutions(span, 2 * p["blocks"])
    return read_by_convolutions(span, 1)


@pytest.mark.parametrize(
    ("architecture", "scale", "parameters"),
    [
        ("rt", 2, {"depth": 1}),
        ("rt", 4, {"depth": 5}),
        ("rt", 3, {"depth": 20}),
        ("rt", 2, {"depth": 3, "back_projection": True}),
        ("srresnet", 2, {"blocks": 1}),
        ("srresnet", 3, {"blocks": 3}),
        ("srresnet", 4, {"blocks": 8}),
        ("srresnet", 8, {"blocks": 2}),
        ("unet", 2, {"levels": 1, "blocks": 1}),
        ("unet", 4, {"levels": 2, "blocks": 1}),
        ("unet", 3, {"levels": 2, "blocks": 2}),
        ("unet", 2, {"levels": 3, "blocks": 1}),
    ],
)
def test_the_measured_halo_is_the_one_worked_out_by_hand(
    architecture: str, scale: int, parameters: dict[str, int]
) -> None:
    net = small_net(architecture, scale, **parameters)
    assert measure_halo(net) == halo_by_hand(architecture, scale, **parameters)


def test_the_formulas_in_the_docstrings_hold() -> None:
    assert halo_by_hand("rt", 4, depth=8) == 8 + 2
    assert {halo_by_hand("srresnet", scale, blocks=8) for scale in SCALES} == {2 * 8 + 3}


def test_dead_activations_and_cancelling_weights_do_not_shrink_the_halo() -> None:
    net = small_net("rt", 2, foldable=False, depth=3)
    with torch.no_grad():
        for conv in net.body:  # type: ignore[union-attr]
            conv.weight[::2] = -conv.weight[1::2]
            conv.bias.fill_(-100.0)
    assert measure_halo(net) == 5


def test_what_has_no_weight_is_not_in_the_halo() -> None:
    net = small_net("srresnet", 2, blocks=3, learn_residual_weight=True)
    with torch.no_grad():
        net.body[0].weight.zero_()  # type: ignore[index,union-attr,operator]
    assert measure_halo(net) == 2 * 2 + 3


class Dilated(nn.Module):
    """A net with a halo of 2 * 4 along rows and 1 along columns: dilation, and a kernel with an empty middle column."""

    scale, channels = 2, 3

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 12, (3, 5), padding=(1, 8), dilation=(1, 4))
        with torch.no_grad():
            self.wide.weight[..., 1:4] = 0

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.wide(x), 2)


class Global(nn.Module):
    """A net that subtracts the mean of the picture, so that its halo is global."""

    scale, channels = 1, 3

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=(2, 3), keepdim=True)


def test_the_halo_is_the_larger_of_both_axes() -> None:
    assert measure_halo(Dilated()) == 8


def test_a_net_that_sees_the_whole_picture_has_no_halo() -> None:
    assert measure_halo(Global()) is None


@pytest.mark.parametrize("architecture", sorted(NETS))
def test_a_tile_with_the_measured_halo_computes_what_the_whole_picture_does(architecture: str) -> None:
    net = small_net(architecture, 2).double()
    halo, step = measure_halo(net), size_rule_of(net).multiple_of
    assert halo is not None
    whole = picture(4 * halo + 40, 8).double()
    start = (2 * halo) // step * step
    tile = whole[:, :, start : start + 2 * halo + 4 * step + (-2 * halo) % step]
    first, last = start + halo, start + halo + 4 * step
    with torch.no_grad():
        expected = net(whole)[:, :, first * 2 : last * 2]
        got = net(tile)[:, :, halo * 2 : (halo + 4 * step) * 2]
    assert (expected - got).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [2, 4])
def test_a_net_behind_an_unshuffle_computes_what_the_net_itself_does(scale: int) -> None:
    net = small_net("rt", scale, foldable=False)
    behind = net.behind_unshuffle(2)
    assert behind.head.in_channels == 4 * net.head.in_channels
    assert size_rule_of(behind).multiple_of == 2
    x = picture(10, 14, count=2)
    with torch.no_grad():
        assert torch.allclose(behind(x), net(x), atol=1e-5)
        assert torch.allclose(fold(behind)(x), behind(x), atol=1e-6)
    strides = [conv.stride for conv in fold(behind).modules() if isinstance(conv, nn.Conv2d)]
    assert strides.count((2, 2)) == 2  # the first one, and the one around the net
    assert measure_halo(behind) in (measure_halo(net), measure_halo(net) + 1)


def test_a_fresh_net_behind_an_unshuffle_starts_near_the_nearest_neighbour_picture() -> None:
    torch.manual_seed(0)
    net = build_net(
        "rt", 4, {"features": 16, "depth": 3, "unshuffle": 2, "activation": "relu", "foldable": False}
    )
    x = picture(12, 8)
    nearest = functional.interpolate(x, scale_factor=4.0)
    with torch.no_grad():
        detail = net(x) - nearest
        assert detail.abs().mean() < 0.2
        # By ICNR all large pixels of a small one start alike.
        assert torch.allclose(
            detail, functional.interpolate(detail[..., ::4, ::4], scale_factor=4.0), atol=1e-6
        )


def test_what_an_unshuffle_does_not_go_with_is_refused() -> None:
    bicubic = {"residual": "bicubic", "back_projection": True}
    for wrong in ({"residual": "bilinear"}, bicubic, {"unshuffle": 0}, {"foldable": True}):
        with pytest.raises(UsageError, match="unshuffle"):
            build_net("rt", 2, {"unshuffle": 2, "foldable": False} | wrong)
    with pytest.raises(UsageError, match="plain net"):
        small_net("rt", 2).behind_unshuffle(2)


def test_a_widened_net_computes_what_the_net_itself_does_and_can_train_its_new_weights() -> None:
    net = small_net("rt", 4, foldable=False)
    width = net.head.in_channels
    wide = net.widened(width + 6)
    assert wide.head.in_channels == width + 6
    assert [conv.in_channels for conv in wide.body] == [3] + [width + 6] * wide.depth
    x = picture(10, 14, count=2)
    with torch.no_grad():
        assert torch.allclose(wide(x), net(x), atol=1e-6)
    wide(x).square().mean().backward()
    # Zeros that see new channels have gradients, so training changes them.
    assert all(conv.weight.grad[:width, width:].abs().max() > 0 for conv in (*wide.body[1:], wide.head))


def test_a_net_that_cannot_be_widened_is_refused() -> None:
    net = small_net("rt", 2, foldable=False)
    for wrong in (small_net("rt", 2), net.behind_unshuffle(2)):
        with pytest.raises(UsageError, match="without branches"):
            wrong.widened(64)
    with pytest.raises(UsageError, match="of at most 2 features"):
        net.widened(2)
