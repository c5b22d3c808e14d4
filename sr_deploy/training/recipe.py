"""A recipe: what to train, on what kind of crops, with which losses, how long. Read from TOML, checked key by key.

What a key may hold is said by the dataclasses here; `docs/` and the recipes in `export/` show them in use.
This module does not build nets and does not know what a loss computes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sr_deploy.errors import InputError, UsageError
from sr_deploy.training.data.degrade import Degradation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCALES = (2, 3, 4, 8)
PIXEL_TERMS = ("l1", "l2", "charbonnier", "luma", "luma_l1", "luma_psnr", "chroma_l1")
PERCEPTUAL_TERMS = ("feature", "gram")
TERMS = (*PIXEL_TERMS, *PERCEPTUAL_TERMS, "tv", "grid", "lattice")
PRECISIONS = ("bf16", "fp16", "off")
OPTIMISERS = ("adamw", "muon")
POOLINGS = ("max", "l2")
TARGETS = ("photographs", "teacher")
SMALLEST_CROP = 4

Types = type | tuple[type, ...]
_NUMBER = (int, float)


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """The frozen VGG behind the terms `feature` and `gram`, and how much each of its layers counts."""

    network: str = "vgg16"
    layers: Mapping[str, float] = field(
        default_factory=lambda: {"relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0}
    )
    normalise: bool = True
    """Rescale its channels to a mean activation of one on the training pictures first."""
    pooling: str = "max"
    """What stands between its blocks: "max", as it was trained, or "l2", which does not alias."""

    def __post_init__(self) -> None:
        if self.network not in ("vgg16", "vgg19"):
            raise UsageError(f"network = {self.network!r}, expected vgg16 or vgg19")
        if self.pooling not in POOLINGS:
            raise UsageError(f"pooling = {self.pooling!r}, expected {' or '.join(POOLINGS)}")
        _weights("layers", self.layers)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training under one schedule."""

    scale: int
    crop: int
    """Side of the small crop, in pixels of the small picture. A recipe may give `large_crop` instead."""
    steps: int
    batch: int = 16
    """Crops a step, over all processes together."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    loss: Mapping[str, float] = field(default_factory=lambda: {"l1": 1.0})
    """Weight of each term. In TOML `loss = "l1"` is short for `loss = { l1 = 1.0 }`."""
    target: str = "photographs"
    """What is learnt: the photographs themselves, or what a "teacher" makes of their small versions, a finished net
    that the run is given."""
    busiest_of: int = 1
    """Places drawn in a picture for every crop, of which the busiest is cut: the one whose neighbours differ most."""
    degrade: Degradation | None = None
    """How the small crops are spoilt before they are shrunk; None: bicubic, nothing else."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise UsageError(f"scale = {self.scale}, expected one of {', '.join(map(str, SCALES))}")
        if self.crop < SMALLEST_CROP:
            raise UsageError(
                f"crop = {self.crop} small pixels ({self.crop * self.scale} large ones at scale {self.scale}), "
                f"expected at least {SMALLEST_CROP}"
            )
        if self.target not in TARGETS:
            raise UsageError(f"target = {self.target!r}, expected {' or '.join(TARGETS)}")
        if self.target == "teacher" and self.degrade:
            raise UsageError(
                'target = "teacher" shows what a net makes of small pictures as they are; leave out degrade'
            )
        for key in ("steps", "batch", "learning_rate", "busiest_of"):
            if not getattr(self, key) > 0:
                raise UsageError(f"{key} = {getattr(self, key)}, expected more than 0")
        if unknown := sorted(set(self.loss) - set(TERMS)):
            raise UsageError(f"loss: unknown term {unknown[0]!r}; expected {', '.join(TERMS)}")
        _weights("loss", self.loss)

    @property
    def perceptual(self) -> bool:
        """Whether a VGG is needed."""
        return any(self.loss.get(term) for term in PERCEPTUAL_TERMS)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How the trained net is written for deployment by `export/build.py`."""

    precision: str = "fp32"
    io: str = "float"
    licence: str = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A net, its phases, and what they share."""

    name: str
    architecture: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    seed: int = 0
    ema: float = 0.999
    """Decay of the weights' moving average, which is what is kept."""
    clip: float = 1.0
    """Largest norm of the gradient; what is longer is shortened to it."""
    weight_decay: float = 0.0
    optimiser: str = "adamw"
    """`adamw`, or `muon`, for nets of plain convolutions; its rates are higher, some 5e-3."""
    precision: str = "bf16"
    """Of the forward pass: bf16 or fp16 autocast (fp16 with a scaled loss), or `off` for fp32."""
    validation: int = 8
    """Pictures held out of the training set to watch progress on."""
    sizes: Sequence[float] = (1.0,)
    """Every picture to train on is shown at so many times its own size, each: photographs from one source are
    all about as sharp, and a net that saw nothing else expects that of every picture."""
    leaves: int = 0
    """Pictures of the dead-leaves model to train on beside the photographs: edges to learn from, made and not taken."""
    perceptual: Perceptual = field(default_factory=Perceptual)
    export: ExportSettings = field(default_factory=ExportSettings)
    sha256: str = ""

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
                'phases of different scales have target = "teacher", but a teacher has one scale; leave one to it'
            )
        if self.leaves < 0:
            raise UsageError(f"leaves = {self.leaves}, expected a number of pictures, 0 or more")
        fine = [isinstance(n, _NUMBER) and not isinstance(n, bool) and 0.1 <= n <= 4 for n in self.sizes]
        if not fine or not all(fine):
            raise UsageError(
                f"sizes = {list(self.sizes)!r}, expected factors from 0.1 to 4, such as [1.0, 1.5]"
            )

    @property
    def scale(self) -> int:
        """The scale of the net that comes out: that of the last phase."""
        return self.phases[-1].scale

    @property
    def steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)


def _weights(where: str, weights: Mapping[str, float]) -> None:
    for key, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, _NUMBER) or value < 0:
            raise UsageError(f"{where}: {key} = {value!r}, expected a number of at least 0")
    if not any(weights.values()):
        raise UsageError(f"{where}: every weight is 0 or there is none; expected one above 0")


_PHASE_KEYS: dict[str, Types] = {
    "scale": int, "crop": int, "large_crop": int, "steps": int, "batch": int, "learning_rate": _NUMBER,
    "loss": (str, dict), "target": str, "busiest_of": int, "degrade": dict,
}  # fmt: skip
_RECIPE_KEYS: dict[str, Types] = {
    "name": str, "net": dict, "phase": list, "seed": int, "ema": _NUMBER, "clip": _NUMBER,
    "weight_decay": _NUMBER, "optimiser": str, "precision": str, "validation": int,
    "sizes": list, "leaves": int, "perceptual": dict, "export": dict,
}  # fmt: skip
_PERCEPTUAL_KEYS: dict[str, Types] = {"network": str, "layers": dict, "normalise": bool, "pooling": str}
_EXPORT_KEYS: dict[str, Types] = {"precision": str, "io": str, "licence": str}
_DEGRADE_KEYS: dict[str, Types] = {"blur": list, "noise": list, "jpeg": list, "second": _NUMBER}
_TABLES = ("name", "net", "phase", "perceptual", "export")


def _checked(where: str, table: Any, allowed: Mapping[str, Types]) -> dict[str, Any]:
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
    """The small side of a phase's crop, from `crop` or from `large_crop`."""
    if ("crop" in entry) == ("large_crop" in entry):
        raise UsageError(f"{where}: expected one of crop (small pixels) and large_crop (large pixels)")
    if "crop" in entry:
        return int(entry["crop"])
    large, scale = entry["large_crop"], entry["scale"]
    if scale > 0 and large % scale:
        near = max(large // scale, 1) * scale
        raise UsageError(
            f"{where}: large_crop = {large} is no multiple of scale {scale}; try {near} or {near + scale}"
        )
    return int(large // max(scale, 1))


def _phase(where: str, entry: Any) -> Phase:
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


def _recipe(where: str, table: dict[str, Any], sha256: str) -> Recipe:
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
            sha256=sha256,
        )
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def parse_recipe(raw: bytes, where: str = "recipe") -> Recipe:
    """A recipe from the bytes of a TOML file. Raises InputError (not TOML) or UsageError (names the key)."""
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{where}: not TOML ({error}); see the recipes in export/") from error
    return _recipe(where, table, hashlib.sha256(raw).hexdigest())


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe file. Raises InputError (unreadable) or UsageError (names the key)."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a recipe file") from error
    return parse_recipe(raw, str(path))
