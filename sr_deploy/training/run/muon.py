"""Muon: an optimiser that makes every direction of a weight matrix's momentum equally long.

Adam scales each weight by itself, so the few directions in which a layer's gradients are large stay ahead of
the others. Muon takes the momentum of a whole layer and replaces its singular values by ones.

PyTorch's own `torch.optim.Muon` takes two-dimensional weights only. Here a convolution counts as a matrix
with one row per output channel, and vectors (biases, factors) are updated by Adam in the same optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5, from Jordan et al. 2024
_ADAM_RMS = 0.2  # typical root mean square of Adam's updates, found empirically


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return a matrix [M, N] with about the same singular vectors and singular values of 0.7 to 1.2.

    Singular values below a thousandth of the norm end smaller. This is the Newton-Schulz iteration of fifth
    order, in float32. Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.float().T if tall else matrix.float()
    x = x / (x.norm() + 1e-12)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """Muon for parameters of two or more dimensions, Adam for the others, with one learning rate.

    The update of a matrix [M, N] is orthogonal, times 0.2 * sqrt(max(M, N)). It is as large as an update of
    Adam, so learning rates and weight decay carry over (Liu et al. 2025, "Muon is scalable for LLM training",
    eq. 4). `lr` may be a tensor, for steps that are recorded as a CUDA graph. Weight decay is decoupled
    (Loshchilov and Hutter 2019) and applies to matrices only.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float | Tensor,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. Returns the result of `closure`, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._update_matrix if parameter.ndim > 1 else self._update_vector
                    update(parameter, parameter.grad, group)
        return loss

    def _update_matrix(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update a parameter by Muon with Nesterov momentum."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        lookahead = gradient.lerp(state["momentum"], group["momentum"])  # Nesterov momentum
        rows = lookahead.flatten(1)
        size = _ADAM_RMS * max(rows.shape) ** 0.5
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_((orthogonalised(rows).view_as(lookahead) * size).to(parameter.dtype) * group["lr"])

    def _update_vector(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update a parameter by Adam with bias correction and without weight decay."""
        state = self.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] = torch.zeros((), device=parameter.device)
        first, second = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
        mean = state["exp_avg"] / (1 - first ** state["step"])
        deviation = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt()
        parameter.sub_(mean / (deviation + 1e-8) * group["lr"])
