"""Run a net in torch on pictures, and find by running it what its user did not state."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.errors import InputError, one_line
from sr_deploy.graph.session import RefusedInputError, SessionRunner
from sr_deploy.probe.range import ValueRange, find_range, format_range
from sr_deploy.spec import SizeRule
from sr_deploy.system.arrays import FloatArray

_SIDES = (48, 64, 96, 128, 256, 512)
"""Sides in pixels of the squares that are tried until one runs: small first, with most divisors covered."""
_LARGEST_SCALE = 16
_RANGE_SIDE = 64


class TorchRunner:
    """Runs a net on a picture [H, W, C] in its own value range; gives [H', W', C'] float32.

    It stands in for a runner of an ONNX session, so that the measurements of `sr_deploy.probe` work on nets too.
    """

    takes_bytes = False

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, picture: FloatArray) -> FloatArray:
        """Run the net. Raises RefusedInputError where the net fails."""
        tensor = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32))
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of deprecated calls in the net
                result = self.net(tensor)
        except Exception as error:  # a net may raise anything
            raise RefusedInputError(f"{type(error).__name__}: {one_line(error)}") from error
        if not isinstance(result, Tensor) or result.ndim != 4:
            raise RefusedInputError(f"it returns {describe_result(result)}")
        upscaled: FloatArray = result[0].float().numpy().transpose(1, 2, 0)
        return upscaled


def describe_result(result: Any) -> str:
    """Return what a net returned, in words, for messages."""
    if isinstance(result, Tensor):
        return f"a tensor of shape {list(result.shape)}"
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    return f"a {type(result).__name__}"


def measure_io(
    net: nn.Module, name: str, *, channels: int | None, scale: int | None, rule: SizeRule | None
) -> tuple[int, int, tuple[int, int]]:
    """Return channels and scale of a net, and one (height, width) at which it runs.

    Raises InputError for a net that runs at no size, does not return one picture, or has another scale than stated.
    """
    failures: list[str] = []
    for count in (3, 1) if channels is None else (channels,):
        for side in _SIDES if rule is None else (max(rule.fixed or rule.padded(_SIDES[0], _SIDES[0])),):
            size = rule.fixed if rule and rule.fixed else (side, side)
            try:
                with torch.inference_mode():
                    result = net(torch.rand(1, count, *size, generator=torch.Generator().manual_seed(0)))
            except Exception as error:  # a net may raise anything
                failures.append(f"{type(error).__name__}: {one_line(error, 120)}")
                continue
            return count, _scale_of(result, name, count, size, scale), size
    raise InputError(_no_run(name, failures[0]))


def _no_run(name: str, failure: str) -> str:
    """Return the message for a net that runs at no size."""
    if "cuda" in failure.lower() or "nvidia" in failure.lower():
        return f"{name}: needs a GPU to run ({failure}); let it use the device of its input, x.device, so that it also runs on a CPU"
    return f"{name}: runs at no size tried ({failure}); it must take one float picture [N, C, H, W]; state --channels and --multiple-of"


def _scale_of(result: Any, name: str, channels: int, size: tuple[int, int], stated: int | None) -> int:
    """Return the scale that a result shows. Raises InputError if it is no picture, or not of the stated scale."""
    if not isinstance(result, Tensor):
        raise InputError(
            f"{name}: returns {describe_result(result)}, expected one picture; wrap it in a module whose forward returns the picture alone"
        )
    given = tuple(result.shape)
    scale = given[2] // size[0] if len(given) == 4 else 0
    expected = (1, channels, size[0] * scale, size[1] * scale)
    if not 1 <= scale <= _LARGEST_SCALE or given != expected:
        raise InputError(
            f"{name}: returns {list(given)} for [1, {channels}, {size[0]}, {size[1]}], expected as many channels and a whole "
            f"multiple of 1 to {_LARGEST_SCALE} of the size; crop or pad inside the module, or wrap it"
        )
    if stated is not None and stated != scale:
        raise InputError(
            f"{name}: has scale {scale}, as its result shows, not the stated {stated}; leave --scale out"
        )
    return scale


def measure_sizes(net: nn.Module, channels: int, scale: int, runs_at: tuple[int, int]) -> SizeRule:
    """Return the sizes that a net takes: any multiple of a step from a minimum on, or one size only.

    The step is the smallest divisor of the size known to run at which unequal multiples run.
    """
    known: dict[tuple[int, int], bool] = {}

    def takes(tall: int, wide: int) -> bool:
        if (tall, wide) not in known:
            try:
                result = TorchRunner(net)(np.random.default_rng(0).random((tall, wide, channels), np.float32))
            except RefusedInputError:
                known[tall, wide] = False
            else:
                known[tall, wide] = result.shape == (tall * scale, wide * scale, channels)
        return known[tall, wide]

    base = runs_at[0]
    if runs_at[0] != runs_at[1]:
        return SizeRule(fixed=runs_at)
    for step in (n for n in range(1, base + 1) if base % n == 0):
        near = base // step
        if all(
            takes(step * tall, step * wide)
            for tall, wide in ((near, near + 1), (near + 1, near), (near + 2, near + 3))
        ):
            low, high = 0, near  # the smallest multiple that runs, by bisection
            while high - low > 1:
                middle = (low + high) // 2
                side = middle * step
                fine = takes(side, side) and takes(side, base) and takes(base, side)
                low, high = (low, middle) if fine else (middle, high)
            return SizeRule(minimum=1 if high == 1 else high * step, multiple_of=step)
    return SizeRule(fixed=runs_at)


def measure_range(net: nn.Module, channels: int, scale: int, rule: SizeRule) -> tuple[ValueRange, list[str]]:
    """Return the values of black and white, and what stays open, by the probe that foreign ONNX files get.

    Raises InputError for a net whose output has another range than its input.
    """
    size = rule.fixed or rule.padded(_RANGE_SIDE, _RANGE_SIDE)
    found = find_range(cast(SessionRunner, TorchRunner(net)), scale, size, channels)
    if found.output_range:
        raise InputError(
            f"the net takes {format_range(found.value_range)} and gives {format_range(found.output_range)}, expected one range; "
            "wrap it in a module that brings its output to the range of the input"
        )
    return found.value_range, list(found.notes)
