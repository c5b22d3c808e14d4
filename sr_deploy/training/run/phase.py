"""One phase of a training: net, moving average, optimiser and loss, and the step that changes them.

Nothing here reads a file or a clock; `trainer` and `loop` do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sr_deploy.errors import InputError
from sr_deploy.training.data.loader import to_float
from sr_deploy.training.nets import build_net
from sr_deploy.training.nets.quantised import calibrate, quantise
from sr_deploy.training.objective.losses import ComposedLoss
from sr_deploy.training.recipe import Phase, Recipe
from sr_deploy.training.run.graphed import GraphedUpdate, Update
from sr_deploy.training.run.muon import Muon
from sr_deploy.training.run.process_group import ProcessGroup

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}
"""Precision of a recipe -> type that the forward pass is cast to, or None."""

_LEAK_SHARE = 0.5
"""Share of a phase at which leaking ReLUs no longer leak."""


def carry_weights(net: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy into `net` every tensor whose name and shape fit. Returns the names of those that stay fresh."""
    own = net.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    net.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


class PhaseRun:
    """The state of one phase.

    `tensors` and `restore` are exact inverses, so that a resumed run continues bit for bit. `weights` are the
    weights to start from; the net's tensors that find none there stay fresh and are listed in `fresh`.
    """

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        loss: ComposedLoss,
        *,
        device: torch.device | None = None,
        processes: ProcessGroup | None = None,
        weights: Mapping[str, Tensor] | None = None,
        compiled: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.recipe, self.phase = recipe, phase
        self.device, processes = device or torch.device("cpu"), processes or ProcessGroup()
        self.net = build_net(recipe.architecture, phase.scale, recipe.parameters)
        self.fresh = carry_weights(self.net, weights) if weights else []
        self.needs_ranges = False  # set where a quantised phase has to be calibrated before its first step
        if phase.quantise:
            quantise(self.net)
            unknown = carry_weights(self.net, weights or {})
            self.needs_ranges = any(name.endswith("log_range") for name in unknown)
        self.net.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self._leaks = [*_made_leaky(self.net), *_made_leaky(self.average)] if phase.leak else []
        self.loss = loss
        self.loss.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        wrapped = processes.wrapped(self.net, self.device)
        self._model: Callable[[Tensor], Tensor] = torch.compile(wrapped) if compiled else wrapped
        on_gpu = self.device.type == "cuda"
        self.optimiser = _optimiser(recipe, list(self.net.parameters()), self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self._autocast = None if phase.quantise else AUTOCAST[recipe.precision]
        self._average_tensors = list(_floating(self.average))
        self._net_tensors = list(_floating(self.net))
        self.step_number = 0
        graphed = on_gpu and processes.world == 1 and not self.scaler.is_enabled()
        self._run_update: Update = GraphedUpdate(self._update, say) if graphed else self._update

    def calibrate(self, small: Tensor) -> None:
        """Choose the first ranges of a quantised phase on uint8 crops."""
        pictures = to_float(small.to(self.device))
        calibrate(self.net, pictures)
        self.average.load_state_dict(self.net.state_dict())
        self.needs_ranges = False

    def set_progress(self, share: float) -> None:
        """Set what depends on the progress of the phase, 0..1: the slope of leaking ReLUs."""
        for leaky in self._leaks:
            leaky.negative_slope = self.phase.leak * max(1 - share / _LEAK_SHARE, 0.0)

    def step(self, small: Tensor, large: Tensor, rate: float) -> Tensor:
        """Run one update on a batch of uint8 crops.

        Returns the total loss and its terms, float32 [1 + terms], detached, on the device.
        """
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        values = self._run_update(small, large)
        self.step_number += 1
        self._update_average()
        return values

    def _update(self, small: Tensor, large: Tensor) -> Tensor:
        """Run forward pass, backward pass and optimiser. Nothing here may wait for the device."""
        small = to_float(small.to(self.device, non_blocking=True))
        large = to_float(large.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            value = self.loss(self._model(small), large)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(value.total).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return torch.stack([value.total.detach(), *(t.detach() for t in value.terms.values())]).float()

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the weights.

        The decay starts low and grows with the steps, so that the average soon forgets the first weights.
        """
        decay = min(self.recipe.ema, (1 + self.step_number) / (10 + self.step_number))
        torch._foreach_lerp_(self._average_tensors, self._net_tensors, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a step changes, by name."""
        kept = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        kept |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                kept[f"optimiser.{name}.{key}"] = value
        return kept

    def record(self) -> dict[str, Any]:
        """Return the state that a step changes outside of tensors, as JSON values."""
        return {"step": self.step_number, "scaler": self.scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go back to the state of `tensors` and `record`. Raises InputError for the state of another net."""
        try:
            for prefix, module in (("net.", self.net), ("average.", self.average)):
                module.load_state_dict(
                    {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                )
        except RuntimeError as error:
            raise InputError(
                f"the saved state belongs to another net: {error}; name another --out"
            ) from error
        self.needs_ranges = False
        for name, parameter in self.net.named_parameters():
            prefix = f"optimiser.{name}."
            kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if kept:
                self.optimiser.state[parameter] = self._moments(parameter, kept)
        self.step_number = record["step"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(record["scaler"])

    def _moments(self, parameter: Tensor, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the optimiser's tensors of a parameter, moved to the device."""
        # Copied into the parameter's memory layout, because the fused optimiser expects the same one for all.
        return {
            key: value.to(self.device)
            if value.shape != parameter.shape
            else torch.empty_like(parameter, memory_format=torch.preserve_format).detach().copy_(value)
            for key, value in kept.items()
        }


def _optimiser(recipe: Recipe, parameters: list[nn.Parameter], device: torch.device) -> Optimizer:
    """Return the recipe's optimiser.

    On a GPU its learning rate is a tensor, because a step recorded as a CUDA graph reads it from memory.
    """
    on_gpu = device.type == "cuda"
    rate: Any = torch.zeros((), device=device) if on_gpu else 0.0
    if recipe.optimiser == "muon":
        return Muon(parameters, rate, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(
        parameters, rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay, fused=True, capturable=on_gpu
    )


def _made_leaky(net: nn.Module) -> list[nn.LeakyReLU]:
    """Replace every ReLU in `net` by a leaky one, whose slope can be changed, and return those."""
    made = []
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                made.append(nn.LeakyReLU())
                setattr(module, name, made[-1])
    return made


def _floating(net: nn.Module) -> list[Tensor]:
    """Return the floating-point tensors of the state of `net`."""
    return [value for value in net.state_dict().values() if value.is_floating_point()]
