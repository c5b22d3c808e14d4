"""Beginning of a run: weights of another one, whose net may have another shape, or its own saved position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sr_deploy.errors import InputError, UsageError
from sr_deploy.training.checkpoint import CheckpointInfo, load_net, read_checkpoint
from sr_deploy.training.nets.blocks import fold
from sr_deploy.training.nets.rt import RT
from sr_deploy.training.recipe import Recipe, parse_recipe
from sr_deploy.training.run.session import RunPosition
from sr_deploy.training.run.state import RECIPE

_WEIGHTLESS_SETTINGS: dict[str, Any] = {"residual": "nearest", "back_projection": False}
"""Settings of a net that its weights do not depend on, with their defaults."""


def initial_weights(
    recipe: Recipe, path: Path, phase: int = 1
) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Return the weights of the checkpoint `path` for the net of `recipe`, and the record of their origin.

    An `rt` without branches may start from a folded one that had branches, from a shallower or narrower one, from one that
    sees whole pixels where it sees unshuffled ones, and, where the phase leaks, from one with leaky ReLU. Skip connection
    and back-projection have no weights and may differ. `phase` is the one that the run begins with, counted from 1.
    Raises InputError for another net.
    """
    info, tensors = read_checkpoint(path)
    ours, theirs = _weighted_settings(recipe.parameters), _weighted_settings(info.parameters)
    name = info.name
    same = info.architecture == recipe.architecture
    plain = {**theirs, "foldable": False}
    if same and theirs != ours and _reachable(plain, ours, leaks=recipe.phases[phase - 1].leak > 0) == ours:
        net = fold(load_net(path)[0])
        if plain != ours and isinstance(net, RT):
            net, name = _reshaped(net, ours, name, path)
            if theirs.get("activation", "leaky_relu") != ours.get("activation", "leaky_relu"):
                name = f"{name}, with ReLU"
        theirs, tensors = ours, net.state_dict()
    if not same or theirs != ours:
        raise InputError(
            f"{path}: weights of {info.architecture} {dict(info.parameters)}, but the recipe trains "
            f"{recipe.architecture} {dict(recipe.parameters)}; name a checkpoint of that net"
        )
    return tensors, _record(recipe, info, name, phase)


def _reachable(theirs: Mapping[str, Any], ours: Mapping[str, Any], *, leaks: bool) -> dict[str, Any]:
    """Return the settings of a net `theirs`, after every change towards `ours` that this module can make."""
    reached = dict(theirs)
    if "depth" in ours:
        reached["depth"] = ours["depth"]
    if leaks and ours.get("activation") == "relu" and theirs.get("activation", "leaky_relu") == "leaky_relu":
        reached["activation"] = "relu"
    unshuffle = ours.get("unshuffle", 1)
    if unshuffle > 1 == theirs.get("unshuffle", 1) and "features" in theirs:
        reached |= {"unshuffle": unshuffle, "features": theirs["features"] * unshuffle**2}
    elif unshuffle == 1 == theirs.get("unshuffle", 1) and theirs.get("features", 0) < ours.get("features", 0):
        reached["features"] = ours["features"]
    return reached


def _reshaped(net: RT, ours: Mapping[str, Any], name: str, path: Path) -> tuple[nn.Module, str]:
    """Return `net` as deep and wide as `ours` and behind its PixelUnshuffle, and its name with what was done to it."""
    depth = ours.get("depth", net.depth)
    if net.depth > depth:
        raise InputError(
            f"{path}: the net has depth {net.depth}, but the recipe's net has depth {depth}; name "
            "a checkpoint of that net or of a shallower one"
        )
    if net.depth < depth:
        name = f"{name} of depth {net.depth}, made deeper"
        net = net.deepened(depth)
    if ours.get("unshuffle", 1) > net.multiple_of:
        name = f"{name}, behind an unshuffle of {ours['unshuffle']}"
        net = net.behind_unshuffle(ours["unshuffle"])
    elif (width := net.head.in_channels) < ours.get("features", width):
        name = f"{name} of {width} features, made wider"
        net = net.widened(ours["features"])
    return net, name


def _record(recipe: Recipe, info: CheckpointInfo, name: str, phase: int) -> dict[str, Any]:
    """Return the record of the origin of first weights. Its names are kept in checkpoints and shown on cards."""
    here, there = _weightless_settings(recipe.parameters), _weightless_settings(info.parameters)
    if here["residual"] != there["residual"]:
        name = f"{name}, with something else around the net"
    if here["back_projection"] != there["back_projection"]:
        name = f"{name}, {'with' if there['back_projection'] else 'without'} back-projection"
    about: dict[str, Any] = {"name": name, "scale": info.scale, "recipe_sha256": info.recipe_sha256}
    if phase > 1:
        about["first_phase"] = phase
    return {**about, "training": dict(info.training)}


def _weighted_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide shapes and meaning of the weights."""
    return {key: value for key, value in parameters.items() if key not in _WEIGHTLESS_SETTINGS}


def _weightless_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the weights do not depend on, with defaults filled in."""
    return {key: parameters.get(key, default) for key, default in _WEIGHTLESS_SETTINGS.items()}


def is_finished(at: RunPosition, recipe: Recipe) -> bool:
    """Return whether all phases are done."""
    return at.done and at.phase + 1 == len(recipe.phases)


def prolong(at: RunPosition, recipe: Recipe, minutes: float | None, step: int) -> None:
    """Reopen the last phase of a finished run, where the recipe has more steps than `step` now, or where there are more `minutes`."""
    if not is_finished(at, recipe):
        return
    if at.budget is None:
        at.done = recipe.phases[at.phase].steps <= step
    elif minutes is not None and at.minutes is not None and minutes > at.minutes:
        at.budget += (minutes - at.minutes) * 60
        at.done = False


def check_same_recipe(out: Path, record: Mapping[str, Any], at: RunPosition, recipe: Recipe) -> None:
    """Raise UsageError unless `recipe` is that of the saved run in `out`, or has other steps that are still to come."""
    saved = str(record["recipe_sha256"])
    if saved == recipe.sha256:
        return
    # the state holds the recipe, since recipe.toml may be newer: it is written when a run starts
    kept, text = out / RECIPE, record.get("recipe")
    raw = text.encode() if isinstance(text, str) else kept.read_bytes() if kept.is_file() else b""
    before = parse_recipe(raw, str(kept)) if raw else None
    if before is None or before.sha256 != saved or _without_steps(before) != _without_steps(recipe):
        raise UsageError(
            f"{out} was begun with recipe {saved[:12]}, but this recipe is {recipe.sha256[:12]}; resume with the first "
            "recipe, of which only the steps may change, or name another --out, with --init "
            f"{out / 'last.safetensors'} for the weights of this run"
        )
    for number, (old, new) in enumerate(zip(before.phases, recipe.phases, strict=True)):
        present = number == at.phase
        step = record["run"]["step"] if present else old.steps if number < at.phase else 0
        passed = number < at.phase or (present and at.done and not is_finished(at, recipe))
        if new.steps != old.steps and (passed or new.steps < step):
            raise UsageError(
                f"phase {number + 1} of {out} has done {step:,} steps, but the recipe now has {new.steps:,}; only steps "
                "that are still to come can change"
            )


def _without_steps(recipe: Recipe) -> Recipe:
    """Return the recipe with one step in every phase and without its file, for comparisons."""
    return replace(
        recipe, phases=tuple(replace(phase, steps=1) for phase in recipe.phases), sha256="", raw=b""
    )
