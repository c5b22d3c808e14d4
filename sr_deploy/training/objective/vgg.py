"""VGG16 and VGG19 as frozen feature extractors: activations at named layers, captured with forward hooks.

Layers are named as in the papers: `relu2_2` follows the second convolution of the second block. The weights
come from a file of the user, or from torchvision's file, which `torch.hub` fetches into its cache and checks
against the hash in the file's name. Source: Simonyan and Zisserman 2015, table 1 (configurations D and E).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.errors import InputError, MissingRuntimeError, UsageError
from sr_deploy.training.recipe import POOLINGS

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Number of convolutions in each block. A block ends in a max pooling of 2."""
WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the convolutions in each block."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # statistics of ImageNet, RGB, 0..1

BASE = "https://download.pytorch.org/models/"
BASE_VARIABLE = "SR_DEPLOY_VGG_BASE"
"""Environment variable with the address of a mirror that serves the files of `FILES` in place of `BASE`."""
FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
"""torchvision's file of weights; the digits are the start of its SHA-256."""
_MIN_CHANNEL_MEAN = 0.25  # smallest mean activation of a channel, as a share of its layer's
_ROOT_EPSILON = 1e-12  # added under the root, whose slope at 0 is infinite
_NAME = re.compile(r"(?:features\.)?(\d+)\.(weight|bias)")


def layer_names(network: str) -> list[str]:
    """Return the names of all layers of the feature part in order: conv1_1, relu1_1, ..., pool5.

    The order is torchvision's. Raises UsageError for a network that is neither vgg16 nor vgg19.
    """
    if network not in BLOCKS:
        raise UsageError(f"unknown VGG {network!r}; expected vgg16 or vgg19")
    names = []
    for block, count in enumerate(BLOCKS[network], start=1):
        for i in range(1, count + 1):
            names += [f"conv{block}_{i}", f"relu{block}_{i}"]
        names.append(f"pool{block}")
    return names


def _read_file(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or .pth file onto the CPU. Raises InputError where it holds none."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; name a .pth or .safetensors file of VGG weights with --vgg"
        ) from error
    except Exception as error:  # for a broken pickle torch raises errors of many kinds, even IndexError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: not a plain dict of weights ({reason}); download the VGG state dict again"
        ) from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path}: contains a {type(loaded).__name__}, expected a dict of weights by name")
    return dict(loaded)


def fetch(network: str) -> dict[str, Tensor]:
    """Return torchvision's weights, from torch.hub's cache or else from the network; the hash is checked.

    Raises MissingRuntimeError that names the address and the place for the file, where it cannot be fetched.
    """
    address = os.environ.get(BASE_VARIABLE, BASE).rstrip("/") + "/" + FILES[network]
    target = Path(torch.hub.get_dir()) / "checkpoints" / FILES[network]
    try:
        weights: dict[str, Any] = torch.hub.load_state_dict_from_url(
            address, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except (URLError, OSError, RuntimeError) as error:
        raise MissingRuntimeError(
            f"the {network.upper()} weights for the feature and Gram losses could not be fetched from {address} "
            f"({error}); download that file elsewhere and put it at {target}, or name it with --vgg FILE"
        ) from error
    return weights


def load_weights(network: str, file: Path | None) -> tuple[dict[int, dict[str, Tensor]], str]:
    """Return weights and biases by layer number of the feature part, and a line that describes their source.

    Raises InputError for a file without such weights, MissingRuntimeError where torchvision's cannot be
    fetched.
    """
    named = _read_file(file) if file else fetch(network)
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in named.items():
        if match := _NAME.fullmatch(key):
            layers.setdefault(int(match[1]), {})[match[2]] = value.float()
    if file is None:
        return layers, f"{network} weights: {FILES[network]}, hash checked"
    if not layers:
        raise InputError(
            f"{file}: has no keys like features.0.weight; expected torchvision's {network} weights"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return layers, f"{network} weights: {file}, sha256 {digest}"


class L2Pool(nn.Module):
    """Pool [N, C, H, W] -> [N, C, H // 2, W // 2] by the root of the weighted mean of squares.

    The mean is over 3x3 pixels with weights 1 2 1 along each axis. Max pooling of 2 keeps only the largest of
    four values, and aliases; this does not. Sources: Henaff and Simoncelli 2016, "Geodesics of learned
    representations", section 3.1; Ding et al. 2020 (DISTS), eq. 3.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Pool by 2; windows are centred on the first pixel of a pair, and an odd last one is dropped."""
        height, width = (n // 2 * 2 for n in x.shape[2:])
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 3, 3)
        squares = F.conv2d(x[..., :height, :width] ** 2, kernel, stride=2, padding=1, groups=channels)
        return (squares + _ROOT_EPSILON).sqrt()


class VGGFeatures(nn.Module):
    """Feature extractor: [N, 3, H, W] in 0..1 -> {layer: activations [N, C, h, w]}.

    It normalises its input as ImageNet is. It is frozen: its weights take no gradient, its input does. Only
    the layers up to the deepest one asked for are built, so a file of weights may end there. `pooling` is
    "max", as the VGG was trained, or "l2" (`L2Pool`).

    Raises UsageError for an unknown layer or pooling, InputError for weights that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: str,
        layers: list[str],
        weights: Mapping[int, Mapping[str, Tensor]],
        *,
        pooling: str = "max",
    ) -> None:
        super().__init__()
        names = layer_names(network)
        if pooling not in POOLINGS:
            raise UsageError(f"pooling = {pooling!r}, expected {' or '.join(POOLINGS)}")
        if unknown := [layer for layer in layers if layer not in names]:
            raise UsageError(f"{network} has no layer {unknown[0]!r}; expected one of {', '.join(names)}")
        depth = 1 + max(names.index(layer) for layer in layers)
        self.network = network
        self.features = nn.Sequential(*_modules(names[:depth], pooling))
        self._load(names[:depth], weights)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self._captured: dict[str, Tensor] = {}
        for layer in layers:
            self.features[names.index(layer)].register_forward_hook(partial(self._capture, layer))
        self.requires_grad_(False).eval()

    def _capture(self, layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook: keep the output of a layer."""
        self._captured[layer] = output

    def _load(self, names: list[str], weights: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Copy the weights into the convolutions. Raises InputError where they are missing or do not fit."""
        for index, name in enumerate(names):
            if not name.startswith("conv"):
                continue
            if set(weights.get(index, {})) != {"weight", "bias"}:
                known = [n for i, n in enumerate(layer_names(self.network)) if i in weights]
                raise InputError(
                    f"the {self.network} weights end at {known[-1] if known else 'nothing'}, but {names[-1]} needs "
                    f"{name}; use a complete file of weights, or layers that this one has"
                )
            try:
                self.features[index].load_state_dict(weights[index])
            except RuntimeError as error:
                raise InputError(
                    f"the weights of {name} do not fit {self.network} ({error}); name a file of that network"
                ) from error

    @torch.no_grad()
    def normalise(self, pictures: Tensor) -> None:
        """Rescale every channel so that its mean activation over `pictures` [N, 3, H, W] in 0..1 becomes one.

        A channel with less than a quarter of its layer's mean is scaled as if it had that quarter. Otherwise
        the few activations of channels that are nearly always zero would dominate the others.

        The network distinguishes the same features as before, and loss weights become comparable between any
        weights of VGG. Source: Gatys et al. 2016, section 2, who normalise VGG-19 this way; poolings and ReLU
        commute with it.
        """
        x = (pictures - self.mean) / self.std
        means = None
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                if means is not None:
                    module.weight.mul_(means.view(1, -1, 1, 1))
                means = module(x).relu().mean(dim=(0, 2, 3))
                means = means.clamp(min=_MIN_CHANNEL_MEAN * float(means.mean()))
                module.weight.div_(means.view(-1, 1, 1, 1))
                module.bias.div_(means)  # type: ignore[union-attr]
            x = module(x)
        self._captured = {}

    @property
    def shrinks(self) -> int:
        """Number of pixels along each axis that become one activation at the deepest layer."""
        return int(2 ** sum(isinstance(m, nn.MaxPool2d | L2Pool) for m in self.features))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the activations. Raises UsageError for a picture that is too small for the poolings."""
        if min(x.shape[2:]) < self.shrinks:
            raise UsageError(
                f"a picture of {x.shape[3]}x{x.shape[2]} pixels is too small for VGG layers that need at least "
                f"{self.shrinks} on each side; use a larger crop or shallower layers"
            )
        self.features((x - self.mean) / self.std)
        captured, self._captured = self._captured, {}
        return captured


def _modules(names: list[str], pooling: str) -> list[nn.Module]:
    """Build the named layers."""
    modules: list[nn.Module] = []
    width = 3
    for name in names:
        if name.startswith("conv"):
            out = WIDTHS[int(name[4]) - 1]
            modules.append(nn.Conv2d(width, out, 3, padding=1))
            width = out
        elif name.startswith("relu"):
            modules.append(nn.ReLU())
        else:
            modules.append(L2Pool() if pooling == "l2" else nn.MaxPool2d(2))
    return modules


def load_vgg(
    network: str, layers: list[str], file: Path | None = None, *, pooling: str = "max"
) -> tuple[VGGFeatures, str]:
    """Return a frozen VGG that gives `layers`, and a line that describes the source of its weights.

    Raises UsageError for an unknown network or layer, InputError for a file that does not fit,
    MissingRuntimeError where torchvision's file is not cached and cannot be fetched.
    """
    names = layer_names(network)  # names are checked before anything is fetched
    if unknown := [layer for layer in layers if layer not in names]:
        raise UsageError(f"{network} has no layer {unknown[0]!r}; expected one of {', '.join(names)}")
    weights, source = load_weights(network, file)
    return VGGFeatures(network, layers, weights, pooling=pooling), source
