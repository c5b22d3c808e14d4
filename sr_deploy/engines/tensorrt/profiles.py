"""Plans the profiles of an engine (TensorRT: optimisation profiles) and chooses one for each shape. No I/O.

The profiles cover every size up to the largest. A frequent size gets a profile of exactly that size, where
kernels are fastest. Small pictures get their own, because kernels that suit large pictures leave most of a
GPU idle on small ones. All other sizes up to a tile share the last profile. Pictures beyond that are tiled by
`Upscaler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.engines.tensorrt.options import BuildOptions
from sr_deploy.errors import UsageError
from sr_deploy.spec import ModelSpec, SizeRule

Shape = tuple[int, int, int]
"""(pictures, height, width)"""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A range of shapes: from `low` to `high` along every axis, with kernels chosen for `best`.

    Raises UsageError unless 1 <= low <= best <= high along every axis.
    """

    name: str
    """Size ("1920x1080"), "small", "tile" or "fixed"; for messages and the sidecar."""
    low: Shape
    best: Shape
    high: Shape

    def __post_init__(self) -> None:
        if not all(1 <= a <= b <= c for a, b, c in zip(self.low, self.best, self.high, strict=True)):
            raise UsageError(
                f"profile {self.name}: {self.low} <= {self.best} <= {self.high} does not hold; choose other sizes"
            )

    def covers(self, shape: Sequence[int]) -> bool:
        """Return whether `shape` (pictures, height, width) lies in the range."""
        return all(a <= n <= c for a, n, c in zip(self.low, shape, self.high, strict=True))

    @property
    def largest_pixels(self) -> int:
        """Number of pixels of the largest shape, all pictures together."""
        return self.high[0] * self.high[1] * self.high[2]


def plan_profiles(spec: ModelSpec, options: BuildOptions) -> tuple[Profile, ...]:
    """Return the profiles for a model with `spec`: one for each of `options.sizes`, then small and tile.

    A model of fixed size gets the one profile "fixed". All sizes are rounded up to sizes that the model's
    size rule allows. Raises UsageError if a size cannot be padded to one that the rule allows.
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
    """Return the profile for small pictures, if it is worth one, and the one for all other sizes.

    There is a small profile only if the largest size is at least twice as large along both axes. Kernels of
    the last profile are chosen at half the largest size. Sizes are (height, width).
    """
    found = []
    if small[0] * 2 <= largest[0] and small[1] * 2 <= largest[1]:
        found.append(Profile(name="small", low=(1, *low), best=(1, *small), high=(batch, *small)))
    best = (max(low[0], largest[0] // 2), max(low[1], largest[1] // 2))
    return [*found, Profile(name="tile", low=(1, *low), best=(1, *best), high=(batch, *largest))]


def _largest_size(rule: SizeRule, options: BuildOptions, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the (height, width) of the smallest box that contains the tile and all frequent sizes."""
    tile = rule.padded(options.tile, options.tile)
    return max(tile[0], *(s[0] for s in sizes), 0), max(tile[1], *(s[1] for s in sizes), 0)


def choose_profile(profiles: Sequence[Profile], shape: Sequence[int]) -> int:
    """Return the number of the profile to run `shape` (pictures, height, width) with: the smallest that covers
    it.

    The lower number wins among profiles of equal size. Raises UsageError if no profile covers the shape.
    """
    fitting = [number for number, profile in enumerate(profiles) if profile.covers(shape)]
    if not fitting:
        largest = max(profiles, key=lambda profile: profile.largest_pixels).high
        raise UsageError(
            f"the engine cannot take {shape[0]} pictures of {shape[2]}x{shape[1]} pixels, only up to {largest[0]} of "
            f"{largest[2]}x{largest[1]}; tile the picture, or build with a larger --tile"
        )
    return min(fitting, key=lambda number: (profiles[number].largest_pixels, number))


def largest_size(profiles: Sequence[Profile]) -> tuple[int, int]:
    """Return the (height, width) up to which every size is covered."""
    widest = max(profiles, key=lambda profile: profile.largest_pixels)
    return widest.high[1], widest.high[2]


def _size_name(size: tuple[int, int]) -> str:
    """Name of a size (height, width) as people write it: width x height."""
    return f"{size[1]}x{size[0]}"
