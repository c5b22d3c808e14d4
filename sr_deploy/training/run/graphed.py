"""A training step as one CUDA graph: a small net's step is hundreds of tiny kernels, and launching them one by
one takes longer than running them.

Knows nothing of nets and losses: it records whatever update of fixed shape it is given.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Update = Callable[[Tensor, Tensor], Tensor]

_WARMUP_UPDATES = (
    3  # updates before recording: they make the optimiser's state, and libraries choose their kernels
)


class GraphedUpdate:
    """`update(small, large) -> values`, run as it is at first, then recorded once and replayed.

    Batches must all have the first one's shape and type. `update` must do all its work on the device, wait for
    nothing, and keep its state in tensors that stay where they are. Where recording fails, `say` gets one line
    and every later update runs as it is. The values returned are overwritten by the next call.
    Source: Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs"; the torch.cuda.graph reference.
    """

    def __init__(self, update: Update, say: Callable[[str], None]) -> None:
        self._update, self._say = update, say
        self._graph: torch.cuda.CUDAGraph | None = None
        self._small = self._large = self._values = torch.empty(0)
        self._calls, self._failed = 0, False

    def __call__(self, small: Tensor, large: Tensor) -> Tensor:
        """One update from a batch, on the host or the device; what `update` returned, on the device."""
        self._calls += 1
        if self._graph is None and self._calls > _WARMUP_UPDATES and not self._failed:
            self._record(small, large)
        if self._graph is None:
            return self._run_directly(small, large)
        self._small.copy_(small, non_blocking=True)
        self._large.copy_(large, non_blocking=True)
        self._graph.replay()
        return self._values

    def _run_directly(self, small: Tensor, large: Tensor) -> Tensor:
        """On a stream of its own, as what is recorded later must have been warmed up."""
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            values = self._update(small.cuda(non_blocking=True), large.cuda(non_blocking=True))
        current.wait_stream(side)
        return values

    def _record(self, small: Tensor, large: Tensor) -> None:
        """Record an update of copies of this batch, without running it."""
        self._small, self._large = small.cuda(), large.cuda()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads pin batches meanwhile, which the default mode would not allow.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._values = self._update(self._small, self._large)
        except RuntimeError as error:
            self._failed = True
            torch.cuda.synchronize()
            self._say(f"steps cannot be recorded as a CUDA graph, so they run one kernel at a time: {error}")
            return
        self._graph = graph
