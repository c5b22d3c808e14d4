"""One's own module to ONNX: what is measured, what is refused, and the traps that only odd sizes show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sr_deploy
from sr_deploy.errors import InputError, ModelError, UsageError
from sr_deploy.graph.onnx_file import load_model, read_spec
from sr_deploy.spec import SizeRule

pytestmark = pytest.mark.xdist_group("export")

ODD = ((63, 67), (37, 53), (64, 64))


class Shuffle(nn.Module):
    """A net whose PixelShuffle is written as reshape, permute and reshape."""

    def __init__(self, scale: int = 2, features: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = scale
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.last = nn.Conv2d(features, 3 * scale**2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r, (n, _, h, w) = self.scale, x.shape
        y = self.last(torch.relu(self.first(x))) * 0.1
        y = y.view(n, 3, r, r, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, 3, h * r, w * r)
        return y + F.interpolate(x, scale_factor=r, mode="nearest")


class Resampled(nn.Module):
    """A net that makes its picture smaller inside, by `F.interpolate` with the given options, and large again."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = F.interpolate(x, **self.options)
        return F.interpolate(small, size=x.shape[2:], mode="nearest")


def export(net: object, folder: Path, **options: object):
    return sr_deploy.export(net, folder / "net.onnx", value_range=(0.0, 1.0), **options)


def differences(net: nn.Module, path: Path, sizes=ODD) -> list[float]:
    """The largest difference between torch and ONNX Runtime at each size."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = []
    for height, width in sizes:
        x = torch.rand(1, 3, height, width)
        with torch.no_grad():
            found.append(float(np.abs(session.run(None, {"pixels": x.numpy()})[0] - net(x).numpy()).max()))
    return found


def test_a_module_becomes_a_model_that_describes_itself(tmp_path):
    net = Shuffle().eval()
    result = export(net, tmp_path)
    spec = read_spec(load_model(tmp_path / "net.onnx"))
    assert (spec.name, spec.scale, spec.channels, spec.halo) == ("Shuffle", 2, 3, 2)
    assert spec.size_rule == SizeRule()
    assert result.exporter in ("dynamo", "torchscript")
    assert any("nodes" in line for line in result.tried)
    assert max(differences(net, tmp_path / "net.onnx")) < 1e-5


def test_depth_to_space_is_recovered_from_its_long_form(tmp_path):
    export(Shuffle(3), tmp_path)
    kinds = [node.op_type for node in load_model(tmp_path / "net.onnx").graph.node]
    assert kinds.count("DepthToSpace") == 1
    assert "Transpose" not in kinds


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialiased_interpolation_by_a_factor_is_not_shifted_at_odd_sizes(tmp_path, mode):
    """Torch 2.13's exporter writes a Resize by sizes, which shifts a ramp by up to one output pixel."""
    net = Resampled(scale_factor=0.25, mode=mode, antialias=True)
    export(net, tmp_path)
    assert max(differences(net, tmp_path / "net.onnx")) < 1e-5
    ramp = torch.linspace(0, 1, 63)[None, None, :, None].expand(1, 3, 63, 67).contiguous()
    session = onnxruntime.InferenceSession((tmp_path / "net.onnx").read_bytes())
    assert np.abs(session.run(None, {"pixels": ramp.numpy()})[0] - net(ramp).numpy()).max() < 1e-5


def test_area_interpolation_keeps_the_last_row_and_column_of_odd_sizes(tmp_path):
    """Torch 2.13's exporter writes one AveragePool, which drops them."""
    net = Resampled(scale_factor=0.5, mode="area")
    export(net, tmp_path)
    assert max(differences(net, tmp_path / "net.onnx")) < 1e-5


class Sorted(nn.Module):
    """A net that sorts its pixels by a few brightnesses, so that most of them are equal."""

    def __init__(self, *, stable: bool | None = None) -> None:
        super().__init__()
        self.stable = stable

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        _, order = torch.sort((flat.mean(1) * 4).long(), dim=-1, stable=self.stable)
        return flat.gather(2, order.unsqueeze(1).expand(flat.shape)).view(x.shape)


def test_sorting_keeps_the_order_of_equal_values(tmp_path):
    """Torch 2.14's exporter has no translation of it, and its own order of equal values is open."""
    result = export(Sorted(), tmp_path, halo=None)
    assert any("keep their order" in note for note in result.notes)
    assert max(differences(Sorted(stable=True), tmp_path / "net.onnx")) == 0


class Modulated(nn.Module):
    """A net with a layer that is called by a parameter named `mod`, which splits its picture."""

    class Layer(nn.Module):
        def forward(self, x: torch.Tensor, *, mod: torch.Tensor) -> torch.Tensor:
            first, second = x.split([1, 2], dim=1)
            return torch.cat([second, first], dim=1) * mod

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.Layer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, mod=torch.sigmoid(x.mean(1, keepdim=True)))


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_parameter_named_mod_and_a_split_pass_both_exporters(exporter):
    from sr_deploy.training.anynet.exporters import AxesRequest, export_with
    from sr_deploy.training.export.cleaning import clean_graph

    net = Modulated()
    model = export_with(exporter, net, AxesRequest(channels=3), 18)
    clean_graph(model, ["n", 3, "h", "w"], ["n", 3, "h", "w"])
    assert any("Split" in node.op_type for node in model.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.rand(2, 3, 9, 7)
    assert np.allclose(session.run(None, {"pixels": x.numpy()})[0], net(x).numpy(), atol=1e-6)
    assert "__call__" not in vars(Modulated.Layer)


def test_a_net_of_windows_gets_the_multiple_it_needs(tmp_path):
    class Windows(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            y = x.view(n, c, h // 4, 4, w // 4, 4)
            return (y - 0.5 * y.mean((3, 5), keepdim=True)).reshape(n, c, h, w)

    net = Windows()
    export(net, tmp_path)
    rule = read_spec(load_model(tmp_path / "net.onnx")).size_rule
    assert rule.multiple_of % 4 == 0
    assert max(differences(net, tmp_path / "net.onnx", ((32, 48), (48, 32), (16, 64)))) < 1e-5


def test_a_grey_net_and_its_scale_are_measured(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.PixelShuffle(3))
    export(net, tmp_path)
    spec = read_spec(load_model(tmp_path / "net.onnx"))
    assert (spec.channels, spec.scale) == (1, 3)


def test_blue_first_is_turned_round_inside_the_file(tmp_path):
    class First(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :1] * 0.5, x[:, 1:]], 1)

    export(First(), tmp_path, bgr=True)
    session = onnxruntime.InferenceSession((tmp_path / "net.onnx").read_bytes())
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(
        session.run(None, {"pixels": x})[0], x * np.float32([1, 1, 0.5])[None, :, None, None]
    )


def test_a_program_keeps_its_axes(tmp_path):
    net = Shuffle().eval()
    axes = {2: torch.export.Dim("h", min=2, max=4096), 3: torch.export.Dim("w", min=2, max=4096)}
    torch.export.save(
        torch.export.export(net, (torch.rand(1, 3, 24, 40),), dynamic_shapes=(axes,)), tmp_path / "net.pt2"
    )
    export(tmp_path / "net.pt2", tmp_path)
    assert read_spec(load_model(tmp_path / "net.onnx")).size_rule.fixed is None
    assert max(differences(net, tmp_path / "net.onnx")) < 1e-5


def test_a_program_of_one_size_stays_at_it(tmp_path):
    program = torch.export.export(Shuffle().eval(), (torch.rand(1, 3, 24, 40),))
    export(program, tmp_path)
    assert read_spec(load_model(tmp_path / "net.onnx")).size_rule.fixed == (24, 40)


SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, features=4):
        super().__init__()
        self.a = nn.Conv2d(3, features, 3, padding=1)
        self.b = nn.Conv2d(features, 12, 3, padding=1)
        self.c = nn.PixelShuffle(2)
    def forward(self, x):
        return self.c(self.b(torch.relu(self.a(x))))
"""


def test_a_python_file_with_weights(tmp_path):
    (tmp_path / "my_net_file.py").write_text(SOURCE)
    net = nn.Sequential()
    exec(SOURCE, names := {})
    net = names["Net"](features=6)
    torch.save({"params": net.state_dict()}, tmp_path / "w.pth")
    result = export(
        tmp_path / "my_net_file.py", tmp_path, weights=tmp_path / "w.pth", arguments={"features": 6}
    )
    assert result.spec.parameters == {"features": 6}
    assert max(differences(net, tmp_path / "net.onnx")) < 1e-5


def test_weights_that_do_not_fit_are_listed(tmp_path):
    (tmp_path / "my_net_lists.py").write_text(SOURCE)
    torch.save({"a.weight": torch.zeros(4, 3, 3, 3), "z": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"missing: a.bias, b.weight, b.bias; extra: z"):
        export(tmp_path / "my_net_lists.py", tmp_path, weights=tmp_path / "w.pth")


def test_a_file_that_reads_a_command_line_is_told(tmp_path):
    (tmp_path / "my_script.py").write_text("import sys\nsys.exit(2)\n")
    with pytest.raises(InputError, match=r"ends the program when it is imported.*__main__"):
        export(tmp_path / "my_script.py", tmp_path)


class Noisy(nn.Module):
    """A net that adds noise of a mean of 0.5, in a helper that the source of `forward` does not show."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.noise(x) * 0.5

    def noise(self, x: torch.Tensor) -> torch.Tensor:
        return torch.rand_like(x) + torch.randn(size=x.shape) * 0.1 + torch.rand(1, 1, *x.shape[2:]) - 1


def test_random_numbers_become_their_mean(tmp_path):
    result = export(Noisy(), tmp_path)
    assert any("random numbers" in note for note in result.notes)
    assert max(differences(nn.Identity(), tmp_path / "net.onnx")) < 1e-6
    assert torch.rand(100).std() > 0.1


class Dropping(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.1)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Cropped(nn.Module):
    def forward(self, x):
        return x[..., 1:]


class Undecided(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0.5 else 1 - x


class NeedsGpu(nn.Module):
    def forward(self, x):
        return x.to("cuda")


@pytest.mark.parametrize(
    ("net", "error", "says"),
    [
        (Pair(), InputError, "a tuple of 2, expected one picture"),
        (Dropping(), InputError, "another picture each time it runs.*dropout"),
        (Cropped(), InputError, r"\[1, 3, 48, 47\] for \[1, 3, 48, 48\]"),
        (Undecided(), ModelError, "depends on the values of the picture"),
        (NeedsGpu(), InputError, "needs a GPU"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(tmp_path, net, error, says):
    with pytest.raises(error, match=says) as caught:
        export(net, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net.onnx").exists()


def test_a_stated_scale_that_is_wrong_is_told(tmp_path):
    with pytest.raises(InputError, match=r"has scale 2.*not the stated 4"):
        export(Shuffle(), tmp_path, scale=4)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module_at_all:net", "cannot be imported"),
        ("torch.nn:NoSuchNet", "torch.nn has no NoSuchNet"),
        ("nowhere.py", "no such file"),
    ],
)
def test_a_name_that_leads_nowhere(tmp_path, name, says):
    with pytest.raises(UsageError, match=says):
        export(name, tmp_path)
