"""Community checkpoints: spandrel recognises the architecture of a state dict and builds the net.

Only the weights are given to spandrel; its own reading of files, which can load TorchScript, is not used. What it knows of a
net (scale, channels, sizes, tiling, purpose, half precision) becomes the `SourceNet`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sr_deploy.errors import InputError, MissingRuntimeError, one_line
from sr_deploy.spec import SizeRule
from sr_deploy.system.files import digest_of
from sr_deploy.training.anynet.adapting import use_tensor_operations, with_stable_sorts, without_randomness
from sr_deploy.training.anynet.source import SourceNet
from sr_deploy.training.anynet.weight_files import read_weights

_WAY_OUT = "export it from its own module instead: sr-deploy export package.module:factory --weights FILE (docs/models/bring-your-model.md)"
_NEAREST = 3
"""Number of architectures that the message about an unknown one names."""
_MOST_KEYS = 4
"""Number of missing or extra weights that a message lists before it only counts them."""


def load_community(path: Path, *, extra: bool = False) -> SourceNet:
    """Return the net of a community checkpoint.

    `extra` also knows the architectures of spandrel-extra-arches, some of which may not be used commercially.
    Raises MissingRuntimeError without spandrel; InputError for a file without weights, an unknown architecture, weights
    that do not fit, or a net that is not a map from one picture to one picture.
    """
    weights = read_weights(path)
    registry = _registry(extra)
    described = _described(path, weights, registry)
    _check_task(path, described)
    net, order = with_stable_sorts(_Described(described))
    net, notes = without_randomness(net)
    need = described.size_requirements
    return SourceNet(
        net=net,
        name=path.stem,
        architecture=str(described.architecture.name),
        scale=int(described.scale),
        channels=int(described.input_channels),
        rule=SizeRule(minimum=max(int(need.minimum), 1), multiple_of=max(int(need.multiple_of), 1)),
        square=bool(need.square),
        tiling=described.tiling.name.lower(),
        precisions=_precisions(described),
        parameters={"purpose": str(described.purpose), "tags": [str(tag) for tag in described.tags]},
        sha256=digest_of(path),
        notes=(*notes, *order),
    )


def _registry(extra: bool) -> Any:
    """Return spandrel's list of architectures. Raises MissingRuntimeError without spandrel."""
    try:
        from spandrel import MAIN_REGISTRY  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            f'community checkpoints need spandrel, which cannot be imported ({one_line(error, 80)}); pip install "sr-deploy[community]"'
        ) from error
    if not extra:
        return MAIN_REGISTRY
    try:
        from spandrel_extra_arches import EXTRA_REGISTRY  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingRuntimeError(
            "--extra-architectures needs spandrel-extra-arches, which is not installed; read the licences of its "
            "architectures, then pip install spandrel-extra-arches"
        ) from error
    registry = MAIN_REGISTRY.copy()
    registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    return registry


def _described(path: Path, weights: Mapping[str, Tensor], registry: Any) -> Any:
    """Return spandrel's descriptor of the net with these weights, in float32 and evaluation mode."""
    found = next((entry for entry in registry.architectures("detection") if entry.detect(weights)), None)
    if found is None:
        raise _unknown(path, weights, registry)
    name = found.architecture.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated calls in the published nets
            described = found.architecture.load(dict(weights))
    except RuntimeError as error:
        raise InputError(
            f"{path}: looks like {name}, but its weights do not fit ({key_errors(error)}); {_WAY_OUT}"
        ) from error
    except Exception as error:  # spandrel reads sizes off the weights, and raises whatever fails there
        raise InputError(
            f"{path}: looks like {name}, but spandrel cannot read its sizes ({type(error).__name__}: {one_line(error, 120)}); {_WAY_OUT}"
        ) from error
    described.model.float().eval().requires_grad_(False)
    use_tensor_operations(described.model)
    return described


def key_errors(error: RuntimeError) -> str:
    """Return torch's complaint about a state dict, with the missing and extra names listed briefly."""
    text = str(error)
    parts = []
    for kind, word in (("Missing", "missing"), ("Unexpected", "extra")):
        match = re.search(rf"{kind} key\(s\) in state_dict: (.*?)\.\s", text + " ", re.DOTALL)
        names = re.findall(r'"([^"]+)"', match[1]) if match else []
        if names:
            more = f" and {len(names) - _MOST_KEYS} more" if len(names) > _MOST_KEYS else ""
            parts.append(f"{word}: {', '.join(names[:_MOST_KEYS])}{more}")
    sizes = re.findall(
        r"size mismatch for ([^:]+): copying a param with shape (\S+\([^)]*\)) from checkpoint, the shape in current model is (\S+\([^)]*\))",
        text,
    )
    if sizes:
        name, found, wanted = sizes[0]
        parts.append(f"{len(sizes)} of another shape, first {name}: {_dims(found)}, expected {_dims(wanted)}")
    return "; ".join(parts) or one_line(error, 200)


def _dims(shape: str) -> str:
    """Return torch's "torch.Size([4, 3, 3, 3])" as 4x3x3x3."""
    return "x".join(re.findall(r"\d+", shape)) or "a number"


def _unknown(path: Path, weights: Mapping[str, Tensor], registry: Any) -> InputError:
    """Return the error for an architecture that nobody recognises; it names those whose weights look most alike."""
    near = [f"{name} ({share:.0%})" for share, name in nearest(weights, registry)[:_NEAREST] if share > 0]
    some = ", ".join(list(weights)[:3])
    hint = f"the nearest are {', '.join(near)} of the weights they are told by" if near else "none is near"
    return InputError(
        f"{path}: of no architecture that spandrel knows ({len(weights)} weights, such as {some}); {hint}; {_WAY_OUT}"
    )


def nearest(weights: Mapping[str, Tensor], registry: Any) -> list[tuple[float, str]]:
    """Return (share, name) of every architecture, the nearest first.

    The share is that of the weights by which spandrel tells the architecture that are in `weights`.
    """
    names = set(weights)
    ranked = []
    for entry in registry.architectures("insertion"):
        keys = set(_keys_of(getattr(entry.architecture, "_detect", None)))
        ranked.append((len(keys & names) / len(keys) if keys else 0.0, str(entry.architecture.name)))
    return sorted(ranked, key=lambda pair: (-pair[0], pair[1]))


def _keys_of(condition: Any) -> Iterator[str]:
    """Yield the names of weights in a condition of spandrel, which may hold conditions."""
    for key in getattr(condition, "_keys", ()):
        if isinstance(key, str):
            yield key
        else:
            yield from _keys_of(key)


def _check_task(path: Path, described: Any) -> None:
    """Raise InputError for a net that is not a map from one picture to one picture of as many channels."""
    name = described.architecture.name
    if not hasattr(described, "_call_fn") or str(described.purpose) == "Inpainting":
        raise InputError(
            f"{path}: {name} fills holes and needs a mask beside the picture; sr-deploy runs nets that take one picture"
        )
    taken, given = described.input_channels, described.output_channels
    if taken != given or taken not in (1, 3):
        raise InputError(
            f"{path}: {name} takes {taken} channels and gives {given}, expected 3 (RGB) or 1 (grey) at both ends; "
            "sr-deploy runs nets from pictures to pictures of as many channels"
        )


def _precisions(described: Any) -> frozenset[str]:
    """Return the precisions that spandrel holds to work."""
    halves = (("fp16", described.supports_half), ("bf16", described.supports_bfloat16))
    return frozenset({"fp32", "int8", *(name for name, works in halves if works)})


class _Described(nn.Module):
    """A net as spandrel calls it: with the additional inputs, and the choice of its results, that it needs."""

    def __init__(self, described: Any) -> None:
        super().__init__()
        self.model = described.model
        self._call = described._call_fn

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H * scale, W * scale]."""
        result: Tensor = self._call(self.model, x)
        return result
