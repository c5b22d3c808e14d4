"""Which input shapes an engine is compiled for (TensorRT: optimisation profiles), and which serves a picture. Pure.

Every size up to the largest is covered. A frequent size gets a profile of exactly that shape, which is where
kernels are fastest; small pictures get one, because kernels that suit large pictures leave most of a GPU idle on
small ones; everything else up to a tile's size shares the last. A picture beyond that is tiled by `Upscaler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec, SizeRule

Shape = tuple[int, int, int]
"""(pictures, height, width)"""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A box of shapes: `low` to `high` along every axis, with kernels chosen at `best`."""

    name: str
    low: Shape
    best: Shape
    high: Shape

    def __post_init__(self) -> None:
        if not all(1 <= a <= b <= c for a, b, c in zip(self.low, self.best, self.high, strict=True)):
            raise UsageError(f"profile {self.name}: {self.low} <= {self.best} <= {self.high} does not hold")

    def covers(self, shape: Sequence[int]) -> bool:
        """Whether (pictures, height, width) `shape` lies in the box."""
        return all(a <= n <= c for a, n, c in zip(self.low, shape, self.high, strict=True))

    @property
    def largest_pixels(self) -> int:
        """Pixels of the largest shape."""
        return self.high[0] * self.high[1] * self.high[2]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        shapes = {"low": self.low, "best": self.best, "high": self.high}
        return {"name": self.name, **{key: list(shape) for key, shape in shapes.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Profile:
        """What `to_dict` wrote. Raises KeyError, TypeError, ValueError or UsageError for anything else."""
        low, best, high = (_shape(values[key]) for key in ("low", "best", "high"))
        return cls(name=str(values["name"]), low=low, best=best, high=high)


def plan_profiles(spec: ModelSpec, options: BuildOptions) -> tuple[Profile, ...]:
    """The profiles of an engine for a model of `spec`: each of `options.sizes`, small, tile.

    Raises UsageError for sizes that the model's size rule cannot be brought to.
    """
    rule, batch = spec.size_rule, options.max_batch
    if rule.fixed:
        return (
            Profile(name="fixed", low=(1, *rule.fixed), best=(1, *rule.fixed), high=(batch, *rule.fixed)),
        )
    low = rule.padded(1, 1)
    sizes = [rule.padded(*size) for size in options.sizes]
    exact = [
        Profile(name=_size_name(s), low=(1, *s), best=(1, *s), high=(batch, *s)) for s in dict.fromkeys(sizes)
    ]
    largest = _largest_size(rule, options, sizes)
    return (*exact, *_general_profiles(low, largest, rule.padded(options.small, options.small), batch))


def _general_profiles(
    low: tuple[int, int], largest: tuple[int, int], small: tuple[int, int], batch: int
) -> list[Profile]:
    """The small profile, where one is of use, and the one for the rest."""
    found = []
    if small[0] * 2 <= largest[0] and small[1] * 2 <= largest[1]:
        found.append(Profile(name="small", low=(1, *low), best=(1, *small), high=(batch, *small)))
    best = (max(low[0], largest[0] // 2), max(low[1], largest[1] // 2))
    return [*found, Profile(name="tile", low=(1, *low), best=(1, *best), high=(batch, *largest))]


def _largest_size(rule: SizeRule, options: BuildOptions, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """What every size up to is covered: a box around the tile and all frequent sizes."""
    tile = rule.padded(options.tile, options.tile)
    return max(tile[0], *(s[0] for s in sizes), 0), max(tile[1], *(s[1] for s in sizes), 0)


def choose_profile(profiles: Sequence[Profile], shape: Sequence[int]) -> int:
    """The number of the profile to run (pictures, height, width) `shape` with: the tightest that covers it.

    Raises UsageError where none does.
    """
    fitting = [number for number, profile in enumerate(profiles) if profile.covers(shape)]
    if not fitting:
        largest = max(profiles, key=lambda profile: profile.largest_pixels).high
        raise UsageError(
            f"the engine takes no {shape[0]} pictures of {shape[2]}x{shape[1]} pixels; it takes up to {largest[0]} of "
            f"{largest[2]}x{largest[1]}; tile the picture, or build with a larger --tile"
        )
    return min(fitting, key=lambda number: (profiles[number].largest_pixels, number))


def largest_size(profiles: Sequence[Profile]) -> tuple[int, int]:
    """(height, width) up to which every size is taken."""
    widest = max(profiles, key=lambda profile: profile.largest_pixels)
    return widest.high[1], widest.high[2]


def _size_name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _shape(values: Sequence[int]) -> Shape:
    count, height, width = (int(value) for value in values)
    return count, height, width
