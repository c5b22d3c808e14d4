"""Recipes: net, crops, losses and length of a training, read from TOML and checked key by key.

The dataclasses say what a key may hold; `docs/training.md` and the recipes in `export/` show them in use.
This module does not build nets and does not compute losses.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError, UsageError
from sr_deploy.system.files import read_bounded
from sr_deploy.training.data.degrade import Degradation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LARGEST = 1 << 20
"""Most bytes of a recipe that are read. A recipe has some thousand."""
SCALES = (2, 3, 4, 8)
"""Scales that a phase may have."""
PIXEL_TERMS = ("l1", "l2", "charbonnier", "luma", "luma_l1", "luma_psnr", "chroma_l1", "blocks")
"""Loss terms that compare pixels; with only these, checkpoints are ranked by PSNR."""
PERCEPTUAL_TERMS = ("feature", "gram")
"""Loss terms that need a VGG."""
TERM_MEANINGS = {
    "l1": "Absolute error of R, G and B.",
    "l2": "Squared error of R, G and B.",
    "charbonnier": "Smoothed absolute error of R, G and B.",
    "luma": "Squared error of BT.601's Y.",
    "luma_l1": "Absolute error of BT.601's Y.",
    "luma_psnr": "Negative PSNR of each crop's Y in dB: a smooth crop counts as much as a busy one. At 35 dB a weight of 2e-3 "
    "acts like luma_l1 with weight 1.",
    "chroma_l1": "Absolute error of BT.601's Cb and Cr, to which l1 gives almost no gradient.",
    "feature": "L1 distance between VGG activations.",
    "gram": "Distance between Gram matrices of VGG activations.",
    "tv": "Total variation of the result.",
    "grid": "Error that repeats with the period of the scale.",
    "lattice": "Detail that prefers places within the small picture's pixels, as blocks and dots do.",
    "blocks": "Steps that prefer places within 8 x 8 small pixels, as the blocks of a JPEG do.",
}
"""Loss term -> what it measures. The order is that of the log."""
TERMS = tuple(TERM_MEANINGS)
"""All loss terms, in the order they are logged."""
PRECISIONS = ("bf16", "fp16", "off")
"""Precisions of the forward pass; "off" is fp32."""
OPTIMISERS = ("adamw", "muon")
POOLINGS = ("max", "l2")
TARGETS = ("photographs", "teacher")
QUANTISED = ("", "int8")
SMALLEST_CROP = 4
"""Smallest side of a small crop in pixels."""

Types = type | tuple[type, ...]
_NUMBER = (int, float)


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """The frozen VGG for the terms `feature` and `gram`, and the weights of its layers."""

    network: str = "vgg16"
    """Network: "vgg16" or "vgg19"."""
    layers: Mapping[str, float] = field(
        default_factory=lambda: {"relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}
    )
    """Weight of each layer by its name, at least 0."""
    normalise: bool = True
    """Rescale its channels first, so that their mean activation on the training pictures is one."""
    pooling: str = "max"
    """Pooling between its blocks: "max", as it was trained, or "l2", which does not alias."""

    def __post_init__(self) -> None:
        if self.network not in ("vgg16", "vgg19"):
            raise UsageError(f"network = {self.network!r}, expected vgg16 or vgg19")
        if self.pooling not in POOLINGS:
            raise UsageError(f"pooling = {self.pooling!r}, expected {' or '.join(POOLINGS)}")
        _weights("layers", self.layers)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training with one schedule."""

    scale: int
    """Scale of the net: 2, 3, 4 or 8."""
    crop: int
    """Side of the small crop in small pixels. A recipe may give `large_crop` instead."""
    steps: int
    """Number of updates; of a run bounded by time, the phase's share of it."""
    batch: int = 16
    """Number of crops in a step, over all processes together."""
    learning_rate: float = 1e-3
    """Highest learning rate. It grows up to it in the warm-up, and falls afterwards."""
    loss: Mapping[str, float] = field(default_factory=lambda: {"l1": 1.0})
    """Weight of each term. In TOML, `loss = "l1"` is short for `loss = { l1 = 1.0 }`."""
    target: str = "photographs"
    """Target of the training: "photographs", or "teacher".

    With "teacher" the net learns the large pictures that a finished net draws from the small ones.
    """
    busiest_of: int = 1
    """Number of places drawn in a picture for every crop.

    The busiest place is cut: the one whose neighbouring pixels differ most.
    """
    leak: float = 0.0
    """Slope below zero that the net's ReLUs have at the start of the phase, 0..1.

    It falls to 0 in the first half of the phase. So a net with ReLU begins as the net with leaky ReLU whose weights
    it starts from.
    """
    quantise: str = ""
    """Quantisation: "int8" trains the net as it computes after conversion to int8, and learns the ranges; "" does not.

    Such a phase computes in fp32, because bf16 would round once more what is rounded already.
    """
    degrade: Degradation | None = None
    """Degradation of the small crops. None: bicubic shrinking only."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"scale = {self.scale}, expected one of {', '.join(map(str, SCALES))}")
        if self.crop < SMALLEST_CROP:
            raise UsageError(
                f"crop = {self.crop} small pixels ({self.crop * self.scale} large ones at scale {self.scale}), "
                f"expected at least {SMALLEST_CROP}"
            )
        if self.quantise not in QUANTISED:
            raise UsageError(f'quantise = {self.quantise!r}, expected "int8" or nothing')
        if self.quantise and self.leak:
            raise UsageError(
                "leak cannot be combined with quantise, whose ranges begin at 0; leak in a phase before"
            )
        if not 0 <= self.leak <= 1:
            raise UsageError(f"leak = {self.leak}, expected a slope of 0 to 1")
        if self.target not in TARGETS:
            raise UsageError(f"target = {self.target!r}, expected {' or '.join(TARGETS)}")
        if self.target == "teacher" and self.degrade:
            raise UsageError(
                'target = "teacher" cannot be combined with degrade: a teacher draws from small pictures as they are; '
                "leave out degrade"
            )
        for key in ("steps", "batch", "learning_rate", "busiest_of"):
            if not getattr(self, key) > 0:
                raise UsageError(f"{key} = {getattr(self, key)}, expected a number above 0")
        if unknown := sorted(set(self.loss) - set(TERMS)):
            raise UsageError(f"loss: unknown term {unknown[0]!r}; expected {', '.join(TERMS)}")
        _weights("loss", self.loss)

    @property
    def perceptual(self) -> bool:
        """True if a VGG is needed."""
        return any(self.loss.get(term) for term in PERCEPTUAL_TERMS)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings with which `export/build.py` exports the trained net."""

    precision: str = "fp32"
    """Precision of the model: "fp32", "fp16", "bf16" or "int8"."""
    io: str = "float"
    """Pixels of the model: "float" or "uint8"."""
    licence: str = "Apache-2.0"
    """Licence of the weights."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A net, its phases, and the settings that all phases share."""

    name: str
    """Name of the net, which checkpoints and models carry."""
    architecture: str
    """Key of the net in `sr_deploy.training.nets.NETS`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the net besides its scale."""
    phases: tuple[Phase, ...] = ()
    seed: int = 0
    """Seed of the first weights; plus the index of a phase (from 0), also that of its crops."""
    ema: float = 0.999
    """Decay of the moving average of the weights. The average is what checkpoints contain."""
    clip: float = 1.0
    """Largest norm of the gradient; longer gradients are scaled down to it."""
    weight_decay: float = 0.0
    """Decoupled weight decay, at least 0."""
    optimiser: str = "adamw"
    """Optimiser: "adamw", or "muon" for nets of plain convolutions, whose learning rates are higher, about 5e-3."""
    precision: str = "bf16"
    """Precision of the forward pass: "bf16" or "fp16" autocast (fp16 with a scaled loss), or "off" for fp32.
    """
    validation: int = 8
    """Number of pictures held out of the training set to measure progress on."""
    sizes: Sequence[float] = (1.0,)
    """Factors by which every training picture is resized; each picture is used at each factor.

    Photographs from one source are about equally sharp, and a net that saw nothing else expects that of every
    picture.
    """
    leaves: int = 0
    """Number of dead-leaves pictures to train on beside the photographs: synthetic pictures with sharp edges.
    """
    drawings: int = 0
    """Number of drawn pictures to train on beside the photographs: text, line art and screens in turn."""
    perceptual: Perceptual = field(default_factory=Perceptual)
    """The VGG; used only where a phase has a term of `PERCEPTUAL_TERMS`."""
    export: ExportSettings = field(default_factory=ExportSettings)
    sha256: str = ""
    """SHA-256 of the recipe file in hexadecimal."""
    raw: bytes = field(default=b"", repr=False)
    """The bytes of the recipe file."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision = {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.optimiser not in OPTIMISERS:
            raise UsageError(f"optimiser = {self.optimiser!r}, expected one of {', '.join(OPTIMISERS)}")
        if not (0 <= self.ema < 1 and self.clip > 0 and self.weight_decay >= 0 and self.validation >= 1):
            raise UsageError(
                f"ema = {self.ema}, clip = {self.clip}, weight_decay = {self.weight_decay}, validation = "
                f"{self.validation}: expected 0 <= ema < 1, clip > 0, weight_decay >= 0, validation >= 1"
            )
        if len({phase.scale for phase in self.phases if phase.target == "teacher"}) > 1:
            raise UsageError(
                'phases of different scales have target = "teacher", but a teacher has one scale; use it for one scale'
            )
        quantised = [bool(phase.quantise) for phase in self.phases]
        if quantised != sorted(quantised):
            raise UsageError(
                'a phase without quantise follows one with quantise = "int8"; quantise the last phases'
            )
        for key in ("leaves", "drawings"):
            if getattr(self, key) < 0:
                raise UsageError(f"{key} = {getattr(self, key)}, expected a number of pictures of at least 0")
        fine = [isinstance(n, _NUMBER) and not isinstance(n, bool) and 0.1 <= n <= 4 for n in self.sizes]
        if not fine or not all(fine):
            raise UsageError(
                f"sizes = {list(self.sizes)!r}, expected factors from 0.1 to 4, such as [1.0, 1.5]"
            )

    @property
    def scale(self) -> int:
        """Scale of the finished net: that of the last phase."""
        return self.phases[-1].scale

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


def _weights(where: str, weights: Mapping[str, float]) -> None:
    """Raise UsageError unless all weights are numbers of at least 0 and one of them is above 0."""
    for key, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, _NUMBER) or value < 0:
            raise UsageError(f"{where}: {key} = {value!r}, expected a number of at least 0")
    if not any(weights.values()):
        raise UsageError(f"{where}: no weight is above 0; expected at least one")


_PHASE_KEYS: dict[str, Types] = {
    "scale": int, "crop": int, "large_crop": int, "steps": int, "batch": int, "learning_rate": _NUMBER,
    "loss": (str, dict), "target": str, "busiest_of": int, "leak": _NUMBER, "quantise": str, "degrade": dict,
}  # fmt: skip
_RECIPE_KEYS: dict[str, Types] = {
    "name": str, "net": dict, "phase": list, "seed": int, "ema": _NUMBER, "clip": _NUMBER,
    "weight_decay": _NUMBER, "optimiser": str, "precision": str, "validation": int,
    "sizes": list, "leaves": int, "drawings": int, "perceptual": dict, "export": dict,
}  # fmt: skip
_PERCEPTUAL_KEYS: dict[str, Types] = {"network": str, "layers": dict, "normalise": bool, "pooling": str}
_EXPORT_KEYS: dict[str, Types] = {"precision": str, "io": str, "licence": str}
_DEGRADE_KEYS: dict[str, Types] = {
    "clean": _NUMBER, "chance": _NUMBER, "blur": list, "kernels": list, "noise": list, "camera": list,
    "sharpen": list, "chroma_shift": list, "jpeg": list, "webp": list, "avif": list, "encoders": bool,
    "uncompressed": _NUMBER, "twice": _NUMBER, "dither": _NUMBER, "second": _NUMBER,
}  # fmt: skip
KEYS: Mapping[str, Mapping[str, Types]] = {
    "recipe": _RECIPE_KEYS,
    "phase": _PHASE_KEYS,
    "degrade": _DEGRADE_KEYS,
    "perceptual": _PERCEPTUAL_KEYS,
    "export": _EXPORT_KEYS,
}
"""Table of a recipe -> its keys with the types of their values. The table `net` has the arguments of its net."""
_TABLES = ("name", "net", "phase", "perceptual", "export")


def _checked(where: str, table: Any, allowed: Mapping[str, Types]) -> dict[str, Any]:
    """Return `table` after checking that its keys are known and their values have the right types."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table of keys, got {table!r}")
    for key, value in table.items():
        if key not in allowed:
            raise UsageError(f"{where}: unknown key {key!r}; expected one of {', '.join(sorted(allowed))}")
        wanted = allowed[key]
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            names = wanted.__name__ if isinstance(wanted, type) else " or ".join(t.__name__ for t in wanted)
            raise UsageError(f"{where}: {key} = {value!r} is a {type(value).__name__}, expected {names}")
    return table


def _crop(where: str, entry: dict[str, Any]) -> int:
    """Return the side of a phase's small crop, from `crop` or from `large_crop`."""
    if ("crop" in entry) == ("large_crop" in entry):
        raise UsageError(f"{where}: expected either crop (small pixels) or large_crop (large pixels)")
    if "crop" in entry:
        return int(entry["crop"])
    large, scale = entry["large_crop"], entry["scale"]
    if scale > 0 and large % scale:
        near = max(large // scale, 1) * scale
        raise UsageError(
            f"{where}: large_crop = {large} is not a multiple of scale {scale}; try {near} or {near + scale}"
        )
    return int(large // max(scale, 1))


def _phase(where: str, entry: Any) -> Phase:
    """Build a phase from its table. Errors name the phase."""
    entry = _checked(where, entry, _PHASE_KEYS)
    if missing := sorted({"scale", "steps"} - set(entry)):
        raise UsageError(f"{where}: missing {', '.join(missing)}")
    values = {k: v for k, v in entry.items() if k != "large_crop"} | {"crop": _crop(where, entry)}
    if isinstance(values.get("loss"), str):
        values["loss"] = {values["loss"]: 1.0}
    try:
        if "degrade" in values:
            table = _checked("degrade", values["degrade"], _DEGRADE_KEYS)
            values["degrade"] = Degradation.from_lists(table)
        return Phase(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _recipe(where: str, table: dict[str, Any], raw: bytes) -> Recipe:
    """Build a recipe from the top table and the bytes of its file. Errors begin with `where`."""
    _checked(where, table, _RECIPE_KEYS)
    net = dict(table.get("net", {}))
    if "name" not in table or not isinstance(net.get("architecture"), str) or not table.get("phase"):
        raise UsageError(f"{where}: a recipe needs name, [net] architecture and at least one [[phase]]")
    phases = tuple(_phase(f"{where}: phase {n}", entry) for n, entry in enumerate(table["phase"], start=1))
    vgg = _checked(f"{where}: perceptual", table.get("perceptual", {}), _PERCEPTUAL_KEYS)
    export = _checked(f"{where}: export", table.get("export", {}), _EXPORT_KEYS)
    values: dict[str, Any] = {
        k: tuple(v) if k == "sizes" else v for k, v in table.items() if k not in _TABLES
    }
    try:
        return Recipe(
            **values,
            name=table["name"],
            architecture=net.pop("architecture"),
            parameters=net,
            phases=phases,
            perceptual=Perceptual(**vgg),
            export=ExportSettings(**export),
            sha256=hashlib.sha256(raw).hexdigest(),
            raw=raw,
        )
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def parse_recipe(raw: bytes, where: str = "recipe") -> Recipe:
    """Parse the bytes of a TOML file. Raises InputError (not TOML) or UsageError (names the key)."""
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: not UTF-8, not TOML, or a number of too many digits
        raise InputError(f"{where}: not TOML ({error}); see the recipes in export/") from error
    return _recipe(where, table, raw)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file. Raises InputError (not readable, not TOML) or UsageError (names the key)."""
    try:
        raw = read_bounded(path, _LARGEST)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a recipe file") from error
    return parse_recipe(raw, str(path))
