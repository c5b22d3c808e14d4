"""Run a training step as one CUDA graph.

A small net's step is hundreds of tiny kernels, and launching them one by one takes longer than running them.
This module knows nothing about nets and losses: it records any update of fixed shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Update = Callable[[Tensor, Tensor], Tensor]

_WARMUP_UPDATES = 3
"""Updates before recording: the optimiser makes its state, and libraries choose their kernels."""


class GraphedUpdate:
    """`update(small, large) -> values`, called directly at first, then recorded once and replayed.

    All batches must have the shape and type of the first one. `update` must do all its work on the device,
    must not wait for it, and must keep its state in tensors whose memory does not move. Where recording
    fails, `say` gets one line, and all later updates are called directly. The next call overwrites the
    returned values.

    Sources: Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs"; the reference of torch.cuda.graph.
    """

    def __init__(self, update: Update, say: Callable[[str], None]) -> None:
        self._update, self._say = update, say
        self._graph: torch.cuda.CUDAGraph | None = None
        self._small = self._large = self._values = torch.empty(0)
        self._calls, self._failed = 0, False

    def __call__(self, small: Tensor, large: Tensor) -> Tensor:
        """Run one update on a batch that is on the host or on the device.

        Returns the result of `update`, on the device.
        """
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
        """Run the update on a stream of its own, which warms up what will be recorded later."""
        current = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            values = self._update(small.cuda(non_blocking=True), large.cuda(non_blocking=True))
        current.wait_stream(side)
        return values

    def _record(self, small: Tensor, large: Tensor) -> None:
        """Record an update of copies of this batch without running it."""
        self._small, self._large = small.cuda(), large.cuda()
        graph = torch.cuda.CUDAGraph()
        try:
            # The loader's threads pin batches meanwhile, which the default mode would reject.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._values = self._update(self._small, self._large)
        except RuntimeError as error:
            self._failed = True
            torch.cuda.synchronize()
            self._say(f"steps cannot be recorded as a CUDA graph and run one kernel at a time: {error}")
            return
        self._graph = graph
