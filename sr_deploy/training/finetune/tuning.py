"""Fine-tune weights and ranges of a net for int8, against the result of the fp32 net itself.

Quantisation-aware training without ground truth: the net rounds its weights and inputs as int8 will, and the loss is the
mean absolute difference between its result and that of the fp32 net, on crops of photographs. Convolutions are those of `precision.quantise.quantisable`. Their
weights, biases and ranges are tuned; all else of the graph stays.

Sources: those of `sr_deploy.training.nets.quantised`, whose rounding is used; for the target, Hinton et al. 2015,
"Distilling the knowledge in a neural network".
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from sr_deploy.graph.nodes import constants_of
from sr_deploy.graph.onnx_file import copy_of
from sr_deploy.precision.learned import with_learned_ranges
from sr_deploy.precision.quantise import quantisable, quantised_inputs
from sr_deploy.precision.search_int8 import Int8Start, Say
from sr_deploy.spec import ModelSpec
from sr_deploy.system.arrays import FloatArray
from sr_deploy.training.finetune.graph_net import GraphNet, check_net
from sr_deploy.training.nets.quantised import INPUT_LEVELS, WEIGHT_LEVELS, QuantisedInput, rounded_weight

_WEIGHT_RATE = 1e-3
"""First learning rate of a tensor, as a share of the root mean square of its values. For Real-ESRGAN Compact with 70 to 90
steps, 5e-4 and 1e-3 were alike, and 2e-3 ended 0.5 dB further from fp32."""
_RANGE_RATE = 4e-3
"""First learning rate of the logarithm of a range."""
_LARGEST_GRADIENT = 1.0
"""Largest norm of all gradients together."""
_BATCH = 4
"""Crops in a step."""
_LARGE_NET = 64
"""Convolutions from which the crops of a step are computed one by one. ESRGAN has 351, and would take some 7 GB for four
crops at once; small nets are faster with all at once."""
_PATCH = 48
"""Side of a crop in a step, in input pixels."""
_HELD_OUT = 8
"""Maximum number of pictures that are kept for choosing the best state; at most an eighth of all."""
_CHECKS = 12
"""Number of times that the state is measured on the pictures held out."""


class FineTuner:
    """Fine-tunes for a number of minutes by the clock. The steps, so the bytes, depend on the speed of the machine."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes

    def check(self, model: onnx.ModelProto, picture: FloatArray) -> None:
        """Raise UsageError if torch cannot compute `model` as ONNX Runtime does; `picture` is an input of it."""
        check_net(model, picture)

    def tune(
        self,
        start: Int8Start,
        model: onnx.ModelProto,
        spec: ModelSpec,
        pictures: Sequence[FloatArray],
        say: Say,
    ) -> onnx.ModelProto:
        """Return the model of `start` with tuned weights, and with its ranges in the metadata.

        `pictures` are inputs of `model`, of one size. On those held out, the result is never worse than the start.
        """
        net = QuantisedNet(start, spec)
        _Tuning(net, GraphNet(model), spec, pictures, say).run(60 * self.minutes)
        return with_learned_ranges(net.tuned_model(), net.ranges())


class QuantisedNet:
    """A graph whose convolutions compute as int8 does."""

    def __init__(self, start: Int8Start, spec: ModelSpec) -> None:
        self.model, self.net = start.model, GraphNet(start.model)
        convolutions = {node.output[0]: node for node in start.model.graph.node if node.op_type == "Conv"}
        self.weights = {name: convolutions[name].input[1] for name in quantisable(start.model)}
        biases = [
            node.input[2] for name, node in convolutions.items() if name in self.weights and node.input[2:]
        ]
        self.tuned: dict[str, nn.Parameter] = {}
        for name in sorted({*self.weights.values(), *biases} & self.net.constants.keys()):
            self.tuned[name] = nn.Parameter(self.net.constants[name])
        self.net.constants.update(self.tuned)
        self.inputs = self._inputs(start, spec)

    def _inputs(self, start: Int8Start, spec: ModelSpec) -> dict[str, QuantisedInput]:
        """Return the rounding of the input of each convolution, by the name of its result.

        Convolutions that read one value share its range, and so do those with the same weights, because ranges are
        kept by the names of weights.
        """
        sources = quantised_inputs(start.model)
        made: dict[frozenset[str], QuantisedInput] = {}
        found = {}
        for name, values in self._sharing(sources).items():
            if values not in made:
                largest = max(start.ranges[value] for value in values)
                made[values] = _rounding(largest, values <= start.unsigned)
                black, white = spec.value_range
                if values == {self.net.input} and black == 0:
                    # Pixels are never negative, and of 8 bits: with this range they are exact. It is not tuned.
                    made[values] = _rounding(white, True)
                    made[values].log_range.requires_grad_(False)
            found[name] = made[values]
        return found

    def _sharing(self, sources: Mapping[str, str]) -> dict[str, frozenset[str]]:
        """Return, for each convolution, the values that share a range with its input."""
        groups = {value: {value} for value in sources.values()}
        by_weight: dict[str, str] = {}
        for name, value in sources.items():
            other = by_weight.setdefault(self.weights[name], value)
            merged = groups[other] | groups[value]
            groups.update(dict.fromkeys(merged, merged))
        return {name: frozenset(groups[value]) for name, value in sources.items()}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute the result as int8 does."""
        return self.net(pixels, self._rounded)

    def _rounded(self, node: onnx.NodeProto, inputs: list[Any]) -> list[Any]:
        rounding = self.inputs.get(node.output[0])
        if rounding is None:
            return inputs
        return [rounding.rounded(inputs[0]), rounded_weight(inputs[1]), *inputs[2:]]

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters for an optimiser: one for each tensor, with its own rate."""
        found = []
        for parameter in self.tuned.values():
            size = float(parameter.detach().square().mean().sqrt())
            # a bias of zeros, or weights of zeros, have no size of their own
            found.append({"params": [parameter], "lr": _WEIGHT_RATE * max(size, 1e-3)})
        ranges = {id(rounding): rounding.log_range for rounding in self.inputs.values()}
        learnt = [parameter for parameter in ranges.values() if parameter.requires_grad]
        return [*found, {"params": learnt, "lr": _RANGE_RATE}] if learnt else found

    def ranges(self) -> dict[str, Any]:
        """Return the ranges as `with_learned_ranges` takes them: weight -> {"range", "signed"}."""
        return {
            self.weights[name]: {
                "range": float(rounding.log_range.detach().double().exp()),
                "signed": float(rounding.low) < 0,
            }
            for name, rounding in self.inputs.items()
        }

    def tuned_model(self) -> onnx.ModelProto:
        """Return the fp32 model with the tuned weights and biases."""
        result = copy_of(self.model)
        constants = constants_of(result)
        for name, parameter in self.tuned.items():
            tensor = constants[name]
            tensor.CopyFrom(numpy_helper.from_array(parameter.detach().numpy(), tensor.name))
        return result


def _rounding(largest: float, unsigned: bool) -> QuantisedInput:
    """Return the rounding of a value to steps of which the last stands for `largest`."""
    made = QuantisedInput()
    made.add_state()
    made.low.fill_(0.0 if unsigned else -WEIGHT_LEVELS)
    made.high.fill_(INPUT_LEVELS if unsigned else WEIGHT_LEVELS)
    with torch.no_grad():
        made.log_range.fill_(math.log(max(largest, 1e-6)))
    return made


class _Tuning:
    """One run of fine-tuning."""

    def __init__(
        self, net: QuantisedNet, target: GraphNet, spec: ModelSpec, pictures: Sequence[FloatArray], say: Say
    ) -> None:
        held_out = min(_HELD_OUT, max(1, len(pictures) // 8)) if len(pictures) > 1 else 0
        shown = [torch.from_numpy(picture) for picture in pictures]
        # pictures of one photograph follow each other, so the last ones mostly show what the others do not
        self.pictures, self.held_out = shown[: len(shown) - held_out], shown[-held_out:] or shown
        self.net, self.target, self.spec, self.say = net, target, spec, say
        self.random = np.random.default_rng(0)
        self.span = spec.value_range[1] - spec.value_range[0]
        self.parts = 1 if len(net.weights) < _LARGE_NET and self._takes_several() else _BATCH
        self.groups = net.groups()
        self.parameters: list[Tensor] = [parameter for group in self.groups for parameter in group["params"]]

    @torch.no_grad()
    def _takes_several(self) -> bool:
        """Return True if the net computes two pictures at once as it does one. Some files are for one picture only."""
        one = self.held_out[0]
        try:
            first, second = self.target(torch.cat([one, one]))
        except (RuntimeError, ValueError):
            return False
        return torch.allclose(first, second, atol=1e-4 * self.span)

    def run(self, seconds: float) -> None:
        """Tune for `seconds`, and leave the best state in the net."""
        optimiser = torch.optim.Adam(self.groups, betas=(0.9, 0.99))
        rates = [group["lr"] for group in self.groups]
        with torch.no_grad():
            expected = [self._pixels(self.target(picture)) for picture in self.held_out]
        begin = time.monotonic()
        first = best = self._fidelity(expected)
        cost = time.monotonic() - begin
        state = [parameter.detach().clone() for parameter in self.parameters]
        # measuring takes at most a tenth of the time
        pause = max(seconds / _CHECKS, 10 * cost)
        check, begin = time.monotonic() + pause, time.monotonic()
        while (done := time.monotonic() - begin) < seconds:
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * done / seconds)) / 2
            self._step(optimiser)
            now = time.monotonic()
            if now < check and now - begin < seconds:
                continue
            found, check = self._fidelity(expected), time.monotonic() + pause
            if found > best:
                best, state = found, [parameter.detach().clone() for parameter in self.parameters]
            left = max(0.0, seconds - (time.monotonic() - begin))
            self.say(f"fine-tuning: {first:.2f} dB from fp32 became {best:.2f} dB; about {left:.0f} s left")
        with torch.no_grad():
            for parameter, kept in zip(self.parameters, state, strict=True):
                parameter.copy_(kept)

    def _step(self, optimiser: torch.optim.Optimizer) -> None:
        """Take one step on a few random crops."""
        batch = self._batch()
        optimiser.zero_grad()
        for part in batch.chunk(self.parts):
            with torch.no_grad():
                expected = self.target(part)
            loss = F.l1_loss(self.net(part), expected) / self.span * len(part) / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, _LARGEST_GRADIENT)
        optimiser.step()

    def _batch(self) -> Tensor:
        """Cut crops of one size from random pictures."""
        rule, last = self.spec.size_rule, self.spec.layout == "NHWC"
        chosen = [self.pictures[int(self.random.integers(len(self.pictures)))] for _ in range(_BATCH)]
        if rule.fixed:
            # a net of one size may take one picture at a time only
            return chosen[0]
        cut = []
        for picture in chosen:
            height, width = picture.shape[1:3] if last else picture.shape[2:]
            side = -(-max(_PATCH, rule.minimum) // rule.multiple_of) * rule.multiple_of
            rows, columns = min(side, height), min(side, width)
            top = int(self.random.integers(height - rows + 1))
            left = int(self.random.integers(width - columns + 1))
            area = slice(top, top + rows), slice(left, left + columns)
            cut.append(picture[:, area[0], area[1]] if last else picture[:, :, area[0], area[1]])
        return torch.cat(cut)

    @torch.no_grad()
    def _fidelity(self, expected: Sequence[Tensor]) -> float:
        """Return the PSNR between the results of the int8 and the fp32 net on the pictures held out, in dB."""
        pairs = zip(self.held_out, expected, strict=True)
        error = np.mean(
            [float(F.mse_loss(self._pixels(self.net(picture)), wanted)) for picture, wanted in pairs]
        )
        return -10 * math.log10(max(float(error), 1e-20)) if math.isfinite(error) else -math.inf

    def _pixels(self, result: Tensor) -> Tensor:
        """Convert a result to 0..1, clipped, as it is shown."""
        return ((result - self.spec.value_range[0]) / self.span).clamp(0, 1)
